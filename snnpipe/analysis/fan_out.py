"""What a linear operator does with an event, by its name: where it goes, and to how many outputs it is added.

Knows the operator table; nothing of time or of neurons.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnpipe.analysis.multiplications import Given
from snnpipe.frozen import FrozenMap
from snnpipe.ops.table import Op


def _names(*stems: str) -> frozenset[str]:
    return frozenset(f"{stem}{n}d" for stem in stems for n in (1, 2, 3))


#: Linear operators that multiply by a weight: an event is added, times the weight, to each output it reaches.
WEIGHTED = _names("conv", "conv_transpose") | {"linear", "matmul", "einsum", "batch_norm"}
#: Linear operators that scale each element: of an event they make an event.
SCALED = frozenset({"mul", "div"})
#: Linear operators that add up elements of one operand, unweighted or all with the same weight.
SUMMED = _names("avg_pool", "adaptive_avg_pool") | {"sum", "mean", "cumsum", "fold"}
#: Linear operators that add two operands, element by element.
MERGED = frozenset({"add", "sub"})
#: Linear operators that weigh many elements with weights of their own: counted as if every element were there.
DENSE = frozenset({"interpolate", "scaled_dot_product_attention"})
#: Linear operators that put elements elsewhere, or copy them.
ROUTED = frozenset({
    "neg", "flatten", "unflatten", "view", "reshape", "permute", "transpose", "movedim", "squeeze", "unsqueeze",
    "expand", "expand_as", "view_as", "narrow", "select", "getitem", "set_item", "filled_like", "chunk", "split",
    "unbind", "cat", "stack", "repeat", "flip", "roll", "index_select", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "unfold", "pad", "where", "masked_fill", "identity", "contiguous", "clone", "detach", "to",
    "type_as",
})  # fmt: skip

#: Operands that are added on, so that no event is multiplied with them.
OFFSETS = frozenset({"bias", "running_mean"})


def called(op: Op, given: Given) -> Any:
    """The operator applied to operands by name."""
    args, kwargs = op.signature.call_arguments(FrozenMap(given))
    return op.fn(*args, **kwargs)


def support(value: Any) -> Any:
    """1 where there is a weight, 0 where it is zero."""
    if isinstance(value, Tensor):
        return (value != 0).double()
    return float(value != 0) if isinstance(value, int | float) else value


def fan_out(op: Op, given: Given, main: str) -> Tensor:
    """To how many outputs each element of the operand ``main`` is added: the entries of the Jacobian that are not 0.

    Every weight is replaced by 1, or by 0 where it is 0; what remains of the operator adds up, so its gradient counts.
    An element that padding or a stride leaves out is not counted.

    >>> from snnpipe.ops.table import OPS
    >>> given = {"input": torch.rand(1, 1, 4), "weight": torch.tensor([[[2.0, -1.0, 0.0]]])}
    >>> fan_out(OPS["conv1d"], given, "input")
    tensor([[[1., 2., 1., 0.]]], dtype=torch.float64)
    """
    if op.name == "batch_norm":
        return torch.ones_like(given[main], dtype=torch.float64)
    weights = {name: support(value) if name in ("a", "b") or isinstance(value, Tensor) else value
               for name, value in given.items() if name not in OFFSETS}  # fmt: skip
    with torch.enable_grad():
        probe = torch.ones_like(given[main], dtype=torch.float64).requires_grad_()
        (count,) = torch.autograd.grad(called(op, weights | {main: probe}).sum(), probe)
    return count


def added_up(op: Op, given: Given, y: Tensor, counts: Tensor) -> Tensor:
    """``counts`` of the input of a ``SUMMED`` operator, added up over what each output depends on.

    >>> from snnpipe.ops.table import OPS
    >>> given = {"input": torch.rand(4), "output_size": 2}
    >>> added_up(OPS["adaptive_avg_pool1d"], given, torch.rand(2), torch.ones(4))
    tensor([2., 2.])
    """
    given = {**given, "input": counts}
    if op.name == "mean":
        return torch.sum(**given)
    if op.name not in _names("avg_pool", "adaptive_avg_pool"):
        return called(op, given)  # type: ignore[no-any-return]
    axes = int(op.name[-2])
    kernel = _each(given.get("kernel_size", 1), axes)
    stride = _each(given.get("stride") or kernel, axes)
    padding = _each(given.get("padding", 0), axes)
    for axis, k, s, p in zip(range(-axes, 0), kernel, stride, padding, strict=True):
        n, m = counts.shape[axis], y.shape[axis]
        reads = torch.zeros(n, m, dtype=counts.dtype, device=counts.device)
        for j in range(m):
            low, high = (j * n // m, -(-(j + 1) * n // m)) if "adaptive" in op.name else (j * s - p, j * s - p + k)
            reads[max(low, 0) : high, j] = 1
        counts = (counts.movedim(axis, -1) @ reads).movedim(-1, axis)
    return counts


def _each(value: Any, axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values if len(values) == axes else values * axes
