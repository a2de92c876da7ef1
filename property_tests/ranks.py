"""Operands of every rank for the rows of the operator table, in many spellings; torch says which of them are a call.

``EXAMPLES`` has what a row is for; here is whatever somebody may write: values without axes, axes counted from both
ends, lists, several dtypes.
"""

import operator
from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import torch
import torch.nn.functional as F

from property_tests.examples import INDEX, MASK, T
from snnpipe.ops.functions import call_method
from snnpipe.ops.table import TABLE, UNARY

Case = dict[str, object]

SHAPES = (T(), T(3), T(2, 3), T(2, 1, 3), T(2, 3, 1, 4), T(1, 2, 3, 4, 2))
SINGLE = T(3, dtype=torch.float32)
NUMBER = T(dtype=torch.float32)
FLAT = torch.tensor([True, False])


def axes(x: T) -> range:
    """Those of the value and, at each end, one too many."""
    rank = len(x.shape)
    return range(-rank - 1, rank + 1)


def one_axis(name: str = "input", axis: str = "dim", **others: object) -> Iterator[Case]:
    for x in SHAPES:
        for dim in axes(x):
            yield {name: x, axis: dim, **others}


def two_axes(first: str, second: str) -> Iterator[Case]:
    for x in SHAPES:
        for i, j in product(axes(x), repeat=2):
            yield {"input": x, first: i, second: j}


def reductions() -> Iterator[Case]:
    for x in SHAPES:
        some: list[Any] = [*axes(x), (), None, (0,), [-1], (0, -1), [0, 1], (1, 2), (-2, -1)]
        for options in ({}, {"keepdim": True}, {"dtype": torch.float32}):
            yield {"input": x, **options}
            yield from ({"input": x, "dim": dim, **options} for dim in some)


def pairs(*, numbers: bool = True) -> Iterator[Case]:
    yield from ({"a": a, "b": b} for a, b in product(SHAPES, repeat=2))
    for x in (*SHAPES[:4], SINGLE, NUMBER):
        yield from ({"a": x, "b": b} for b in (2, 0.5, True, torch.tensor(3), torch.tensor(2.0), SINGLE, NUMBER))
        yield from ({"a": a, "b": x} for a in (2, 0.5, torch.tensor([1, 2, 3]), torch.tensor(2.0)))


def dims() -> Iterator[Case]:
    for x in SHAPES:
        for some in [(), (0,), [-1], (0, -1), (1, 2), (-2, 0), *((dim,) for dim in axes(x))]:
            yield {"input": x, "dims": some}


INDICES: tuple[Any, ...] = (
    0, -1, None, ..., slice(None), slice(1, None), slice(None, None, 2), True, False, (), [0, 1], [1], [],
    [True, False], [[0, 1], [1, 0]], INDEX, MASK, FLAT, torch.tensor(1), torch.tensor([[0, 1]]), torch.tensor(True),
    torch.tensor([[True, False, True], [False, False, True]]),
    (0, 0), (0, [0, 1]), ([0, 1], 0), (slice(None), [0]), ([0, 1], slice(None), [0, 2]), ([0, 1], [0, 0]),
    (None, [1, 0]), (..., [0, 1]), ([1, 0], ...), (0, slice(None), [0]), (slice(None), 0, [0, 1]), (FLAT, 0),
    (FLAT, slice(None), [1]),
    (slice(None), INDEX), (slice(None), MASK), (INDEX[1], INDEX), (..., None), (None, 0, None), (True, [0, 1]),
    ([0, 1], None, [1, 0]), range(2), (range(2), 0), (slice(None), torch.tensor(0), [0, 2]),
)  # fmt: skip


def indices(name: str = "a") -> Iterator[Case]:
    yield from ({name: x, "index": index} for x, index in product(SHAPES, INDICES))


def sizes(name: str) -> Iterator[Case]:
    some = [(), (-1,), -1, 1, (1, -1), (3, -1), (2, 3), [2, -1], (1, 1), (-1, 3), (2, 1, 3), (2, 2, 1, 3), (2, -1, 4)]
    yield from ({"input": x, name: size} for x, size in product(SHAPES, some))


def images(axes: int, **others: object) -> Iterator[Case]:
    """With and without a batch, and an axis too many."""
    spatial = (4,) * axes
    yield from ({"input": T(*lead, 4, *spatial), **others} for lead in ((), (2,), (2, 3)))


def convolutions(axes: int, transposed: bool) -> Iterator[Case]:
    weight = T(4, 2, *(3,) * axes)
    for options in ({}, {"bias": T(4 if not transposed else 2)}, {"stride": 2, "padding": 1}):
        yield from images(axes, weight=T(4, 4, *(3,) * axes) if not transposed else weight, **options)
    if not transposed:
        yield from images(axes, weight=weight, bias=T(4), groups=2, padding="same")


def pools(axes: int, adaptive: bool) -> Iterator[Case]:
    yield from images(axes, **({"output_size": 2} if adaptive else {"kernel_size": 2}))


def pads() -> Iterator[Case]:
    for x, pad in product((*SHAPES, T(2, 3, 4), T(2, 3, 4, 4)), ((1, 1), (1, 0, 0, 1), (0, 1, 1, 0, 1, 1), ())):
        yield from ({"input": x, "pad": pad, "mode": m} for m in ("constant", "reflect", "replicate", "circular"))
        yield {"input": x, "pad": pad, "value": 0.5}


def attentions() -> Iterator[Case]:
    for lead in ((), (2,), (2, 3), (2, 2, 3)):
        q, k = T(*lead, 3, 2), T(*lead, 4, 2)
        masks = (None, T(3, 4), T(1, 3, 4), T(2, 3, 4), T(1, 2, 3, 4), T(2, 1, 3, 4), T(1, 1, 1, 3, 4))
        yield from ({"query": q, "key": k, "value": k, "attn_mask": mask} for mask in masks)
        yield {"query": q, "key": k, "value": k, "is_causal": True, "scale": 0.5}


EQUATIONS = (
    ("i->", T(3)), ("->", T()), ("ij->ji", T(2, 3)), ("ii->i", T(2, 2)), ("...i->...", T(2, 3)), ("ij", T(2, 3)),
    (",i->i", T(), T(3)), ("i,i->", T(3), T(3)), ("ij,jk", T(2, 3), T(3, 2)), ("i,j,ij->", T(2), T(3), T(2, 3)),
    ("bhid,bhjd->bhij", T(2, 1, 3, 2), T(2, 1, 2, 2)), ("tz,zT->tT", T(2, 3), T(3, 2)),
)  # fmt: skip


def einsums() -> Iterator[Case]:
    for equation, *tensors in EQUATIONS:
        yield {"equation": equation, **dict(zip("abc", tensors, strict=False))}


def choices() -> Iterator[Case]:
    for x, y in product((*SHAPES, SINGLE, NUMBER, 0.5, torch.tensor(2)), repeat=2):
        yield from ({"condition": c, "input": x, "other": y} for c in (MASK, torch.tensor(True)))


def fills() -> Iterator[Case]:
    for x, mask, value in product(SHAPES, (MASK, torch.tensor(True)), (0.5, 1, T(), NUMBER, T(1))):
        yield {"input": x, "mask": mask, "value": value}


def bounds() -> Iterator[Case]:
    for x, low in product((*SHAPES, SINGLE), (*SHAPES[:3], SINGLE, NUMBER, -0.5, torch.tensor(0))):
        yield {"input": x, "min": low}
        yield {"input": x, "min": low, "max": 0.5}


def joined() -> Iterator[Case]:
    for x in SHAPES:
        for dim in (None, *axes(x)):
            for tensors in ((x, x), [x], (x, T(0)), (SINGLE, x)):
                yield {"tensors": tensors} | ({} if dim is None else {"dim": dim})


def normed(name: str) -> Iterator[Case]:
    for x in SHAPES[1:]:
        for k in range(1, len(x.shape) + 1):
            shape = x.shape[-k:]
            yield {"input": x, "normalized_shape": shape}
            yield {"input": x, "normalized_shape": list(shape), "weight": T(*shape)}


def batch_norms() -> Iterator[Case]:
    for lead in ((), (2,)):
        for trail in ((), (3,), (3, 1), (3, 1, 2)):
            x = T(*lead, 4, *trail)
            yield {
                "input": x,
                "running_mean": T(4),
                "running_var": torch.ones(4).double(),
                "weight": T(4),
                "bias": T(4),
            }


def resized() -> Iterator[Case]:
    for axes in (1, 2, 3):
        yield from images(axes, scale_factor=2)
        yield from images(axes, size=(3,) * axes, mode=("linear", "bilinear", "trilinear")[axes - 1])


FUNCTIONS: tuple[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], ...] = (
    (torch.cumsum, (-1,), {}), (torch.softmax, (-1,), {}), (torch.amax, (), {}), (torch.amax, (-1,), {}),
    (torch.std, (), {}), (torch.logsumexp, (0,), {}), (torch.argmax, (), {}), (torch.argmax, (-1,), {}),
    (torch.max, (-1,), {}), (torch.topk, (1,), {}), (torch.sort, (), {}), (torch.flatten, (), {}),
    (torch.ravel, (), {}), (torch.numel, (), {}), (torch.atan2, (T(3),), {}), (torch.atan2, (NUMBER,), {}),
    (torch.gt, (0,), {}),
    (torch.as_strided, ((1,), (1,)), {}), (torch.as_strided, ((2, 2), (1, 1)), {"storage_offset": 1}),
    (torch.as_strided_copy, ((2,), (1,), 1), {}), (torch.as_strided_scatter, (T(2), (2,), (1,), 1), {}),
    (call_method, ("as_strided", (1,), (1,), 0), {}), (call_method, ("long",), {}),
    (call_method, ("view", torch.int64), {}), (call_method, ("sum_to_size", 1), {}),
    (operator.floordiv, (2,), {}), (torch.lerp, (T(3), NUMBER), {}),
    (F.softmin, (), {"dim": -1}), (torch.bincount, (), {}), (torch.tile, ((2, 1),), {}), (torch.nonzero, (), {}),
    (torch.tensor_split, (2,), {}), (torch.addcmul, (T(3), SINGLE), {}), (torch.result_type, (0.5,), {}),
)  # fmt: skip


def calls() -> Iterator[Case]:
    for x, (target, args, kwargs) in product((*SHAPES, NUMBER), FUNCTIONS):
        yield {"target": target, "args": (x, *args), "kwargs": kwargs}


def alone(**others: object) -> Iterator[Case]:
    yield from ({"input": x, **others} for x in (*SHAPES, SINGLE, NUMBER))


def cases(name: str) -> Iterator[Case]:
    """Spellings of the row ``name``, with operands of all ranks."""
    if name in UNARY:
        return alone()
    if name.startswith("conv"):
        return convolutions(int(name[-2]), "transpose" in name)
    if "pool" in name:
        return pools(int(name[-2]), name.startswith("adaptive"))
    return _CASES[name]()


def _product(**options: Any) -> Callable[[], Iterator[Case]]:
    names = tuple(options)
    return lambda: (dict(zip(names, values, strict=True)) for values in product(*options.values()))


_X = (*SHAPES, SINGLE, NUMBER)
_CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "linear": _product(input=SHAPES, weight=(T(4, 3), T(4, 4), T(4, 2), T(3)), bias=(None, T(4), T())),
    "batch_norm": batch_norms,
    "add": pairs, "sub": pairs, "mul": pairs, "div": pairs, "pow": pairs,
    "neg": _product(a=_X),
    "matmul": _product(a=(*SHAPES, T(3, 3)), b=(*SHAPES, T(3, 2))),
    "sum": reductions, "mean": reductions,
    "cumsum": lambda: (case | d for case in one_axis() for d in ({}, {"dtype": torch.float32})),
    "softmax": lambda: (case | d for case in one_axis() for d in ({}, {"dtype": torch.float32})),
    "log_softmax": one_axis,
    "interpolate": resized,
    "flatten": lambda: (*two_axes("start_dim", "end_dim"), *alone()),
    "unflatten": _product(input=SHAPES, dim=(-4, -3, -2, -1, 0, 1, 2), sizes=((1, -1), [-1, 1], (1, 1, 3))),
    "view": lambda: (*sizes("size"), *alone(size=torch.int64), *alone(size=torch.float32)),
    "reshape": lambda: sizes("shape"), "expand": lambda: sizes("size"), "repeat": lambda: sizes("repeats"),
    "permute": lambda: (*dims(), *({"input": T(2, 3, 4), "dims": d} for d in ((2, 0, 1), [-1, 0, 1], (-2, -1, 0)))),
    "transpose": lambda: two_axes("dim0", "dim1"),
    "movedim": lambda: (*two_axes("source", "destination"),
                        *({"input": x, "source": (0, -1), "destination": (-1, 0)} for x in SHAPES)),
    "squeeze": lambda: (*one_axis(), *alone(), *alone(dim=()), *alone(dim=(1, -1)), *alone(dim=[-2])),
    "unsqueeze": one_axis,
    "expand_as": _product(input=SHAPES, other=SHAPES), "view_as": _product(input=SHAPES, other=SHAPES),
    "type_as": _product(input=SHAPES, other=SHAPES),
    "narrow": lambda: one_axis(start=0, length=1),
    "select": lambda: one_axis(index=0),
    "getitem": indices,
    "set_item": lambda: (case | {"value": v} for case in indices("input") for v in (0.5, T(), T(1))),
    "filled_like": _product(input=(*_X, torch.zeros(3, dtype=torch.int64)), value=(T(), T(3), 0.5)),
    "chunk": lambda: one_axis(chunks=2),
    "split": lambda: one_axis("tensor", split_size_or_sections=1),
    "unbind": one_axis,
    "cat": joined, "stack": joined,
    "flip": dims,
    "roll": lambda: (*(case | {"shifts": 1} for case in dims()), *alone(shifts=1),
                     *alone(shifts=(1, 2), dims=(0, -1)), *alone(shifts=1, dims=-1)),
    "index_select": lambda: one_axis(index=torch.tensor([0, 0])),
    "pixel_shuffle": _product(input=(T(4), T(4, 2), T(4, 2, 2), T(3, 4, 2, 2), T(2, 1, 4, 2, 2)),
                              upscale_factor=(2,)),
    "pixel_unshuffle": _product(input=(T(2), T(2, 2), T(1, 2, 2), T(3, 1, 2, 2), T(2, 1, 1, 2, 2)),
                                downscale_factor=(2,)),
    "channel_shuffle": lambda: (*images(0, groups=2), *images(1, groups=2), *images(2, groups=2)),
    "unfold": lambda: images(2, kernel_size=2),
    "fold": _product(input=(T(4), T(4, 9), T(2, 4, 9), T(2, 2, 4, 9)), output_size=((4, 4),), kernel_size=(2,)),
    "pad": pads,
    "where": choices, "masked_fill": fills, "clamp": bounds,
    "identity": alone, "clone": alone, "detach": alone,
    "contiguous": lambda: (*alone(), *images(2, memory_format=torch.channels_last)),
    "to": _product(input=_X, dtype=(torch.float32, torch.float64, torch.int64, torch.bool)),
    "einsum": einsums,
    "scaled_dot_product_attention": attentions,
    "layer_norm": lambda: normed("layer_norm"), "rms_norm": lambda: normed("rms_norm"),
    "group_norm": lambda: (*images(0, num_groups=2), *images(1, num_groups=2), *images(2, num_groups=2, weight=T(4))),
    "qcfs": _product(input=SHAPES, theta=(torch.tensor([1.0, 1.5, 2.0]).double(),), levels=(4,), axis=(-1, 0, 1, 2)),
    "fake_quantize": lambda: (*alone(scale=0.25, zero_point=3, quant_min=0, quant_max=15),
                              *one_axis(axis="axis", scale=torch.tensor([0.5, 1, 2]), zero_point=0, quant_min=-4,
                                        quant_max=3)),
    "call": calls,
}  # fmt: skip


def subsets(count: int) -> Iterator[tuple[bool, ...]]:
    """Which of ``count`` values have time: every choice of at least one."""
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            yield tuple(k in chosen for k in range(count))


#: The rows that compute something of tensors; what is taken out of a container has no axes of its own.
ROWS = tuple(op.name for op in TABLE if (op.groups or not op.shape_only) and op.name not in ("field", "child"))

_FROM_1 = frozenset({
    "batch_norm", "matmul", "unflatten", "narrow", "select", "chunk", "split", "unbind", "cat", "index_select",
    "layer_norm", "rms_norm",
})  # fmt: skip
_TAKEN: dict[str, set[int]] = {
    "interpolate": {3, 4, 5}, "permute": {0, 1, 2, 3}, "expand": {0, 1, 2, 3}, "repeat": {0, 1, 2, 3, 4},
    "pixel_shuffle": {3, 4, 5}, "pixel_unshuffle": {3, 4, 5}, "channel_shuffle": {3, 4}, "unfold": {3, 4},
    "fold": {2, 3}, "einsum": {0, 1, 2, 4}, "scaled_dot_product_attention": {2, 3, 4, 5}, "group_norm": {1, 2, 3, 4},
}  # fmt: skip


def taken(name: str) -> set[int]:
    """The ranks that torch takes, of any operand; so that the spellings above say something of each."""
    if name.startswith("conv"):
        return {1, int(name[-2]) + 1, int(name[-2]) + 2}
    if "pool" in name:
        return {int(name[-2]) + 1, int(name[-2]) + 2}
    return _TAKEN.get(name, set(range(name in _FROM_1, 6)))
