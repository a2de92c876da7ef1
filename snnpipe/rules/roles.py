r"""What operators do with the scale of a value: keep it, choose it anew, or insist on the one it has.

A value has the *scale* s where it is kept in scales of s: :math:`x = s x'`.  ``role`` says which operators commute with
that, ``layouts`` along which axis the channels lie, so that each may have a scale of its own.

Knows the operator table; which scale a value gets is ``stages.absorb``'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

import attrs
from torch import Tensor

from snnpipe.frozen import leaves
from snnpipe.graph import Graph, Node, Param, Ref, param_keys, refs
from snnpipe.ops.dtypes import is_float
from snnpipe.ops.lift import Case, Form, place
from snnpipe.ops.table import OPS
from snnpipe.rules.axes import LAYER_AXIS, MAX_POOLS
from snnpipe.rules.fusion import rank


class Role(Enum):
    """What an operator asks of the scales around it."""

    STATIC = auto()  #: nothing: it is the same at every step
    FIXED = auto()  #: each value it reads or gives has the scale 1
    NEURON = auto()  #: it gives events of its own scale
    WEIGHTED = auto()  #: its weights, or a constant factor, take up any scale, of what it reads and of what it gives
    KEPT = auto()  #: what it reads and what it gives have one scale
    JOINED = auto()  #: it puts channels side by side; each keeps its scale


#: Not linear, but f(s x) = s f(x) for s > 0.
_POSITIVE = MAX_POOLS | {"relu", "leaky_relu", "abs"}
#: Ops of one value that leave each channel where it is.
_CHANNELWISE = MAX_POOLS | {
    "relu", "leaky_relu", "abs", "neg", "mul", "div", "add", "sub", "identity", "contiguous", "clone", "detach", "to",
    "type_as", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d", "interpolate",
}  # fmt: skip
#: Ops whose constants (numbers, parameters) are added on, element by element.
ADDING = frozenset({"add", "sub"})
#: Ops that multiply by a constant, element by element.
FACTORED = frozenset({"mul", "div"})


def roles(graph: Graph, params: Mapping[str, Tensor]) -> dict[str, Role]:
    """The role of each node, by name."""
    placed = place(graph, temporal_inputs=True)
    moving = {name for name, placement in placed.items() if placement.form is not Form.STATIC}
    found: dict[str, Role] = {}
    axes = layouts(graph, params)
    for node in graph:
        if node.op == "encode":
            found[node.name] = Role.NEURON
        elif node.name not in moving:
            found[node.name] = Role.STATIC
        elif placed[node.name].case is Case.SOURCE:
            found[node.name] = Role.FIXED
        else:
            found[node.name] = _role(node, graph, params, moving, axes)
    return found


def _role(
    node: Node, graph: Graph, params: Mapping[str, Tensor], moving: set[str], axes: Mapping[str, Layout | None]
) -> Role:
    read = {name for name in values_read(node) if any(ref in moving for ref in refs(node[name]))}
    if (node.op in LAYER_AXIS or node.op == "batch_norm") and read == {"input"} and _stored(node, params):
        return Role.WEIGHTED
    if node.op in FACTORED and factor(node) is not None and _constant(node[str(factor(node))], params):
        return Role.WEIGHTED
    if node.op in _POSITIVE and read == {"input"}:
        return Role.KEPT
    op = OPS[node.op]
    group = next((group for group in op.groups if read <= group), None)
    floats = all(is_float(node.get(name), graph, lambda ref: ref in moving) for name in op.typed_by)
    if group is None or not floats or not all(_scalable(node.get(name), node, params, moving) for name in group):
        return Role.FIXED
    return Role.JOINED if joins_channels(node, axes) else Role.KEPT


def factor(node: Node) -> str | None:
    """Which operand of a product or a quotient is no value of the graph, so that it multiplies the other."""
    names = [name for name in (("a", "b") if node.op == "mul" else ("b",)) if not refs(node[name])]
    return names[0] if len(names) == 1 and len(refs(node.operands)) == 1 else None


def _constant(operand: Any, params: Mapping[str, Tensor]) -> bool:
    """Whether an operand is a number, or a parameter made of floats."""
    if isinstance(operand, Param):
        return params[operand.key].is_floating_point()
    return isinstance(operand, int | float) and not isinstance(operand, bool)


def values_read(node: Node) -> list[str]:
    """The operands of which an op reads more than the shape."""
    only_shape = OPS[node.op].shape_only if node.op in OPS else frozenset[str]()
    return [name for name in node.operands if name not in only_shape]


def _stored(node: Node, params: Mapping[str, Tensor]) -> bool:
    """Whether weights and bias are floats that the state holds, or absent."""
    names = ("running_mean", "running_var", "weight", "bias") if node.op == "batch_norm" else ("weight", "bias")
    given = [node.get(name) for name in names]
    return all(t is None or (isinstance(t, Param) and params[t.key].is_floating_point()) for t in given)


def _scalable(operand: Any, node: Node, params: Mapping[str, Tensor], moving: set[str]) -> bool:
    """Whether an operand of a linear group has a scale: it moves, is nothing, or is a constant that can be scaled."""
    for leaf in leaves(operand):
        nothing = leaf is None or (_constant(leaf, params) and not isinstance(leaf, Param) and leaf == 0)
        added = node.op in ADDING and _constant(leaf, params)
        if not (leaf.name in moving if isinstance(leaf, Ref) else nothing or added):
            return False
    return True


@attrs.frozen
class Layout:
    """Where the channels of a value lie.

    Attributes:
        axis: counted from the end.
        spread: whether a channel is not one entry of that axis but a block of neighbours, as behind ``flatten``.
    """

    axis: int
    spread: bool = False


def layouts(graph: Graph, params: Mapping[str, Tensor]) -> dict[str, Layout | None]:
    """Where the channels of each node's value lie, by name; ``None`` where the graph alone does not tell.

    Values have a batch axis first.

    >>> from torch import nn
    >>> import snnpipe
    >>> state = snnpipe.trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Flatten()))
    >>> layouts(state.graph, state.params)["_2"]
    Layout(axis=-1, spread=True)
    """
    found: dict[str, Layout | None] = {}
    for node in graph:
        found[node.name] = _layout(node, graph, params, found)
    return found


def _layout(
    node: Node, graph: Graph, params: Mapping[str, Tensor], found: Mapping[str, Layout | None]
) -> Layout | None:
    if node.op in LAYER_AXIS:
        return Layout(LAYER_AXIS[node.op])
    sources = [value for name, value in node.operands.items() if name in ("input", "a", "b", "tensors")]
    read = {found.get(ref) for ref in refs(tuple(sources))}
    before = read.pop() if len(read) == 1 else None
    if before is None or not all(_beside(key, before, params) for key in param_keys(tuple(sources))):
        return None
    if node.op == "encode":
        return Layout(before.axis) if node["axis"] == before.axis else None
    if node.op in _CHANNELWISE or node.op in ("batch_norm", "cat"):
        return before if before.axis < -_pooled(node) else None
    if channel_pad(node, before) is not None or _slices_behind(node, before):
        return before
    if _flattens(node, graph):
        flat = before.axis == -1 and (before.spread or rank(node["input"], graph) == 2)
        return before if flat else (Layout(-1, spread=True) if before.axis < -1 else None)
    dropped = _dropped(node, before)
    return None if dropped is None else Layout(before.axis + dropped)


def _beside(key: str, before: Layout, params: Mapping[str, Tensor]) -> bool:
    """Whether a constant has no more axes than the channels and what is behind them, but for some of size 1."""
    shape = params[key].shape
    return all(size == 1 for size in shape[: max(0, len(shape) + before.axis)]) and len(shape) <= 1 - before.axis


def _pooled(node: Node) -> int:
    """How many axes, counted from the end, an op pools."""
    pools = node.op in MAX_POOLS or "avg_pool" in node.op
    return int(node.op[-2]) if pools else int(node.op == "interpolate")


def joins_channels(node: Node, axes: Mapping[str, Layout | None]) -> bool:
    """Whether an op puts something beside channels: others, or zeros."""
    layout = axes[node.name]
    if node.op == "cat":
        return layout is None or node.get("dim", 0) in _same(layout)
    return layout is not None and (channel_pad(node, layout) or (0, 0)) != (0, 0)


def _same(layout: Layout) -> tuple[int, ...]:
    """The numbers of the channel axis: axis 1 too where further axes follow it, the batch being the first."""
    return (layout.axis, 1) if layout.axis < -1 or layout.spread else (layout.axis,)


def channel_pad(node: Node, before: Layout) -> tuple[int, int] | None:
    """How many channels of zeros an op puts before and behind those there are; (0, 0) if it only fills further axes.

    ``None`` where it is no pad, or does something else to the channels or the axes before them.
    """
    pad, at = node.get("pad"), 2 * (-before.axis - 1)
    if node.op != "pad" or before.spread or not isinstance(pad, tuple) or not all(isinstance(n, int) for n in pad):
        return None
    first, last = (*pad, 0, 0)[at : at + 2] if len(pad) >= at else (0, 0)
    zeros = node.get("mode", "constant") == "constant" and not node.get("value")
    fine = len(pad) <= at or (len(pad) == at + 2 and min(first, last) >= 0 and zeros)
    return (first, last) if fine else None


def _slices_behind(node: Node, before: Layout) -> bool:
    """Whether an index takes every sample and channel, and slices of the axes behind them."""
    index = node.get("index")
    if node.op != "getitem" or before.axis == -1 or not isinstance(index, tuple) or len(index) > 1 - before.axis:
        return False
    return all(isinstance(part, slice) for part in index) and all(part == slice(None) for part in index[:2])


def _flattens(node: Node, graph: Graph) -> bool:
    """Whether all axes but the batch become one."""
    if node.op == "flatten":
        return bool(node.get("start_dim", 0) == 1 and node.get("end_dim", -1) == -1)
    sizes = node.get("size", node.get("shape"))
    if node.op not in ("view", "reshape") or not isinstance(sizes, tuple) or len(sizes) != 2:
        return False
    size = graph.producer(sizes[0])
    picked = size is not None and size.op == "getitem"
    if size is not None and picked:
        size = graph.producer(size["a"]) if size["index"] == 0 else None
    if size is None or not (size.op == "size" or (picked and size.get("name") == "shape")):
        return False
    return size.get("dim") == (None if picked else 0) and _has_batch_of(node["input"], size["input"], graph)


def _has_batch_of(value: Any, other: Any, graph: Graph) -> bool:
    """Whether a value is another one, or made of it by ops that leave the batch axis alone."""
    node = graph.producer(value)
    while node is not None and Ref(node.name) != other:
        passes = node.op in _CHANNELWISE or node.op in LAYER_AXIS or node.op in ("encode", "batch_norm", "pad")
        node = graph.producer(node.get("input", node.get("a"))) if passes else None
    return node is not None


def _dropped(node: Node, before: Layout) -> int | None:
    """How many axes behind the channels an op takes away, ``None`` where it does something else."""
    if node.op not in ("mean", "sum") or before.spread or before.axis == -1:
        return None
    given = node.get("dim", ())
    dims = (given,) if isinstance(given, int) else given
    if not isinstance(dims, tuple) or not dims or not all(isinstance(dim, int) for dim in dims):
        return None
    behind = {dim if dim < 0 else dim - (1 - before.axis) for dim in dims}  # batch, channels, and the axes behind them
    if not all(before.axis < dim < 0 for dim in behind):
        return None
    return 0 if node.get("keepdim", False) else len(behind)
