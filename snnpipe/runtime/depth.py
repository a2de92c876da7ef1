"""How many neurons stand one behind the other in a network."""

from __future__ import annotations

from collections.abc import Container

from snnpipe.graph import Graph, refs


def depth(graph: Graph, sites: Container[str] = ()) -> int:
    """The largest number of neurons on a path through the graph, or of nodes where there are to be some."""
    levels: dict[str, int] = {}
    for node in graph:
        below = max((levels[name] for name in refs(node.operands)), default=0)
        levels[node.name] = below + (node.op == "encode" or node.name in sites)
    return max((levels[name] for name in refs(graph.output)), default=0)
