"""Whether statistics are those of a state's sites: the kind that was asked for, as many channels as there are.

Knows sites, the graph and kinds of summaries; where the statistics come from is the caller's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from snnpipe.errors import Problem
from snnpipe.graph import Ref
from snnpipe.kernels.threshold import Threshold
from snnpipe.rules.axes import channel_axis
from snnpipe.rules.channels import channels
from snnpipe.rules.signals import nonnegative
from snnpipe.state import ConversionState, Site


def measured(threshold: Threshold) -> str:
    """What is measured for a rule, in words: rules with the same words can share statistics.

    >>> from snnpipe import ema, mmse, percentile
    >>> measured(percentile(99.9)), measured(mmse(T=4, per="layer"))
    ('histogram() per channel', 'histogram() per channel')
    >>> measured(ema(0.1))
    'moving average of maximum() per channel(momentum=0.1) per channel'
    """
    statistic = threshold.statistic
    options = ", ".join(f"{key}={value!r}" for key, value in sorted(statistic.options.items()))
    return f"{statistic.name}({options}) per {'neuron' if threshold.per == 'neuron' else 'channel'}"


def identity(site: Site) -> dict[str, Any]:
    """What of a site must be the same for its statistics to be."""
    return {"name": site.name, "axis": site.axis, "signed": site.signed}


def missing(found: Mapping[str, Any], state: ConversionState) -> list[str]:
    """Names of the sites that cannot do without a statistic and have none in ``found``."""
    return [site.name for node, site in state.sites.items() if site.cap is None and node not in found]


def unfit(found: Mapping[str, Any], state: ConversionState) -> Iterator[Problem]:
    """The statistics of ``found``, by node, that cannot be those of the state's sites, and why.

    Each holds what its kind must (``exchange.summaries``); ``found`` has no other nodes than sites.
    """
    wide = channels(state.graph, state.params)
    kind = type(state.threshold.statistic.summarise(torch.ones(1, 1), 1))
    for node, summary in found.items():
        site = state.sites[node]
        reason = _wrong_kind(summary, kind) or _wrong_size(summary, site, wide, state)
        reason = reason or _wrong_sign(summary, site, state)
        if reason:
            yield Problem(site.name, "", "", reason)


def _wrong_kind(summary: Any, kind: type) -> str:
    return "" if type(summary) is kind else f"a {type(summary).__name__}, this state asks for a {kind.__name__}"


def _wrong_size(summary: Any, site: Site, wide: Mapping[str, int], state: ConversionState) -> str:
    """A histogram, say, of 8 channels at a site that has 16; of neurons there are so many in each channel."""
    got = len(summary.max)
    known = wide.get(site.input) if site.axis == channel_axis(Ref(site.input), state.graph) else None
    wanted = 1 if site.axis is None else known
    if state.threshold.per == "neuron":
        fits = known is None or got % known == 0
        return "" if fits else f"of {got} neurons, this site has {known} channels of as many neurons each"
    return "" if wanted is None or got == wanted else f"of {got} channels, this site has {wanted}"


def _wrong_sign(summary: Any, site: Site, state: ConversionState) -> str:
    if state.threshold.statistic.at == "input" and not site.signed:
        return ""
    never = site.signed or nonnegative(Ref(site.node), state.graph)
    lowest = float(summary.max.amin())
    return f"its largest values go down to {lowest:g}, where none can be negative" if never and lowest < 0 else ""
