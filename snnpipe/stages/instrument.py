"""Saying where neurons will stand, and so where to measure."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from snnpipe.errors import SiteWarning, warn
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph
from snnpipe.kernels.threshold import THRESHOLD, Threshold, as_threshold, percentile
from snnpipe.ops.lift import has_neurons
from snnpipe.options import functions
from snnpipe.rewrite import rewrite
from snnpipe.rules.placement import placement_rules
from snnpipe.rules.sites import SITE_RULES, SiteRule
from snnpipe.stage import stage
from snnpipe.stages.finding import find_sites
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.siteless import advice, nonlinear
from snnpipe.state import ConversionState, Event, Levels, Site

NO_NEURONS = (
    lambda state: not has_neurons(state.graph),
    "neurons are in place already; put this stage before replace",
)

#: What is measured unless somebody says otherwise: the 99.9th percentile of each channel.
DEFAULT_THRESHOLD = percentile(99.9)


@stage(NOT_LIFTED, NO_NEURONS, rules=functions("node", "graph"), statistic=THRESHOLD)
def instrument(
    state: ConversionState,
    *,
    rules: tuple[SiteRule, ...] = SITE_RULES,
    statistic: Threshold | str | float = DEFAULT_THRESHOLD,
) -> ConversionState:
    """Mark the sites: one per call of an activation, never per module; the input is unchanged.

    Max-pools are first moved ahead of the activation they follow, ReLUs in front of quantisers dropped, leaky and
    parametric ReLUs written as two ReLUs (a site each), and identities put where a neuron is to stand between a value
    and some of its readers; all of it is exact.  Statistics measured before are dropped unless nothing changes.

    Args:
        rules: which nodes are sites: ``SITE_RULES`` (ReLUs, quantised activations), ``TRANSFORMER_RULES`` (what linear
            layers and products read, too), or one's own.  Values that are whole numbers are no site whatever a rule
            says; ``()`` asks for none.
        statistic: what to measure at each, as the threshold rule that will need it: ``percentile(99.9)``,
            ``maximum()``, ``mmse(T=8)``, or what other tools write for them (``"99.9%"``, ``"max"``, 0.8).

    Warns:
        SiteWarning: the rules found no site at all, in a network that is not linear.

    >>> from torch import nn
    >>> import snnpipe
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    >>> for site in snnpipe.pipe(model, snnpipe.trace, snnpipe.instrument).sites.values():
    ...     print(site)
    Site(node='_2', input='_2_input', axis=-3, cap=None, name='1', signed=False)
    """
    made = marked(state, rules, as_threshold(statistic))
    if rules and not made.sites:
        warn_siteless(made.graph, made.params)
    return made


def marked(state: ConversionState, rules: tuple[SiteRule, ...], threshold: Threshold) -> ConversionState:
    """The state with the sites that the rules find."""
    placed = rewrite(state.graph, state.params, placement_rules(rules))
    graph, found = find_sites(placed.graph, rules, placed.params)
    sites: FrozenMap[str, Site] = FrozenMap({site.node: site for site in found})
    if sites == state.sites and threshold == state.threshold and not placed.done:
        return state
    return state.evolve(
        *(Event("instrument", name, note) for name, note in placed.done),
        *(Event("instrument", site.name, "site", _described(site)) for site in sites.values()),
        graph=graph,
        params=placed.params,
        sites=sites,
        threshold=threshold,
        statistics=FrozenMap(),
    )


def instrumented(state: ConversionState) -> ConversionState:
    """The state, with the default sites if nobody said where and what to measure; asked for none, it has none."""
    return state if state.threshold is not None else instrument(state)


def warn_siteless(graph: Graph, params: Mapping[str, Tensor]) -> None:
    """Say that nothing is going to spike, and what to write; a linear network has nothing that a neuron could say."""
    found = nonlinear(graph, params) if graph.inputs else ""
    if found:
        advised = advice(graph, params)
        warn(f"no site for a neuron, so nothing will spike (not linear: {found}); {advised}", SiteWarning)


def _described(site: Site) -> str:
    axis = "one threshold for the layer" if site.axis is None else f"channel axis {site.axis}"
    both = ", both signs" if site.signed else ""
    if site.cap is None:
        return f"{axis}{both}"
    return f"{axis}, {site.cap}" if isinstance(site.cap, Levels) else f"{axis}, capped at {site.cap:g}"
