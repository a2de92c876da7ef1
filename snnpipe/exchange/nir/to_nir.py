"""From a spiking network to a NIR graph.

Every value of the network that changes in time becomes parts of the graph by a row of the profile's table; every other
value is computed here.  All that NIR cannot say is listed before anything is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.checks import takes
from snnpipe.codes import RATE
from snnpipe.emit import neuron_path
from snnpipe.errors import Problem, SnnpipeError, UnsupportedError, listing
from snnpipe.exchange.nir.parts import STEP, Given, Made, NotSaidError, Part, Wire, alone
from snnpipe.exchange.nir.profiles import PROFILES, Profile, check_primitives
from snnpipe.frozen import map_leaves, thaw
from snnpipe.graph import Graph, Node, Param, Ref, refs, unique_name
from snnpipe.ops.lift import Case, Form, Placement, place
from snnpipe.ops.modules import SpikingNeuron, held
from snnpipe.ops.table import OPS
from snnpipe.options import one_of
from snnpipe.runtime.inputs import bind, check_numbers, check_shapes, explained
from snnpipe.runtime.network import NETWORK, SpikingNetwork

#: What to do where the package nir is missing; it works beside a clone and beside an installed package.
HOW_TO_INSTALL = 'pip install "nir>=1.0.8", or in a clone of snnpipe pip install -e ".[nir]"'
#: Names that the modules of simulators have for themselves.
_RESERVED = frozenset({*dir(nn.ModuleDict()), "input", "output", "state"})


@takes(UnsupportedError, snn=NETWORK, profile=one_of(*PROFILES), dt=STEP)
def to_nir(snn: SpikingNetwork, example: Any, *, profile: str = "exact", dt: float = 1.0) -> Any:
    r"""Write a network as a ``nir.NIRGraph``; the network is unchanged.

    The graph is one time step of the network under RATE with a constant input: given the same x at every step it sends
    the same spikes, and the mean over the steps of what it puts out is ``snn(x, T)``.  It says everything by NIR's
    primitives, nothing in metadata.

    ``profile="exact"``: soft reset is ``I(r=1/dt) -> Threshold(theta - v_0) -> Scale(-theta) -> I``, for each neuron
    its own theta; ``v >= theta`` is ``v > below(theta)`` with the next float below; a neuron with evenly spaced levels
    has one threshold for each.  ``profile="hardware"``: ``Conv2d, IF, SumPool2d, Flatten, Affine`` alone, hard reset
    (``integrate_and_fire(v_reset=...)`` with ``v_init`` the same), one threshold per layer; what a spike or a mean over
    a window is worth is multiplied into the next weights.

    In real numbers the graph is the network.  Simulators add in another order, so in floats a spike may come a step
    earlier or later where a potential meets its threshold but for rounding; with weights, thresholds and inputs on a
    dyadic grid there is no rounding, and no difference.

    Args:
        snn: a network under RATE, one tensor in, one tensor out.
        example: an input as the network takes it, for the shapes; a tuple of them where it takes several.
        profile: ``"exact"`` or ``"hardware"``.
        dt: the length of a step, as the simulator is told it.

    Returns:
        The graph; ``nir.write(path, graph)`` writes it.  A node is called as in ``snn.graph``; the spikes of a neuron
        are those of ``<name>_spike``.

    Raises:
        UnsupportedError: lists everything that NIR, or the profile, cannot say.
        InputError: the example does not fit the network.
        SnnpipeError: the package ``nir`` is missing.

    >>> from torch import nn
    >>> from snnpipe import fixed, pipe, replace, to_snn, trace
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> graph = to_nir(pipe(model, trace, replace(threshold=fixed(1.0)), to_snn), torch.ones(1, 2))
    >>> print(*graph.edges, sep="\n")
    ('input_1', '_0')
    ('_0', '_1_potential')
    ('_1_reset', '_1_potential')
    ('_1_potential', '_1_spike')
    ('_1_spike', '_1_reset')
    ('_1_spike', '_1_event')
    ('_1_event', 'output')

    Reference: Pedersen et al. 2024, "Neuromorphic intermediate representation: a unified instruction set for
    interoperable brain-inspired computing", Nature Communications.
    """
    nir = required()
    parts, dtype = written(snn, example, PROFILES[profile], dt), _dtype(snn)
    nodes = {name: getattr(nir, part.kind)(**_fields(part, dtype)) for name, part in parts.items()}
    return nir.NIRGraph(nodes, [(source, name) for name, part in parts.items() for source in part.sources])


def required() -> Any:
    """The package ``nir``.

    Raises:
        SnnpipeError: it is missing.
    """
    try:
        import nir
    except ImportError as error:
        raise SnnpipeError(f"NIR graphs need the package nir: {HOW_TO_INSTALL}") from error
    return nir


def written(snn: SpikingNetwork, example: Any, profile: Profile, dt: float) -> dict[str, Part]:
    """The parts of the graph by name, in order.

    Raises:
        UnsupportedError: lists what cannot be said.
    """
    network = _network(snn, example, profile, dt)
    problems = _problems_of(network)
    parts: dict[str, Part] = {}
    wires: dict[str, Wire] = {}
    for node in snn.graph:
        if network.placed[node.name].form is Form.STATIC or not wires.keys() >= network.moved(node):
            continue
        try:
            made = _translated(node, network, wires, parts)
        except NotSaidError as error:
            problems.append(Problem(node.name, node.path, node.where, error.reason, error.fix))
            if not network.holds_batches(node):
                continue
            made = Made((), Wire((), network.shape(node)))  # so that what follows is looked at too
        parts |= {part.name: part for part in made.parts}
        wires[node.name] = made.wire
    if problems:
        raise UnsupportedError(listing(f"NIR cannot say this network (the {profile.name} profile)", problems))
    return parts | {part.name: part for part in _end(network, wires, parts)}


@attrs.frozen(eq=False)
class _Network:
    """What is known before anything is written: the form and the value of every node, on the example."""

    snn: SpikingNetwork
    profile: Profile
    dt: float
    placed: Mapping[str, Placement]
    values: Mapping[str, Any]
    params: Mapping[str, Tensor]
    neurons: Mapping[str, SpikingNeuron]
    moving: tuple[Node, ...]

    def reads(self, node: Node) -> bool:
        """Whether an input's value counts: not its shape alone, and not what it is where it is left out."""
        if "default" in node.operands and self.values[node.name] is node["default"]:
            return False
        users = (self.snn.graph[name] for name in self.snn.graph.users[node.name] if name != "output")
        return any(node.name in refs(value) for user in users for name, value in user.operands.items()
                   if user.op not in OPS or name not in OPS[user.op].shape_only)  # fmt: skip

    def holds_batches(self, node: Node) -> bool:
        """Whether a value is a tensor of batches as large as the input's."""
        value, first = self.values[node.name], self.values[self.moving[0].name]
        tensors = isinstance(value, Tensor) and isinstance(first, Tensor)
        return tensors and min(value.ndim, first.ndim) > 1 and value.shape[0] == first.shape[0]

    def shape(self, node: Node) -> tuple[int, ...]:
        """Of a value, without the batch axis."""
        return tuple(self.values[node.name].shape[1:])

    def moved(self, node: Node) -> set[str]:
        """The values that a node reads and that change in time."""
        kept = OPS[node.op].shape_only if node.op in OPS else ()
        read = refs([value for name, value in node.operands.items() if name not in kept])
        return {name for name in read if self.placed[name].form is not Form.STATIC}


def _network(snn: SpikingNetwork, example: Any, profile: Profile, dt: float) -> _Network:
    graph, placed = snn.graph, place(snn.graph, temporal_inputs=True)
    params = {key: held(snn, key) for key in graph.param_keys()}
    given = bind(graph, example if isinstance(example, tuple) else (example,), {})
    check_shapes(given, graph)
    check_numbers(given, graph)
    with torch.no_grad(), explained(given, snn):
        values = _computed(graph, params, given)
    moving = tuple(node for node in graph.inputs if placed[node.name].form is not Form.STATIC)
    return _Network(snn, profile, dt, placed, values, params, snn.neurons(), moving)


def _computed(graph: Graph, params: Mapping[str, Tensor], given: Mapping[str, Any]) -> dict[str, Any]:
    """What each node of the ANN gives; a neuron gives its current, which has the shape of its events."""
    values: dict[str, Any] = {}

    def found(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            return values[leaf.name]
        return params[leaf.key] if isinstance(leaf, Param) else leaf

    for node in graph:
        if node.op in ("input", "encode"):
            values[node.name] = given[node["name"]] if node.op == "input" else found(node["input"])
            continue
        args, kwargs = OPS[node.op].signature.call_arguments(node.operands)
        values[node.name] = OPS[node.op].fn(*map(_thawed(found), args), **thaw(map_leaves(found, kwargs)))
    return values


def _thawed(found: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda tree: thaw(map_leaves(found, tree))


def _problems_of(network: _Network) -> list[Problem]:
    """What is wrong with the network as a whole."""
    snn, output, found = network.snn, network.snn.graph.output, list[tuple[str, str, str]]()
    if snn.code != RATE:
        fix = "carry it to RATE: pipe(state, td_rewrite(code=RATE), to_snn)"
        found.append(("code", f"a NIR graph does the same at every step, events under {snn.code} do not", fix))
    dtypes = {p.dtype for p in network.params.values() if p.is_floating_point()}
    if len(dtypes) > 1 or dtypes - {torch.float32, torch.float64}:
        words = " and ".join(sorted(map(str, dtypes)))
        found.append(
            ("dtype", f"it computes in {words}, a graph in float32 or float64", "write to_nir(snn.float(), x)")
        )
    read = [node["name"] for node in network.snn.graph.inputs if node in network.moving or network.reads(node)]
    if len(network.moving) != 1 or len(read) > 1:
        fix = "give the others a value: trace(model, constants={...})"
        found.append(
            ("inputs", f"simulators take graphs of one float input, it reads {', '.join(read) or 'none'}", fix)
        )
    if not isinstance(output, Ref) or network.placed[output.name].form is Form.STATIC:
        fix = "wrap the model so that forward returns the tensor that is wanted"
        found.append(("output", "simulators take graphs that put out one tensor, it gives something else", fix))
    return [Problem(name, "", "", reason, fix) for name, reason, fix in found]


def _translated(node: Node, network: _Network, wires: Mapping[str, Wire], parts: Mapping[str, Part]) -> Made:
    """One node as parts."""
    profile = network.profile
    if network.placed[node.name].case in (Case.BILINEAR, Case.GENERAL):
        raise NotSaidError(f"{node.op} is not linear, and NIR has no primitive for it", _NONLINEAR)
    if not network.holds_batches(node):
        raise NotSaidError("its value is no tensor of two axes or more with the batch first", "give it batches")
    if node.op not in profile.rows and node.op != "input":
        raise NotSaidError(f"NIR has no primitive for {node.op}", "write it as a layer with weights")
    shape = network.shape(node)
    neuron = network.neurons[neuron_path(node)] if node.op == "encode" else None
    taken = _RESERVED.union(parts, network.snn.graph.by_name.keys() - {node.name})
    given = Given(
        node, shape, wires, network.values, network.params, neuron, taken, profile.times, network.dt
    )  # fmt: skip
    if node.op == "input":
        return alone(Part(given.name(), "Input", {"input_type": shape}, ()), shape)
    made = profile.rows[node.op](given)
    check_primitives(profile, made.parts)
    return made


def _end(network: _Network, wires: Mapping[str, Wire], parts: Mapping[str, Part]) -> tuple[Part, ...]:
    """What the network puts out, from one part."""
    wire = wires[network.snn.graph.output.name]
    made: tuple[Part, ...] = ()
    if len(wire.sources) > 1 or wire.factor != 1.0:
        name = unique_name("readout", _RESERVED.union(parts))
        made = (network.profile.times(name, wire, torch.ones(())),)
        wire = Wire((name,), wire.shape)
    return *made, Part("output", "Output", {"output_type": wire.shape}, wire.sources)


def _fields(part: Part, dtype: torch.dtype) -> dict[str, Any]:
    """The fields of a part as NIR has them: arrays, in the dtype of the network."""
    arrays = {"kernel_size", "stride", "padding"} if part.kind.endswith("Pool2d") else {"input_type", "output_type"}
    given = part.fields.items()
    floats = {key: v.to("cpu", dtype, copy=True).contiguous().numpy() for key, v in given if isinstance(v, Tensor)}
    whole = {key: torch.tensor(v).numpy() if key in arrays else v for key, v in given if not isinstance(v, Tensor)}
    return {key: (floats | whole)[key] for key in part.fields}


def _dtype(snn: SpikingNetwork) -> torch.dtype:
    return next((p.dtype for p in snn.state_dict().values() if p.is_floating_point()), torch.float32)


_NONLINEAR = (
    "put a neuron there (replace), or take it out of the model: what stands before the first neuron can be applied to "
    "the input, what stands behind the last to the decoded output; in between pool by a mean or by strides"
)
