r"""Statistics of activations as mergeable values.

A statistic summarises one batch, and two summaries merge into the summary of both; for all but ``moving_max`` the
merge is associative and commutative, so neither the order of the data nor how it was batched can matter.

Knows tensors; sites, batches and thresholds are other files' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.frozen import EMPTY, FrozenMap

OCTAVES = 16  # the histogram resolves values down to 2**-16 of the largest
BINS_PER_OCTAVE = 32  # so a bin is at most 1/32 of its value wide
_CODES_PER_OCTAVE = 128  # bfloat16 has 7 bits of mantissa
_PER_BIN = _CODES_PER_OCTAVE // BINS_PER_OCTAVE
BINS = OCTAVES * BINS_PER_OCTAVE


@attrs.frozen(eq=False)
class Extrema:
    """The largest value per channel, (C,), over ``count`` values in each."""

    count: int
    max: Tensor

    def pooled(self) -> Extrema:
        """All channels taken as one."""
        return Extrema(self.count * self.max.numel(), self.max.amax().reshape(1))


@attrs.frozen(eq=False)
class Histogram:
    """Counts per channel in bins of equal relative width, (C, BINS) int64, and the largest value (C,).

    The bins cover the ``OCTAVES`` octaves up to the one that holds the site's largest value, ``2**top``; smaller
    values, zeros and negative ones share bin 0.  A merge raises the lower of two tops, which only pours bins into
    bin 0, so any order of merging ends in the same counts.

    Reference: Masson, Rim, Lee 2019, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
    guarantees", VLDB.
    """

    count: int
    max: Tensor
    top: int
    counts: Tensor

    def pooled(self) -> Histogram:
        """All channels taken as one."""
        channels = self.max.numel()
        counts = self.counts.sum(0, keepdim=True)
        return Histogram(self.count * channels, self.max.amax().reshape(1), self.top, counts)

    def quantile(self, q: float) -> Tensor:
        """The value below which a share ``q`` of each channel lies, (C,), within one bin; 0 if that is bin 0."""
        cumulative = self.counts.cumsum(1)
        rank = q * self.count
        index = (cumulative < rank).sum(1).clamp(max=BINS - 1)
        inside = self.counts.gather(1, index[:, None]).squeeze(1)
        below = cumulative.gather(1, index[:, None]).squeeze(1) - inside
        fraction = ((rank - below) / inside.clamp(min=1)).clamp(0.0, 1.0)
        # bfloat16 rounds to nearest: code c stands for c - 1/2 ... c + 1/2
        codes = _lowest_code(self.top) + (index + fraction.double()) * _PER_BIN - 0.5
        octave = torch.floor(codes / _CODES_PER_OCTAVE)
        value = torch.exp2(octave - 127.0) * (1.0 + codes / _CODES_PER_OCTAVE - octave)
        value = torch.minimum(value.to(self.max.dtype), self.max)
        return torch.where(index == 0, torch.zeros_like(value), value)


@attrs.frozen(eq=False)
class MovingMax:
    """An exponential moving average of batch maxima, (C,); depends on the order of the batches."""

    value: Tensor

    @property
    def max(self) -> Tensor:
        return self.value

    def pooled(self) -> MovingMax:
        """All channels taken as one."""
        return MovingMax(self.value.amax().reshape(1))


@attrs.frozen
class Statistic:
    """How to summarise a batch of activations and how to merge two summaries.

    Args:
        name: what reports call it.
        summarise: ``summarise(x, axis) -> summary``; ``axis`` is the channel axis of ``x``, ``None`` for no channels.
        merge: ``merge(summary, summary, **options) -> summary``.
        options: keyword arguments of ``merge``.
    """

    name: str
    summarise: Callable[[Tensor, int | None], Any]
    merge: Callable[..., Any]
    options: FrozenMap[str, Any] = attrs.field(default=EMPTY, converter=FrozenMap)


def summarise_extrema(x: Tensor, axis: int | None) -> Extrema:
    """Largest value per channel.

    >>> summarise_extrema(torch.tensor([[1.0, 5.0], [3.0, 2.0]]), axis=1)
    Extrema(count=2, max=tensor([3., 5.]))
    """
    top = _channel_max(x, axis)
    return Extrema(x.numel() // top.numel(), top)


def merge_extrema(a: Extrema, b: Extrema) -> Extrema:
    """The summary of both batches; merging is associative and commutative, bit for bit."""
    return Extrema(a.count + b.count, torch.maximum(a.max, b.max))


def summarise_histogram(x: Tensor, axis: int | None) -> Histogram:
    """Histogram of a batch; memory C x BINS whatever the size of ``x``."""
    top = _channel_max(x, axis)
    channels = top.numel()
    octave = _octave(float(top.amax()))
    low = _lowest_code(octave)
    codes = x.to(torch.bfloat16).view(torch.int16)  # the bits of a positive float grow with its value
    index = codes.clamp(low, low + BINS * _PER_BIN - 1).sub_(low).bitwise_right_shift_(_PER_BIN.bit_length() - 1)
    offset = torch.arange(channels, dtype=torch.int32, device=x.device) * BINS
    flat = (index + along(offset, x.ndim, axis)).reshape(-1)
    counts = torch.bincount(flat, minlength=channels * BINS).view(channels, BINS)
    return Histogram(x.numel() // channels, top, octave, counts)


def merge_histogram(a: Histogram, b: Histogram) -> Histogram:
    """The histogram of both batches; associative and commutative, bit for bit."""
    top = max(a.top, b.top)
    return Histogram(a.count + b.count, torch.maximum(a.max, b.max), top, _raised(a, top) + _raised(b, top))


def summarise_moving_max(x: Tensor, axis: int | None) -> MovingMax:
    """The batch's largest value per channel."""
    return MovingMax(_channel_max(x, axis))


def merge_moving_max(a: MovingMax, b: MovingMax, *, momentum: float) -> MovingMax:
    """``(1 - momentum) a + momentum b``: the later summary counts ``momentum``, so order matters."""
    return MovingMax((1.0 - momentum) * a.value + momentum * b.value)


EXTREMA = Statistic("extrema", summarise_extrema, merge_extrema)
HISTOGRAM = Statistic("histogram", summarise_histogram, merge_histogram)


def moving_max(momentum: float) -> Statistic:
    """The order-dependent average of batch maxima that other tools call "max"."""
    return Statistic("moving_max", summarise_moving_max, merge_moving_max, FrozenMap(momentum=momentum))


def along(values: Tensor, ndim: int, axis: int | None) -> Tensor:
    """Shape per-channel ``values`` (C,) to broadcast along ``axis`` of a tensor with ``ndim`` axes.

    >>> along(torch.ones(3), 4, -3).shape
    torch.Size([3, 1, 1])
    """
    if axis is None or values.ndim != 1:
        return values
    trailing = -axis - 1 if axis < 0 else ndim - axis - 1
    return values.reshape(-1, *[1] * trailing)


def _channel_max(x: Tensor, axis: int | None) -> Tensor:
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if axis is None:
        return wide.amax().reshape(1)
    others = [d for d in range(x.ndim) if d != axis % x.ndim]
    return wide.amax(others) if others else wide


def _octave(value: float) -> int:
    """Biased exponent of a value: ``2**(octave - 127) <= value``; 0 for what is not positive."""
    return max(0, min(254, 126 + math.frexp(value)[1])) if 0 < value < math.inf else 0


def _lowest_code(top: int) -> int:
    return max(0, (top + 1 - OCTAVES) * _CODES_PER_OCTAVE)


def _raised(h: Histogram, top: int) -> Tensor:
    shift = (_lowest_code(top) - _lowest_code(h.top)) // _PER_BIN
    if shift == 0:
        return h.counts
    moved = torch.zeros_like(h.counts)
    moved[:, 0] = h.counts[:, : shift + 1].sum(1)
    if shift < BINS - 1:
        moved[:, 1 : BINS - shift] = h.counts[:, shift + 1 :]
    return moved
