"""What conversion would do with a model, before any data is run."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
from torch import nn

from snnpipe.analysis.cores import Limit
from snnpipe.analysis.limits import limits, sizes_known
from snnpipe.analysis.shapes import ann_multiplications
from snnpipe.analysis.tables import short
from snnpipe.analysis.targets import Target
from snnpipe.checks import takes
from snnpipe.errors import SiteWarning, StageError, TraceError, UnsupportedError
from snnpipe.graph import Graph, Node, param_keys
from snnpipe.kernels.codebook import UNITS
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.markup.tags import Markup, more, tag
from snnpipe.ops.lift import Case, Form, Placement, graded_units, has_neurons, place, unlift
from snnpipe.ops.modules import held
from snnpipe.options import instance, optional
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.sharing import without_values
from snnpipe.stages.fuse import fuse
from snnpipe.stages.instrument import instrumented
from snnpipe.stages.replace import replace
from snnpipe.stages.thresholds import fixed
from snnpipe.stages.trace import MODEL, trace
from snnpipe.state import ConversionState


@attrs.frozen
class NodeVerdict:
    """What becomes of one operator.

    Attributes:
        path: what people call it.
        op: its row in the operator table.
        case: why it is carried as it is (``Case``).
        form: whether its value travels as events or decoded, or is static.
        unit: that of its neuron, ``"binary"`` for a site of one yet to come; ``"graded"`` for an operator between
            neurons that is not linear, ``"readout"`` for one after the last neuron, ``""`` for the others.
        where: ``file:line``.
    """

    path: str
    op: str
    case: Case
    form: Form
    unit: str
    where: str


@attrs.frozen
class Verdict:
    """The answer of ``check``: data, and readable with ``print``.

    Attributes:
        nodes: one verdict for each operator, in order.
        refusal: why the model cannot be converted, "" if it can.
        front_end: which front end followed the model.
        notes: what the stages would record, such as batch norms that stay.
        target: the chip that was asked for.
        limits: what of it the network exceeds.
        ann: multiplications of the ANN on one sample, ``None`` where shapes do not tell; they do with ``example=``.
    """

    nodes: tuple[NodeVerdict, ...]
    refusal: str
    front_end: str
    notes: tuple[str, ...] = ()
    target: Target | None = None
    limits: tuple[Limit, ...] = ()
    ann: int | None = None

    @property
    def fits(self) -> bool:
        """Whether no published limit of the chip asked for is exceeded."""
        return self.ok and self.target is not None and not self.limits

    @property
    def ok(self) -> bool:
        """Whether the model can be converted."""
        return not self.refusal

    @property
    def fully_spiking(self) -> bool:
        """Whether every unit between input and readout is a neuron.

        What is behind the last neuron is the readout, which runs as the ANN does; a note says where it is more than a
        layer.
        """
        units = {node.unit for node in self.nodes}
        return self.ok and "graded" not in units and bool(units & set(UNITS))

    @property
    def on_events(self) -> float:
        """The share of the operators between neurons that run on events."""
        fixed_or_neuron = (Case.STATIC, Case.NEURON)
        between = [node for node in self.nodes if node.case not in fixed_or_neuron and node.unit != "readout"]
        return sum(node.form is Form.EVENTS for node in between) / len(between) if between else 0.0

    def _repr_html_(self) -> str:
        return piece(*shown(self))

    def __str__(self) -> str:
        if self.refusal:
            return f"cannot be converted\n{self.refusal}"
        counts = Counter(node.case.value for node in self.nodes)
        graded = [node for node in self.nodes if node.unit == "graded"]
        width = max((len(node.path) for node in graded), default=0)
        lines = [
            f"can be converted (followed by {self.front_end})",
            f"operators: {', '.join(f'{n} {case}' for case, n in sorted(counts.items()))}",
            f"on events: {100 * self.on_events:.0f} % of the operators between neurons",
            "fully spiking" if self.fully_spiking else "not fully spiking",
        ]
        if self.ann is not None:
            lines.append(f"multiplications of the ANN: {short(self.ann)} for each sample")
        lines += [f"  graded  {node.path:{width}}  {node.op}  {node.where}".rstrip() for node in graded]
        if self.target is not None:
            lines.append(f"{'fits' if self.fits else 'does not fit'} {self.target}")
            lines += [f"  {limit}".replace("\n", "\n  ") for limit in self.limits]
        return "\n".join([*lines, *(f"  note    {note}" for note in self.notes)])


def shown(verdict: Verdict) -> list[Markup]:
    """The verdict in words, and operator by operator, as parts of a page."""
    words = tag("pre", str(verdict))
    if verdict.refusal:
        return [words]
    rows = [("operator", "is", "case", "value", "unit", "where")]
    rows += [(n.path, n.op, n.case.value, n.form.name.lower(), n.unit, n.where) for n in verdict.nodes]
    return [words, more(f"{len(verdict.nodes)} operators", table(rows, label="operators", left=6))]


def _subject(value: Any) -> Any:
    return value if isinstance(value, ConversionState | SpikingNetwork) else MODEL.accept(value)


_SUBJECT = attrs.evolve(MODEL, accept=_subject)
_TARGET = optional(instance(Target, "must be a Target", "write check(model, target=SPECK_2E), AKIDA_1 or LOIHI_2"))


@takes(StageError, model=_SUBJECT, target=_TARGET)
def check(
    model: nn.Module | ConversionState | SpikingNetwork, *, target: Target | None = None, **options: Any
) -> Verdict:  # fmt: skip
    """Say what conversion would do with a model, or has done, without data; the model is unchanged.

    Args:
        model: a trained network; a state, between any two stages; or a converted network.  Its weights may be on the
            meta device, as those of a network too large for memory; a note says what is then not checked.
        target: a chip: ``SPECK_2E``, ``AKIDA_1``, ``LOIHI_2`` or a ``Target`` of your own.  The verdict then lists each
            limit that is exceeded before the last neuron.  Sizes of maps are known where there is an ``example=``;
            weights and thresholds are looked at once there are neurons.
        **options: as for ``trace``; for a network only.  ``unsafe_share=True`` spares a copy of the weights.

    Returns:
        A ``Verdict``: for every operator its case, its form and its unit, or the refusal.

    >>> print(check(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 3),
    ...     nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))))
    can be converted (followed by torch.fx)
    operators: 1 general, 4 linear, 2 neuron, 1 static
    on events: 33 % of the operators between neurons
    not fully spiking
      graded  3  sigmoid
    >>> from snnpipe import SPECK_2E
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    >>> print(check(model, target=SPECK_2E))
    can be converted (followed by torch.fx)
    operators: 2 linear, 1 neuron, 1 static
    on events: 0 % of the operators between neurons
    fully spiking
    does not fit Speck 2e
      0: its stride is 3 x 3, it can be 1, 2, 4 or 8
          -> train with a stride of 1, 2, 4 or 8
      note    not checked: biases, which a clock adds there, not a step
      note    not checked: potentials have 16 bits
      note    sizes of maps are not known and not checked; write check(model, target=..., example=x)
      note    weights and thresholds are looked at once there are neurons: check(pipe(model, ..., absorb), target=...)
    """
    try:
        state = _traced(model, options)
    except (TraceError, UnsupportedError) as error:
        return Verdict((), str(error), "nothing")
    converted = has_neurons(state.graph)
    if not converted:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SiteWarning)  # the verdict says it
            state = replace(threshold=fixed(1.0))(instrumented(fuse(state)))
    placed = place(state.graph, temporal_inputs=False)
    graded = {node.name for node in graded_units(state.graph, temporal_inputs=False)}
    before_neuron = state.graph.ancestors(node.name for node in state.graph if node.op == "encode")
    nodes = tuple(
        NodeVerdict(
            node.path,
            _op(node),
            placed[node.name].case,
            placed[node.name].form,
            _unit(node, graded, before_neuron),
            node.where,
        )
        for node in state.graph
        if node.op != "input"
    )
    notes = tuple(f"{e.subject} {e.action}: {e.detail}" for e in state.history if e.action == "not folded")
    ann, lacking = ann_multiplications(state.graph, state.params), without_values(state.params)
    if lacking:
        asking = [node for node in state.graph if _op(node) in _BY_VALUE and {*param_keys(node.operands)} & {*lacking}]
        asked = [f"{node.path} ({_op(node)})" for node in asking]
        notes += (_ON_META, *(f"with values, {name} may be another operator, or a site" for name in asked))
    notes += _late(state.graph, placed, before_neuron)
    if target is None:
        return Verdict(nodes, "", _front_end(state), notes, ann=ann)
    exceeded = limits(state.graph, state.params, target, converted=converted and not lacking)
    notes += tuple(f"not checked: {words}" for words in target.unchecked)
    notes += (_NO_SIZES,) * (not sizes_known(state.graph, state.params)) + (_NO_VALUES,) * (not converted)
    return Verdict(nodes, "", _front_end(state), notes, target, exceeded, ann)


_ON_META = (
    "not checked, for the weights are on the meta device and have no values: whether the graph computes what the model "
    "computes, and what hangs on the values of weights"
)
#: Operators of which the values of their parameters decide what becomes: slopes, caps, bounds.
_BY_VALUE = frozenset({"prelu", "clamp", "where", "clip", "fmax", "fmin", "max", "maximum", "min", "minimum"})
_NO_SIZES = "sizes of maps are not known and not checked; write check(model, target=..., example=x)"
_NO_VALUES = "weights and thresholds are looked at once there are neurons: check(pipe(model, ..., absorb), target=...)"


def _late(graph: Graph, placed: Mapping[str, Placement], before_neuron: set[str]) -> tuple[str, ...]:
    """That layers follow on operators that are not linear, all of them behind the last neuron."""
    behind = [node for node in graph if before_neuron and node.name not in before_neuron and node.op != "input"]
    layers = [node.name for node in behind if placed[node.name].case is Case.LINEAR and param_keys(node.operands)]
    before_layer, nonlinear = graph.ancestors(layers), (Case.BILINEAR, Case.GENERAL)
    late = (n for n in behind if n.name in before_layer and placed[n.name].case in nonlinear)
    return tuple(f"layers behind the last neuron run as the ANN's, from {n.path} ({_op(n)}) on" for n in [*late][:1])


def _traced(model: Any, options: dict[str, Any]) -> ConversionState:
    """The model as a state that is not carried to a code."""
    if isinstance(model, nn.Module) and not isinstance(model, SpikingNetwork):
        state: ConversionState = trace(model, **options)
        return state
    if options:
        raise StageError(f"check: {', '.join(options)}: options are for trace, which a {type(model).__name__} is past")
    if isinstance(model, ConversionState):
        return model.evolve(graph=unlift(model.graph), code=None)
    params = {key: held(model, key) for key in sorted(model.graph.param_keys())}
    return ConversionState(unlift(model.graph), params, history=model.history)


def _unit(node: Node, graded: set[str], before_neuron: set[str]) -> str:
    if node.op == "encode":
        return str(node["neuron"].unit)
    if node.name in graded:
        return "graded"
    return "" if node.name in before_neuron else "readout"


def _op(node: Node) -> str:
    target = node.get("target")
    return node.op if target is None else str(getattr(target, "__name__", type(target).__name__.lower()))


def _front_end(state: ConversionState) -> str:
    exported = any("export" in event.action for event in state.history if event.stage == "trace")
    return "torch.export" if exported else "torch.fx"
