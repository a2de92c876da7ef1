"""Several steps at once, layer by layer: every operator sees the whole window before the next one starts.

The result is that of the steps one after the other, for every size of the window; what is carried from one window to
the next are the same cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from torch import fx

from snnpipe.codes import Code
from snnpipe.emit import argument, emit, neuron_path
from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, refs
from snnpipe.kernels import temporal
from snnpipe.ops import functions
from snnpipe.ops.lift import TEMPORAL
from snnpipe.ops.sequence import Hole, OverTime, at
from snnpipe.ops.table import OPS
from snnpipe.runtime.scans import accumulated, added_up, constants, differences, fired
from snnpipe.runtime.section import Section

#: Ops whose result is always new memory; what commonly stands before a ReLU.
_FRESH = frozenset({
    "add", "batch_norm", "conv1d", "conv2d", "conv3d", "group_norm", "layer_norm", "linear", "max_pool2d", "mul", "sub",
})  # fmt: skip


class Window(Section):
    """The steps of one window.  A value is *timed* if it has a leading time axis, else it is the same at every step.

    Args:
        lifted: the graph the nodes come from.
        sources: as for ``Section``.
        timed: the inputs that are sequences, by node name.
        code: the neural code.
    """

    def __init__(self, lifted: Graph, sources: dict[str, tuple[str, str]], timed: set[str], code: Code) -> None:
        super().__init__(("clocks", "cells", "statics", "inputs"), sources)
        self.lifted, self.timed, self.steady = lifted, timed, code.steady

    def add(self, nodes: list[Node], ends: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Emit the nodes; the new value of every cell, by node name.

        Of the accumulators ``ends`` only what they decode after the last step is made.
        """
        cells: dict[str, Any] = {}
        for node in nodes:
            if node.op == "accumulate" and node.name in ends:
                self.env[node.name], cells[node.name] = self.parts(self._scan(added_up, node))
                self.timed.discard(node.name)
            elif node.op == "encode":
                neuron = self.target.get_attr(neuron_path(node))
                self.env[node.name], cells[node.name] = self.parts(self._scan(fired, node, neuron))
            elif node.op == "constant":
                self.env[node.name] = self._constant(node)
            elif node.op in TEMPORAL:
                scan = accumulated if node.op == "accumulate" else differences
                self.env[node.name], cells[node.name] = self.parts(self._scan(scan, node))
            else:
                self.env[node.name] = self._operator(node)
        return cells

    def last(self, name: str) -> Any:
        """The value of a node after the last step."""
        return self._at(Ref(name), -1)

    def marked(self, output: Any) -> Any:
        """The output with what is the same at every step in a ``Same``."""

        def mark(leaf: Any) -> Any:
            timed = isinstance(leaf, Ref) and leaf.name in self.timed
            return self.value(leaf) if timed else self.call(Same, self.value(leaf))

        return argument(self.target, map_leaves(mark, output))

    def _is_timed(self, operand: Any) -> bool:
        return any(name in self.timed for name in refs(operand))

    def _scan(self, function: Callable[..., Any], node: Node, *extra: Any) -> fx.Node:
        timed = self._is_timed(node["input"])
        self.timed.add(node.name)
        return self.call(function, *extra, self.cell(node), self.value(node["input"]), self.arguments["clocks"], timed)

    def _constant(self, node: Node) -> Any:
        if self.steady:
            return self.value(node["input"])
        self.timed.add(node.name)
        like = node.get("like")
        return self.call(constants, self.value(node["input"]), self.arguments["clocks"], self.value(like))

    def _operator(self, node: Node) -> fx.Node:
        shape_only = OPS[node.op].shape_only
        if not any(self._is_timed(value) for name, value in node.operands.items() if name not in shape_only):
            return emit(self.target, node, self._first)
        self.timed.add(node.name)
        if node.op == "relu" and self._is_spent(node["input"]):
            return self.call(functions.relu_reusing, self.value(node["input"]))
        values: list[Any] = []
        timed: list[bool] = []

        def hole(leaf: Any) -> Any:
            if not isinstance(leaf, Ref | Param):
                return leaf
            values.append(self.value(leaf))
            timed.append(self._is_timed(leaf))
            return Hole(len(values) - 1)

        def first(leaf: Any) -> Any:
            values.append(self._first(leaf))
            timed.append(False)
            return Hole(len(values) - 1)

        operands = {name: map_leaves(first if name in shape_only else hole, tree)
                    for name, tree in node.operands.items()}  # fmt: skip
        return self.call(OverTime(OPS[node.op], FrozenMap(operands), tuple(timed)), *values)

    def _is_spent(self, operand: Any) -> bool:
        """Whether a value lies in memory of its own that nobody reads afterwards."""
        producer = self.lifted.producer(operand)
        return producer is not None and producer.op in _FRESH and len(self.lifted.users[producer.name]) == 1

    def _first(self, leaf: Any) -> Any:
        """The value of a leaf; of a timed one, which is read for its shape, the first step."""
        return self._at(leaf, 0)

    def _at(self, leaf: Any, t: int) -> Any:
        value = self.value(leaf)
        return self.call(at, value, t) if self._is_timed(leaf) else value


@attrs.frozen
class Same:
    """A value that is the same at every step."""

    value: Any


def of_step(outputs: Any, t: int) -> Any:
    """What a window gave at its step ``t``, counted from 0."""
    return temporal.zip_leaves(lambda leaf: leaf.value if isinstance(leaf, Same) else at(leaf, t), outputs)
