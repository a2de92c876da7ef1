"""Splitting a lifted graph into what runs once, what runs at every step and what runs when somebody reads."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import attrs
from torch import fx

from snnpipe.emit import compiled, described, emit, reader
from snnpipe.frozen import map_leaves, thaw
from snnpipe.graph import Graph, Node, refs
from snnpipe.kernels import temporal
from snnpipe.ops.lift import TEMPORAL

_STATEFUL = frozenset({"encode", "accumulate", "difference"})


@attrs.frozen(eq=False)
class Program:
    """Three pure functions; the first argument of each is the module that holds the tensors.

    Attributes:
        once: ``(root, inputs) -> statics``; inputs by argument name, statics by node name.
        step: ``(root, clock, cells, statics, inputs) -> (cells, frontier)``, cells and frontier by node name.
        read: ``(root, statics, frontier, inputs) -> decoded output``.
        step_graph: the fx graph of ``step``.
    """

    once: Callable[..., Any]
    step: Callable[..., Any]
    read: Callable[..., Any]
    step_graph: fx.Graph


def program(lifted: Graph, *, temporal_inputs: bool) -> Program:
    """Split ``lifted`` so that nothing runs more often than it must."""
    varying: set[str] = set()
    for node in lifted:
        moves = node.op in TEMPORAL or node.op == "encode" or (node.op == "input" and temporal_inputs)
        if moves or any(name in varying for name in refs(node.operands)):
            varying.add(node.name)
    stateful = [node.name for node in lifted if node.op in _STATEFUL]
    stepped = lifted.ancestors(stateful) & varying
    once = [node for node in lifted if node.name not in varying and node.op != "input"]
    step = [node for node in lifted if node.name in stepped and node.op != "input"]
    read = [node for node in lifted if node.name in varying - stepped and node.op != "input"]
    read_names = set(refs([node.operands for node in read])) | set(refs(lifted.output))
    step_names = set(refs([node.operands for node in step]))

    inputs = {node.name: ("inputs", node["name"]) for node in lifted.inputs}
    statics = {node.name: ("statics", node.name) for node in once if node.name in step_names | read_names}
    frontier = {node.name: ("frontier", node.name) for node in step if node.name in read_names}

    first = _Section(("inputs",), inputs)
    first.add(once)
    first.target.output({name: first.env[name] for name in statics})
    second = _Section(("clock", "cells", "statics", "inputs"), inputs | statics)
    cells = second.add(step)
    second.target.output((cells, {name: second.env[name] for name in frontier}))
    third = _Section(("statics", "frontier", "inputs"), inputs | statics | frontier)
    third.add(read)
    third.target.output(thaw(map_leaves(third.value, lifted.output)))
    return Program(compiled(first.target), compiled(second.target), compiled(third.target), second.target)


class _Section:
    """One of the three fx graphs while it is built.

    ``sources`` says in which argument, under which key, a value from outside arrives; it is fetched when first read.
    """

    def __init__(self, arguments: tuple[str, ...], sources: dict[str, tuple[str, str]]) -> None:
        self.target = fx.Graph()
        self.arguments = {name: self.target.placeholder(name) for name in arguments}
        self.env = _Env(lambda name: self._fetch(*sources[name]))
        self.value = reader(self.target, self.env)

    def add(self, nodes: list[Node]) -> dict[str, Any]:
        """Emit the nodes; the new value of every cell, by node name."""
        cells: dict[str, Any] = {}
        for node in nodes:
            if node.op == "encode":
                pair = emit(self.target, node, self.value, self._cell(node), self.arguments["clock"])
                self.env[node.name] = self.target.call_function(operator.getitem, (pair, 0))
                cells[node.name] = self.target.call_function(operator.getitem, (pair, 1))
            elif node.op in TEMPORAL:
                self.env[node.name] = self._temporal(node)
                if node.op != "constant":  # accumulate remembers what it made, difference what it was given
                    cells[node.name] = self.env[node.name] if node.op == "accumulate" else self.value(node["input"])
            else:
                self.env[node.name] = emit(self.target, node, self.value)
        return cells

    def _temporal(self, node: Node) -> fx.Node:
        given: tuple[Any, ...] = (self.value(node["input"]), self.arguments["clock"])
        if node.op != "constant":
            given = (self._cell(node), *given)
        elif "like" in node.operands:
            given = (*given, self.value(node["like"]))
        made = self.target.create_node("call_function", getattr(temporal, node.op), given, name=node.name)
        return described(made, node)

    def _cell(self, node: Node) -> fx.Node:
        return self.target.call_method("get", (self.arguments["cells"], node.name))

    def _fetch(self, argument: str, key: str) -> fx.Node:
        return self.target.call_function(operator.getitem, (self.arguments[argument], key))


class _Env(dict[str, Any]):
    """Values by node name; what is missing is fetched."""

    def __init__(self, fetch: Callable[[str], Any]) -> None:
        super().__init__()
        self.fetch = fetch

    def __missing__(self, name: str) -> Any:
        self[name] = self.fetch(name)
        return self[name]
