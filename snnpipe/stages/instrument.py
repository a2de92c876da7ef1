"""Saying where neurons will stand, and so where to measure."""

from __future__ import annotations

from types import EllipsisType

import attrs

from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Graph, Node, Ref, redirecting, unique_name
from snnpipe.kernels.threshold import THRESHOLD, Threshold, as_threshold, percentile
from snnpipe.ops.lift import has_neurons
from snnpipe.options import functions
from snnpipe.rewrite import rewrite
from snnpipe.rules.axes import channel_axis
from snnpipe.rules.placement import PLACEMENT_RULES
from snnpipe.rules.sites import SITE_RULES, Match, SiteRule
from snnpipe.stage import stage
from snnpipe.stages.fuse import NOT_LIFTED
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

    Max-pools are first moved ahead of the activation they follow, ReLUs in front of quantisers dropped, and identities
    put where a neuron is to stand between a value and some of its readers; all of it is exact.  Statistics measured
    before are dropped unless nothing changes.

    Args:
        rules: which nodes are sites: ``SITE_RULES`` (ReLUs, quantised activations), ``TRANSFORMER_RULES`` (what linear
            layers and products read, too), or one's own.
        statistic: what to measure at each, as the threshold rule that will need it: ``percentile(99.9)``,
            ``maximum()``, ``mmse(T=8)``, or what other tools write for them (``"99.9%"``, ``"max"``, 0.8).

    >>> from torch import nn
    >>> import snnpipe
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    >>> for site in snnpipe.pipe(model, snnpipe.trace, snnpipe.instrument).sites.values():
    ...     print(site)
    Site(node='_2', input='_2_input', axis=-3, cap=None, name='1', signed=False)
    """
    threshold = as_threshold(statistic)
    placed = rewrite(state.graph, state.params, PLACEMENT_RULES)
    graph, found = find_sites(placed.graph, rules)
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


def find_sites(graph: Graph, rules: tuple[SiteRule, ...]) -> tuple[Graph, tuple[Site, ...]]:
    """The sites of a graph, in order of execution, and the graph with an identity for each that stands behind a node.

    The graph is ``graph`` itself where there is none.
    """
    varying = graph.descendants(node.name for node in graph.inputs)  # what parameters alone decide needs no neuron
    nodes: list[Node] = []
    sites: list[Site] = []
    moved: dict[str, dict[str, str]] = {}  # by reader: what it reads no more, and what instead
    for node in graph:
        if node.name in moved:
            node = attrs.evolve(node, operands=map_leaves(redirecting(moved[node.name]), node.operands))
        nodes.append(node)
        match = _matched(graph[node.name], graph, rules) if node.op != "input" and node.name in varying else None
        if match is None:
            continue
        stands = node.name
        if match.readers:
            stands = unique_name(f"{node.name}_events", graph.by_name)
            nodes.append(Node(stands, "identity", FrozenMap(input=Ref(node.name)), node.path, node.where))
            for reader in match.readers:
                moved.setdefault(reader, {})[node.name] = stands
        sites.append(_site(stands, node.path, match, graph))
    return (Graph(tuple(nodes), graph.output) if moved else graph), tuple(sites)


def _matched(node: Node, graph: Graph, rules: tuple[SiteRule, ...]) -> Match | None:
    return next((match for rule in rules if (match := rule(node, graph)) is not None), None)


def _site(node: str, name: str, match: Match, graph: Graph) -> Site:
    axis = channel_axis(match.input, graph) if isinstance(match.axis, EllipsisType) else match.axis
    return Site(node, match.input.name, axis, match.cap, name, match.signed)


def _described(site: Site) -> str:
    axis = "one threshold for the layer" if site.axis is None else f"channel axis {site.axis}"
    both = ", both signs" if site.signed else ""
    if site.cap is None:
        return f"{axis}{both}"
    return f"{axis}, {site.cap}" if isinstance(site.cap, Levels) else f"{axis}, capped at {site.cap:g}"
