"""Which axis of a value counts its channels, as far as the graph alone tells."""

from __future__ import annotations

from typing import Any

from snnpipe.graph import Graph, Node, Ref, refs
from snnpipe.rules.fusion import rank

MAX_POOLS = frozenset(f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3))

#: The channel axis of what a layer with weights computes, and of what it reads.
LAYER_AXIS: dict[str, int] = {
    "linear": -1, "conv1d": -2, "conv2d": -3, "conv3d": -4, "conv_transpose1d": -2, "conv_transpose2d": -3,
    "conv_transpose3d": -4,
}  # fmt: skip
_CHANNEL_AXIS = LAYER_AXIS | {"batch_norm": 1, "pixel_shuffle": -3, "pixel_unshuffle": -3}
_KEEP_AXIS = MAX_POOLS | {
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "add", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "cat", "clamp", "clone", "contiguous", "detach", "div", "fake_quantize", "identity", "interpolate",
    "mul", "neg", "pad", "qcfs", "relu", "sub", "to", "type_as",
}  # fmt: skip


def channel_axis(operand: Any, graph: Graph) -> int | None:
    """The channel axis of a value: that of the layer it comes from, if nothing in between moves axes."""
    node = graph.producer(operand)
    while node is not None:
        if node.op in _CHANNEL_AXIS:
            before = channel_axis(node["input"], graph) if node.op == "batch_norm" else None
            return _CHANNEL_AXIS[node.op] if before is None else before
        if node.op == "flatten" and node.get("start_dim", 0) == 1 and node.get("end_dim", -1) == -1:
            return -1
        if node.op not in _KEEP_AXIS:
            return None
        first = next((value for value in node.operands.values() if _reads(value)), None)
        node = graph.producer(first[0] if isinstance(first, tuple) else first)
    return None


def _reads(value: Any) -> bool:
    return isinstance(value, Ref) or (isinstance(value, tuple) and bool(value) and isinstance(value[0], Ref))


#: Ops that keep features along the last axis, or split and join them there.
_KEEP_FEATURES = frozenset({
    "add", "cat", "chunk", "clamp", "clone", "contiguous", "detach", "div", "expand", "flatten", "identity", "mul",
    "narrow", "neg", "repeat", "reshape", "split", "sub", "to", "type_as", "unflatten", "view", "where",
})  # fmt: skip


def last_counts_features(operand: Any, graph: Graph) -> bool:
    """Whether the last axis of a value surely counts features: those of a linear layer, which tokens share.

    A view may have split the axis; then it counts the features of one head, which heads share.
    """
    queue, seen = [operand], set[str]()
    while queue:
        node = graph.producer(queue.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op == "linear":
            return True
        if node.op in _KEEP_FEATURES or _leaves_last_axis(node, graph):
            queue += [Ref(name) for name in refs(node.operands)]
    return False


def _leaves_last_axis(node: Node, graph: Graph) -> bool:
    """Whether an op that moves or drops axes surely has nothing to do with the last."""
    if node.op == "permute":
        dims = node["dims"]
        return isinstance(dims, tuple) and bool(dims) and dims[-1] in (-1, len(dims) - 1)
    if node.op == "getitem":
        index = node["index"]
        return not (isinstance(index, tuple) and ... in index and isinstance(index[-1], int))
    names = _AXES.get(node.op)
    count = rank(node.get("input"), graph) if names else None
    axes = [node.get(name, None if node.op == "squeeze" else 0) for name in names or ()]  # squeeze(): any of them
    return bool(axes) and all(
        isinstance(axis, int) and (axis < -1 or axis == 0 or (count is not None and 0 < axis < count - 1))
        for axis in axes
    )


#: Ops that move or drop single axes, and the operands that say which.
_AXES = {
    "movedim": ("source", "destination"), "select": ("dim",), "squeeze": ("dim",), "transpose": ("dim0", "dim1"),
    "unbind": ("dim",), "unsqueeze": ("dim",),
}  # fmt: skip
