"""How many channels a value has, as far as the graph and the weights' shapes tell.

Knows layers with weights and what keeps their channels; says nothing where it is not sure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from snnpipe.graph import Graph, Node, Param, Ref, param_keys, refs
from snnpipe.rules.axes import LAYER_AXIS, MAX_POOLS, channel_axis

_KEEP_CHANNELS = MAX_POOLS | {
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "add", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "clamp", "clone", "contiguous", "detach", "div", "identity", "interpolate", "mul", "neg", "relu",
    "sub", "to",
}  # fmt: skip
_ONE_BY_ONE = ("encode", "fake_quantize", "qcfs", "type_as")


def channels(graph: Graph, params: Mapping[str, Tensor]) -> dict[str, int]:
    """The size of the ``channel_axis`` of each node's value, by name, where it is sure.

    >>> from torch import nn
    >>> import snnpipe
    >>> state = snnpipe.trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()))
    >>> channels(state.graph, state.params)
    {'_0': 8, '_1': 8, '_2': 8}
    """
    found: dict[str, int] = {}
    for node in graph:
        count = _channels(node, graph, params, found)
        if count is not None:
            found[node.name] = count
    return found


def _channels(node: Node, graph: Graph, params: Mapping[str, Tensor], found: Mapping[str, int]) -> int | None:
    counts = {found.get(name) for name in refs(node.operands)}
    same = counts.pop() if len(counts) == 1 else None
    if node.op in LAYER_AXIS:
        shape = _shape(node.get("weight"), params)
        if len(shape) < 2:
            return None
        return shape[1] * int(node.get("groups", 1)) if node.op.startswith("conv_transpose") else shape[0]
    if node.op == "batch_norm":  # which counts along axis 1; behind a layer the channels are the layer's
        layer = channel_axis(node["input"], graph) is not None
        return same if layer else next(iter(_shape(node.get("running_mean"), params)), None)
    if node.op in _ONE_BY_ONE and isinstance(node["input"], Ref):
        return found.get(node["input"].name)
    if node.op in ("add", "sub") and same is None:  # sizes that are added are equal, or one of them is 1
        axis = channel_axis(Ref(node.name), graph)
        sizes = {found.get(name, 1) for name in refs(node.operands) if channel_axis(Ref(name), graph) == axis} - {1}
        return sizes.pop() if len(sizes) == 1 and axis is not None and not param_keys(node.operands) else None
    # a parameter may have more channels: (B, 1) + (D,)
    return same if node.op in _KEEP_CHANNELS and not param_keys(node.operands) else None


def _shape(operand: Any, params: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(params[operand.key].shape) if isinstance(operand, Param) else ()
