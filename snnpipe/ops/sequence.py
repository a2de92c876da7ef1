r"""How an operator is applied to a whole time sequence: the ANN's operator at each step, unchanged.

For operands with a leading time axis, ``(T, ...)``, the result is ``stack([f(x[0]), ..., f(x[T-1])])``.
``torch.vmap`` gives that meaning to any operator.  For most rows of the operator table there is a faster *way* to the
same result in one call: time joins the batch (``folded``), axis numbers move by one (``shifted``), ranks are aligned
(``aligned``).  A way only rewrites the operands; where it does not apply it gives ``None`` and ``vmap`` is used, and
where that fails too, a loop.

Knows the operator table; nothing of codes or neurons.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.frozen import FrozenMap, leaves, map_leaves, thaw
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.ops.table import UNARY, Op

#: Operands by name, the names of those with a time axis -> the operands of one call over all steps, and how to
#: get the steps back from its result (``None``: they lie on the first axis).
Operands = dict[str, Any]
Way = Callable[[Op, Operands, frozenset[str]], "tuple[Operands, Callable[[Any], Any] | None] | None"]


@attrs.frozen
class Hole:
    """Stands for the k-th value in a tree of operands."""

    k: int


@attrs.frozen(eq=False)
class OverTime:
    """An op applied at each step at once: ``over_time(*values)``, those that are ``timed`` with a leading time axis.

    Attributes:
        op: a row of the table.
        operands: its operands, a ``Hole`` for each value.
        timed: for each value whether it has a time axis; such a value may be a tuple or list of tensors.
    """

    op: Op
    operands: FrozenMap[str, Any]
    timed: tuple[bool, ...]

    @property
    def __name__(self) -> str:
        return self.op.name

    def __call__(self, *values: Any) -> Any:
        try:
            taken = self._taken(values)
            if taken is not None:
                operands, back = taken
                result = self._called(operands)
                return result if back is None else back(result)
        except Exception:  # whatever the reason: the general meaning decides, and raises what is the user's error
            pass
        return self._step_by_step(values)

    def _taken(self, values: tuple[Any, ...]) -> Any:
        """The operands rewritten by the row's way, if it has one that fits."""
        way = WAYS.get(self.op.name)
        if way is None:
            return None
        operands, timed = {}, set()
        for name, tree in self.operands.items():
            if any(self.timed[leaf.k] for leaf in leaves(tree) if isinstance(leaf, Hole)):
                timed.add(name)
                operands[name] = map_leaves(partial(self._repeated, values), tree)
            else:
                operands[name] = _filled(tree, values)
        return way(self.op, operands, frozenset(timed))

    def _repeated(self, values: tuple[Any, ...], leaf: Any) -> Any:
        """A value without a time axis beside one that has it (``cat``) is the same at every step."""
        if not isinstance(leaf, Hole):
            return leaf
        if self.timed[leaf.k]:
            return values[leaf.k]
        steps = self._steps(values)
        return zip_leaves(lambda x: x.expand(steps, *x.shape) if isinstance(x, Tensor) else x, values[leaf.k])

    def _step_by_step(self, values: tuple[Any, ...]) -> Any:
        def one(*now: Any) -> Any:
            return self._called({name: _filled(tree, now) for name, tree in self.operands.items()})

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # vmap warns of operators it runs one by one
                return torch.vmap(one, in_dims=tuple(0 if timed else None for timed in self.timed))(*values)
        except Exception:  # a result that is no tensor, an operator with data-dependent shapes
            pairs = list(zip(values, self.timed, strict=True))
            steps = range(self._steps(values))
            return stacked([one(*(at(value, t) if timed else value for value, timed in pairs)) for t in steps])

    def _steps(self, values: tuple[Any, ...]) -> int:
        return len(tensors([value for value, timed in zip(values, self.timed, strict=True) if timed])[0])

    def _called(self, operands: Mapping[str, Any]) -> Any:
        args, kwargs = self.op.signature.call_arguments(FrozenMap(operands))
        if self.op.name == "call":
            target, args, kwargs = args
            return target(*thaw(args), **thaw(kwargs))
        return self.op.fn(*thaw(args), **thaw(kwargs))


def at(value: Any, t: int) -> Any:
    """Step ``t``, counted from 0, of a value whose tensors have a time axis."""
    return zip_leaves(lambda leaf: leaf[t] if isinstance(leaf, Tensor) else leaf, value)


def stacked(steps: list[Any]) -> Any:
    """Values of one structure on a new first axis; what is no tensor must be the same at every step."""

    def stack(*now: Any) -> Any:
        if isinstance(now[0], Tensor):
            return torch.stack(now)
        if any(value != now[0] for value in now):
            raise ValueError(f"a value that is no tensor changes from step to step: {now[0]!r}, {now[-1]!r}")
        return now[0]

    return zip_leaves(stack, *steps)


def _filled(tree: Any, values: tuple[Any, ...]) -> Any:
    return map_leaves(lambda leaf: values[leaf.k] if isinstance(leaf, Hole) else leaf, tree)


# the ways


def as_it_is(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """Ops that leave leading axes alone."""
    return operands, None


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
    rank = max(value.ndim - (name in timed) for name, value in tensors.items())
    leading = next(value for name, value in tensors.items() if value.ndim - (name in timed) == rank)

    def fitted(x: Tensor) -> Tensor:  # a number of each step decides no dtype
        number = x.ndim == 1 and rank > 0 and leading.is_floating_point()
        return _lifted(x.to(leading) if number else x, rank)

    return operands | {name: fitted(tensors[name]) for name in timed}, None


def along_axis(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """Elementwise ops whose parameters lie along an ``axis``; it moves by one if counted from the front."""
    return (operands | {"axis": _next_axis(operands.get("axis"))}, None) if timed == {"input"} else None


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
    if timed == {"input", "bias"} and operands["input"].ndim > 1:
        return _biased((operands, None), operands["bias"])
    return trailing(1)(op, operands, timed)


def shifted(*names: str) -> Way:
    """Ops whose operands ``names`` are axis numbers: those counted from the front move by one."""

    def way(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
        moved = {name: operands.get(name, op.signature.defaults.get(name)) for name in names}
        if timed != {op.signature.names[0]} or any(value in (None, ()) for value in moved.values()):
            return None
        return operands | {name: map_leaves(_next_axis, value) for name, value in moved.items()}, None

    return way


def permuted(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """permute: time stays in front."""
    return operands | {"dims": (0, *map(_next_axis, operands["dims"]))}, None


def reduced(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """sum and mean: over the axes given, or over all but time."""
    dim = operands.get("dim", ())
    if dim in ((), None):
        return operands | {"dim": tuple(range(1, operands["input"].ndim))}, None
    return operands | {"dim": map_leaves(_next_axis, dim)}, None


def sized(name: str) -> Way:
    """Ops that are given the sizes of their result: time is the first of them."""

    def way(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
        x, sizes = operands["input"], operands[name]
        sizes = (sizes,) if isinstance(sizes, int) else sizes
        if timed != {"input"} or not all(isinstance(n, int) for n in sizes):
            return None
        if op.name in ("expand", "repeat"):
            x = _lifted(x, len(sizes))
        return operands | {"input": x, name: (1 if op.name == "repeat" else len(x), *sizes)}, None

    return way


def indexed(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """getitem: pieces of a tuple as they are; a tensor behind its time axis."""
    source, index = operands["a"], operands["index"]
    if timed != {"a"} or not isinstance(source, Tensor):
        return (operands, None) if timed == {"a"} else None
    index = index if isinstance(index, tuple) else (index,)
    plain = all(part is None or part is Ellipsis or type(part) in (int, slice) for part in index)
    return (operands | {"index": (slice(None), *index)}, None) if plain else None


def attended(op: Op, operands: Operands, timed: frozenset[str]) -> Any:
    """scaled_dot_product_attention: a mask that is the same for the whole batch stays as it is."""
    mask = operands.get("attn_mask")
    shared = mask is None or mask.ndim < operands["query"].ndim - 1 or len(mask) == 1
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


def _next_axis(dim: Any) -> Any:
    return dim + 1 if isinstance(dim, int) and dim >= 0 else dim


def _lifted(x: Tensor, rank: int) -> Tensor:
    """A timed tensor with at least ``rank`` axes behind time."""
    missing = rank - x.ndim + 1
    return x.reshape(len(x), *[1] * missing, *x.shape[1:]) if missing > 0 else x


def _ways() -> dict[str, Way]:
    table: tuple[tuple[Way, str], ...] = (
        (as_it_is, "identity contiguous clone detach to type_as neg"),
        (aligned, "add sub mul div pow clamp where masked_fill " + " ".join(UNARY)),
        (along_axis, "qcfs fake_quantize"),
        (folded(3), "conv1d conv_transpose1d max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d fold"),
        (folded(4), "conv2d conv_transpose2d max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d unfold"),
        (folded(5), "conv3d conv_transpose3d max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d"),
        (folded(), "batch_norm group_norm interpolate channel_shuffle"),
        (linear, "linear"),
        (trailing(1), "layer_norm rms_norm pad"),
        (trailing(3), "pixel_shuffle pixel_unshuffle"),
        (
            shifted("dim"),
            "softmax log_softmax cumsum squeeze unsqueeze unflatten narrow select index_select chunk split",
        ),
        (shifted("dim"), "chunk split unbind cat stack"),
        (shifted("dims"), "flip roll"),
        (shifted("start_dim", "end_dim"), "flatten"),
        (shifted("dim0", "dim1"), "transpose"),
        (shifted("source", "destination"), "movedim"),
        (permuted, "permute"),
        (reduced, "sum mean"),
        (sized("size"), "view expand"),
        (sized("shape"), "reshape"),
        (sized("repeats"), "repeat"),
        (indexed, "getitem"),
        (products, "matmul"),
        (summed, "einsum"),
        (attended, "scaled_dot_product_attention"),
    )
    return {name: way for way, names in table for name in names.split()}


#: The way of each row that has one.
WAYS: FrozenMap[str, Way] = FrozenMap(_ways())
