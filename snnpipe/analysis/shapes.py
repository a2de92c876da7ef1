"""The shapes of all values of a graph, where those of its inputs are known: computed without data.

Knows the operator table; every operator runs once, on tensors that have a shape and no values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snnpipe.analysis.multiplications import multiplications
from snnpipe.graph import Graph, Node, Ref, Traced, param_keys
from snnpipe.ops.functions import Opaque
from snnpipe.rules.arithmetic import value_of


def shapes(graph: Graph, params: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of each node's value for a batch of one, by name; without those that cannot be told.

    >>> from torch import nn
    >>> from snnpipe import trace
    >>> state = trace(nn.Conv2d(1, 2, 3), example=torch.rand(4, 1, 8, 8))
    >>> shapes(state.graph, state.params)["conv2d"]
    torch.Size([1, 2, 6, 6])
    """
    known = _values(graph, _weightless(params))
    return {name: value.shape for name, value in known.items() if isinstance(value, Tensor)}


def ann_multiplications(graph: Graph, params: Mapping[str, Tensor]) -> int | None:
    """Those of the ANN on one sample, ``account(...).ann``; ``None`` where shapes do not tell.

    >>> from torch import nn
    >>> from snnpipe import trace
    >>> state = trace(nn.Conv2d(1, 2, 3), example=torch.rand(4, 1, 8, 8))
    >>> ann_multiplications(state.graph, state.params) == 2 * 6 * 6 * 9
    True
    """
    if any(_input(node) is None for node in graph.inputs):
        return None
    weights, total = _weightless(params), 0
    try:
        known = _values(graph, weights)
    except Exception:  # whatever a module kept whole, or a function of the user's, says to shapes
        return None
    moving = graph.descendants(node.name for node in graph.inputs)
    for node in graph:
        if node.op in ("input", "encode") or node.name not in moving:
            continue
        y, given = known.get(node.name), value_of(node.operands, graph, weights, known)
        if y is None:
            return None
        try:
            count = multiplications(node.op, given, y)
        except (TypeError, RuntimeError):  # it looks at values
            return None
        whole = node.op == "call" and isinstance(node["target"], Opaque)
        if whole and not count and any(weights[key].ndim > 1 for key in param_keys(node.operands)):
            return None  # nobody sees what it multiplies
        total += count
    return total


def _weightless(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().to("meta") for key, tensor in params.items()}


def _values(graph: Graph, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What each node makes of one sample without numbers, by name; ``None`` where that cannot be told."""
    known: dict[str, Any] = {}
    with torch.no_grad():
        for node in graph:
            if node.op == "input":
                known[node.name] = _input(node)
            elif node.op == "encode":
                known[node.name] = value_of(node["input"], graph, weights, known)
            else:
                value_of(Ref(node.name), graph, weights, known)
    return known


def _input(node: Node) -> Tensor | None:
    traced = node.get("shape")
    if not isinstance(traced, Traced) or not traced.shape:
        return None
    rest = traced.shape[1:]
    if not all(isinstance(size, int) for size in rest):
        return None
    return torch.empty(1, *rest, dtype=traced.dtype, device="meta")  # type: ignore[arg-type]
