r"""Threshold rules: from a statistic of a site's activations to its firing threshold theta.

Here is what a rule is, and the rules that read theta off a summary; those that minimise an error are in
``kernels.optimal`` and ``kernels.gaussian``, averages over batches in ``kernels.moving``.  Knows summaries; sites and
neurons are other files' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import Check, takes, valid
from snnpipe.errors import ThresholdError
from snnpipe.frozen import EMPTY, FrozenMap, as_map
from snnpipe.kernels.histogram import HISTOGRAM
from snnpipe.kernels.statistic import EXTREMA, Statistic
from snnpipe.options import FLAG, MAPPING, POSITIVE, TEXT, function, instance, number, one_of, plain
from snnpipe.text import Call, called, expression, remembered, shown

#: What gets a threshold of its own.
PER = ("channel", "layer", "neuron")


#: For arguments that say what gets a threshold of its own.
GRANULARITY = one_of(*PER)
_PERCENT = number("is in percent, 0 < q <= 100", lambda value: 0 < value <= 100, "write percentile(99.9)")
_STATISTIC = instance(Statistic, "must be a Statistic", 'write Statistic("mine", summarise, merge)')


@attrs.frozen
class Threshold:
    """A threshold rule as a value; write your own by giving a function.

    Args:
        name: what reports call it.
        statistic: what must be measured for it.
        theta: ``theta(summary, **options) -> Tensor`` (C,), positive; 0 where the channel never fired.
        options: keyword arguments of ``theta``.
        per: one threshold per ``"channel"``, one for the ``"layer"`` (all channels taken as one), or one per
            ``"neuron"``: every element of the activation but for the batch axis, which is the first.  The last
            must be chosen before the data is run, and ties the network to one size of input.
        signed: further keyword arguments of ``theta`` at sites whose values have both signs.
        fewest: how many values it wants to be taken from; ``replace`` warns of fewer.
    """

    name: str = attrs.field(validator=valid(TEXT, ThresholdError))
    statistic: Statistic = attrs.field(validator=valid(_STATISTIC, ThresholdError))
    theta: Callable[..., Tensor] = attrs.field(validator=valid(function("summary", options=True), ThresholdError))
    options: FrozenMap[str, Any] = attrs.field(default=EMPTY, converter=as_map, validator=valid(MAPPING))
    per: str = attrs.field(default="channel", validator=valid(GRANULARITY, ThresholdError))
    signed: FrozenMap[str, Any] = attrs.field(default=EMPTY, converter=as_map, validator=valid(MAPPING))
    fewest: int = 1
    made: Call | None = attrs.field(default=None, kw_only=True, eq=False)

    def __call__(self, summary: Any, *, signed: bool = False) -> Tensor:
        """The threshold for a site with this summary; ``signed`` says whether its values have both signs."""
        options = self.options | self.signed if signed else self.options
        return self.theta(summary.pooled() if self.per == "layer" else summary, **options)

    @property
    def _measured(self) -> FrozenMap[str, Any]:
        """The options of an average, which its statistic has."""
        return self.statistic.options if self.statistic.ordered else EMPTY

    def measures(self, other: Threshold) -> bool:
        """Whether what is measured for this rule is what is measured for the other."""
        return self.statistic == other.statistic and (self.per == "neuron") == (other.per == "neuron")

    def __repr__(self) -> str:
        return expression(self)

    def __str__(self) -> str:
        options = ", ".join(f"{key}={_text(value)}" for key, value in (self._measured | self.options).items())
        return f"{self.name}({options}) per {self.per}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def theta_maximum(summary: Any, *, k: float = 1.0) -> Tensor:
    """``k max(x)``."""
    theta: Tensor = k * summary.max
    return theta


def theta_percentile(
    summary: Any, *, q: float, nonzero: bool = False, scale: float = 1.0, shared: bool = False
) -> Tensor:
    """``scale`` times the ``q``-th percentile, or times the maximum where that is 0 although the channel fired.

    With ``shared``, of fewer values than resolve it: ``max`` of it and what the other channels say of it.
    """
    theta: Tensor = summary.quantile(q / 100.0, nonzero=nonzero)
    theta = theta.where(theta > 0, summary.max)
    if shared and summary.count < _resolving(q):
        theta = torch.maximum(theta, summary.shared_quantile(q / 100.0, nonzero=nonzero))
    return scale * theta


def _resolving(q: float) -> int:
    """How many values it takes for one to lie beyond the ``q``-th percentile."""
    return math.ceil(100.0 / (100.0 - q) - 1e-6) if q < 100 else 1


@takes(ThresholdError, per=GRANULARITY)
@remembered
def maximum(*, per: str = "channel") -> Threshold:
    """The largest activation seen.

    Args:
        per: ``"channel"``, ``"layer"`` or ``"neuron"``.

    Reference: Diehl et al. 2015, "Fast-classifying, high-accuracy spiking deep networks through weight and threshold
    balancing", IJCNN; per neuron: Wang et al. 2022, "Signed neuron with memory: towards simple, accurate and
    high-efficient ANN-SNN conversion", IJCAI.
    """
    return Threshold("maximum", EXTREMA, theta_maximum, EMPTY, per)


@takes(ThresholdError, k=POSITIVE, per=GRANULARITY)
@remembered
def scaled(k: float, *, per: str = "channel") -> Threshold:
    """``k`` times the largest activation seen, ``k`` > 0."""
    return Threshold("scaled", EXTREMA, theta_maximum, FrozenMap(k=k), per)


@takes(ThresholdError, q=_PERCENT, nonzero=FLAG, scale=POSITIVE, shared=FLAG, per=GRANULARITY)
@remembered
def percentile(
    q: float, *, nonzero: bool = False, scale: float = 1.0, shared: bool = False, per: str = "channel"
) -> Threshold:
    """The ``q``-th percentile of the activations, 0 < ``q`` <= 100.

    Exact within one bin of a histogram whose bins are at most 1/32 of their value wide.  A channel that fires too
    rarely for its percentile to be positive takes its maximum.

    Args:
        q: in percent.
        nonzero: of the activations that are not zero; those below ``2**-15`` of the site's largest count as zero.
        scale: times so much, > 0; more than 1 leaves room for outliers where an event has many levels.
        shared: for little data, as behind a linear layer, which has one value per sample.  Of fewer than
            100 / (100 - q) values the percentile is the largest; of half as many, new values exceed it more than
            twice as often as they should.  With ``shared`` it is then at least ``m_c Q``, m_c the mean of the
            channel's values above zero and Q the percentile of ``x / m_c`` over all channels.
        per: ``"channel"``, ``"layer"`` or ``"neuron"``.

    Reference: Rueckauer et al. 2017, "Conversion of continuous-valued deep networks to efficient event-driven
    networks for image classification", Frontiers in Neuroscience, which takes the activations that are not zero.
    """
    further = ({"nonzero": True} if nonzero else {}) | ({"scale": scale} if scale != 1 else {})
    options: FrozenMap[str, Any] = FrozenMap(q=q, **further, **({"shared": True} if shared else {}))
    fewest = 1 if shared else -(-_resolving(q) // 2)
    return Threshold("percentile", HISTOGRAM, theta_percentile, options, per, fewest=fewest)


def as_threshold(value: Threshold | str | float) -> Threshold:
    """A rule as it is, or what other tools write for one: ``"max"``, ``"99.9%"``, ``0.8`` (times the maximum).

    >>> print(as_threshold("99.9%"))
    percentile(q=99.9) per channel
    >>> print(as_threshold(0.8))
    scaled(k=0.8) per channel
    """
    if isinstance(value, Threshold):
        return value
    if isinstance(value, str):
        return _written_elsewhere(value)
    found = plain(value)
    if isinstance(found, bool) or not isinstance(found, Real):
        raise ThresholdError(f"not a threshold rule: {shown(value)}. {called(value).capitalize() or _WRITE}")
    share = float(found)
    if not 0 < share <= 1:
        meant = f"Write percentile({share:g}) for a percentile, scaled({share:g}) for a multiple of the maximum"
        raise ThresholdError(
            f"not a threshold rule: {shown(value)}; a plain number is a share of the maximum, 0 < k <= 1. "
            f"{meant if 1 < share <= 100 else _WRITE}, and replace(threshold=fixed(...)) for a threshold without data"
        )
    return scaled(share)


_WRITE = (
    "Write maximum(), percentile(99.9), scaled(0.8) or ema(0.1), or the strings other tools use: 'max', '99.9%', 0.8"
)


def _written_elsewhere(text: str) -> Threshold:
    found = text.strip().lower()
    if found == "max":
        return maximum()
    try:
        share = float(found[:-1]) if found.endswith("%") else None
    except ValueError:
        share = None
    if share is None:
        raise ThresholdError(f"not a threshold rule: {shown(text)}. {_WRITE}")
    return percentile(share)


#: For arguments that are threshold rules, and for those that may be what other tools write for one.
RULE = instance(Threshold, "must be a threshold rule", "write maximum(), percentile(99.9) or scaled(0.8)")
THRESHOLD = Check(RULE.wanted, as_threshold, RULE.write)
