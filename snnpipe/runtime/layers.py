"""The layer-synchronous schedule: a layer starts when the one before it has sent all its events.

A neuron then knows its whole decoded input before it fires, so no event comes too early: what it decodes to is a
quantiser of the ANN's activation, and the network is the ANN with quantised activations.  It takes as many runs of T
steps as there are neurons on the longest path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from snnpipe.codes import Clock, Code
from snnpipe.emit import emit, neuron_path
from snnpipe.generated import compiled
from snnpipe.graph import Graph, refs
from snnpipe.kernels import temporal
from snnpipe.kernels.following import held
from snnpipe.kernels.precision import narrowed, wide
from snnpipe.ops.modules import SpikingNeuron
from snnpipe.runtime.section import Section


@lru_cache(maxsize=64)
def layerwise(graph: Graph) -> Callable[..., Any]:
    """``(root, code, T, inputs) -> outputs``: an ANN graph with neurons, each firing for T steps in its turn."""
    section = Section(("code", "T", "inputs"), {node.name: ("inputs", node["name"]) for node in graph.inputs})
    for node in graph:
        if node.op == "encode":
            neuron = section.target.get_attr(neuron_path(node))
            given = (section.value(node["input"]), section.arguments["code"], section.arguments["T"])
            section.env[node.name] = section.call(quantised, neuron, *given)
        elif node.op != "input":
            section.env[node.name] = emit(section.target, node, section.value)
    section.target.output(section.value(graph.output))
    return compiled(section.target)


def quantised(neuron: SpikingNeuron, z: Tensor, code: Code, T: int) -> Tensor:
    """What T events of a neuron with the constant decoded input ``z`` decode to.

    For the IF neuron with ``v_init = 1/2`` under RATE: ``theta / T clip(floor(z T / theta + 1/2), 0, T)``.
    """
    events, _ = presented(neuron, z, [code.clock(t) for t in range(1, T + 1)])
    total: Any = sum(worth * wide(now) for worth, now in zip(code.worth(T), events, strict=True))
    return narrowed(total, z)


def presented(neuron: SpikingNeuron, z: Tensor, clocks: Sequence[Clock]) -> tuple[list[Tensor], Any]:
    """The events of a neuron to which the decoded value ``z`` is presented at once, and its last state.

    What is no finite number asks for nothing, as in ``following.followed``.
    """
    events, state = [], None
    z = held(None, z)
    for clock in clocks:
        now, state = neuron(temporal.constant(z, clock), state, clock)
        events.append(now)
    return events, state


def depth(graph: Graph) -> int:
    """The largest number of neurons on a path through the graph."""
    levels: dict[str, int] = {}
    for node in graph:
        below = max((levels[name] for name in refs(node.operands)), default=0)
        levels[node.name] = below + (node.op == "encode")
    return max((levels[name] for name in refs(graph.output)), default=0)
