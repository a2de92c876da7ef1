"""How two outputs differ: in structure, shape, dtype or value.  Knows nothing of networks."""

from typing import Any

import torch
from torch import Tensor


def is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


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
