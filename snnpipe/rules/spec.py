"""What makes a graph valid, as rules; they run after every stage.

A rule is ``rule(graph, params) -> problems``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from snnpipe.errors import Problem
from snnpipe.graph import Graph, param_keys, refs
from snnpipe.ops.table import OPS, STRUCTURAL

SpecRule = Callable[[Graph, Mapping[str, Tensor]], Iterator[Problem]]


def names_are_unique(graph: Graph, params: Mapping[str, Tensor]) -> Iterator[Problem]:
    """No two nodes share a name."""
    if len(graph.by_name) < len(graph.nodes):
        seen: set[str] = set()
        for node in graph:
            if node.name in seen:
                yield Problem(node.name, node.path, node.where, "another node has this name")
            seen.add(node.name)


def references_go_back(graph: Graph, params: Mapping[str, Tensor]) -> Iterator[Problem]:
    """A node reads only nodes before it."""
    seen: set[str] = set()
    for node in graph:
        for name in refs(node.operands):
            if name not in seen:
                yield Problem(node.name, node.path, node.where, f"reads {name!r}, which does not come before it")
        seen.add(node.name)
    for name in refs(graph.output):
        if name not in seen:
            yield Problem("output", "", "", f"reads {name!r}, which does not exist")


def ops_are_known(graph: Graph, params: Mapping[str, Tensor]) -> Iterator[Problem]:
    """Every op is a row of the table."""
    for node in graph:
        if node.op not in OPS and node.op not in STRUCTURAL:
            yield Problem(node.name, node.path, node.where, f"op {node.op!r} is not in the operator table")


def parameters_exist(graph: Graph, params: Mapping[str, Tensor]) -> Iterator[Problem]:
    """Every parameter key has a tensor."""
    for node in graph:
        for key in param_keys(node.operands):
            if key not in params:
                yield Problem(node.name, node.path, node.where, f"reads parameter {key!r}, which does not exist")


SPEC: tuple[SpecRule, ...] = (names_are_unique, references_go_back, ops_are_known, parameters_exist)
