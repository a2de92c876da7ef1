"""Multiplications of one call of an operator, from its name and the shapes of its operands.

Knows shapes; nothing of time or of spikes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.ops import functions

#: Operands and their values by name.
Given = Mapping[str, Any]

_TAPS = {"linear": 2, "bilinear": 4, "trilinear": 8, "bicubic": 16, "area": 1}


def multiplications(op: str, given: Given, y: Any) -> int:
    r"""Multiply-accumulates of one call, by the usual formula; 0 for operators that multiply nothing.

    linear and matmul: outputs x inner size; convolution: outputs x :math:`C_{in} / groups` x kernel; its transpose:
    inputs x :math:`C_{out} / groups` x kernel; einsum: one per combination of all indices; attention: for Q K and for
    P V; products, quotients and an unfused batch norm: outputs; interpolation: outputs x neighbours.  Of a module
    kept whole, what ``torch.utils.flop_counter`` sees: matrix products and convolutions.
    """
    if op == "call":
        return _inside(given)
    floats = isinstance(y, Tensor) and (y.is_floating_point() or y.is_complex())
    return MULTIPLICATIONS[op](given, y) if floats and op in MULTIPLICATIONS else 0


def _convolution(given: Given, y: Tensor) -> int:
    return y.numel() * int(given["weight"][0].numel())


def _transposed(given: Given, y: Tensor) -> int:
    return int(given["input"].numel() * given["weight"][0].numel())


def _linear(given: Given, y: Tensor) -> int:
    return y.numel() * int(given["weight"].shape[-1])


def _matmul(given: Given, y: Tensor) -> int:
    return y.numel() * int(given["a"].shape[-1])


def _einsum(given: Given, y: Tensor) -> int:
    ones = {name: torch.ones_like(given[name], dtype=torch.float64) for name in "abc" if given.get(name) is not None}
    return int(functions.einsum(given["equation"], **ones).sum()) if len(ones) > 1 else 0


def _attention(given: Given, y: Tensor) -> int:
    return int((given["query"].numel() + y.numel()) * given["key"].shape[-2])


def _outputs(given: Given, y: Tensor) -> int:
    return y.numel()


def _interpolation(given: Given, y: Tensor) -> int:
    return y.numel() * _TAPS.get(given.get("mode", "nearest"), 0)


#: ``formula(given, y)`` by operator.
MULTIPLICATIONS: FrozenMap[str, Callable[[Given, Tensor], int]] = FrozenMap(
    {f"conv{n}d": _convolution for n in (1, 2, 3)} | {f"conv_transpose{n}d": _transposed for n in (1, 2, 3)},
    linear=_linear, matmul=_matmul, einsum=_einsum, scaled_dot_product_attention=_attention,
    interpolate=_interpolation, mul=_outputs, div=_outputs, batch_norm=_outputs,
)  # fmt: skip


def _inside(given: Given) -> int:
    """Multiplications of a call that the table does not know, if possible from shapes alone."""

    def counted(tree: Given) -> int:
        with FlopCounterMode(display=False) as counter:
            functions.call(**tree)
        return int(counter.get_total_flops()) // 2

    try:
        return counted(map_leaves(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, dict(given)))
    except RuntimeError:  # it looks at values
        return counted(given)
