"""Several steps at once, layer by layer: every operator sees the whole window before the next one starts.

The result is that of the steps one after the other, for every size of the window; what is carried from one window to
the next are the same cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, fx

from snnpipe.codes import Clock, Code
from snnpipe.emit import emit, neuron_path
from snnpipe.frozen import FrozenMap, map_leaves, thaw
from snnpipe.graph import Graph, Node, Param, Ref, refs
from snnpipe.kernels import temporal
from snnpipe.kernels.following import followed
from snnpipe.ops import functions
from snnpipe.ops.lift import TEMPORAL
from snnpipe.ops.modules import SpikingNeuron
from snnpipe.ops.sequence import Hole, OverTime, at, stacked
from snnpipe.ops.table import OPS
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

    def add(self, nodes: list[Node]) -> dict[str, Any]:
        """Emit the nodes; the new value of every cell, by node name."""
        cells: dict[str, Any] = {}
        for node in nodes:
            if node.op == "encode":
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

    def marked(self, output: Any) -> Any:
        """The output with what is the same at every step in a ``Same``."""

        def mark(leaf: Any) -> Any:
            timed = isinstance(leaf, Ref) and leaf.name in self.timed
            return self.value(leaf) if timed else self.call(Same, self.value(leaf))

        return thaw(map_leaves(mark, output))

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
        value = self.value(leaf)
        return self.call(at, value, 0) if self._is_timed(leaf) else value


@attrs.frozen
class Same:
    """A value that is the same at every step."""

    value: Any


def of_step(outputs: Any, t: int) -> Any:
    """What a window gave at its step ``t``, counted from 0."""
    return temporal.zip_leaves(lambda leaf: leaf.value if isinstance(leaf, Same) else leaf[t], outputs)


def accumulated(total: Any, events: Any, clocks: Sequence[Clock], timed: bool) -> tuple[Any, Any]:
    """``temporal.accumulate`` at each step."""
    return _scanned(temporal.accumulate, total, events, clocks, timed)


def differences(sent: Any, decoded: Any, clocks: Sequence[Clock], timed: bool) -> tuple[Any, Any]:
    """``followed`` at each step."""
    return _scanned(followed, sent, decoded, clocks, timed)


def _scanned(
    function: Callable[..., Any], state: Any, value: Any, clocks: Sequence[Clock], timed: bool
) -> tuple[Any, Any]:
    """What ``(state, value, clock) -> (value, state)`` gives at each step, and its state after the last."""
    steps = []
    for now, clock in zip(each_step(value, len(clocks), timed), clocks, strict=True):
        made, state = function(state, now, clock)
        steps.append(made)
    return stacked(steps), state


def constants(value: Any, clocks: Sequence[Clock], like: Any) -> Any:
    """``temporal.constant`` at each step; of a number, numbers of the dtype that it has beside ``like``."""
    if isinstance(value, int | float | complex):
        numbers = [temporal.constant(value, clock) for clock in clocks]
        return torch.tensor(numbers, dtype=torch.result_type(like, value), device=like.device)
    return stacked([temporal.constant(value, clock, at(like, 0)) for clock in clocks])


def fired(neuron: Any, state: Any, z: Tensor, clocks: Sequence[Clock], timed: bool) -> tuple[Tensor, Any]:
    """The events of a neuron at each step, and its state after the last.

    What stands for a ``SpikingNeuron`` may have a way of its own: ``window(state, z, clocks, timed)``.
    """
    if not isinstance(neuron, SpikingNeuron):
        found: tuple[Tensor, Any] = neuron.window(state, z, clocks, timed)
        return found
    events = []
    for now, clock in zip(each_step(z, len(clocks), timed), clocks, strict=True):
        sent, state = neuron(now, state, clock)
        events.append(sent)
    return torch.stack(events), state


def each_step(value: Any, count: int, timed: bool) -> Sequence[Any]:
    """The value at each step; of a tensor without one gradient as large as the window for each step of it."""
    if not timed:
        return [value] * count
    return value.unbind() if isinstance(value, Tensor) else [at(value, t) for t in range(count)]
