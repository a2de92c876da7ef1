"""How two outputs differ: in structure, shape, dtype or value.  Knows nothing of networks."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def is_float(leaf: Any) -> bool:
    """Whether a value has events: torch does not add floats of eight bits."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) and leaf.dtype.itemsize > 1


def is_complex(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_complex()


def largest(leaf: Tensor) -> float:
    values = leaf.to_dense() if leaf.layout is not torch.strided else leaf
    values = values.abs().double()
    values = values[torch.isfinite(values)]
    return values.max().item() if values.numel() else 0.0


def difference(got: list[Any], want: list[Any], limit: Any) -> tuple[str, str] | None:
    """How leaves differ, as ``(kind, text)``; ``limit`` is a number or a function for one, ``None``: only shapes."""
    if len(got) != len(want):
        return "structure", f"{len(got)} results, expected {len(want)}"
    for g, w in zip(got, want, strict=True):
        if not isinstance(w, Tensor):
            if isinstance(g, Tensor) or (g != w and limit is not None and not _close(g, w)):
                return "structure", f"{_short(g)}, expected {_short(w)}"
            continue
        if not isinstance(g, Tensor):
            return "structure", f"a {type(g).__name__}, expected a tensor"
        if g.shape != w.shape:
            return "shape", f"{tuple(g.shape)}, expected {tuple(w.shape)}"
        if g.dtype != w.dtype:
            return "dtype", f"{g.dtype}, expected {w.dtype}"
        error = 0.0 if limit is None else _error(g, w)
        quick = 8 * torch.finfo(w.dtype).eps * largest(w) if is_float(w) else 0.0
        if error > quick and error > (limit() if callable(limit) else limit):
            return "value", f"off by {error:.3g} of {largest(w) if is_float(w) else 0:.3g}"
    return None


def _error(g: Tensor, w: Tensor) -> float:
    if w.layout is not torch.strided or g.layout is not torch.strided:
        g, w = g.to_dense(), w.to_dense()
    if w.is_quantized:
        g, w = g.dequantize(), w.dequantize()
    if not is_float(w):
        return 0.0 if torch.equal(g, w) else float("inf")
    if w.is_complex():
        g, w = torch.view_as_real(g.resolve_conj()), torch.view_as_real(w.resolve_conj())
    g, w = g.double(), w.double()
    same = (g == w) | (g.isnan() & w.isnan())
    apart = (g - w).abs().masked_fill(same, 0.0).nan_to_num(float("inf"))
    return apart.max().item() if apart.numel() else 0.0


def _close(g: Any, w: Any) -> bool:
    number = isinstance(g, float | complex) and isinstance(w, float | complex)
    return number and (abs(g - w) <= 1e-12 * abs(w) or (g != g and w != w))


def _short(value: Any) -> str:
    return repr(value)[:40]


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and difference([a], [b], 0.0) is None


# leaves of which only some elements count: by leaf a mask, ``None`` for all elements, ``False`` for none


def alike(a: Any, b: Any, unit: float) -> Any:
    """Where two leaves are the same within ``unit`` of the largest value."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return None if difference([a], [b], 0.0) is None else False
    if a.shape != b.shape or a.layout is not torch.strided or a.is_quantized:
        return None if difference([a], [b], unit) is None else False
    if not is_float(b):
        return a == b
    return (a == b) | (a.isnan() & b.isnan()) | ((a - b).abs() <= unit * max(1.0, largest(b)))


def both(mask: Any, other: Any) -> Any:
    """The elements of both."""
    if mask is None or other is None:
        return other if mask is None else mask
    return mask & other


def still_finite(values: list[Any], before: list[Any] | None) -> list[Any]:
    """Where values are finite, and were."""
    now = [torch.isfinite(v) if is_float(v) and v.layout is torch.strided else None for v in values]
    if before is None or len(before) != len(now):
        return now
    return [both(b, n) if b is None or n is None or b.shape == n.shape else n for b, n in zip(before, now, strict=True)]


def where(masks: list[Any], values: list[Any]) -> list[Any]:
    """The leaves, with 0 for elements that do not count and ``None`` for leaves that do not."""
    if len(masks) != len(values):
        return values

    def kept(mask: Any, value: Any) -> Any:
        if mask is False:
            return None
        masked = isinstance(mask, Tensor) and isinstance(value, Tensor) and mask.shape == value.shape
        return torch.where(mask, value, torch.zeros_like(value)) if masked else value

    return [kept(mask, value) for mask, value in zip(masks, values, strict=True)]


class Coarsest(TorchDispatchMode):
    """Remembers the least precise dtype in which anything is computed."""

    eps = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        units = [torch.finfo(leaf.dtype).eps for leaf in tree_leaves(out) if is_float(leaf)]
        self.eps = max([self.eps, *units])
        return out
