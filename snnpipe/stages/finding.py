"""The sites that rules find in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType

import attrs
from torch import Tensor

from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Graph, Node, Ref, redirecting, unique_name
from snnpipe.rules.axes import channel_axis
from snnpipe.rules.sites import Match, SiteRule
from snnpipe.rules.wholes import wholes
from snnpipe.state import Site


def find_sites(
    graph: Graph, rules: tuple[SiteRule, ...], params: Mapping[str, Tensor]
) -> tuple[Graph, tuple[Site, ...]]:
    """The sites of a graph, in order of execution, and the graph with an identity for each that stands behind a node.

    The graph is ``graph`` itself where there is none.  What parameters alone decide needs no neuron, and whole numbers
    are no activations.
    """
    able = graph.descendants(node.name for node in graph.inputs) - wholes(graph, params)
    nodes: list[Node] = []
    sites: list[Site] = []
    moved: dict[str, dict[str, str]] = {}  # by reader: what it reads no more, and what instead
    for node in graph:
        if node.name in moved:
            node = attrs.evolve(node, operands=map_leaves(redirecting(moved[node.name]), node.operands))
        nodes.append(node)
        match = _matched(graph[node.name], graph, rules) if node.op != "input" and node.name in able else None
        if match is None:
            continue
        stands = node.name
        if match.readers:
            stands = unique_name(f"{node.name}_events", graph.by_name)
            nodes.append(Node(stands, "identity", FrozenMap(input=Ref(node.name)), node.path, node.where))
            for reader in match.readers:
                moved.setdefault(reader, {})[node.name] = stands
        sites.append(_site(stands, node, match, graph))
    return (Graph(tuple(nodes), graph.output) if moved else graph), tuple(sites)


def _matched(node: Node, graph: Graph, rules: tuple[SiteRule, ...]) -> Match | None:
    return next((match for rule in rules if (match := rule(node, graph)) is not None), None)


def _site(stands: str, node: Node, match: Match, graph: Graph) -> Site:
    axis = channel_axis(match.input, graph) if isinstance(match.axis, EllipsisType) else match.axis
    return Site(stands, match.input.name, axis, match.cap, node.path, match.signed, _op(node, graph))


def _op(node: Node, graph: Graph) -> str:
    """The operator that makes a value: an identity only hands it on."""
    before = graph.producer(node["input"]) if node.op == "identity" else None
    return node.op if before is None else _op(before, graph)
