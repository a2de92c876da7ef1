"""Adjusting neurons in one run over the data, each behind its own spiking prefix.

All the data reach a neuron before any goes on.  There its current and its output are held against the ANN's, the neuron
is adjusted by what the sums over all samples say, and the layers behind it see what it sends then.  What waits at a
neuron is its current, of all samples; ``runtime.shelf`` says where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.codes import Clock, Code
from snnpipe.containers import packed
from snnpipe.emit import module_tree, neuron_path
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap, freeze, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, Traced, redirecting, unique_name
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.ops.lift import lift, unlift
from snnpipe.ops.modules import held
from snnpipe.runtime.activations import activation
from snnpipe.runtime.batches import Forward, fitting
from snnpipe.runtime.shelf import WAITING, Shelf
from snnpipe.runtime.stretches import Stretch, lent, stretches
from snnpipe.stages.adjustment import Adjustment, Neuron, Seen
from snnpipe.stages.fingerprint import of_state
from snnpipe.stages.prefix import bound, check_current, detached, home
from snnpipe.stages.together import Together
from snnpipe.stages.walk import Part, Walk, begun, parts
from snnpipe.state import ConversionState, Event
from snnpipe.waves import Wave


def adjusted(
    state: ConversionState, *, adjustments: tuple[Adjustment, ...], batches: Iterable[Any], T: int, per: str,
    code: Code, schedule: Wave, limit: int | None, forward: Forward | None, budget: int | None,
    device: torch.device | None, group: Any, called: str,
) -> ConversionState:  # fmt: skip
    """The state with every neuron adjusted; see ``stages.correct`` for the arguments."""
    clocks, events = tuple(schedule.clocks(code, T)), list[Event]()
    whole = module_tree(state.graph, detached(state.params))
    found: dict[str, dict[str, Tensor]] = {}
    same = partial(of_state, state, adjustments, T, per, str(code), str(schedule))
    processes = Together(group, called, same, device or home(state))
    with processes as everyone, torch.no_grad(), Shelf(WAITING if budget is None else budget) as shelf:
        inputs = bound(state, batches, called, limit, forward, everyone)
        sizes = everyone.shares(_sizes(inputs[0]) if inputs and per == "neuron" else None)
        data = parts(inputs, state.graph, whole, len(clocks), budget)
        journey = _Journey(state, data, code, clocks, shelf, device, called)
        for way, own_way in journey.ways:
            node, path, tree = way.neuron, neuron_path(way.neuron), lent(state.params, device, way, own_way)
            neuron = Neuron(
                node, tree.get_submodule(path), clocks, per, timed=own_way.timed, called=called, everyone=everyone
            )
            seen = journey.on(tree, way, own_way, any(adjustment.of_current for adjustment in adjustments))
            own, notes = neuron.adjusted(adjustments, seen, shelf)
            stays = state.params[node["threshold"].key].device
            found[node.name] = {key: value.to(stays) for key, value in own.items()}
            journey.leave(neuron, seen, own)
            del tree  # before the next is brought
            events += [Event(called, path, action, f"{note}, for T = {T} under {code}") for action, note in notes]
    paths = {name: neuron_path(state.graph[name]) for name in found}
    made = {f"{paths[name]}.{key}": value for name, values in found.items() for key, value in values.items()}
    taken = sorted(made.keys() & state.params.keys())
    if taken:
        raise StageError(f"{called}: {taken[0]} is there already; correct a state once, before any other copy of it")
    graph = _adjusted(_of_sizes(state.graph, next((own for own in sizes if own is not None), {})), found)
    return state.evolve(*events, graph=graph, params=state.params | made)


def _sizes(given: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of inputs, of any batch."""

    def one(leaf: Any) -> Any:
        return Traced((None, *leaf.shape[1:])[: leaf.ndim], leaf.dtype) if isinstance(leaf, Tensor) else leaf

    return {name: map_leaves(one, freeze(packed(value))) for name, value in given.items()}


def _of_sizes(graph: Graph, sizes: Mapping[str, Any]) -> Graph:
    """The graph for inputs of these sizes alone: what each neuron has of its own fits no others."""

    def both(now: Any, before: Any) -> Any:
        return attrs.evolve(now, shape=(*before.shape[:1], *now.shape[1:])) if isinstance(before, Traced) else now

    def one(node: Node) -> Node:
        now, before = sizes.get(node.get("name")) if node.op == "input" else None, node.get("shape")
        return node if now is None else node.evolve(shape=now if before is None else zip_leaves(both, now, before))

    return Graph(tuple(map(one, graph)), graph.output)


class _Journey:
    """All the data on their way through the ANN and the spiking network, side by side."""

    def __init__(
        self, state: ConversionState, data: Sequence[Part], code: Code, clocks: Sequence[Clock], shelf: Shelf,
        device: torch.device | None, called: str,
    ) -> None:  # fmt: skip
        lifted = lift(state.graph, temporal_inputs=False)
        ann = unlift(lifted)
        own_ways = stretches(lifted, code, over_time=True)
        self.ways = tuple(zip(stretches(ann, code, over_time=False), own_ways, strict=True))
        begin = begun(data, ann)
        self.there, self.here = Walk((), shelf, begin, device), Walk(clocks, shelf, begin, device)
        self.data, self.shelf, self.called = data, shelf, called
        self.left: Callable[[int], tuple[dict[str, Any], dict[str, Any]]] = _nothing

    def on(self, tree: nn.Module, way: Stretch, own_way: Stretch, of_current: bool) -> list[Seen]:
        """What the next neuron sees of all the data; those that wait at the one before leave it."""
        node, seen = way.neuron, list[Seen]()
        cap = node.get("cap")
        cap = held(tree, cap.key) if isinstance(cap, Param) else cap
        for k, part in enumerate(self.data):
            a, sent = self.left(k)
            with fitting(self.called, part.number, part.given, tree):
                z, z_snn = self.there.on(tree, way, k, a), self.here.on(tree, own_way, k, sent)
            for current in (z, z_snn):
                check_current(current, neuron_path(node), self.called, part.number)
            kept = self.shelf.keep(activation(z, node.get("signed", False), cap, node["axis"]))
            seen.append(Seen(self.shelf.keep(z) if of_current else None, kept, self.shelf.keep(z_snn)))
        return seen

    def leave(self, neuron: Neuron, seen: list[Seen], values: dict[str, Tensor]) -> None:
        """Let the data go on from a neuron that is adjusted, each part when it is its turn."""
        name, waiting = neuron.node.name, dict(enumerate(seen))
        seen.clear()

        def left(k: int) -> tuple[dict[str, Any], dict[str, Any]]:
            of_part = waiting.pop(k)
            return {name: of_part.a}, {name: neuron.sent(of_part.current.value, values)}

        self.left = left


def _nothing(k: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What part ``k`` brings along to the first neuron: it has met none."""
    return {}, {}


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
