"""The frozen record that stages read and return.

Knows the record and how to compare, digest and edit it; what stages do with it is theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, fx

from snnpipe.checks import takes, valid
from snnpipe.codes import CODE, Code
from snnpipe.emit import ann_code, cloned, module_tree
from snnpipe.errors import StageError, listing
from snnpipe.frontend.lowering import lower
from snnpipe.frontend.memory import same_values
from snnpipe.frontend.met import tensors_of
from snnpipe.frontend.part import Whole
from snnpipe.frontend.quiet import silenced
from snnpipe.frozen import EMPTY, FrozenMap, as_map
from snnpipe.generated import packaged
from snnpipe.graph import Graph, Param
from snnpipe.markup import told
from snnpipe.markup.style import piece
from snnpipe.markup.tags import tag
from snnpipe.names import safe_argument, safe_paths
from snnpipe.options import function, instance, optional, several
from snnpipe.sharing import Mark


@attrs.frozen
class Event:
    """Something a stage did, for people: ``report`` renders it, no stage reads it."""

    stage: str
    subject: str
    action: str
    detail: str = ""


@attrs.frozen
class Levels:
    """The values of a quantised activation: ``k unit / parts`` for whole k = low..high, chosen by rounding.

    Attributes:
        unit: a number or a parameter, one or one for each channel: a QCFS threshold, the scale of a fake quantisation.
        parts: how many levels a unit is worth.
        low: the lowest level, 0 or negative.
        high: the highest level, positive.
    """

    unit: float | Param
    parts: int
    low: int
    high: int

    @property
    def top(self) -> int:
        """The level farthest from 0."""
        return max(self.high, -self.low)

    def value(self, level: float, params: Mapping[str, Tensor]) -> Tensor:
        """What a level is worth, (C,) or (1,), in float64."""
        unit = params[self.unit.key] if isinstance(self.unit, Param) else torch.tensor(self.unit)
        return unit.detach().reshape(-1).double() * level / self.parts

    def __str__(self) -> str:
        unit = f"%{self.unit.key}" if isinstance(self.unit, Param) else f"{self.unit:g}"
        return f"levels {self.low}..{self.high} of {unit}" + f" / {self.parts}" * (self.parts > 1)


@attrs.frozen
class Site:
    """A value at which a neuron is to sit.

    Attributes:
        node: the activation's node.
        input: the node whose value becomes the neuron's current.
        axis: channel axis of its value (negative: counted from the end), ``None`` where it is not known.
        cap: the largest value the activation can take (6 for ReLU6), or its levels where it is quantised, ``None``
            for a plain ReLU; a capped site can do without calibration.
        name: path-like name for people, unique: ``layer1.0.relu`` .
        signed: whether its values have both signs; then its statistics are those of ``|x|``, or two-sided.
        op: the operator whose value it is: ``"relu"``, ``"clamp"``; ``"linear"`` for a neuron behind a layer.
    """

    node: str
    input: str
    axis: int | None
    cap: float | Levels | None
    name: str
    signed: bool = False
    op: str = attrs.field(default="", repr=False)


_GRAPH = instance(Graph, "must be a graph", "write state.evolve(...) of a state that trace made")
_MAP = instance(FrozenMap, "must be a dictionary")


@attrs.frozen(eq=False, repr=False)
class ConversionState:
    """A model on its way to a spiking network; every field is frozen and every stage returns a new record.

    Attributes:
        graph: the operations.
        params: tensors by key.  Keys are written once: a changed weight has a new key.
        sites: where neurons go, by node name (from ``instrument``); empty again after ``replace``.
        statistics: what calibration measured, by node name; plain values that can be saved and merged.
        threshold: the threshold rule the statistics were measured for, ``None`` before ``instrument``.
        code: the code the graph has been carried to, ``None`` before ``td_rewrite``.
        history: what the stages did.
        made: the text of each stage that changed something; ``...`` for a function of one's own.
        whole: the model whose part this is, ``None`` for a whole model; it runs when data are read.
        shared: of ``trace(unsafe_share=True)``, what tells whether the model's tensors were written to since.
    """

    graph: Graph = attrs.field(validator=valid(_GRAPH, StageError))
    params: FrozenMap[str, Tensor] = attrs.field(converter=as_map, validator=valid(_MAP, StageError))
    sites: FrozenMap[str, Site] = attrs.field(default=EMPTY, converter=as_map, validator=valid(_MAP, StageError))
    statistics: FrozenMap[str, Any] = attrs.field(default=EMPTY, converter=as_map, validator=valid(_MAP, StageError))
    threshold: Any = None
    code: Code | None = attrs.field(default=None, validator=valid(optional(CODE), StageError))
    history: tuple[Event, ...] = ()
    made: tuple[str, ...] = ()
    whole: Whole | None = None
    shared: FrozenMap[str, Mark] = attrs.field(default=EMPTY, converter=as_map, validator=valid(_MAP, StageError))

    def __repr__(self) -> str:
        made = f"code={self.code}, " if self.code else ""
        return (
            f"ConversionState({made}{len(self.graph.nodes)} nodes, {len(self.params)} tensors, "
            f"{len(self.sites)} sites, {len(self.statistics)} statistics, {len(self.history)} events)"
        )

    def _repr_html_(self) -> str:
        return piece(tag("b", repr(self)), *told.pipeline(self.made), *told.history(self.history))

    @takes(
        StageError, events=several(instance(Event, "must be an Event"), "events, such as Event(stage, subject, action)")
    )
    def evolve(self, *events: Event, **changes: Any) -> ConversionState:
        """A new state with some fields changed and ``events`` added to the history; this one is unchanged.

        Its text, ``made``, gets ``...``, for what a function of one's own did; a stage says what it is.
        """
        if "graph" in changes:
            graph = _GRAPH.hold(changes["graph"], "graph", "ConversionState", StageError)
            params = _MAP.hold(as_map(changes.get("params", self.params)), "params", "ConversionState", StageError)
            changes["params"] = params.only(graph.param_keys())
        changes.setdefault("made", (*self.made, "..."))
        return attrs.evolve(self, history=self.history + events, **changes)

    @takes(StageError, fn=function("graph_module"))
    def edit(self, fn: Callable[[fx.GraphModule], fx.GraphModule | None]) -> ConversionState:
        """Let ``fn`` change a private ``torch.fx.GraphModule`` and freeze the result; the input is unchanged.

        Args:
            fn: may change the module it is given in place, or return another one.

        Sites and statistics of nodes that keep their name are kept.

        >>> import torch, snnpipe
        >>> def halve(gm):
        ...     for node in list(gm.graph.nodes):
        ...         if node.target is torch.nn.functional.relu:
        ...             with gm.graph.inserting_after(node):
        ...                 half = gm.graph.call_function(torch.mul, (node, 0.5))
        ...             node.replace_all_uses_with(half, delete_user_cb=lambda user: user is not half)
        >>> state = snnpipe.trace(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()))
        >>> print(state.edit(halve).graph)
        input = input(name='input')
        _0 = linear(input=input, weight=%0.weight, bias=%0.bias)
        _1 = relu(input=_0)
        mul = mul(a=_1, b=0.5)
        return mul
        """
        if self.code is not None:
            raise StageError("edit: the graph is already carried to a code; edit it before td_rewrite")
        tree = module_tree(self.graph, cloned(self.params))
        private = packaged(ann_code(self.graph), tree)
        result = fn(private)
        edited = private if result is None else result
        if not isinstance(edited, fx.GraphModule):
            raise StageError(f"edit: fn must return a torch.fx.GraphModule or None, got {type(edited).__name__}")
        with silenced():  # torch 2.6 wonders at attributes that are no tensors
            edited.graph.lint()
        lowered = lower(edited.graph, edited)
        if lowered.problems:
            raise StageError(listing("edit: the edited graph cannot be frozen", lowered.problems))
        names = {safe: path for path, safe in safe_paths(tree).items()}
        inputs = {safe_argument(node["name"]): node["name"] for node in self.graph.inputs}
        found = {names.get(key, key): tensor for key, tensor in lowered.params.items()}
        params = {  # an untouched parameter stays the same object
            key: self.params[key] if key in self.params and same_values(self.params[key], tensor) else tensor
            for key, tensor in found.items()
        }
        name = getattr(fn, "__name__", type(fn).__name__)
        return self.evolve(
            Event("edit", name, "edited the graph"),
            graph=lowered.graph.renamed(names, inputs),
            params=FrozenMap(params),
            sites=self.sites.only(lowered.graph.by_name),
            statistics=self.statistics.only(lowered.graph.by_name),
        )


#: For arguments that are sites.
SITE = instance(Site, "must be a Site", "write state.sites[...]")
#: For arguments that are states.
STATE = instance(ConversionState, "must be a ConversionState", "write pipe(model, trace, ...)")


@takes(StageError, state=STATE)
def digest(state: ConversionState) -> str:
    """A content hash (blake2b) of everything later stages read: nodes, tensors, sites, statistics, code.

    Equal states of one process have equal digests; the history does not count.
    """
    h = hashlib.blake2b(digest_size=16)
    h.update(_content((state.graph.nodes, state.graph.output, state.sites, state.threshold, state.code)).encode())
    for key, tensor in sorted(state.params.items()):
        feed(h, key, tensor)
    for key, summary in sorted(state.statistics.items()):
        for field, value in sorted(attrs.asdict(summary, recurse=False).items()):
            feed(h, f"{key}.{field}", value)
    if state.whole is not None:
        h.update(f"{state.whole!r}{_content(state.whole.constants)};".encode())
        for key, tensor in sorted(tensors_of(state.whole.model), key=lambda item: item[0]):
            feed(h, f"whole.{key}", tensor)
    return h.hexdigest()


@takes(StageError, a=STATE, b=STATE)
def state_equal(a: ConversionState, b: ConversionState) -> bool:
    """Whether two states are the same for every later stage: equal content, bit for bit."""
    return digest(a) == digest(b)


def _content(value: Any) -> str:
    """A value as text that tells apart whatever differs, which ``repr`` of a record need not."""
    if attrs.has(type(value)):
        fields = [field.name for field in attrs.fields(type(value)) if field.eq]
        return f"{type(value).__qualname__}({', '.join(_content(getattr(value, name)) for name in fields)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_content(item)}' for key, item in value.items())}}}"
    if isinstance(value, tuple):
        return f"{type(value).__name__}({', '.join(map(_content, value))})"
    return repr(value)


def feed(h: Any, key: str, value: Any) -> None:
    """Let a hash read a tensor, or another value by its ``repr``, under a key."""
    if not isinstance(value, Tensor):
        h.update(f"{key}={value!r};".encode())
        return
    h.update(f"{key}:{tuple(value.shape)}:{value.dtype};".encode())
    if value.is_meta:  # it has no values
        return
    flat = value.detach().cpu().contiguous()
    h.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
