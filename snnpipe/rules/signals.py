"""What travels through a network whose sites have neurons, and which operators multiply, rearrange or keep signs.

Knows the operator table; where sites go is not decided here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

import torch
import torch.nn.functional as F

from snnpipe.frontend.overloads import Overload
from snnpipe.graph import Graph, Node, Ref, refs
from snnpipe.ops.table import OPS
from snnpipe.rules.axes import LAYER_AXIS, MAX_POOLS


class Signal(IntEnum):
    """What travels: the larger, the further from spikes."""

    STATIC = 0  #: nothing: the same at every step
    EVENTS = 1  #: the events of a neuron, or the input, perhaps rearranged
    SUM = 2  #: sums and averages of events
    CURRENT = 3  #: what a layer with weights makes of them
    FLOAT = 4  #: the output of an operator that is not linear


def signals(graph: Graph, is_neuron: Callable[[Node], bool]) -> dict[str, Signal]:
    """What each node sends, by name, if neurons stand for the nodes of which ``is_neuron`` and before every layer."""
    found: dict[str, Signal] = {}
    for node in graph:
        found[node.name] = _signal(node, found, is_neuron)
    return found


def _signal(node: Node, found: Mapping[str, Signal], is_neuron: Callable[[Node], bool]) -> Signal:
    if node.op in ("input", "encode"):
        return Signal.EVENTS
    row = OPS[node.op]
    read = {
        name: max((found[ref] for ref in refs(value)), default=Signal.STATIC)
        for name, value in node.operands.items()
        if name not in row.shape_only
    }
    worst = max(read.values(), default=Signal.STATIC)
    if worst is Signal.STATIC:
        return worst
    if is_neuron(node):
        return Signal.EVENTS
    if rearranges(node, found) or node.op in _JOINS:
        return worst
    temporal = {name for name, signal in read.items() if signal}
    if not any(temporal <= group for group in row.groups):
        return Signal.FLOAT
    return Signal.CURRENT if factors(node) else max(worst, Signal.SUM)


#: Operands that are multiplied with one another: by name, and of functions without a row by position.
_FACTORS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LAYER_AXIS, ("input", "weight")),
    "matmul": ("a", "b"),
    "einsum": ("a", "b", "c"),
    "scaled_dot_product_attention": ("query", "key", "value"),
}
_POSITIONS = {
    "matmul": (0, 1), "mm": (0, 1), "bmm": (0, 1), "baddbmm": (1, 2), "addmm": (1, 2), "einsum": (1, 2, 3),
    "scaled_dot_product_attention": (0, 1, 2),
}  # fmt: skip


def factors(node: Node) -> tuple[Any, ...]:
    """The operands that a layer or product multiplies with one another; none of any other op."""
    if node.op == "call":
        args = node["args"]
        return tuple(args[at] for at in _POSITIONS.get(torch_name(node), ()) if at < len(args))
    return tuple(node.get(name) for name in _FACTORS.get(node.op, ()))


def multiplies_streams(node: Node, found: Mapping[str, Signal]) -> bool:
    """Whether more than one factor of a product changes with time."""
    return sum(isinstance(factor, Ref) and found[factor.name] > Signal.STATIC for factor in factors(node)) > 1


def torch_name(node: Node) -> str:
    """The op; of a call of torch's own function, the function's name."""
    target = node.get("target")
    name = getattr(target, "__name__", "")
    if isinstance(target, Overload) and target.qualified.startswith("aten::"):
        return str(name)
    own = name and any(getattr(place, name, None) is target for place in (torch, F, torch.Tensor, operator))
    return str(name) if own or isinstance(target, Overload) else node.op


_REARRANGING = frozenset({
    "channel_shuffle", "chunk", "clone", "contiguous", "detach", "expand", "expand_as", "flatten", "flip", "getitem",
    "index_select", "movedim", "narrow", "permute", "repeat", "reshape", "roll", "select", "split", "squeeze",
    "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as",
})  # fmt: skip
_JOINS = frozenset({"cat", "identity", "stack", "to", "type_as"})

#: Ops whose value is several tensors.
SEQUENCES = frozenset({"chunk", "split", "unbind"})


def rearranges(node: Node, found: Mapping[str, Signal]) -> bool:
    """Whether an op only moves, repeats or drops the elements of one value, or scales them by what is static."""
    if node.op in ("mul", "div"):
        temporal = [name for name in ("a", "b") if any(found[ref] for ref in refs(node[name]))]
        return temporal == ["a"] or (temporal == ["b"] and node.op == "mul")
    aside = (
        node.get("index") if node.op in ("getitem", "index_select") else None
    )  # places that move pick, they move not
    return node.op in _REARRANGING and not any(found[ref] for ref in refs(aside))


_NONNEGATIVE = frozenset({"abs", "exp", "hardsigmoid", "qcfs", "relu", "sigmoid", "softmax", "softplus", "square"})
_KEEP_SIGN = _REARRANGING | _JOINS | MAX_POOLS | {f"{k}avg_pool{n}d" for k in ("", "adaptive_") for n in (1, 2, 3)}


def nonnegative(operand: Any, graph: Graph) -> bool:
    """Whether the graph alone says that a value is never negative."""
    queue, seen = [operand], set[str]()
    while queue:
        node = graph.producer(queue.pop())
        if node is None:
            return False
        low = node.get("min")
        clamped = node.op == "clamp" and isinstance(low, int | float) and low >= 0
        if node.name in seen or clamped or torch_name(node) in _NONNEGATIVE:
            continue
        seen.add(node.name)
        if node.op not in _KEEP_SIGN:
            return False
        value = next(node[name] for name in ("input", "a", "tensor", "tensors") if name in node.operands)
        queue += [Ref(name) for name in refs(value)] or [None]
    return True
