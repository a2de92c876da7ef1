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
from snnpipe.graph import Graph, Node, Param, Ref, unique_name
from snnpipe.rewrite import Rewrite, RewriteRule
from snnpipe.rules.axes import MAX_POOLS
from snnpipe.rules.staircase import written_quantiser
from snnpipe.state import Levels


@attrs.frozen
class Match:
    """A node that a neuron can stand for, or behind.

    Attributes:
        input: the operand that becomes the neuron's current; of a neuron behind the node, the node itself.
        cap: the largest value the node can take, or its levels where it is quantised, ``None`` for no limit.
        signed: whether its values have both signs.
        axis: the channel axis; by default that of the layer the current comes from.
        readers: for a neuron behind the node: those of its readers that get events; the others read the node.
    """

    input: Ref
    cap: float | Levels | None = None
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


def qcfs_site(node: Node, graph: Graph) -> Match | None:
    """theta clip(floor(L x / theta + 1/2), 0, L) / L: what an IF neuron computes in L steps from v_0 = theta / 2."""
    if node.op != "qcfs" or not isinstance(node["theta"], Param):
        return None
    levels = Levels(node["theta"], node["levels"], 0, node["levels"])
    return Match(node["input"], levels, axis=node.get("axis", ...))


def fake_quantize_site(node: Node, graph: Graph) -> Match | None:
    """s clip(round(x / s), 0, n): as ``qcfs_site``, with theta = n s; not of the network's own input, which is no
    float to be turned into events but the same at every step."""
    match = every_fake_quantize_site(node, graph)
    own = match is not None and graph[match.input.name].op == "input"
    return None if match is None or match.signed or own else match


def every_fake_quantize_site(node: Node, graph: Graph) -> Match | None:
    """s clip(round(x / s), low, high) with low <= 0 < high; for neurons that keep within these levels."""
    if node.op != "fake_quantize" or not isinstance(node["zero_point"], int):
        return None
    low, high = (node[bound] - node["zero_point"] for bound in ("quant_min", "quant_max"))
    if not low <= 0 < high or not isinstance(node["scale"], float | Param):
        return None
    return Match(node["input"], Levels(node["scale"], 1, low, high), signed=low < 0, axis=node.get("axis", ...))


#: Where ``instrument`` puts sites; add your own: ``instrument(rules=SITE_RULES + (my_rule,))``.
SITE_RULES: tuple[SiteRule, ...] = (relu_site, capped_site, qcfs_site, fake_quantize_site)


def pool_before_activation(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | None:
    """max_pool(f(x)) -> f(max_pool(x)): max commutes with a nondecreasing f that is the same for all it compares
    (implicit padding never wins: every window holds a value)."""
    before = graph.producer(node["input"]) if node.op in MAX_POOLS else None
    match = None if before is None else _first(_NONDECREASING, before, graph)
    if before is None or match is None or (isinstance(match.axis, int) and match.axis >= -int(node.op[-2])):
        return None
    pool = Node(unique_name(f"{node.name}_input", graph.by_name), node.op, node.evolve(input=before["input"]).operands,
                node.path, node.where)  # fmt: skip
    activation = Node(node.name, before.op, before.evolve(input=Ref(pool.name)).operands, before.path, before.where)
    return Rewrite((pool, activation), Ref(node.name), note=f"max-pool moved before {before.name}")


def quantiser_rectifies(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | None:
    """q(relu(x)) -> q(x) without the levels below 0, for q is nondecreasing and q(0) = 0; so q(clamp(x, 0, c)) if
    q(c) is the highest level."""
    match = _first(_QUANTISERS, node, graph)
    before = graph.producer(match.input) if match is not None else None
    capped = _first((relu_site, capped_site), before, graph) if before is not None else None
    if match is None or before is None or capped is None or not isinstance(match.cap, Levels):
        return None
    highest = match.cap.value(match.cap.high - 0.5, params).max()
    if isinstance(capped.cap, float) and not capped.cap > highest:
        return None
    bounds = {} if node.op == "qcfs" else {"quant_min": max(node["quant_min"], node["zero_point"])}
    return Rewrite((node.evolve(input=capped.input, **bounds),), Ref(node.name), note=f"does what {before.name} does")


_QUANTISERS: tuple[SiteRule, ...] = (qcfs_site, every_fake_quantize_site)
_NONDECREASING: tuple[SiteRule, ...] = (relu_site, capped_site, *_QUANTISERS)


def _first(rules: tuple[SiteRule, ...], node: Node, graph: Graph) -> Match | None:
    return next((match for rule in rules if (match := rule(node, graph)) is not None), None)


#: Exact rewrites of the ANN that ``instrument`` makes before it looks for sites.
PLACEMENT_RULES: tuple[RewriteRule, ...] = (written_quantiser, pool_before_activation, quantiser_rectifies)
