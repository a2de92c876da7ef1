"""Exact rewrites of the ANN that make room for neurons."""

from __future__ import annotations

from torch import Tensor

from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Ref, unique_name
from snnpipe.rewrite import Rewrite, RewriteRule
from snnpipe.rules.axes import MAX_POOLS
from snnpipe.rules.sites import Match, SiteRule, capped_site, every_fake_quantize_site, qcfs_site, relu_site
from snnpipe.rules.staircase import written_quantiser
from snnpipe.state import Levels


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
