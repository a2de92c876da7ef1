r"""Statistics of activations as mergeable values.

A statistic summarises one batch, and two summaries merge into the summary of both; for all but ``moving_max`` the
merge is associative and commutative, so neither the order of the data nor how it was batched can matter.

Knows tensors; sites, batches and thresholds are other files' business.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.frozen import EMPTY, FrozenMap

OCTAVES = 16  # the histogram resolves values down to 2**-16 of the largest
BINS_PER_OCTAVE = 32  # so a bin is at most 1/32 of its value wide
BINS = OCTAVES * BINS_PER_OCTAVE
_SHIFT = 23 - 5  # of a float32's 23 bits of mantissa, 5 count the bins of an octave
_LANES = 8
_PIECE = 2**20  # values counted at a time, so that temporary tensors stay in the cache


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
    """Counts per channel in bins of about equal relative width, (C, BINS) int64, and the largest value (C,).

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
        position = _lowest_bin(self.top) + index + fraction.double()
        octave = torch.floor(position / BINS_PER_OCTAVE)
        value = torch.exp2(octave - 127.0) * (1.0 + position / BINS_PER_OCTAVE - octave)
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
    largest = _channel_max(x, axis)
    channels = largest.numel()
    highest = float(largest.amax())
    top = _octave(highest)
    counts = torch.zeros(channels, BINS, dtype=torch.int64, device=x.device)
    if math.isfinite(highest):  # otherwise the largest value tells, and nobody needs the counts
        _count(x, axis, top, counts)
    return Histogram(x.numel() // channels, largest, top, counts)


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


def _count(x: Tensor, axis: int | None, top: int, counts: Tensor) -> None:
    """Add the histogram of ``x`` to ``counts``.  The bits of a positive float grow with its value, so their top part
    is the number of a bin.

    Equal values in a row (the zeros of a ReLU) would wait for each other's increment, so what lies below the window
    is clamped into a few bins in turn, which are poured into bin 0 together.
    """
    channels, low = len(counts), _lowest_bin(top)
    width = _LANES + BINS  # bins low - _LANES ... low + BINS - 1
    lanes = torch.arange(low - _LANES, low, dtype=torch.int32, device=x.device) << _SHIFT
    smallest = lanes.view(torch.float32).repeat(x.shape[-1] // _LANES + 1)[: x.shape[-1]]
    largest = smallest.new_tensor(_float_of((low + BINS << _SHIFT) - 1))
    channel = torch.arange(channels, dtype=torch.int32, device=x.device) * width - (low - _LANES)
    offset = along(channel, x.ndim, axis)
    piece = max(_PIECE, 2 * channels * BINS)
    one_axis = x.ndim == 1 or (axis is not None and axis % x.ndim == 0)
    rows = len(x) if one_axis else max(1, piece * len(x) // x.numel())
    clamped = torch.empty((rows, *x.shape[1:]), dtype=torch.float32, device=x.device)
    for part in x.split(rows):
        bits = torch.clamp(part.float(), smallest, largest, out=clamped[: len(part)]).view(torch.int32)
        index = bits.bitwise_right_shift_(_SHIFT).add_(offset).reshape(-1)
        found = torch.bincount(index, minlength=channels * width).view(channels, width)
        counts += found[:, _LANES:]
        counts[:, 0] += found[:, :_LANES].sum(1)


def _float_of(bits: int) -> float:
    """The float32 with these bits."""
    value: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return value


def _octave(value: float) -> int:
    """Biased exponent of a value: ``2**(octave - 127) <= value``; 0 for what is not positive."""
    return max(0, min(254, 126 + math.frexp(value)[1])) if 0 < value < math.inf else 0


def _lowest_bin(top: int) -> int:
    """Bin 0 of a histogram, as the top bits of a float; a normal one, so that -0.0 is below it too."""
    return max(1, top + 1 - OCTAVES) * BINS_PER_OCTAVE


def _raised(h: Histogram, top: int) -> Tensor:
    shift = _lowest_bin(top) - _lowest_bin(h.top)
    if shift == 0:
        return h.counts
    moved = torch.zeros_like(h.counts)
    moved[:, 0] = h.counts[:, : shift + 1].sum(1)
    if shift < BINS - 1:
        moved[:, 1 : BINS - shift] = h.counts[:, shift + 1 :]
    return moved
