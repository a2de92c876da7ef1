r"""Histograms of activations: mergeable, of fixed size, with bins of about equal relative width.

Knows tensors; what a histogram is good for is ``kernels.threshold``'s and ``kernels.optimal``'s business.
"""

from __future__ import annotations

import math
import struct

import attrs
import torch
from torch import Tensor

from snnpipe.errors import CalibrationError
from snnpipe.kernels.statistic import Statistic, along, channel_max

OCTAVES = 16  # the histogram resolves values down to 2**-16 of the largest
BINS_PER_OCTAVE = 32  # so a bin is at most 1/32 of its value wide
BINS = OCTAVES * BINS_PER_OCTAVE
_SHIFT = 23 - 5  # of a float32's 23 bits of mantissa, 5 count the bins of an octave
_LANES = 8
_PIECE = 2**20  # values counted at a time, so that temporary tensors stay in the cache

#: The types that counts may have.
COUNTS = (torch.uint8, torch.int16, torch.int32, torch.int64)
#: The most memory that the counts of one site may take, in bytes: 4 KiB for each of 2**18 channels while they are made.
MOST_BYTES = 2**30


@attrs.frozen(eq=False)
class Histogram:
    """Counts per channel in bins of about equal relative width, (C, BINS), and the largest value (C,).

    Counts are of the shortest type that holds ``count``: half a KiB for each channel of up to 255 values, 1 KiB up to
    32,767, then 2 KiB.

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

    @property
    def edges(self) -> Tensor:
        """Where the bins begin and the last one ends, (BINS + 1,) float64; bin 0 holds whatever is smaller, too."""
        position = _lowest_bin(self.top) + torch.arange(BINS + 1, dtype=torch.float64, device=self.max.device)
        return _value_at(position)

    def pooled(self) -> Histogram:
        """All channels taken as one."""
        channels = self.max.numel()
        counts = self.counts.sum(0, keepdim=True)
        return Histogram(self.count * channels, self.max.amax().reshape(1), self.top, counts)

    def quantile(self, q: float, *, nonzero: bool = False) -> Tensor:
        """The value below which a share ``q`` of each channel lies, (C,), within one bin; 0 if that is bin 0.

        With ``nonzero`` only what lies above bin 0 counts: all but zeros, negative values and those smaller than
        ``2**-15`` of the site's largest.
        """
        cumulative = self.counts.cumsum(1)
        if nonzero:
            cumulative = cumulative - self.counts[:, :1]
        rank = q * cumulative[:, -1:]
        index = (cumulative < rank).sum(1).clamp(max=BINS - 1)
        inside = self.counts.gather(1, index[:, None]).squeeze(1)
        below = cumulative.gather(1, index[:, None]).squeeze(1) - inside
        fraction = ((rank.squeeze(1) - below) / inside.clamp(min=1)).clamp(0.0, 1.0)
        position = _lowest_bin(self.top) + index + fraction.double()
        value = torch.minimum(_value_at(position).to(self.max.dtype), self.max)
        return torch.where(index == 0, torch.zeros_like(value), value)

    def shared_quantile(self, q: float, *, nonzero: bool = False) -> Tensor:
        r"""``m_c Q``, (C,): Q is the quantile of ``x / m_c`` over all channels, m_c a channel's mean above bin 0.

        What the quantile of a channel is if its values are distributed as those of the others but for their size; it
        rests on all values of the site.  Within one bin.
        """
        middle = (self.edges[1:] + self.edges[:-1]) / 2
        counts = self.counts.double()
        above = counts[:, 1:]
        mean = (above @ middle[1:]) / above.sum(1).clamp(min=1)
        fires = mean > 0
        size = (middle / mean[fires, None]).index_fill(1, torch.zeros(1, dtype=torch.long, device=mean.device), 0.0)
        weight = counts[fires]
        if nonzero:
            weight = weight.index_fill(1, torch.zeros(1, dtype=torch.long, device=mean.device), 0.0)
        size, order = size.flatten().sort()
        cumulative = weight.flatten()[order].cumsum(0)
        if not cumulative.numel():
            return torch.zeros_like(self.max)
        index = int((cumulative < q * cumulative[-1]).sum().clamp(max=cumulative.numel() - 1))
        return (mean * size[index]).to(self.max.dtype)


def summarise_histogram(x: Tensor, axis: int | None) -> Histogram:
    """Histogram of a batch; what is kept is C x BINS whatever the size of ``x``.

    Raises:
        CalibrationError: that would be more than ``MOST_BYTES``, as for one histogram per neuron of a large layer.
    """
    x, axis = _flat(x, axis)
    largest = channel_max(x, axis)
    channels = largest.numel()
    if 8 * BINS * channels > MOST_BYTES:
        raise CalibrationError(
            f"{channels} histograms would take {8 * BINS * channels / 2**30:.1f} GiB, the most is "
            f"{MOST_BYTES / 2**30:g} GiB; measure what needs no histogram, such as "
            'instrument(statistic=maximum(per="neuron")), or one histogram per channel'
        )
    highest = float(largest.amax())
    top, count = octave(highest), x.numel() // channels
    counts = torch.zeros(channels, BINS, dtype=_shortest(count), device=x.device)
    if math.isfinite(highest):  # otherwise the largest value tells, and nobody needs the counts
        (_count_few if x.numel() < counts.numel() else _count)(x, axis, top, counts)
    return Histogram(count, largest, top, counts)


def merge_histogram(a: Histogram, b: Histogram) -> Histogram:
    """The histogram of both batches; associative and commutative, bit for bit."""
    top, count = max(a.top, b.top), a.count + b.count
    first, second = (_raised(h, top).to(_shortest(count)) for h in (a, b))
    return Histogram(count, torch.maximum(a.max, b.max), top, first + second)


HISTOGRAM = Statistic("histogram", summarise_histogram, merge_histogram)


def _shortest(count: int) -> torch.dtype:
    """The shortest type for counts that add up to ``count``."""
    return next((kind for kind in COUNTS if count <= torch.iinfo(kind).max), torch.int64)


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


def _count_few(x: Tensor, axis: int | None, top: int, counts: Tensor) -> None:
    """The same for fewer values than there are bins: one by one, without a second array of all bins."""
    low = _lowest_bin(top)
    bits = x.float().clamp(_float_of(low << _SHIFT), _float_of((low + BINS << _SHIFT) - 1)).view(torch.int32)
    channel = torch.arange(len(counts), dtype=torch.int64, device=x.device) * BINS - low
    index = bits.bitwise_right_shift_(_SHIFT).add(along(channel, x.ndim, axis)).reshape(-1)
    counts.view(-1).scatter_add_(0, index, torch.ones_like(index, dtype=counts.dtype))


def _flat(x: Tensor, axis: int | None) -> tuple[Tensor, int | None]:
    """The same values with the axes behind the channels' as one, where they lie so: loops over short axes are slow."""
    if axis is None or x.ndim - axis % x.ndim <= 2 or not x.is_contiguous():
        return x, axis
    return x.flatten(axis % x.ndim + 1), axis % x.ndim


def _float_of(bits: int) -> float:
    """The float32 with these bits."""
    value: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return value


def octave(value: float) -> int:
    """Biased exponent of a value: ``2**(octave - 127) <= value``; 0 for what is not positive."""
    return max(0, min(254, 126 + math.frexp(value)[1])) if 0 < value < math.inf else 0


def _lowest_bin(top: int) -> int:
    """Bin 0 of a histogram, as the top bits of a float; a normal one, so that -0.0 is below it too."""
    return max(1, top + 1 - OCTAVES) * BINS_PER_OCTAVE


def _value_at(position: Tensor) -> Tensor:
    """The value at a place among the bins of all floats, which need not be a whole number."""
    octave = torch.floor(position / BINS_PER_OCTAVE)
    return torch.exp2(octave - 127.0) * (1.0 + position / BINS_PER_OCTAVE - octave)


def _raised(h: Histogram, top: int) -> Tensor:
    shift = _lowest_bin(top) - _lowest_bin(h.top)
    if shift == 0:
        return h.counts
    moved = torch.zeros_like(h.counts)
    moved[:, 0] = h.counts[:, : shift + 1].sum(1)
    if shift < BINS - 1:
        moved[:, 1 : BINS - shift] = h.counts[:, shift + 1 :]
    return moved
