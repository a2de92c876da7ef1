"""The two orders in which a run can be tallied: step by step, or layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from snnpipe.analysis.tally import Run
from snnpipe.codes import Clock, Code
from snnpipe.graph import Node
from snnpipe.kernels import temporal
from snnpipe.kernels.following import held
from snnpipe.kernels.precision import narrowed, wide

#: The clock and the inputs by name, step by step.
Presented = Sequence[tuple[Clock, Mapping[str, Any]]]


def step_by_step(
    run: Run, nodes: Sequence[Node], presented: Presented, *, moving: Collection[str], every_step: Collection[str]
) -> None:
    """All layers take step t at the same time; nodes that are not of ``every_step`` are computed at the first."""
    for clock, inputs in presented:
        for node in nodes:
            if node.op == "input":
                run.present(node, inputs[node["name"]], node["name"] in moving)
            elif clock.t == 1 or node.name in every_step:
                run.perform(node, clock)


def layer_by_layer(
    run: Run, nodes: Sequence[Node], presented: Presented, *, moving: Collection[str], every_step: Collection[str],
    code: Code,
) -> None:  # fmt: skip
    """Every node takes all its steps before the next one starts; a neuron is given what they decode to."""
    worth = code.worth(len(presented))
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {}) for _ in presented]
    for node in nodes:
        gathered = None
        if node.op == "encode":
            currents = [_at(run, step, node["input"]) for step in seen]
            total: Any = sum(w * wide(z) for w, z in zip(worth, currents, strict=True))
            gathered = held(None, narrowed(total, currents[0]))
        for (clock, inputs), step in zip(presented, seen, strict=True):
            run.values, run.spikes = step
            if node.op == "input":
                run.present(node, inputs[node["name"]], node["name"] in moving)
            elif clock.t == 1 or node.name in every_step:
                run.perform(node, clock, None if gathered is None else temporal.constant(gathered, clock))
            else:
                run.values[node.name] = seen[0][0][node.name]


def _at(run: Run, step: tuple[dict[str, Any], dict[str, Any]], operand: Any) -> Any:
    run.values, run.spikes = step
    return run.value(operand)
