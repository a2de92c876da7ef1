"""Values chosen by the sign of another: ``where(x > 0, x, a x)``, ``x * (x > 0)``, ``x[x < 0] = 0``, ``max(x, a x)``.

Knows the spellings of a choice; what becomes of one is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.graph import Graph, Node, Param, Ref
from snnpipe.rules.arithmetic import constant
from snnpipe.rules.signals import torch_name


@attrs.frozen(eq=False)
class Chosen:
    """``value`` where that is positive, ``slope`` times it elsewhere.

    Attributes:
        value: x.
        slope: the operand a, a number or what parameters alone decide.
        held: what it holds, in float64; the reciprocal where x is divided by it.
        op: how it meets the value: ``"mul"``, ``"div"``, or ``"batch_norm"`` for one number per channel, along axis 1.
    """

    value: Ref
    slope: Any
    held: Tensor
    op: str = "mul"


def chosen(node: Node, graph: Graph, params: Mapping[str, Tensor]) -> Chosen | None:
    """What a node chooses by the sign of a value; ``None`` if it does nothing of the kind."""
    if torch_name(node) in ("maximum", "max", "fmax") and node.op == "call":
        return _larger(node, graph, params)
    found = _choice(node, graph, params)
    if found is None:
        return None
    test, yes, no = found
    for value in (yes, no):
        sign = _sign(test, value, graph, params) if isinstance(value, Ref) else 0
        upper, lower = (yes, no) if sign > 0 else (no, yes)
        if sign and upper == value:
            return _lower(value, lower, graph, params)
    return None


def _larger(node: Node, graph: Graph, params: Mapping[str, Tensor]) -> Chosen | None:
    """max(x, a x) with 0 <= a <= 1; a may be 0 in the shape of a tensor of zeros."""
    args = node["args"]
    if len(args) != 2 or node["kwargs"] or not all(isinstance(arg, Ref | Param) for arg in args):
        return None  # max(x, 0) goes along an axis
    a, b = args
    for value, other in ((a, b), (b, a)):
        found = _lower(value, other, graph, params) if isinstance(value, Ref) else None
        if found is not None and bool(((found.held >= 0) & (found.held <= 1)).all()):
            return found
    return None


def _lower(value: Ref, lower: Any, graph: Graph, params: Mapping[str, Tensor]) -> Chosen | None:
    """The slope that makes ``lower`` of a value: 0, or what it is multiplied with."""
    if _is_zero(lower, value, graph, params):
        return Chosen(value, 0.0, torch.zeros(()))
    made = graph.producer(lower)
    if made is None or made.op not in ("mul", "div"):
        return None
    pairs = [(made["a"], made["b"])] + [(made["b"], made["a"])] * (made.op == "mul")
    slope = next((other for own, other in pairs if own == value), None)
    held = None if slope is None else constant(slope, graph, params)
    return None if held is None else Chosen(value, slope, held if made.op == "mul" else 1 / held, made.op)


def _choice(node: Node, graph: Graph, params: Mapping[str, Tensor]) -> tuple[Any, Any, Any] | None:
    """Test, what is taken where it holds, and what elsewhere."""
    if node.op == "where":
        return node["condition"], node["input"], node["other"]
    if node.op in ("masked_fill", "set_item"):
        test = node["mask" if node.op == "masked_fill" else "index"]
        return test[0] if isinstance(test, tuple) and len(test) == 1 else test, node["value"], node["input"]
    if node.op == "mul":
        for value, test in ((node["a"], node["b"]), (node["b"], node["a"])):
            bare = _bare(test, value, graph, params)
            if isinstance(value, Ref) and _sign(bare, value, graph, params):
                return bare, value, 0.0
    return None


def _bare(test: Any, value: Any, graph: Graph, params: Mapping[str, Tensor]) -> Any:
    """A test that was made a number of the type of the value."""
    node = graph.producer(test)
    if node is None:
        return test
    name = torch_name(node)
    args = list(node["args"]) if node.op == "call" else list(node.operands.values())
    if name not in ("to", "type_as") or len(args) != 2 or (node.op == "call" and node["kwargs"]):
        return test
    kind = args[1]
    told = graph.producer(kind)
    same = kind == value or (told is not None and told.op == "attribute" and told["input"] == value)
    model = next((tensor.dtype for tensor in params.values() if tensor.is_floating_point()), torch.float32)
    narrow = isinstance(kind, torch.dtype) and torch.promote_types(kind, model) == model
    return args[0] if same or narrow else test


_TESTS = {
    **dict.fromkeys(("gt", "ge", "greater", "greater_equal"), 1),
    **dict.fromkeys(("lt", "le", "less", "less_equal"), -1),
}


def _sign(test: Any, value: Ref, graph: Graph, params: Mapping[str, Tensor]) -> int:
    """1 for a test whether a value is positive, -1 whether it is negative, 0 for any other; at 0 it does not matter."""
    node = graph.producer(test)
    if node is None or node.op != "call" or node["kwargs"]:
        return 0
    name, args = torch_name(node), node["args"]
    if name in ("logical_not", "bitwise_not", "invert"):
        return -_sign(args[0], value, graph, params)
    if name not in _TESTS or len(args) != 2:
        return 0
    first, second = args
    if first == value and _is_zero(second, value, graph, params):
        return _TESTS[name]
    return -_TESTS[name] if second == value and _is_zero(first, value, graph, params) else 0


def _is_zero(operand: Any, value: Ref, graph: Graph, params: Mapping[str, Tensor]) -> bool:
    """Whether an operand surely is zero, of a shape and type that do not change those of ``value``."""
    if isinstance(operand, bool) or (
        isinstance(operand, Param) and isinstance(params[operand.key], torch.nn.Parameter)
    ):
        return False
    number = constant(operand, graph, params)
    if number is not None:
        return number.ndim == 0 and number.item() == 0
    node = graph.producer(operand)
    if node is None:
        return False
    name, args = torch_name(node), node.get("args", ())
    filled = node.get("fill_value", node.get("value", 0.0)) if node.op != "call" else (*args[1:], 0.0)[0]
    if filled != 0 or isinstance(filled, Ref | Param):
        return False
    if name in ("zeros_like", "full_like", "filled_like"):
        return node.get("input") == value and node.get("dtype") is None
    if name in ("new_zeros", "new_full"):
        return bool(node["size"] == ())
    return node.op == "call" and name in ("zeros", "full") and args[0] == ()
