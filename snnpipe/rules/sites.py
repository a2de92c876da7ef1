"""Rules that say where neurons go, and the exact rewrites that make room for them.

A site rule is ``rule(node, graph) -> Match | None``: whether a neuron can stand for the node.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
from torch import Tensor

from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Ref, unique_name
from snnpipe.rewrite import Rewrite, RewriteRule


@attrs.frozen
class Match:
    """A node that a neuron can stand for.

    Attributes:
        input: the operand that becomes the neuron's current.
        cap: the largest value the node can take, ``None`` for no limit.
    """

    input: Ref
    cap: float | None = None


SiteRule = Callable[[Node, Graph], Match | None]


def relu_site(node: Node, graph: Graph) -> Match | None:
    """relu(x): an IF neuron's rate is relu of its mean current, up to saturation."""
    return Match(node["input"]) if node.op == "relu" else None


def capped_site(node: Node, graph: Graph) -> Match | None:
    """clamp(x, 0, c) (ReLU6, Hardtanh(0, c)): what an IF neuron computes with theta = c; needs no calibration."""
    low, high = node.get("min"), node.get("max")
    literal = isinstance(low, int | float) and isinstance(high, int | float)
    return Match(node["input"], float(high)) if node.op == "clamp" and literal and low == 0 < high < math.inf else None


#: Where ``instrument`` puts sites; add your own: ``instrument(rules=SITE_RULES + (my_rule,))``.
SITE_RULES: tuple[SiteRule, ...] = (relu_site, capped_site)

_MAX_POOLS = frozenset(f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3))


def pool_before_activation(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | None:
    """max_pool(relu(x)) -> relu(max_pool(x)): max commutes with a nondecreasing function (implicit padding is -inf
    on the left and never wins on the right, relu(-inf) = 0 <= any activation)."""
    before = graph.producer(node["input"]) if node.op in _MAX_POOLS else None
    if before is None or not (relu_site(before, graph) or capped_site(before, graph)):
        return None
    pool = Node(unique_name(f"{node.name}_input", graph.by_name), node.op, node.evolve(input=before["input"]).operands,
                node.path, node.where)  # fmt: skip
    activation = Node(node.name, before.op, before.evolve(input=Ref(pool.name)).operands, before.path, before.where)
    return Rewrite((pool, activation), Ref(node.name), note=f"max-pool moved before {before.name}")


#: Exact rewrites of the ANN that ``instrument`` makes before it looks for sites.
PLACEMENT_RULES: tuple[RewriteRule, ...] = (pool_before_activation,)

_CHANNEL_AXIS: dict[str, int | None] = {
    "conv1d": -2, "conv2d": -3, "conv3d": -4, "conv_transpose1d": -2, "conv_transpose2d": -3, "conv_transpose3d": -4,
    "linear": -1, "batch_norm": 1, "pixel_shuffle": -3, "pixel_unshuffle": -3,
}  # fmt: skip
_KEEP_AXIS = _MAX_POOLS | {
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "add", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "cat", "clamp", "clone", "contiguous", "detach", "div", "identity", "interpolate", "mul", "neg",
    "pad", "relu", "sub", "to",
}  # fmt: skip


def channel_axis(operand: Any, graph: Graph) -> int | None:
    """The channel axis of a value: that of the layer it comes from, if nothing in between moves axes."""
    node = graph.producer(operand)
    while node is not None:
        if node.op in _CHANNEL_AXIS:
            before = channel_axis(node["input"], graph) if node.op == "batch_norm" else None
            return _CHANNEL_AXIS[node.op] if before is None else before
        if node.op == "flatten" and node.get("start_dim", 0) == 1 and node.get("end_dim", -1) == -1:
            return -1
        if node.op not in _KEEP_AXIS:
            return None
        first = next((value for value in node.operands.values() if _reads(value)), None)
        node = graph.producer(first[0] if isinstance(first, tuple) else first)
    return None


def _reads(value: Any) -> bool:
    return isinstance(value, Ref) or (isinstance(value, tuple) and bool(value) and isinstance(value[0], Ref))
