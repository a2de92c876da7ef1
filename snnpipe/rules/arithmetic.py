"""What arithmetic, clips and one floor make of a value, in one form; and the values of nodes that parameters decide.

Knows the graph and its parameters; what a form is good for is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.frozen import FrozenMap, map_leaves, thaw
from snnpipe.graph import Graph, Node, Param, Ref, refs
from snnpipe.ops.table import OPS
from snnpipe.rules.signals import torch_name

_SAME = frozenset({"clone", "contiguous", "detach", "identity"})
_FLOORS = {"floor": 0.0, "round": 0.5}  # round is floor(v + 1/2), but for ties
_ARITHMETIC = _SAME | _FLOORS.keys() | {"add", "clamp", "div", "mul", "relu", "sub"}
_ONE = torch.ones((), dtype=torch.float64)


@attrs.frozen(eq=False)
class Form:
    """``clip(scale w + shift, low, high)``, scale > 0; w is the value of a node, or the floor of another form.

    Its numbers are tensors in float64, on the CPU, that broadcast against the value.
    """

    of: Ref | Form
    scale: Tensor = _ONE
    shift: Tensor = 0 * _ONE
    low: Tensor = -math.inf * _ONE
    high: Tensor = math.inf * _ONE

    def scaled(self, m: Tensor) -> Form | None:
        """m times it, ``None`` unless m > 0."""
        positive = bool((m > 0).all())
        return Form(self.of, self.scale * m, self.shift * m, self.low * m, self.high * m) if positive else None

    def shifted(self, k: Tensor) -> Form:
        """It plus k."""
        return Form(self.of, self.scale, self.shift + k, self.low + k, self.high + k)

    def clipped(self, low: Tensor, high: Tensor) -> Form:
        """``clip(clip(v, l, h), l', h') = clip(v, clip(l, l', h'), clip(h, l', h'))``."""
        ends = (torch.minimum(torch.maximum(end, low), high) for end in (self.low, self.high))
        return Form(self.of, self.scale, self.shift, *ends)


@lru_cache(maxsize=1)  # asked about all nodes of one graph in turn
def made_of_floors(graph: Graph) -> frozenset[str]:
    """The nodes that arithmetic makes of a floor."""
    found: set[str] = set()
    for node in graph:
        bounds = node.op == "call" and torch_name(node) in _BOUNDS
        keeps = node.op in _ARITHMETIC or bounds
        if node.op in _FLOORS or (keeps and any(name in found for name in refs(node.operands))):
            found.add(node.name)
    return frozenset(found)


def form_of(operand: Ref, graph: Graph, params: Mapping[str, Tensor]) -> Form:
    """The form of a value; where arithmetic did not make it of one other value, it is its own form."""
    node = _as_clamp(graph[operand.name], graph, params)
    if node.op not in _ARITHMETIC:
        return Form(operand)
    quantised = _straight_through(node, graph)
    if quantised is not None:
        return form_of(quantised, graph, params)
    first, second, *_ = (*node.operands.values(), None)
    if node.op in ("add", "mul") and isinstance(second, Ref) and constant(first, graph, params) is not None:
        first, second = second, first
    made = _applied(node, form_of(first, graph, params), second, graph, params) if isinstance(first, Ref) else None
    return Form(operand) if made is None else made


def _applied(node: Node, form: Form, second: Any, graph: Graph, params: Mapping[str, Tensor]) -> Form | None:
    """What an operator of arithmetic makes of a form, ``None`` where that is no form."""
    if node.op in _SAME:
        return form
    if node.op in _FLOORS:
        return Form(form.shifted(_FLOORS[node.op] * _ONE)) if isinstance(form.of, Ref) else None
    if node.op == "relu":
        return form.clipped(0 * _ONE, math.inf * _ONE)
    if node.op == "clamp":
        low, high = (constant(end, graph, params) for end in (node.get("min", -math.inf), node.get("max", math.inf)))
        return None if low is None or high is None else form.clipped(low, high)
    number = constant(second, graph, params)
    if number is None:
        return None
    if node.op in ("mul", "div"):
        return form.scaled(number if node.op == "mul" else 1 / number)
    return form.shifted(number if node.op == "add" else -number)


#: Calls of torch that bound a value, and which bounds they take; all but ``clip`` take tensors, no numbers.
_BOUNDS = {"clip": ("min", "max"), **dict.fromkeys(("fmax", "max", "maximum"), ("min",)),
           **dict.fromkeys(("fmin", "min", "minimum"), ("max",))}  # fmt: skip


def _as_clamp(node: Node, graph: Graph, params: Mapping[str, Tensor]) -> Node:
    """A call that bounds a value by one number as the op that does; any other node as it is."""
    name = torch_name(node) if node.op == "call" else ""
    bounds = _BOUNDS.get(name, ())
    if not bounds or not set(node["kwargs"]) <= set(bounds) or not 0 < len(node["args"]) <= 1 + len(bounds):
        return node
    value, *ends = node["args"]
    if name != "clip":
        if not ends or not isinstance(ends[0], Ref | Param):  # max(x, 0) goes along an axis
            return node
        if constant(value, graph, params) is not None:
            value, ends = ends[0], [value]
    given = dict(zip(bounds, ends, strict=False)) | dict(node["kwargs"])
    known: FrozenMap[str, Any] = FrozenMap({bound: end for bound, end in given.items() if end is not None})
    numbers = [constant(end, graph, params) for end in known.values()]
    if not numbers or not all(number is not None and number.ndim < 2 and number.numel() == 1 for number in numbers):
        return node
    operands: FrozenMap[str, Any] = FrozenMap(input=value, **known)
    return Node(node.name, "clamp", operands, node.path, node.where)


def _straight_through(node: Node, graph: Graph) -> Ref | None:
    """q, where the node is ``u + (q - u).detach()``, either way round, or ``u - (u - q).detach()``."""

    def origin(operand: Any) -> Any:
        made = graph.producer(operand)
        return origin(made["input"]) if made is not None and made.op in _SAME else operand

    pairs = [(node.get("a"), node.get("b"))] if node.op in ("add", "sub") else []
    for u, rest in pairs + [(b, a) for a, b in pairs if node.op == "add"]:
        made = graph.producer(origin(rest))
        if made is not None and made.op == "sub":
            kept, dropped = (made["a"], made["b"]) if node.op == "add" else (made["b"], made["a"])
            if origin(dropped) == origin(u) and isinstance(kept, Ref):
                return kept
    return None


def constant(operand: Any, graph: Graph, params: Mapping[str, Tensor]) -> Tensor | None:
    """A number, or what parameters alone decide, in float64 on the CPU; ``None`` where these have no values."""
    varying = isinstance(operand, Ref) and operand.name in _varying(graph)
    value = None if varying else value_of(operand, graph, params, {})
    if isinstance(value, Tensor):
        return None if value.is_meta else value.cpu().double()
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, int | float) else None


@lru_cache(maxsize=1)
def _varying(graph: Graph) -> frozenset[str]:
    return frozenset(graph.descendants(node.name for node in graph.inputs))


def value_of(operand: Any, graph: Graph, params: Mapping[str, Tensor], known: dict[str, Any]) -> Any:
    """The value of a tree of operands, given those of some nodes, to which it adds what it computes.

    ``None`` where an input decides it, or where torch does not take the operands.
    """

    def value(leaf: Any) -> Any:
        if isinstance(leaf, Param):
            return params[leaf.key].detach()
        if isinstance(leaf, Ref) and leaf.name not in known:
            known[leaf.name] = _computed(graph[leaf.name], graph, params, known)
        return known[leaf.name] if isinstance(leaf, Ref) else leaf

    return map_leaves(value, operand)


def _computed(node: Node, graph: Graph, params: Mapping[str, Tensor], known: dict[str, Any]) -> Any:
    values = None if node.op not in OPS else value_of(node.operands, graph, params, known)
    if values is None or any(known[name] is None for name in refs(node.operands)):
        return None
    args, kwargs = OPS[node.op].signature.call_arguments(values)
    try:
        return OPS[node.op].fn(*thaw(args), **thaw(kwargs))
    except (TypeError, RuntimeError):  # whoever runs the model hears of it
        return None
