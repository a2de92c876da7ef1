"""How the values of a network lie in memory: as its convolutions are fastest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.frontend.overloads import Overload
from snnpipe.frozen import FrozenMap, leaves
from snnpipe.graph import Graph, Node, Param
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.ops.functions import call_method

_CONVOLUTIONS = frozenset({"conv2d", "conv_transpose2d"})
#: Calls without a row that ask how their operand lies in memory, or want it in one way.
_OF_MEMORY = frozenset({
    "as_strided", "as_strided_copy", "as_strided_scatter", "contiguous", "data_ptr", "is_contiguous", "storage_offset",
    "stride", "untyped_storage", "view", "view_as", "view_as_complex", "view_as_real",
})  # fmt: skip


def laid_out(graph: Graph, params: Mapping[str, Tensor], *, in_place: bool) -> tuple[Graph, dict[str, Tensor]]:
    """The graph, and the weights of two-dimensional convolutions with their channels last; values stay the same.

    What a convolution makes lies in memory as its weights do, and what is made of that as well, so the values between
    convolutions never have to be laid out anew.  ``view`` becomes ``reshape``, which takes either layout.  Where the
    graph calls what may mind the layout, all stays as it is.  Without ``in_place`` the weights stay as they lie, which
    are then somebody else's too.
    """
    weights = [node["weight"] for node in graph if node.op in _CONVOLUTIONS]
    keys = {weight.key for weight in weights if isinstance(weight, Param)}
    if not keys or any(map(_minds, graph)):
        return graph, dict(params)
    nodes = tuple(_reshaped(node) if node.op == "view" else node for node in graph)
    laid = {key: _channels_last(tensor) if in_place and key in keys else tensor for key, tensor in params.items()}
    return Graph(nodes, graph.output), laid


def _minds(node: Node) -> bool:
    """Whether a node may give something else for values that lie in memory otherwise."""
    if node.op == "view":
        return any(isinstance(leaf, torch.dtype) for leaf in leaves(node["size"]))
    if node.op != "call":
        return False
    target = node["target"]
    name = node["args"][1] if target is call_method else getattr(target, "__name__", "")
    home = getattr(target, "__module__", None) or "torch"
    known = home in ("_operator", "builtins", "math") or home.partition(".")[0] == "torch"
    return name in _OF_MEMORY or not (known or isinstance(target, Overload) or target is call_method)


def _reshaped(node: Node) -> Node:
    return attrs.evolve(node, op="reshape", operands=FrozenMap(input=node["input"], shape=node["size"]))


def as_given(output: Any, given: Mapping[str, Any]) -> Any:
    """What a network gives, laid out as what it was given: contiguous where all of that is."""
    if not all(x.is_contiguous() for x in tensors(dict(given)) if x.layout is torch.strided):
        return output
    return zip_leaves(lambda y: y.contiguous() if isinstance(y, Tensor) and y.layout is torch.strided else y, output)


def _channels_last(tensor: Tensor) -> Tensor:
    if tensor.ndim == 4:
        tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return tensor
