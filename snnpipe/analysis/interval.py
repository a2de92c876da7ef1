"""A mean of scores and how far it can be trusted: sums that add up over batches.

Knows numbers, not what they are scores of.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import attrs
from torch import Tensor

from snnpipe.options import number

#: For arguments that are confidences.
CONFIDENCE = number("must be a probability between 0 and 1", lambda p: 0 < p < 1)


@attrs.frozen
class Interval:
    """A mean over samples, and between which bounds that of all samples of this kind lies.

    Attributes:
        mean: over the samples.
        low, high: the bounds.
        samples: how many there were.
    """

    mean: float
    low: float
    high: float
    samples: int


@attrs.frozen
class Sums:
    """What is kept of scores, one for each sample.  Sums of parts add up to that of the whole.

    Attributes:
        count: how many scores.
        total, squares: the sums of the scores and of their squares.
        binary: whether each is 0 or 1.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    binary: bool = True

    @classmethod
    def of(cls, scores: Tensor) -> Sums:
        """Of scores (B,)."""
        x = scores.double()
        binary = bool(((x == 0) | (x == 1)).all())
        return cls(x.numel(), float(x.sum()), float((x * x).sum()), binary)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.count + other.count, self.total + other.total, self.squares + other.squares,
            self.binary and other.binary,
        )  # fmt: skip

    def interval(self, confidence: float, scale: float = 1.0) -> Interval:
        r"""The mean, times ``scale``, and its bounds.

        Of scores that are 0 or 1 Wilson's, with z the normal quantile of the confidence:

        .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4n^2}}{1 + z^2 / n};

        of other scores :math:`m \pm z s / \sqrt n`, s their standard deviation, which one sample does not tell.

        References: Wilson 1927, "Probable inference, the law of succession, and statistical inference", Journal of the
        American Statistical Association; Brown, Cai and DasGupta 2001, "Interval estimation for a binomial
        proportion", Statistical Science.

        >>> Sums(10, 10.0, 10.0).interval(0.95, scale=100.0)
        Interval(mean=100.0, low=72.24..., high=100.0, samples=10)
        """
        z, n = NormalDist().inv_cdf(0.5 + confidence / 2), self.count
        mean = self.total / n
        if self.binary:
            centre, bend = (mean + z * z / (2 * n)) / (1 + z * z / n), 1 + z * z / n
            half = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / bend
            low, high = max(0.0, centre - half), min(1.0, centre + half)
            low, high = (0.0 if self.total == 0 else low), (1.0 if self.total == n else high)
        else:
            spread = max(0.0, self.squares - n * mean * mean) / (n - 1) if n > 1 else math.inf
            half = z * math.sqrt(spread / n)
            low, high = mean - half, mean + half
        return Interval(scale * mean, scale * low, scale * high, n)
