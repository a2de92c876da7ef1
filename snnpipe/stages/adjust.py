"""Adjusting neurons in one pass over the data, each behind its own spiking prefix.

The network runs its T steps layer by layer on each batch.  At every neuron its current and its output are held against
the ANN's at the same place, the neuron is adjusted, and the layers behind it see what it sends then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import torch
from toolz import take
from torch import Tensor, nn

from snnpipe.codes import Clock, Code
from snnpipe.emit import module_tree, neuron_path
from snnpipe.errors import CalibrationError, StageError
from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, redirecting, unique_name
from snnpipe.kernels.statistic import along
from snnpipe.kernels.temporal import constant
from snnpipe.ops.modules import assign
from snnpipe.runtime.activations import activations
from snnpipe.runtime.inputs import bind
from snnpipe.runtime.program import lifted_program
from snnpipe.runtime.scans import fired
from snnpipe.stages.calibrate import arguments
from snnpipe.state import ConversionState, Event


@attrs.frozen(eq=False)
class Seen:
    """One neuron on one batch.

    Attributes:
        z, a: the ANN's current and activation, (B, ...).
        z_snn, a_snn: the decoded current and output after T steps, (B, ...).
    """

    z: Tensor
    a: Tensor
    z_snn: Tensor
    a_snn: Tensor


#: How a neuron is adjusted, and from what: ``shift`` is a constant added to its current, ``charge`` one more event that
#: it is given before the first step, ``scale`` a factor of its output.  Made in order; the neuron runs anew after each.
Adjustment = tuple[tuple[str, Callable[[Seen], Tensor]], ...]


def adjusted(
    state: ConversionState, *, adjustment: Adjustment, batches: Iterable[Any], T: int, per: str, code: Code,
    schedule: str, limit: int | None, called: str,
) -> ConversionState:  # fmt: skip
    """The state with every neuron adjusted; see ``stages.correct`` for the arguments."""
    clocks = [code.clock(t) for t in range(1, T + 1)]
    run, ann = lifted_program(state.graph, code, frozenset()), activations(state.graph)
    tree = module_tree(state.graph, {key: tensor.detach() for key, tensor in state.params.items()})
    adjusters = {node.name: _Adjuster(node, tree, adjustment, code, per, schedule == "layer")
                 for node in state.graph if node.op == "encode"}  # fmt: skip
    root = module_tree(state.graph, {key: tensor.detach() for key, tensor in state.params.items()})
    for node in state.graph:
        if node.op == "encode":
            assign(root, neuron_path(node), adjusters[node.name])
    names = tuple(node["name"] for node in state.graph.inputs)
    count = 0
    with torch.no_grad():
        for count, batch in enumerate(batches if limit is None else take(limit, batches), start=1):
            args, kwargs = arguments(batch, names, number=count - 1)
            given = bind(state.graph, args, kwargs)
            for name, pair in ann(tree, given).items():
                adjusters[name].target = pair
            run.window(root, clocks, {}, run.once(root, given), given)
    if count == 0:
        raise CalibrationError(f"{called}: there was no batch. Is the loader empty, or a generator that was used up?")
    found = {name: {key: total / count for key, total in a.total.items()} for name, a in adjusters.items()}
    events = [Event(called, adjusters[name].path, "adjusted", f"{_summary(values)} for T = {T} under {code}")
              for name, values in found.items()]  # fmt: skip
    made = {f"{adjusters[name].path}.{key}": value for name, values in found.items() for key, value in values.items()}
    taken = sorted(made.keys() & state.params.keys())
    if taken:
        raise StageError(f"{called}: {taken[0]} is there already; correct a state once, before any other copy of it")
    return state.evolve(*events, graph=_adjusted(state.graph, found), params=state.params | made)


def _adjusted(graph: Graph, found: dict[str, dict[str, Tensor]]) -> Graph:
    """The graph with the adjustments as nodes and operands around its neurons."""
    nodes: list[Node] = []
    moved: dict[str, str] = {}
    for node in graph:
        node = attrs.evolve(node, operands=map_leaves(redirecting(moved), node.operands))
        values = found.get(node.name, {})
        path = neuron_path(node) if values else ""
        if "shift" in values:
            name = unique_name(f"{node.name}_shifted", graph.by_name)
            nodes.append(Node(name, "add", FrozenMap(a=node["input"], b=Param(f"{path}.shift")), node.path, node.where))
            node = node.evolve(input=Ref(name))
        nodes.append(node.evolve(charge=Param(f"{path}.charge")) if "charge" in values else node)
        if "scale" in values:
            name = moved[node.name] = unique_name(f"{node.name}_scaled", graph.by_name)
            nodes.append(
                Node(name, "mul", FrozenMap(a=Ref(node.name), b=Param(f"{path}.scale")), node.path, node.where)
            )
    return Graph(tuple(nodes), map_leaves(redirecting(moved), graph.output))


def _summary(values: dict[str, Tensor]) -> str:
    return ", ".join(f"{key} {value.abs().mean():.3g} on average" for key, value in values.items())


class _Adjuster(nn.Module):
    """Stands for a neuron while it is adjusted; knows what the ANN has there."""

    target: tuple[Tensor, Tensor]

    def __init__(self, node: Node, tree: nn.Module, adjustment: Adjustment, code: Code, per: str, waits: bool) -> None:
        super().__init__()
        self.node, self.path = node, neuron_path(node)
        self.neuron: Any = tree.get_submodule(self.path)
        self.adjustment, self.code, self.per, self.waits = adjustment, code, per, waits
        self.total: dict[str, Tensor] = {}
        for name, tensor in self.neuron.named_buffers():  # an earlier correction's, which the graph reads here
            self.register_buffer(name, tensor)

    def window(self, state: Any, z: Tensor, clocks: Sequence[Clock], timed: bool) -> tuple[Tensor, Any]:
        """As ``runtime.scans.fired``, for the adjusted neuron."""
        z = z if timed else z.expand(len(clocks), *z.shape)
        worth = self.code.worth(len(clocks))
        if self.waits:
            z = torch.stack([constant(_decoded(z, worth), clock) for clock in clocks])
        own: dict[str, Tensor] = {}
        events, after = fired(self.neuron, state, z, clocks, True)
        for key, error in self.adjustment:
            now = self._charged(z, own, clocks)
            seen = Seen(*self.target, _decoded(now, worth), _decoded(events, worth))
            value = (
                self._gain(seen) if key == "scale" else self._mean(error(seen)) / (worth[0] if key == "charge" else 1)
            )
            own[key] = own[key] + value if key in own else value
            events, after = fired(self.neuron, state, self._charged(z, own, clocks), clocks, True)
            events = own.get("scale", 1.0) * events
        for key, value in own.items():
            self.total[key] = self.total[key] + value if key in self.total else value
        return events, after

    def _charged(self, z: Tensor, own: dict[str, Tensor], clocks: Sequence[Clock]) -> Tensor:
        """The current with what is adjusted so far."""
        if "shift" in own:
            z = torch.stack([now + constant(own["shift"], clock) for now, clock in zip(z, clocks, strict=True)])
        return torch.cat([z[:1] + own["charge"], z[1:]]) if "charge" in own else z

    def _mean(self, error: Tensor) -> Tensor:
        """Over the batch, and over the positions too unless there is a value per neuron."""
        if self.per == "neuron":
            return error.mean(0)
        axis = self.node["axis"]
        others = [d for d in range(error.ndim) if axis is None or d != axis % error.ndim]
        return along(error.mean(others).reshape(-1), error.ndim, axis)

    def _gain(self, seen: Seen) -> Tensor:
        power = self._mean(seen.a_snn.square())
        return torch.where(power > 0, self._mean(seen.a * seen.a_snn) / power, torch.ones_like(power))


def _decoded(seq: Tensor, worth: Sequence[float]) -> Tensor:
    weights = torch.tensor(worth, dtype=seq.dtype, device=seq.device)
    return (weights.reshape(-1, *[1] * (seq.ndim - 1)) * seq).sum(0)
