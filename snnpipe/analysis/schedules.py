"""The order in which a run is tallied: chunk by chunk, and in a chunk layer by layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from snnpipe.analysis.tally import Run
from snnpipe.codes import Clock
from snnpipe.graph import Node
from snnpipe.kernels.following import held
from snnpipe.kernels.precision import narrowed, wide

#: The clock and the inputs by name, step by step.
Presented = Sequence[tuple[Clock, Mapping[str, Any]]]


def tallied(
    run: Run, nodes: Sequence[Node], presented: Presented, chunks: Sequence[Clock], *, moving: Collection[str],
    every_step: Collection[str],
) -> None:  # fmt: skip
    """Every node takes all steps of a chunk before the next one starts; a neuron is given what they add up to.

    Nodes that are not of ``every_step`` are computed at the first.
    """
    fixed: dict[str, Any] = {}
    for chunk in chunks:
        size = len(chunk.parts) or 1
        steps = presented[chunk.t - size : chunk.t]
        seen: list[tuple[dict[str, Any], dict[str, Any]]] = [(dict(fixed), {}) for _ in steps]
        for node in nodes:
            given = _given(run, node, chunk, seen) if chunk.parts and node.op == "encode" else [None] * size
            for (clock, inputs), step, current in zip(steps, seen, given, strict=True):
                run.values, run.spikes = step
                if node.op == "input":
                    run.present(node, inputs[node["name"]], node["name"] in moving)
                elif node.name in every_step:
                    run.perform(node, clock, current)
                elif clock.t == 1:
                    run.perform(node, clock)
                    fixed[node.name] = run.values[node.name]
                else:
                    run.values[node.name] = fixed[node.name]


def _given(run: Run, node: Node, chunk: Clock, seen: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[Tensor]:
    """What a neuron is given at each step of a chunk: all that has arrived, at once or evenly."""
    currents = []
    for step in seen:
        run.values, run.spikes = step
        currents.append(run.value(node["input"]))
    total: Any = sum(w * wide(z) for w, z in zip(chunk.worth, currents, strict=True))
    mean = narrowed(held(None, total) / chunk.a, currents[0])
    factors = chunk.presented(node["neuron"].at_once)
    return [torch.zeros_like(mean) if factor == 0.0 else factor * mean for factor in factors]
