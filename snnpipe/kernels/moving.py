r"""Moving averages over batches: what other tools average, for comparison with them.

Most of them take a number from each batch (a maximum, a percentile, a minimiser) and average these as the batches come.
That is no function of the data but of their order and batching, so such a summary serves its own rule alone.

Knows threshold rules; sites and batches are other files' business.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.errors import ThresholdError
from snnpipe.frozen import FrozenMap
from snnpipe.kernels.statistic import Statistic, channel_max
from snnpipe.kernels.threshold import GRANULARITY, RULE, Threshold, maximum
from snnpipe.options import number, optional
from snnpipe.text import remembered


@attrs.frozen(eq=False)
class MovingAverage:
    """An average over batches, and the largest value per channel, both (C,).

    The first depends on the order of the batches, the second does not.  A layer's average is the same in every channel.
    """

    value: Tensor
    max: Tensor

    def pooled(self) -> MovingAverage:
        """All channels taken as one; right for the average if it is a layer's."""
        return MovingAverage(self.value.amax().reshape(1), self.max.amax().reshape(1))


@attrs.frozen
class _OfBatch:
    """What a rule says of one batch, as the first value of an average."""

    rule: Threshold
    signed: bool = False

    def __call__(self, x: Tensor, axis: int | None) -> MovingAverage:
        theta = self.rule(self.rule.statistic.of(x, axis, self.signed), signed=self.signed)
        largest = channel_max(x.abs() if self.signed else x, axis)
        return MovingAverage(theta.expand_as(largest).contiguous(), largest)


def merge_average(a: MovingAverage, b: MovingAverage, *, momentum: float) -> MovingAverage:
    """``(1 - momentum) a + momentum b``: the later summary counts ``momentum``, so order matters.

    >>> one, two = (MovingAverage(torch.tensor([v]), torch.tensor([v])) for v in (1.0, 2.0))
    >>> merge_average(one, two, momentum=0.25)
    MovingAverage(value=tensor([1.2500]), max=tensor([2.]))
    """
    return MovingAverage((1.0 - momentum) * a.value + momentum * b.value, torch.maximum(a.max, b.max))


def average(momentum: float, rule: Threshold) -> Statistic:
    """The average of what ``rule`` says of each batch."""
    return Statistic(
        f"moving average of {rule}", _OfBatch(rule), merge_average, FrozenMap(momentum=momentum),
        at=rule.statistic.at, signed=_OfBatch(rule, signed=True), ordered=True,
    )  # fmt: skip


@takes(
    ThresholdError,
    momentum=number("must lie in 0 < momentum <= 1", lambda value: 0 < value <= 1),
    of=optional(RULE),
    per=optional(GRANULARITY),
)
@remembered
def ema(momentum: float = 0.1, *, of: Threshold | None = None, per: str | None = None) -> Threshold:
    r"""Exponential moving average of what a rule says of each batch, by default of the batches' maxima.

    .. math:: \theta \leftarrow (1 - m) \theta + m \, \theta(\text{batch})

    **Depends on the order of the batches** and weighs a short last batch like a full one; it is here to reproduce
    tools that average so (and call it "max" or "99.9%").  Prefer the rule itself.

    Args:
        momentum: m; what the newest batch counts, 0 < m <= 1.
        of: the rule that is averaged: ``percentile(99.9)``, ``scaled(0.8)``, ``mmse(T=8)``; ``maximum()`` by default.
        per: what gets a threshold of its own, by default as in ``of``.  Of ``"layer"`` the layer's thresholds are
            averaged, not the largest of the channels' averages taken.

    References: Li et al. 2021, "A free lunch from ANN: towards efficient, accurate spiking neural networks
    calibration", ICML (minimisers of the squared error); Hao et al. 2025, "Faster and stronger: when ANN-SNN
    conversion meets parallel spiking calculation", ICML (maxima).

    >>> rule = ema(0.5, per="layer")
    >>> batches = [torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 4.0]])]
    >>> first, second = (rule.statistic.summarise(x, 1) for x in batches)
    >>> rule(merge_average(first, second, momentum=0.5))
    tensor([4.])
    """
    averaged = maximum() if of is None else of
    averaged = averaged if per is None else attrs.evolve(averaged, per=per)
    shown: FrozenMap[str, Any] = FrozenMap({} if of is None else {"of": of})
    return Threshold("ema", average(momentum, averaged), theta_average, shown, averaged.per)


def theta_average(summary: MovingAverage, *, of: Threshold | None = None) -> Tensor:
    """The average; what it is ``of`` was decided when it was measured."""
    return summary.value
