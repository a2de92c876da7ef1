"""What the ANN computes where a converted network has neurons."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from snnpipe.emit import emit
from snnpipe.frozen import map_leaves, thaw
from snnpipe.generated import compiled
from snnpipe.graph import Graph
from snnpipe.kernels.statistic import fitted
from snnpipe.runtime.section import Section


@lru_cache(maxsize=64)
def activations(graph: Graph) -> Callable[..., Any]:
    """``(root, inputs) -> {neuron: (current, activation)}`` of the ANN, by name of the ``encode`` node."""
    return _ann(graph, lambda section, found: found)


@lru_cache(maxsize=64)
def answers(graph: Graph) -> Callable[..., Any]:
    """``(root, inputs) -> outputs`` of the ANN."""
    return _ann(graph, lambda section, found: thaw(map_leaves(section.value, graph.output)))


def _ann(graph: Graph, result: Callable[[Section, dict[str, Any]], Any]) -> Callable[..., Any]:
    section = Section(("inputs",), {node.name: ("inputs", node["name"]) for node in graph.inputs})
    found: dict[str, Any] = {}
    for node in graph:
        if node.op == "encode":
            z = section.value(node["input"])
            facts = (node.get("signed", False), section.value(node.get("cap")), node["axis"])
            section.env[node.name] = section.call(activation, z, *facts)
            found[node.name] = (z, section.env[node.name])
        elif node.op != "input":
            section.env[node.name] = emit(section.target, node, section.value)
    section.target.output(result(section, found))
    return compiled(section.target)


def activation(z: Tensor, signed: bool, cap: Any, axis: int | None) -> Tensor:
    """What a neuron stands for: the value itself, or its ReLU, up to the cap if there is one."""
    cap = fitted(cap, z.shape, axis) if isinstance(cap, Tensor) else cap
    z = z if signed else z.clamp(min=0.0)
    return z if cap is None else z.minimum(torch.as_tensor(cap, dtype=z.dtype, device=z.device))
