"""The threshold of a site: from a rule and a statistic, a cap, or a function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.errors import StageError, ThresholdError
from snnpipe.kernels.threshold import Threshold
from snnpipe.options import POSITIVE
from snnpipe.state import ConversionState, Levels, Site
from snnpipe.text import shown

#: A threshold of one's own: ``rule(site, summary) -> Tensor``, (C,) or (1,); ``summary`` is ``None`` without data.
ThresholdRule = Callable[[Site, Any], Tensor]


@attrs.frozen(eq=False)
class SiteThreshold:
    """A site's threshold.

    Attributes:
        theta: (C,), (1,), or one for each neuron, positive and finite, in the dtype and on the device of the weights.
        silent: number of channels that never fired and got the fallback.
        source: what it comes from, in words.
        few: how many values each rests on, where that is fewer than its rule wants; else 0.
    """

    theta: Tensor
    silent: int
    source: str
    few: int = 0


def site_threshold(
    site: Site, state: ConversionState, rule: Threshold | None, chosen: ThresholdRule | None
) -> SiteThreshold:
    """The threshold at ``site``: what ``chosen`` says, or its trained levels, or what ``rule`` makes of the statistic.

    A cap limits it, and is the threshold where nothing was measured or nothing fired.
    """
    summary = state.statistics.get(site.node)
    if chosen is not None:
        theta = _checked(_as_tensor(chosen(site, summary), site), site, summary)
        return SiteThreshold(like_network(theta, state.params), 0, getattr(chosen, "__name__", repr(chosen)))
    if isinstance(site.cap, Levels):
        theta = _checked(site.cap.value(site.cap.top, state.params), site, None)
        return SiteThreshold(like_network(theta, state.params), 0, str(site.cap))
    if site.cap is not None and (summary is None or rule is None):
        theta = torch.tensor([site.cap], dtype=torch.float64)
        return SiteThreshold(like_network(theta, state.params), 0, f"cap {site.cap:g}")
    if summary is None or rule is None:
        raise StageError(
            f"replace: nothing was measured at site {site.name}; put calibrate(loader) before replace, "
            "or give thresholds: replace(threshold=fixed(1.0))"
        )
    if rule.statistic.ordered and not rule.measures(state.threshold):
        raise ThresholdError(
            f"replace: {rule} depends on the order of the data, and at site {site.name} was measured for "
            f"{state.threshold}; calibrate for it: pipe(..., instrument(statistic={rule!r}), calibrate(loader))"
        )
    if (rule.per == "neuron") != (state.threshold.per == "neuron") and rule.per != "layer":
        raise ThresholdError(
            f"replace: {rule.name} needs statistics per {rule.per}, those of site {site.name} are per "
            f"{state.threshold.per}; calibrate for it: "
            f'pipe(..., instrument(statistic={rule.name}(..., per="{rule.per}")), calibrate(loader))'
        )
    try:
        theta = rule(summary, signed=site.signed)
    except AttributeError as error:
        raise ThresholdError(
            f"replace: {rule.name} cannot be computed from {type(summary).__name__} at site {site.name}; "
            f"calibrate for it: pipe(..., instrument(statistic={rule.name}(...)), calibrate(loader))"
        ) from error
    if site.cap is not None:  # which is right for a channel that never fired, too
        theta = theta.where(_usable(theta), site.cap).clamp(max=site.cap)
        return SiteThreshold(like_network(theta, state.params), 0, f"{rule}, at most the cap {site.cap:g}")
    silent = int((~_usable(theta)).sum())
    return SiteThreshold(like_network(filled(theta), state.params), silent, str(rule), _few(rule, summary))


def _few(rule: Threshold, summary: Any) -> int:
    count = getattr(summary, "count", rule.fewest) * (summary.max.numel() if rule.per == "layer" else 1)
    return count if count < rule.fewest else 0


@takes(ThresholdError, theta=POSITIVE)
def fixed(theta: float) -> ThresholdRule:
    """The same threshold at every site, without data (for trying things out).

    >>> fixed(2.0)(None, None)
    tensor([2.])
    """
    return _Fixed(theta)


@attrs.frozen
class _Fixed:
    theta: float

    def __call__(self, site: Any, summary: Any) -> Tensor:
        return torch.tensor([self.theta])

    def __repr__(self) -> str:
        short = f"{self.theta:g}"
        return f"fixed({short if float(short) == self.theta else self.theta})"


def _as_tensor(theta: Any, site: Site) -> Tensor:
    try:
        return torch.as_tensor(theta).detach().reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ThresholdError(
            f"replace: the threshold rule gave {shown(theta)} for site {site.name}; "
            "a threshold is a positive number or a tensor of them"
        ) from error


def _checked(theta: Tensor, site: Site, summary: Any) -> Tensor:
    bad = theta[~_usable(theta)]
    if theta.numel() == 0 or bad.numel():
        got = f"{bad[0].item():g} ({bad.numel()} of {theta.numel()} values)" if bad.numel() else "an empty tensor"
        raise ThresholdError(
            f"replace: the threshold rule gave {got} for site {site.name}; a threshold must be positive and finite"
        )
    if summary is not None and theta.numel() not in (1, summary.max.numel()):
        raise ThresholdError(
            f"replace: the threshold rule gave {theta.numel()} values for site {site.name}, which has "
            f"{summary.max.numel()} channels; give one for each, or a single one"
        )
    return theta


def filled(theta: Tensor) -> Tensor:
    """The documented fallback for channels that never fired: the site's largest threshold, or one never reached."""
    usable = _usable(theta)
    largest = theta[usable].max() if bool(usable.any()) else theta.new_tensor(torch.finfo(theta.dtype).max)
    return theta.where(usable, largest)


def _usable(theta: Tensor) -> Tensor:
    return torch.isfinite(theta) & (theta > 0)


def like_network(theta: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    """In the dtype and on the device of the weights; positive and finite there."""
    floats = (tensor for tensor in params.values() if tensor.is_floating_point() and tensor.dtype.itemsize > 1)
    model = next(floats, theta)  # floats of eight bits are quantised weights, which torch does not add
    limits = torch.finfo(model.dtype)
    wide = theta.to(device=model.device, dtype=torch.float64)
    return wide.clamp(limits.smallest_normal, limits.max / 4).to(dtype=model.dtype)
