r"""The threshold rule for Gaussian currents: mean and variance decide it, for any number of steps.

Knows summaries; sites and neurons are other files' business.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.errors import ThresholdError
from snnpipe.frozen import FrozenMap
from snnpipe.kernels.moments import MOMENTS, Moments
from snnpipe.kernels.threshold import GRANULARITY, Threshold
from snnpipe.options import FLAG, POSITIVE, STEPS, WHOLE, countable, optional
from snnpipe.text import remembered

_PIECE = 2**20  # numbers worked on at a time, so that temporary tensors stay small
_GRID = 32  # points of the grid that brackets a solution
_SECANTS = 16  # steps that then find it to the last bits
_RARE = 8.0  # standard deviations from the mean to zero
_CONSTANT = 1e-12  # a deviation of less than this share of the mean is rounding


@takes(ThresholdError, T=STEPS, levels=WHOLE, top=POSITIVE, two_sided=FLAG, iterations=optional(WHOLE), per=GRANULARITY)
@remembered
def threshold_iteration(
    T: int,
    *,
    levels: int = 1,
    top: float = 1.0,
    two_sided: bool = False,
    iterations: int | None = None,
    per: str = "channel",
) -> Threshold:
    r"""The best uniform quantiser of a Gaussian current, from its mean and variance alone.

    With n = ``levels`` T steps, :math:`t_i = (i - 1/2) \theta / n` and z normal with the mean and variance of the
    channel's current, theta solves

    .. math:: \theta = \frac{n^{-1} \sum_i E[z; z > t_i]}{n^{-2} \sum_i (2i - 1) P[z > t_i]}, \qquad i = 1 ... n,

    which is where the expected squared error of ``relu(z) -> (theta / n) clip(floor(z n / theta + 1/2), 0, n)`` is
    least.  Of several minima, all as deep within a thousandth, it is the first.  Two-sided, for currents whose neuron
    sends both signs, -z is counted as well as z; that is what sites of both signs get in any case.

    The publications approach the solution by 100 substitutions of the equation into itself from theta = 1.  For
    n >= 64 that stops a few per cent to a third below it, and where it stops depends on the scale of the data;
    here it is solved.

    Args:
        T: number of time steps the threshold is for.
        levels: smallest steps of one event: the neuron's largest event is ``levels`` of them (over ``top``).
        top: the neuron's largest decoded value in units of theta, for neurons whose largest event is not theta.
        two_sided: take every site's current to be encoded with both signs.
        iterations: substitute so many times from theta = 1, as published, instead.
        per: ``"channel"``, ``"layer"`` or ``"neuron"``.

    A channel that never fired gets 0, and so what a silent channel gets.  One whose current does not vary gets its
    value, and one that fired although its mean is more than 8 standard deviations below zero is not Gaussian: it
    gets its maximum.

    Reference: Huang et al. 2025, "Differential coding for training-free ANN-to-SNN conversion", ICML (one-sided); the
    two-sided form is that of H-MT, AAAI 2026.

    >>> normal = Moments(count=100, mean=torch.zeros(1), m2=torch.full((1,), 100.0), max=torch.ones(1))
    >>> theta = threshold_iteration(4)(normal)
    >>> print(f"{theta.item():.4f} standard deviations")
    2.1353 standard deviations
    """
    name = "threshold_iteration"
    countable(name, ThresholdError, levels=levels, T=T)
    given: dict[str, Any] = {"T": T, "levels": levels} | ({"top": top} if top != 1 else {})
    given |= {"iterations": iterations} if iterations is not None else {}
    both: FrozenMap[str, Any] = FrozenMap(two_sided=True)
    options: FrozenMap[str, Any] = FrozenMap(given | ({"two_sided": True} if two_sided else {}))
    return Threshold(name, MOMENTS, theta_gaussian, options, per, both)


def theta_gaussian(
    summary: Moments,
    *,
    T: int,
    levels: int = 1,
    top: float = 1.0,
    two_sided: bool = False,
    iterations: int | None = None,
) -> Tensor:
    """The theta of ``threshold_iteration``, (C,) float64."""
    mean, std, n = summary.mean.double(), summary.std.double(), levels * T
    found = summary.max.double().clamp(min=0.0)
    plausible = two_sided | (mean > -_RARE * std)
    fitted = (found > 0) & (std > _CONSTANT * mean.abs()) & plausible
    for some in torch.nonzero(fitted).squeeze(1).split(max(1, _PIECE // n)):
        fixed_point = _FixedPoint(mean[some], std[some], n, two_sided)
        found[some] = fixed_point.solved() if iterations is None else fixed_point.substituted(iterations)
    return found / top


@attrs.frozen(eq=False)
class _FixedPoint:
    """The equation ``theta D(theta) = N(theta)`` of ``threshold_iteration``, for the channels (C,) of a site."""

    mean: Tensor
    std: Tensor
    n: int
    two_sided: bool

    def sides(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """N and D."""
        odd = 2.0 * torch.arange(self.n, dtype=theta.dtype, device=theta.device) + 1.0
        N, D = torch.zeros_like(theta), torch.zeros_like(theta)
        for mean in (self.mean, -self.mean) if self.two_sided else (self.mean,):
            c = (odd * (theta / (2 * self.n))[:, None] - mean[:, None]) / (math.sqrt(2.0) * self.std)[:, None]
            beyond = torch.erfc(c) / 2  # P[z > t_i]
            density = torch.exp(-c.square()).sum(1) / math.sqrt(2.0 * math.pi)
            N += (mean * beyond.sum(1) + self.std * density) / self.n
            D += (odd * beyond).sum(1) / self.n**2
        return N, D

    def excess(self, theta: Tensor) -> Tensor:
        """``theta D - N``, half the derivative of the expected error: negative below the solution."""
        N, D = self.sides(theta)
        excess: Tensor = theta * D - N
        return excess

    def substituted(self, times: int) -> Tensor:
        """``theta <- N(theta) / D(theta)``, so many times from 1."""
        theta = torch.ones_like(self.mean)
        for _ in range(times):
            N, D = self.sides(theta)
            theta = N / D
        return theta

    def solved(self) -> Tensor:
        """The smallest solution: bracketed on a geometric grid, then by the Illinois variant of regula falsi."""
        low, high = 0.999 * self._mean_of_positive(), self.mean.abs() + 10.0 * self.std
        at = torch.linspace(0.0, 1.0, _GRID, dtype=low.dtype, device=low.device)
        grid: list[Tensor] = [low * (high / low) ** share for share in at]
        a, b = grid[0], grid[-1]
        f_a, f_b = self.excess(a), self.excess(b)
        open_ = torch.ones_like(low, dtype=torch.bool)
        for theta in grid[1:-1]:
            f = self.excess(theta)
            below, ends = open_ & (f < 0), open_ & ~(f < 0)
            a, f_a = torch.where(below, theta, a), torch.where(below, f, f_a)
            b, f_b = torch.where(ends, theta, b), torch.where(ends, f, f_b)
            open_ = below
        for _ in range(_SECANTS):
            c = torch.where(f_b == f_a, b, b - f_b * (b - a) / (f_b - f_a))
            f = self.excess(c)
            crosses = f * f_b < 0
            a, f_a = torch.where(crosses, b, a), torch.where(crosses, f_b, f_a / 2)
            b, f_b = c, f
        return b

    def _mean_of_positive(self) -> Tensor:
        """``E[z | z > 0]``, two-sided ``E|z|``: theta is never less, whatever n."""
        alpha = self.mean / (math.sqrt(2.0) * self.std)
        density: Tensor = self.std * torch.exp(-alpha.square()) / math.sqrt(2.0 * math.pi)
        share = torch.erfc(-alpha)  # twice P[z > 0]
        if self.two_sided:
            return self.mean * (share - 1.0) + 2.0 * density
        return self.mean + 2.0 * density / share
