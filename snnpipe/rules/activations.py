"""Activations that are ReLUs in other words, and those that two ReLUs add up to: exact rewrites of the ANN.

A ReLU may be chosen by the sign of its operand (``x * (x > 0)``) or clipped a second time (``min(relu(x), 6)``); a
leaky or parametric ReLU is the difference of two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Param, Ref, unique_name
from snnpipe.rewrite import Rewrite
from snnpipe.rules.arithmetic import constant, form_of
from snnpipe.rules.choice import Chosen, chosen
from snnpipe.rules.signals import torch_name

_CLIPS = frozenset({"clamp", "clip", "fmax", "fmin", "max", "maximum", "min", "minimum", "relu"})


def clipped_again(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | None:
    """clip(clip(x, 0, c), l, h) -> clip(x, 0, c'), and a clip by tensors that hold one number; but what is no tighter
    than the clip it follows stays."""
    if torch_name(node) not in _CLIPS:
        return None
    form = form_of(Ref(node.name), graph, params)
    plain = isinstance(form.of, Ref) and bool((form.scale == 1).all() and (form.shift == 0).all())
    if not plain or form.of == Ref(node.name) or not bool((form.low == 0).all()):
        return None
    high = form.high.unique().tolist()
    if len(high) != 1 or high[0] <= 0:
        return None
    op, operands = _clip(form.of, high[0])
    bounds = {name: end for name, end in operands.items() if name != "input"}
    as_it_is = node.op == op and all(node.get(name) == end for name, end in bounds.items())
    return None if as_it_is else _became(node, (op, operands), "one clip of the value from 0 on")


def _clip(value: Any, high: float) -> tuple[str, dict[str, Any]]:
    return ("relu", {"input": value}) if high == math.inf else ("clamp", {"input": value, "min": 0.0, "max": high})


def _became(node: Node, made: tuple[str, dict[str, Any]], note: str) -> Rewrite | None:
    op = made[0]
    operands: FrozenMap[str, Any] = FrozenMap(made[1])
    same = node.op == op and all(node.get(name) == value for name, value in operands.items())
    return None if same else Rewrite((Node(node.name, op, operands, node.path, node.where),), Ref(node.name), note=note)


def one_or_two_relus(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | None:
    """f(x) = x where x > 0, a x elsewhere -> relu(x) - a relu(-x), and relu(x) if a = 0; a may differ by channel."""
    found = sloped(node, graph, params)
    if found is None:
        return None
    if not bool(found.held.any()):
        return _became(node, ("relu", {"input": found.value}), "a ReLU in other words")

    def made(name: str, op: str, part: str = "", **operands: Any) -> Node:
        return Node(name, op, FrozenMap(operands), f"{node.path}{part}", node.where)

    names = [unique_name(f"{node.name}_{part}", graph.by_name) for part in ("above", "turned", "below", "slope")]
    above, turned, below, slope = map(Ref, names)
    scaled: dict[str, Any] = {"a": below, "b": found.slope}
    tensors: dict[str, Tensor] = {}
    if found.op == "batch_norm":
        mean, var = (unique_name(f"{node.name}.{name}", params) for name in ("mean", "var"))
        ones = torch.ones_like(params[found.slope.key]).detach()
        tensors = {mean: 0 * ones, var: (1 - _EPS) * ones}
        scaled = {"input": below, "running_mean": Param(mean), "running_var": Param(var), "weight": found.slope,
                  "eps": _EPS}  # fmt: skip
    nodes = (
        made(above.name, "relu", input=found.value), made(turned.name, "neg", a=found.value),
        made(below.name, "relu", ".below", input=turned), made(slope.name, found.op, **scaled),
        made(node.name, "sub", a=above, b=slope),
    )  # fmt: skip
    return Rewrite(nodes, Ref(node.name), FrozenMap(tensors), "relu(x) - slope relu(-x)")


#: A batch norm of mean 0 and variance 1 multiplies each channel by its weight, however many axes there are.  It wants
#: an eps; 15/16 + 1/16 is 1 in every precision.
_EPS = 1 / 16


def sloped(node: Node, graph: Graph, params: Mapping[str, Tensor]) -> Chosen | None:
    """The value, and the slope below zero, of an activation that is straight on both sides of zero."""
    name = torch_name(node)
    if node.op == "call" and name in ("prelu", "rrelu"):
        return _called(name, node, graph, params)
    slope = node.get("negative_slope", 0.01) if node.op == "leaky_relu" else None
    slope = 0.0 if node.op == "elu" and node.get("alpha", 1.0) == 0 else slope
    if isinstance(slope, int | float) and isinstance(node["input"], Ref):
        return Chosen(node["input"], slope, torch.tensor(slope, dtype=torch.float64))
    return chosen(node, graph, params)


def _called(name: str, node: Node, graph: Graph, params: Mapping[str, Tensor]) -> Chosen | None:
    names = ("input", "weight") if name == "prelu" else ("input", "lower", "upper", "training")
    given = {"lower": 1 / 8, "upper": 1 / 3, "training": False} | dict(zip(names, node["args"], strict=False))
    given |= dict(node["kwargs"])
    value = given.get("input")
    if not isinstance(value, Ref) or given["training"] is not False:
        return None
    slope = (given["lower"] + given["upper"]) / 2 if name == "rrelu" else given["weight"]
    held = constant(slope, graph, params)
    if held is None or (held.numel() > 1 and not isinstance(slope, Param)):
        return None
    return Chosen(value, slope, held, "mul" if held.numel() == 1 else "batch_norm")
