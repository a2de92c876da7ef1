"""Splitting a lifted graph into what runs once, what runs at every step and what runs when somebody reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import attrs
from torch import fx

from snnpipe.codes import Code
from snnpipe.generated import compiled
from snnpipe.graph import Graph, refs
from snnpipe.ops.lift import TEMPORAL, check_numbers_stand, is_source, lift
from snnpipe.runtime.section import STATEFUL, Steps
from snnpipe.runtime.window import Window

_STATEFUL = frozenset({"encode", *STATEFUL})


@attrs.frozen(eq=False)
class Program:
    """Five pure functions; the first argument of each is the module that holds the tensors.

    Attributes:
        once: ``(root, inputs) -> statics``; inputs by argument name, statics by node name.
        step: ``(root, clock, cells, statics, inputs) -> (cells, frontier)``, cells and frontier by node name.
        read: ``(root, statics, frontier, inputs) -> decoded output``.
        window: ``(root, clocks, cells, statics, inputs) -> (cells, decoded outputs)``: several steps at once, layer by
            layer; the sequences among the inputs hold as many steps as there are clocks.
        steps: ``(root, clocks, cells, statics, inputs) -> (cells, frontier)``: the same up to the frontier, of which
            it gives what it is after the last of them.
        totals: the names of the accumulators at the frontier: what is decoded so far lies in their cells.
        step_graph: the fx graph of ``step``.
        lifted: the graph that all five were made of.
    """

    once: Callable[..., Any]
    step: Callable[..., Any]
    read: Callable[..., Any]
    window: Callable[..., Any]
    steps: Callable[..., Any]
    totals: frozenset[str]
    step_graph: fx.Graph
    lifted: Graph


@lru_cache(maxsize=64)
def lifted_program(graph: Graph, code: Code, sequences: frozenset[str]) -> Program:
    """Carry ``graph`` to a code, its inputs ``sequences`` being event sequences, and split it."""
    check_numbers_stand(graph, temporal_inputs=sequences)
    return program(lift(graph, temporal_inputs=sequences), code, sequences)


def program(lifted: Graph, code: Code, sequences: frozenset[str]) -> Program:
    """Split ``lifted`` so that nothing runs more often than it must."""
    varying: set[str] = set()
    for node in lifted:
        moves = node.op in TEMPORAL or node.op == "encode" or is_source(node, sequences)
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

    first = Steps(("inputs",), inputs)
    first.add(once)
    first.target.output({name: first.env[name] for name in statics})
    second = Steps(("clock", "cells", "statics", "inputs"), inputs | statics)
    cells = second.add(step)
    second.target.output((cells, {name: second.env[name] for name in frontier}))
    third = Steps(("statics", "frontier", "inputs"), inputs | statics | frontier)
    third.add(read)
    third.target.output(third.value(lifted.output))
    moving = {node.name for node in lifted.inputs if is_source(node, sequences)}
    fourth = Window(lifted, inputs | statics, set(moving), code)
    cells = fourth.add([node for node in lifted if node.name in varying and node.op != "input"])
    fourth.target.output((cells, fourth.marked(lifted.output)))
    fifth = Window(lifted, inputs | statics, set(moving), code)
    cells = fifth.add(step, ends=frozenset(read_names) - step_names)
    fifth.target.output((cells, {name: fifth.last(name) for name in frontier}))
    once_fn, step_fn, read_fn, window_fn, steps_fn = (
        compiled(section.target) for section in (first, second, third, fourth, fifth)
    )
    totals = frozenset(node.name for node in step if node.op == "accumulate" and node.name in frontier)
    return Program(once_fn, step_fn, read_fn, window_fn, steps_fn, totals, second.target, lifted)
