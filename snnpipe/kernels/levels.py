"""Choosing one of a set of levels, and counting the spikes it takes to send it.

A level is a multiple q of the smallest event.  Knows tensors; nothing of neurons or time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: A number, or a tensor of them: one for each neuron.
Bound = float | Tensor


def reaches(m: Tensor, smallest: Tensor, low: Bound, high: Bound) -> Tensor:
    """1 where ``m >= smallest``, else 0: the threshold of a binary neuron."""
    q = torch.ge(m, smallest, out=torch.empty_like(m))  # straight to floats: no pass over booleans
    return q.clamp(max=high.floor()) if isinstance(high, Tensor) else q


def whole(m: Tensor, smallest: Tensor, low: Bound, high: Bound) -> Tensor:
    """Uniform levels: ``clip(floor(m / smallest), low, high)`` for whole bounds.

    From an initial potential of half a smallest event this rounds half up.
    """
    low = low.ceil() if isinstance(low, Tensor) else low
    high = high.floor() if isinstance(high, Tensor) else high
    return clip((m / smallest).floor_(), low, high)


def power_of_two(m: Tensor, smallest: Tensor, low: Bound, high: Bound) -> Tensor:
    """Levels +-1, +-2, +-4, ...: the nearest, that is the largest with ``|m| / smallest >= 0.75 level``, else 0."""
    low = _leading_power(low) if isinstance(low, Tensor) else low
    high = _leading_power(high) if isinstance(high, Tensor) else high
    return clip(_leading_power(m / smallest / 0.75), low, high)


def _leading_power(x: Tensor) -> Tensor:
    """``sign(x) 2^floor(log2 |x|)``, 0 where ``|x| < 1``: x without its mantissa."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    mantissa = -round(math.log2(torch.finfo(x.dtype).eps))  # bits
    return F.hardshrink((x.view(integer) & -(1 << mantissa)).view(x.dtype), 0.5)


def clip(x: Tensor, low: Bound, high: Bound) -> Tensor:
    """``min(max(x, low), high)``, bounds of either kind."""
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return x.clamp(low, high)
    return x.clamp(max=high).clamp(min=low)  # type: ignore[arg-type]


def one_spike(q: Tensor) -> Tensor:
    """One spike for each event that is not zero."""
    return (q != 0).to(torch.int64)


def unary(q: Tensor) -> Tensor:
    """A burst, or a row of members: ``|q|`` spikes."""
    return q.abs().to(torch.int64)


def binary_digits(q: Tensor) -> Tensor:
    """One wire for each binary digit: as many spikes as ``|q|`` has ones."""
    rest, ones = q.abs().to(torch.int64), torch.zeros_like(q, dtype=torch.int64)
    while bool(rest.any()):
        rest, ones = rest >> 1, ones + (rest & 1)
    return ones
