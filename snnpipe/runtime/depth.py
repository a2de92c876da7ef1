"""How many neurons stand one behind the other in a network."""

from __future__ import annotations

from snnpipe.graph import Graph, refs


def depth(graph: Graph) -> int:
    """The largest number of neurons on a path through the graph."""
    levels: dict[str, int] = {}
    for node in graph:
        below = max((levels[name] for name in refs(node.operands)), default=0)
        levels[node.name] = below + (node.op == "encode")
    return max((levels[name] for name in refs(graph.output)), default=0)
