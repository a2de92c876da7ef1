r"""The ways in which a row of the operator table runs over all time steps in one call.

A way rewrites the operands: time joins the batch (``folded``), axis numbers move by one (``shifted``), ranks are
aligned (``aligned``).  It gives ``None`` wherever that would not be what the op does at each step; that a way is right
wherever it does not is tested against the loop, for values of every rank.

Knows the operands of the table's ops.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from snnpipe.frozen import FrozenList, FrozenMap, leaves, map_leaves
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.ops.table import UNARY, Op

#: Operands by name, the names of those with a time axis -> the operands of one call over all steps, and how to
#: get the steps back from its result (``None``: they lie on the first axis).
Operands = dict[str, Any]
Way = Callable[[Op, Operands, frozenset[str]], "tuple[Operands, Callable[[Any], Any] | None] | None"]


def as_it_is(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """Ops that leave leading axes alone; a memory format is for values of one rank, and changes none."""
    return {name: value for name, value in operands.items() if name != "memory_format"}, None


def trailing(axes: int) -> Way:
    """Ops that work on the last ``axes`` axes of their first operand, whatever comes before them."""

    def way(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
        first = op.signature.names[0]
        return (operands, None) if timed == {first} and operands[first].ndim > axes else None

    return way


def aligned(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """Elementwise ops: axes of size 1 behind time, so that operands of different rank meet as they do in one step."""
    tensors = {name: value for name, value in operands.items() if isinstance(value, Tensor)}
    if not timed <= tensors.keys():
        return None
    ranks = {name: value.ndim - (name in timed) for name, value in tensors.items()}
    one_dtype = len({value.dtype for name, value in tensors.items() if name != "condition"}) == 1
    without_axes = {name for name in timed if ranks[name] == 0}
    if without_axes and (not one_dtype or without_axes & _NUMBERS.get(op.name, frozenset())):
        return None  # a number of each step, which decides no dtype, or where an op takes nothing else
    rank = max(ranks.values())
    return operands | {name: _lifted(tensors[name], rank) for name in timed}, None


#: Elementwise ops and the operands that may have to be numbers.
_NUMBERS: FrozenMap[str, frozenset[str]] = FrozenMap(masked_fill=frozenset({"value"}), clamp=frozenset({"min", "max"}))


def along_axis(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """Elementwise ops whose parameters lie along an ``axis``; it moves by one if counted from the front."""
    axis, rank = operands.get("axis"), operands["input"].ndim - 1
    known = timed == {"input"} and (axis is None or -rank <= axis < rank)
    return (operands | {"axis": _next_axis(axis)}, None) if known else None


def products(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """matmul: as ``aligned``, for matrices."""
    ranks = [value.ndim - (name in timed) for name, value in operands.items()]
    return aligned(op, operands, timed) if min(ranks) >= 2 else None


def folded(rank: int = 0, *, others: tuple[str, ...] = ()) -> Way:
    """Ops on batches of ``rank`` axes (0: of any number, the first of which is the batch): time joins the batch.

    An operand of one axis less has no batch, and time takes its place.  ``others`` are folded with the first operand;
    what is not timed must not have a batch axis of its own.  A timed bias is added behind the op.
    """

    def way(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
        first = op.signature.names[0]
        together = {first, *others}
        bias = operands["bias"] if "bias" in timed else None
        if timed - {"bias"} != together or (bias is not None and not rank):
            return None
        x = operands[first]
        if rank and x.ndim == rank and all(operands[name].ndim == rank for name in together):
            made: Any = operands, None
        elif x.ndim == rank + 1 or (not rank and x.ndim > 2):
            if any(operands[name].shape[:2] != x.shape[:2] for name in together):
                return None
            sizes = x.shape[:2]
            made = (
                operands | {name: operands[name].flatten(0, 1) for name in together},
                lambda result: zip_leaves(lambda y: y.unflatten(0, sizes), result),
            )
        else:
            return None
        return made if bias is None else _biased(made, bias)

    return way


def _biased(made: Any, bias: Tensor) -> Any:
    """A bias (T, C) of its own at each step: added behind the op, on the axis of the channels."""
    operands, back = made
    axes = operands["weight"].ndim - 2

    def biased(result: Tensor) -> Tensor:
        result = result if back is None else back(result)
        return result + bias.reshape(len(bias), *[1] * (result.ndim - 2 - axes), -1, *[1] * axes)

    return {name: value for name, value in operands.items() if name != "bias"}, biased


def linear(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """linear: any leading axes; a timed bias is added behind it."""
    if operands["weight"].ndim != 2:
        return None
    if timed == {"input", "bias"} and operands["input"].ndim > 1:
        return _biased((operands, None), operands["bias"])
    return trailing(1)(op, operands, timed)


def shifted(*names: str) -> Way:
    """Ops whose operands ``names`` are axis numbers: those counted from the front move by one."""

    def way(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
        moved = {name: operands.get(name, op.signature.defaults.get(name)) for name in names}
        if timed != {op.signature.names[0]} or not all(leaves(value) and _are_whole(value) for value in moved.values()):
            return None
        return operands | {name: map_leaves(_next_axis, value) for name, value in moved.items()}, None

    return way


def joined(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """cat: an axis of tensors of one rank; torch passes over empty ones of another."""
    one_rank = len({value.ndim for value in leaves(operands["tensors"])}) == 1
    return shifted("dim")(op, operands, timed) if one_rank else None


def padded(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """pad: any leading axes for a constant; the other modes take one batch axis and one of channels."""
    axes = len(operands["pad"]) // 2
    way = trailing(axes) if operands.get("mode", "constant") == "constant" else folded(axes + 2)
    return way(op, operands, timed)


def permuted(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """permute: time stays in front."""
    dims = operands["dims"]
    return (operands | {"dims": (0, *map(_next_axis, dims))}, None) if _are_whole(dims) else None


def reduced(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """sum and mean: over the axes given, or over all but time."""
    dim = operands.get("dim", ())
    if dim in ((), None):
        return operands | {"dim": tuple(range(1, operands["input"].ndim))}, None
    return (operands | {"dim": map_leaves(_next_axis, dim)}, None) if _are_whole(dim) else None


def sized(name: str) -> Way:
    """Ops that are given the sizes of their result: time is the first of them."""

    def way(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
        x, sizes = operands["input"], operands[name]
        if timed != {"input"} or not _are_whole(sizes):
            return None
        sizes = (sizes,) if isinstance(sizes, int) else sizes
        if op.name in ("expand", "repeat"):
            x = _lifted(x, len(sizes))
        return operands | {"input": x, name: (1 if op.name == "repeat" else len(x), *sizes)}, None

    return way


def indexed(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """getitem: pieces of a tuple as they are; a tensor behind its time axis."""
    source, index = operands["a"], operands["index"]
    if timed != {"a"} or not isinstance(source, Tensor):
        return (operands, None) if timed == {"a"} else None
    index = index if type(index) is tuple else (index,)
    listed = [part for part in index if not (part is None or part is Ellipsis or type(part) in (int, slice))]
    plain = len(listed) <= 1 and all(map(_is_list_of_numbers, listed))  # torch moves the axes of several to the front
    return (operands | {"index": (slice(None), *index)}, None) if plain else None


def _is_list_of_numbers(part: Any) -> bool:
    """Whether a part of an index takes the place of one axis, or of as many as a mask has."""
    if isinstance(part, list | FrozenList):
        return bool(part) and all(type(number) is int for number in part)
    return isinstance(part, Tensor)


def attended(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """scaled_dot_product_attention: a mask that is the same for the whole batch stays as it is."""
    mask = operands.get("attn_mask")
    rank = operands["query"].ndim - 1
    shared = mask is None or mask.ndim < rank or (mask.ndim == rank and len(mask) == 1)
    return folded(4, others=("key", "value"))(op, operands, timed) if shared else None


def summed(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """einsum: time is one more letter."""
    left, arrow, right = str(operands["equation"]).replace(" ", "").partition("->")
    free = next((c for c in "tTzZyYxXwWvVuUsSrRqQ" if c not in left), None)
    if not arrow or free is None or "." in left:
        return None
    terms = left.split(",")
    letters = [f"{free}{term}" if name in timed else term for name, term in zip("abc", terms, strict=False)]
    return operands | {"equation": f"{','.join(letters)}->{free}{right}"}, None


def called(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """A call that the table has no row for, of one tensor, where torch says that it works on each element alone."""
    (x, *rest), kwargs = operands["args"] or (None,), operands["kwargs"]
    alone = isinstance(x, Tensor) and all(type(leaf) in (int, float, bool, str) for leaf in leaves((rest, kwargs)))
    return (operands, None) if alone and timed == {"args"} and _is_pointwise(operands["target"]) else None


@lru_cache(maxsize=1024)
def _is_pointwise(target: Any) -> bool:
    known = getattr(target, "found", target)  # an overload as a function
    name = getattr(known, "__name__", "")
    packet = getattr(torch.ops.aten, name, None) if known is getattr(torch, name, None) else None
    every = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    every = [known] if isinstance(known, OpOverload) else every
    own = [found for found in every if str(found._schema.arguments[0].type) == "Tensor"]  # others take numbers
    drawn = torch.Tag.nondeterministic_seeded
    return bool(own) and all(torch.Tag.pointwise in found.tags and drawn not in found.tags for found in own)


def _are_whole(value: Any) -> bool:
    return all(isinstance(dim, int) for dim in leaves(value))


def _next_axis(dim: Any) -> Any:
    return dim + 1 if isinstance(dim, int) and dim >= 0 else dim


def _lifted(x: Tensor, rank: int) -> Tensor:
    """A timed tensor with at least ``rank`` axes behind time."""
    missing = rank - x.ndim + 1
    return x.reshape(len(x), *[1] * missing, *x.shape[1:]) if missing > 0 else x


#: Ways that are right for values without axes too: nothing in them is counted from the end.
_ANY_RANK: tuple[tuple[Way, str], ...] = (
    (as_it_is, "identity contiguous clone detach to neg"),
    (aligned, "add sub mul div pow clamp where masked_fill " + " ".join(UNARY)),
    (sized("size"), "view expand"),
    (sized("shape"), "reshape"),
    (sized("repeats"), "repeat"),
    (indexed, "getitem"),
)

#: Ways for values with an axis at least.
_WITH_AXES: tuple[tuple[Way, str], ...] = (
    (along_axis, "qcfs fake_quantize"),
    (folded(3), "conv1d conv_transpose1d max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d fold"),
    (folded(4), "conv2d conv_transpose2d max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d unfold"),
    (folded(5), "conv3d conv_transpose3d max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d"),
    (folded(), "batch_norm group_norm interpolate channel_shuffle"),
    (linear, "linear"),
    (trailing(1), "layer_norm rms_norm"),
    (trailing(3), "pixel_shuffle pixel_unshuffle"),
    (padded, "pad"),
    (
        shifted("dim"),
        "softmax log_softmax cumsum squeeze unsqueeze unflatten narrow select index_select chunk split unbind stack",
    ),
    (joined, "cat"),
    (shifted("dims"), "flip roll"),
    (shifted("start_dim", "end_dim"), "flatten"),
    (shifted("dim0", "dim1"), "transpose"),
    (shifted("source", "destination"), "movedim"),
    (permuted, "permute"),
    (reduced, "sum mean"),
    (products, "matmul"),
    (summed, "einsum"),
    (attended, "scaled_dot_product_attention"),
    (called, "call"),
)

#: The way of each row that has one.
WAYS: FrozenMap[str, Way] = FrozenMap({name: way for way, rows in _ANY_RANK + _WITH_AXES for name in rows.split()})

#: The rows whose way is right for values without axes too.
ANY_RANK: frozenset[str] = frozenset(name for _, rows in _ANY_RANK for name in rows.split())
