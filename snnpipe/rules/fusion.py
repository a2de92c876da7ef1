"""Rules that fold batch normalisation into the linear map before it, and the guards that forbid it.

A fold writes new parameter keys at its own call site, so a module that is called twice, or a weight that two modules
share, is folded once per call and never changed for the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Param, Ref, Traced
from snnpipe.kernels.conv_bn import fold_batch_norm
from snnpipe.rewrite import Declined, Rewrite, RewriteRule

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d"})
_TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})


def fold_into_convolution(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | Declined | None:
    """bn(conv(x; W, b)) -> conv(x; gW, g(b - mu) + beta), g = gamma / sqrt(var + eps); also transposed."""
    before = _before_batch_norm(node, graph)
    if before is None or before.op not in _CONVOLUTIONS | _TRANSPOSED:
        return None
    groups = before.get("groups", 1) if before.op in _TRANSPOSED else None
    return _guard(before, node, graph) or _fold(before, node, graph, params, transposed_groups=groups)


def fold_into_linear(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | Declined | None:
    """bn(W x + b) -> gW x + g(b - mu) + beta, for x of shape (B, F) only: of (B, L, F) batch norm takes axis 1."""
    before = _before_batch_norm(node, graph)
    if before is None or before.op != "linear":
        return None
    if rank(before["input"], graph) != 2:
        return Declined(
            f"{before.name} may have more than two axes, and batch norm acts on axis 1; "
            "flatten(1) before it, if it has two, to let it be folded"
        )
    return _guard(before, node, graph) or _fold(before, node, graph, params, transposed_groups=None)


def _before_batch_norm(node: Node, graph: Graph) -> Node | None:
    return graph.producer(node["input"]) if node.op == "batch_norm" else None


def _guard(before: Node, node: Node, graph: Graph) -> Declined | None:
    others = [user for user in graph.users[before.name] if user != node.name]
    if others:
        return Declined(f"the output of {before.name} is also read by {', '.join(others)}")
    tensors = (before["weight"], before.get("bias"), *_statistics(node))
    if not all(isinstance(tensor, Param | None) for tensor in tensors):
        return Declined(f"the weights of {before.name} or of the batch norm are computed, not stored")
    return None


def _statistics(node: Node) -> tuple[Any, ...]:
    return node["running_mean"], node["running_var"], node.get("weight"), node.get("bias")


def _fold(
    before: Node, node: Node, graph: Graph, params: FrozenMap[str, Tensor], *, transposed_groups: int | None
) -> Rewrite:
    def tensor(operand: Any) -> Tensor | None:
        return None if operand is None else params[operand.key]

    mean, var, gamma, beta = map(tensor, _statistics(node))
    assert mean is not None
    assert var is not None
    with torch.no_grad():
        weight, bias = fold_batch_norm(
            params[before["weight"].key], tensor(before.get("bias")), mean, var, gamma, beta, node.get("eps", 1e-5),
            transposed_groups=transposed_groups,
        )  # fmt: skip
    stem = _new_stem(before, node, params)
    folded = before.evolve(weight=Param(f"{stem}.weight"), bias=Param(f"{stem}.bias"))
    made = Node(node.name, before.op, folded.operands, before.path, before.where)
    return Rewrite(
        (made,),
        Ref(node.name),
        FrozenMap({f"{stem}.weight": _like(params, before, weight), f"{stem}.bias": _like(params, before, bias)}),
        f"folded into {before.name}",
    )


def _like(params: FrozenMap[str, Tensor], before: Node, tensor: Tensor) -> Tensor:
    """A folded weight is a parameter, trainable if the old one was."""
    return nn.Parameter(tensor.detach(), requires_grad=params[before["weight"].key].requires_grad)


def _new_stem(before: Node, node: Node, params: FrozenMap[str, Tensor]) -> str:
    layer = before["weight"].key.rpartition(".")[0] or before.name
    norm = node["running_mean"].key.rpartition(".")[0] or node.name
    parent = layer.rpartition(".")[0]
    stem = f"{layer}__{norm.removeprefix(f'{parent}.' if parent else '').replace('.', '_')}"
    number, unique = 0, stem
    while f"{unique}.weight" in params:
        number += 1
        unique = f"{stem}_{number}"
    return unique


_KEEP_RANK = frozenset(
    ["relu", "clamp", "batch_norm", "identity", "clone", "contiguous", "linear", "neg", "to", "type_as"]
)


def rank(operand: Any, graph: Graph) -> int | None:
    """The number of axes of a batched value where the graph alone decides it, else ``None``."""
    node = graph.producer(operand)
    if node is None:
        return None
    if node.op == "input":
        traced = node.get("shape")
        return len(traced.shape) if isinstance(traced, Traced) else None
    if node.op == "flatten" and node.get("start_dim", 0) == 1 and node.get("end_dim", -1) == -1:
        return 2
    if node.op in ("view", "reshape"):
        size = node.get("size", node.get("shape"))
        return len(size) if isinstance(size, tuple) and len(size) > 1 else None
    if node.op in _KEEP_RANK:
        return rank(node.get("input", node.get("a")), graph)
    return None


#: The rules ``fuse`` applies; add your own: ``fuse(rules=FUSE_RULES + (my_rule,))``.
FUSE_RULES: tuple[RewriteRule, ...] = (fold_into_convolution, fold_into_linear)
