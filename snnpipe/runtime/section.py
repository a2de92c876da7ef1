"""One generated function of a network's program while it is built."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from snnpipe.emit import described, emit, reader
from snnpipe.graph import Node
from snnpipe.kernels import temporal
from snnpipe.kernels.following import followed

#: What the temporal ops with a state compute: ``(state, value, clock) -> (value, state)``.
STATEFUL = {"accumulate": temporal.accumulate, "difference": followed}


class Section:
    """An fx graph with arguments that are dictionaries.

    ``sources`` says in which argument, under which key, a value from outside arrives; it is fetched when first read.
    """

    def __init__(self, arguments: tuple[str, ...], sources: dict[str, tuple[str, str]]) -> None:
        self.target = fx.Graph()
        self.arguments = {name: self.target.placeholder(name) for name in arguments}
        self.env = _Env(lambda name: self._fetch(*sources[name]))
        self.value = reader(self.target, self.env)

    def cell(self, node: Node) -> fx.Node:
        """What the node remembers of the step before, ``None`` before the first."""
        return self.target.call_method("get", (self.arguments["cells"], node.name))

    def parts(self, pair: fx.Node) -> tuple[fx.Node, fx.Node]:
        """The value and the next state that an op with a state returns."""
        return self.call(operator.getitem, pair, 0), self.call(operator.getitem, pair, 1)

    def call(self, function: Callable[..., Any], *given: Any) -> fx.Node:
        """Add a call."""
        return self.target.call_function(function, given)

    def _fetch(self, argument: str, key: str) -> fx.Node:
        return self.call(operator.getitem, self.arguments[argument], key)


class Steps(Section):
    """What happens in one step."""

    def add(self, nodes: list[Node]) -> dict[str, Any]:
        """Emit the nodes; the new value of every cell, by node name."""
        cells: dict[str, Any] = {}
        for node in nodes:
            if node.op == "encode":
                pair = emit(self.target, node, self.value, self.cell(node), self.arguments["clock"])
                self.env[node.name], cells[node.name] = self.parts(pair)
            elif node.op in STATEFUL:
                given = (self.cell(node), self.value(node["input"]), self.arguments["clock"])
                self.env[node.name], cells[node.name] = self.parts(self._made(node, STATEFUL[node.op], given))
            elif node.op == "constant":
                like = (self.value(node["like"]),) if "like" in node.operands else ()
                given = (self.value(node["input"]), self.arguments["clock"], *like)
                self.env[node.name] = self._made(node, temporal.constant, given)
            else:
                self.env[node.name] = emit(self.target, node, self.value)
        return cells

    def _made(self, node: Node, function: Callable[..., Any], given: tuple[Any, ...]) -> fx.Node:
        return described(self.target.create_node("call_function", function, given, name=node.name), node)


class _Env(dict[str, Any]):
    """Values by node name; what is missing is fetched."""

    def __init__(self, fetch: Callable[[str], Any]) -> None:
        super().__init__()
        self.fetch = fetch

    def __missing__(self, name: str) -> Any:
        self[name] = self.fetch(name)
        return self[name]
