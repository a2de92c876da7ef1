"""Saying where neurons will stand, and so where to measure."""

from __future__ import annotations

from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph
from snnpipe.kernels.threshold import Threshold, as_threshold, percentile
from snnpipe.ops.lift import has_neurons
from snnpipe.rewrite import rewrite
from snnpipe.rules.sites import PLACEMENT_RULES, SITE_RULES, SiteRule, channel_axis
from snnpipe.stage import stage
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.state import ConversionState, Event, Site

NO_NEURONS = (
    lambda state: not has_neurons(state.graph),
    "neurons are in place already; put this stage before replace",
)

#: What is measured unless somebody says otherwise: the 99.9th percentile of each channel.
DEFAULT_THRESHOLD = percentile(99.9)


@stage(NOT_LIFTED, NO_NEURONS)
def instrument(
    state: ConversionState,
    *,
    rules: tuple[SiteRule, ...] = SITE_RULES,
    statistic: Threshold | str | float = DEFAULT_THRESHOLD,
) -> ConversionState:
    """Mark the sites: one per call of an activation, never per module; the input is unchanged.

    Max-pools are first moved ahead of the ReLU they follow, which is exact.  Statistics measured before are dropped
    unless nothing changes.

    Args:
        rules: which nodes are sites.
        statistic: what to measure at each, as the threshold rule that will need it: ``percentile(99.9)``,
            ``maximum()``, ``scaled(0.8)``, ``ema()``, or what other tools write for them (``"99.9%"``, ``"max"``, 0.8).

    >>> from torch import nn
    >>> import snnpipe
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    >>> for site in snnpipe.pipe(model, snnpipe.trace, snnpipe.instrument).sites.values():
    ...     print(site)
    Site(node='_2', input='_2_input', axis=-3, cap=None, name='1')
    """
    threshold = as_threshold(statistic)
    placed = rewrite(state.graph, state.params, PLACEMENT_RULES)
    sites: FrozenMap[str, Site] = FrozenMap({site.node: site for site in find_sites(placed.graph, rules)})
    if sites == state.sites and threshold == state.threshold and not placed.done:
        return state
    return state.evolve(
        *(Event("instrument", name, note) for name, note in placed.done),
        *(Event("instrument", site.name, "site", _described(site)) for site in sites.values()),
        graph=placed.graph,
        sites=sites,
        threshold=threshold,
        statistics=FrozenMap(),
    )


def find_sites(graph: Graph, rules: tuple[SiteRule, ...]) -> tuple[Site, ...]:
    """The sites of a graph, in order of execution."""
    sites: list[Site] = []
    varying = graph.descendants(node.name for node in graph.inputs)  # what parameters alone decide needs no neuron
    for node in graph:
        if node.op == "input" or node.name not in varying:
            continue
        match = next((m for m in (rule(node, graph) for rule in rules) if m is not None), None)
        if match is not None:
            axis = channel_axis(match.input, graph)
            sites.append(Site(node.name, match.input.name, axis, match.cap, node.path))
    return tuple(sites)


def _described(site: Site) -> str:
    axis = "one threshold for the layer" if site.axis is None else f"channel axis {site.axis}"
    return axis if site.cap is None else f"{axis}, capped at {site.cap:g}"
