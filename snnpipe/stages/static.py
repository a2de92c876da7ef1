"""Saying which inputs do not change in time."""

from __future__ import annotations

from typing import Any

from snnpipe.errors import TraceError
from snnpipe.graph import Graph


def with_static(graph: Graph, names: Any) -> Graph:
    """The graph whose inputs of these names are static: the same at every step of a run.

    Raises:
        TraceError: no input is called so, or none is left that could be events.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TraceError(f'trace: static= is a tuple of names of inputs, got {names!r}; write static=("mask",)')
    known = [node["name"] for node in graph.inputs]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TraceError(f"trace: static: the network has no input {', '.join(map(repr, unknown))}; it has {known}")
    if not names:
        return graph
    if set(known) <= set(names):
        raise TraceError(f"trace: static: {', '.join(known)} are all the inputs, so that nothing would move in time")
    nodes = (node.evolve(static=True) if node.op == "input" and node["name"] in names else node for node in graph)
    return Graph(tuple(nodes), graph.output)
