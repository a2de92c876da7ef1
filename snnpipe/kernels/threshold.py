r"""Threshold rules: from a statistic of a site's activations to its firing threshold theta.

Knows summaries; sites and neurons are other files' business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from torch import Tensor

from snnpipe.errors import ThresholdError
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.kernels.statistic import EXTREMA, HISTOGRAM, Statistic, moving_max


@attrs.frozen
class Threshold:
    """A threshold rule as a value; write your own by giving a function.

    Args:
        name: what reports call it.
        statistic: what must be measured for it.
        theta: ``theta(summary, **options) -> Tensor`` (C,), positive; 0 where the channel never fired.
        options: keyword arguments of ``theta``.
        per_channel: one threshold per channel, or one for the site (all channels taken as one).
    """

    name: str
    statistic: Statistic
    theta: Callable[..., Tensor]
    options: FrozenMap[str, Any] = attrs.field(default=EMPTY, converter=FrozenMap)
    per_channel: bool = True

    def __call__(self, summary: Any) -> Tensor:
        """The threshold for a site with this summary."""
        return self.theta(summary if self.per_channel else summary.pooled(), **self.options)

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value:g}" for key, value in self.options.items())
        return f"{self.name}({options}) per {'channel' if self.per_channel else 'layer'}"


def theta_maximum(summary: Any, *, k: float = 1.0) -> Tensor:
    """``k max(x)``."""
    theta: Tensor = k * summary.max
    return theta


def theta_percentile(summary: Any, *, q: float) -> Tensor:
    """The ``q``-th percentile, or the maximum where the percentile is 0 although the channel fired."""
    theta: Tensor = summary.quantile(q / 100.0)
    return theta.where(theta > 0, summary.max)


def maximum(*, per_channel: bool = True) -> Threshold:
    """The largest activation seen.

    Reference: Diehl et al. 2015, "Fast-classifying, high-accuracy spiking deep networks through weight and threshold
    balancing", IJCNN.
    """
    return Threshold("maximum", EXTREMA, theta_maximum, FrozenMap(), per_channel)


def scaled(k: float, *, per_channel: bool = True) -> Threshold:
    """``k`` times the largest activation seen, ``k`` > 0."""
    if not k > 0:
        raise ThresholdError(f"scaled(k): k must be a positive number, got {k!r}; for example scaled(0.8)")
    return Threshold("scaled", EXTREMA, theta_maximum, FrozenMap(k=float(k)), per_channel)


def percentile(q: float, *, per_channel: bool = True) -> Threshold:
    """The ``q``-th percentile of the activations, zeros included, 0 < ``q`` <= 100.

    Exact within one bin of a histogram whose bins are at most 1/32 of their value wide.  A channel that fires too
    rarely for its percentile to be positive takes its maximum.

    Reference: Rueckauer et al. 2017, Frontiers in Neuroscience.
    """
    if not 0 < q <= 100:
        raise ThresholdError(f"percentile(q): q is in percent, 0 < q <= 100, got {q!r}; for example percentile(99.9)")
    return Threshold("percentile", HISTOGRAM, theta_percentile, FrozenMap(q=float(q)), per_channel)


def ema(momentum: float = 0.1, *, per_channel: bool = True) -> Threshold:
    """Exponential moving average of the batches' maxima.

    **Depends on the order of the batches** and weighs a short last batch like a full one; it is here to reproduce
    tools that average so (and call it "max").  Prefer ``maximum()``.
    """
    if not 0 < momentum <= 1:
        raise ThresholdError(f"ema(momentum): 0 < momentum <= 1, got {momentum!r}")
    return Threshold("ema", moving_max(float(momentum)), theta_maximum, FrozenMap(), per_channel)


def as_threshold(value: Threshold | str | float) -> Threshold:
    """A rule as it is, or what other tools write for one: ``"max"``, ``"99.9%"``, ``0.8`` (times the maximum).

    >>> print(as_threshold("99.9%"))
    percentile(q=99.9) per channel
    >>> print(as_threshold(0.8))
    scaled(k=0.8) per channel
    """
    if isinstance(value, Threshold):
        return value
    try:
        if isinstance(value, str) and value.strip().lower() == "max":
            return maximum()
        if isinstance(value, str) and value.strip().endswith("%"):
            return percentile(float(value.strip()[:-1]))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return scaled(value)
    except ThresholdError:
        raise
    except ValueError:
        pass
    raise ThresholdError(
        f"not a threshold rule: {value!r}. Write maximum(), percentile(99.9), scaled(0.8) or ema(0.1), "
        "or the strings other tools use: 'max', '99.9%', 0.8"
    )
