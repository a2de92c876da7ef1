"""Adjusting neurons in one run over the data, each behind its own spiking prefix.

All the data reach a neuron before any goes on.  There its current and its output are held against the ANN's, the neuron
is adjusted by what the sums over all samples say, and the layers behind it see what it sends then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.codes import Code
from snnpipe.emit import module_tree, neuron_path
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, redirecting, unique_name
from snnpipe.ops.lift import lift, unlift
from snnpipe.runtime.activations import activation
from snnpipe.runtime.batches import Forward, fitting
from snnpipe.runtime.stretches import stretches
from snnpipe.stages.adjustment import Adjustment, Neuron, Seen
from snnpipe.stages.prefix import bound, check_current, detached
from snnpipe.state import ConversionState, Event
from snnpipe.waves import Wave


def adjusted(
    state: ConversionState, *, adjustments: tuple[Adjustment, ...], batches: Iterable[Any], T: int, per: str,
    code: Code, schedule: Wave, limit: int | None, forward: Forward | None, called: str,
) -> ConversionState:  # fmt: skip
    """The state with every neuron adjusted; see ``stages.correct`` for the arguments."""
    lifted = lift(state.graph, temporal_inputs=False)
    ann, clocks = unlift(lifted), tuple(schedule.clocks(code, T))
    tree = module_tree(state.graph, detached(state.params))
    ways, own_ways = stretches(ann, code, over_time=False), stretches(lifted, code, over_time=True)
    inputs = bound(state, batches, called, limit, forward)
    there = [{node.name: given[node["name"]] for node in ann.inputs} for given in inputs]
    here: list[dict[str, Any]] = [dict(values) for values in there]
    found: dict[str, dict[str, Tensor]] = {}
    events: list[Event] = []
    with torch.no_grad():
        for way, own_way in zip(ways, own_ways, strict=True):
            node, seen = way.neuron, list[Seen]()
            neuron = Neuron(
                node, tree.get_submodule(neuron_path(node)), clocks, per, timed=own_way.timed, called=called
            )
            for number, given in enumerate(inputs):
                with fitting(called, number, given, tree):
                    z, there[number] = way(tree, (), there[number])
                    z_snn, here[number] = own_way(tree, clocks, here[number])
                cap = node.get("cap")
                cap = state.params[cap.key] if isinstance(cap, Param) else cap
                there[number][node.name] = a = activation(z, node.get("signed", False), cap, node["axis"])
                seen.append(Seen(z, a, z_snn))
                for current in (z, z_snn):
                    check_current(current, neuron.path, called, number)
            values, notes = neuron.adjusted(adjustments, seen)
            for number in range(len(inputs)):
                here[number][node.name] = neuron.sent(seen[number].current, values)
                seen[number] = seen[-1]  # its current may go
            found[node.name] = values
            events += [Event(called, neuron_path(node), action, f"{note}, for T = {T} under {code}")
                       for action, note in notes]  # fmt: skip
    paths = {name: neuron_path(state.graph[name]) for name in found}
    made = {f"{paths[name]}.{key}": value for name, values in found.items() for key, value in values.items()}
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
