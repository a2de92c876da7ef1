r"""Mean and variance as a mergeable statistic of a site's *current*: two numbers per channel.

Knows tensors; what follows from them is ``kernels.gaussian``'s business.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from snnpipe.kernels.statistic import Statistic, along, channel_max, other_axes

_PIECE = 2**20  # numbers worked on at a time, so that temporary tensors stay small


@attrs.frozen(eq=False)
class Moments:
    """Mean and sum of squared deviations ``m2`` per channel, (C,) float64, and the largest value, (C,).

    At a site whose values have both signs, ``max`` is the largest ``|x|``.
    """

    count: int
    mean: Tensor
    m2: Tensor
    max: Tensor

    @property
    def std(self) -> Tensor:
        """The standard deviation, (C,) float64."""
        return (self.m2 / self.count).sqrt()

    def pooled(self) -> Moments:
        """All channels taken as one."""
        mean = self.mean.mean().reshape(1)
        m2 = (self.m2.sum() + self.count * (self.mean - mean).square().sum()).reshape(1)
        return Moments(self.count * self.mean.numel(), mean, m2, self.max.amax().reshape(1))


def summarise_moments(x: Tensor, axis: int | None) -> Moments:
    """Count, mean and squared deviations of a batch, in float64.

    >>> summarise_moments(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), axis=1).std
    tensor([1., 0.], dtype=torch.float64)
    """
    largest = channel_max(x, axis)
    rows = max(1, _PIECE * len(x) // x.numel()) if x.ndim and (axis is None or axis % x.ndim) else max(1, x.numel())
    parts = [_moments(part.double(), axis, largest) for part in (x.split(rows) if x.ndim else (x,))]
    total = parts[0]
    for part in parts[1:]:
        total = merge_moments(total, part)
    return total


def summarise_signed_moments(x: Tensor, axis: int | None) -> Moments:
    """As ``summarise_moments``, ``max`` being the largest ``|x|``."""
    return attrs.evolve(summarise_moments(x, axis), max=channel_max(x.abs(), axis))


def _moments(x: Tensor, axis: int | None, largest: Tensor) -> Moments:
    others = other_axes(x, axis)
    mean = x.mean(others) if others else x
    deviation = x - along(mean.reshape(-1), x.ndim, axis)
    m2 = deviation.square().sum(others) if others else torch.zeros_like(x)
    return Moments(x.numel() // largest.numel(), mean.reshape(-1), m2.reshape(-1), largest)


def merge_moments(a: Moments, b: Moments) -> Moments:
    r"""The moments of both batches; commutative bit for bit, associative up to the rounding of float64.

    .. math:: M_2 = M_2^a + M_2^b + \frac{n_a n_b}{n_a + n_b} (\bar x_a - \bar x_b)^2

    Reference: Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", The American Statistician.
    """
    count = a.count + b.count
    mean = (a.count * a.mean + b.count * b.mean) / count
    m2 = a.m2 + b.m2 + (a.mean - b.mean).square() * (a.count * b.count / count)
    return Moments(count, mean, m2, torch.maximum(a.max, b.max))


MOMENTS = Statistic("moments", summarise_moments, merge_moments, at="input", signed=summarise_signed_moments)
