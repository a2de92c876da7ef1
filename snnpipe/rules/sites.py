"""Rules that say where neurons go, and the exact rewrites that make room for them.

A site rule is ``rule(node, graph) -> Match | None``: whether a neuron can stand for the node, or behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import EllipsisType

import attrs
from torch import Tensor

from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Ref, unique_name
from snnpipe.rewrite import Rewrite, RewriteRule
from snnpipe.rules.axes import MAX_POOLS


@attrs.frozen
class Match:
    """A node that a neuron can stand for, or behind.

    Attributes:
        input: the operand that becomes the neuron's current; of a neuron behind the node, the node itself.
        cap: the largest value the node can take, ``None`` for no limit.
        signed: whether its values have both signs.
        axis: the channel axis; by default that of the layer the current comes from.
        readers: for a neuron behind the node: those of its readers that get events; the others read the node.
    """

    input: Ref
    cap: float | None = None
    signed: bool = False
    axis: int | EllipsisType | None = ...
    readers: frozenset[str] = frozenset()


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


def pool_before_activation(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | None:
    """max_pool(relu(x)) -> relu(max_pool(x)): max commutes with a nondecreasing function (implicit padding is -inf
    on the left and never wins on the right, relu(-inf) = 0 <= any activation)."""
    before = graph.producer(node["input"]) if node.op in MAX_POOLS else None
    if before is None or not (relu_site(before, graph) or capped_site(before, graph)):
        return None
    pool = Node(unique_name(f"{node.name}_input", graph.by_name), node.op, node.evolve(input=before["input"]).operands,
                node.path, node.where)  # fmt: skip
    activation = Node(node.name, before.op, before.evolve(input=Ref(pool.name)).operands, before.path, before.where)
    return Rewrite((pool, activation), Ref(node.name), note=f"max-pool moved before {before.name}")


#: Exact rewrites of the ANN that ``instrument`` makes before it looks for sites.
PLACEMENT_RULES: tuple[RewriteRule, ...] = (pool_before_activation,)
