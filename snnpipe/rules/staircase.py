"""Quantisers that users write by hand: found by algebra, and believed only after every step of them was tried.

``(x / theta).clamp(0, 1)`` times L, plus 1/2, floor, divided by L, times theta; or ``round`` with a straight-through
gradient around it; or any other order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Param, Ref, unique_name
from snnpipe.rewrite import Rewrite
from snnpipe.rules.arithmetic import Form, form_of, made_of_floors, value_of

#: More levels than this are a rounding, not a quantiser.
MOST_LEVELS = 4096


def written_quantiser(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | None:
    """s clip(floor(a x + b), low, high) in several operators -> one quantiser of s a x + s (b - 1/2), where s a is
    usually 1 and b is 1/2; equal but for ties and rounding.

    ``qcfs`` of theta = high s where low = 0, ``fake_quantize`` with step s where there are levels below zero.
    """
    form = form_of(Ref(node.name), graph, params) if node.name in made_of_floors(graph) else None
    if form is None or not isinstance(form.of, Form) or not isinstance(form.of.of, Ref):
        return None
    step = form.scale
    whole = (form.shift / step).round()  # a zero point: floor(v) + m = floor(v + m)
    line = form.of.shifted(whole)
    low, high = _levels(line, form)
    axes = [k - step.ndim for k, size in enumerate(step.shape) if size > 1]
    known = high <= MOST_LEVELS and low >= -MOST_LEVELS and low <= 0 < high and len(axes) <= 1
    if not known or not _is_staircase(node, graph, params, line, step, int(high), int(low)):
        return None
    made: dict[str, Tensor] = {}
    nodes: list[Node] = []
    value = form.of.of
    changes = (("mul", "gain", step * line.scale, 1.0), ("add", "shift", line.shift - 0.5, 0.0))
    for op, name, by, neutral in changes:
        if not torch.allclose(by, torch.full_like(by, neutral), rtol=0, atol=1e-6):
            key = unique_name(f"{node.name}.{name}", params)
            made[key] = (by * step if op == "add" else by).to(_like(params))
            operands: FrozenMap[str, Any] = FrozenMap(a=value, b=Param(key))
            value = Ref(unique_name(f"{node.name}_{name}", graph.by_name))
            nodes.append(Node(value.name, op, operands, node.path, node.where))
    op, name, unit, facts = _quantiser(int(low), int(high), step)
    key = unique_name(f"{node.name}.{name}", params)
    made[key] = unit.reshape(-1).to(_like(params))
    axis = {"axis": axes[0]} if axes else {}
    operands = FrozenMap({"input": value, name: Param(key), **facts, **axis})
    nodes.append(Node(node.name, op, operands, node.path, node.where))
    note = f"with what is before it, a quantiser of {form.of.of.name} with levels {int(low)}..{int(high)}"
    return Rewrite(tuple(nodes), Ref(node.name), FrozenMap(made), note)


def _quantiser(low: int, high: int, step: Tensor) -> tuple[str, str, Tensor, dict[str, int]]:
    """The op, the name of its unit, the unit, and its other operands."""
    if low == 0:
        return "qcfs", "theta", high * step, {"levels": high}
    return "fake_quantize", "scale", step, {"zero_point": 0, "quant_min": low, "quant_max": high}


def _levels(line: Form, form: Form) -> tuple[float, float]:
    """The lowest and the highest level, infinite where there is none."""
    low = torch.maximum(line.low.floor(), (form.low / form.scale).round())
    high = torch.minimum(line.high.floor(), (form.high / form.scale).round())
    return low.min().item(), high.max().item()


def _is_staircase(
    node: Node, graph: Graph, params: Mapping[str, Tensor], line: Form, step: Tensor, levels: int, low: int = 0
) -> bool:
    """Whether the nodes compute ``step k`` at both ends of each tread k = low..levels, and no more beyond; in between
    they cannot do otherwise, for none of them ever falls."""
    k = torch.arange(low - 2, levels + 3, dtype=torch.float64).reshape(-1, *[1] * max(line.scale.ndim, step.ndim))
    want = step * k.clamp(low, levels)
    assert isinstance(line.of, Ref)
    for part in (1e-3, 1 - 1e-3):
        x = ((k + part - line.shift) / line.scale).to(_like(params))
        y = value_of(Ref(node.name), graph, params, {line.of.name: x})
        same = isinstance(y, Tensor) and y.shape == want.shape
        if not same or not torch.allclose(y.cpu().double(), want, rtol=1e-5, atol=0):
            return False
    return True


def _like(params: Mapping[str, Tensor]) -> Tensor:
    """A tensor of the dtype and on the device of the model."""
    return next((tensor for tensor in params.values() if tensor.is_floating_point()), torch.zeros(()))
