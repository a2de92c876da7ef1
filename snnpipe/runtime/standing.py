"""The ANN of a converted network with something else where its neurons stand: one network for each way to fill in."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import Tensor

from snnpipe.emit import emit
from snnpipe.frozen import map_leaves, thaw
from snnpipe.generated import compiled
from snnpipe.graph import Graph, Node, refs
from snnpipe.runtime.section import Section

#: ``(name of the encode node, current) -> activation``.
Stand = Callable[[str, Tensor], Tensor]


@lru_cache(maxsize=64)
def standing(graph: Graph, watched: frozenset[str] = frozenset()) -> Callable[..., Any]:
    """``(root, inputs, stand) -> (outputs, values)``: the graph with ``stand(name, z)`` at its neurons.

    The values are those of the nodes ``watched``, by name.
    """
    section = Section(("inputs", "stand"), {node.name: ("inputs", node["name"]) for node in graph.inputs})
    for node in graph:
        _add(section, node)
    values = {name: section.env[name] for name in sorted(watched)}
    section.target.output((thaw(map_leaves(section.value, graph.output)), values))
    return compiled(section.target)


@lru_cache(maxsize=256)
def behind(graph: Graph, name: str) -> tuple[Callable[..., Any], frozenset[str]]:
    """``(root, inputs, values, value, stand) -> outputs`` where node ``name`` has another value, and what it reads.

    Only what depends on that node is computed; ``values`` are those of the nodes it reads beside, by name.
    """
    moved = graph.descendants([name])
    nodes = [node for node in graph if node.name in moved and node.name != name]
    read = {ref for node in nodes for ref in refs(node.operands)} | set(refs(graph.output))
    inputs = {node.name: ("inputs", node["name"]) for node in graph.inputs}
    beside = read - moved - inputs.keys()
    section = Section(("inputs", "values", "value", "stand"), inputs | {one: ("values", one) for one in beside})
    section.env[name] = section.arguments["value"]
    for node in nodes:
        _add(section, node)
    section.target.output(thaw(map_leaves(section.value, graph.output)))
    return compiled(section.target), frozenset(beside)


def _add(section: Section, node: Node) -> None:
    if node.op == "encode":
        given = section.arguments["stand"], node.name, section.value(node["input"])
        section.env[node.name] = section.call(_stood, *given)
    elif node.op != "input":
        section.env[node.name] = emit(section.target, node, section.value)


def _stood(stand: Stand, name: str, z: Tensor) -> Tensor:
    return stand(name, z)
