"""Exact rewrites of the ANN that make room for neurons."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Graph, Node, Ref, redirecting, unique_name
from snnpipe.rewrite import Rewrite, RewriteRule
from snnpipe.rules.activations import clipped_again, one_or_two_relus, sloped
from snnpipe.rules.axes import MAX_POOLS
from snnpipe.rules.sites import Match, SiteRule, capped_site, every_fake_quantize_site, qcfs_site, relu_site
from snnpipe.rules.staircase import written_quantiser
from snnpipe.state import Levels


def pool_before_activation(node: Node, graph: Graph, params: FrozenMap[str, Tensor]) -> Rewrite | None:
    """max_pool(f(x)) -> f(max_pool(x)): max commutes with a nondecreasing f that is the same for all it compares
    (implicit padding never wins: every window holds a value)."""
    before = graph.producer(node["input"]) if node.op in MAX_POOLS else None
    value = None if before is None else _monotone_of(before, graph, params, axes=int(node.op[-2]))
    if before is None or value is None:
        return None
    pool = Node(unique_name(f"{node.name}_input", graph.by_name), node.op, node.evolve(input=value).operands,
                node.path, node.where)  # fmt: skip
    swap = redirecting({value.name: pool.name})
    activation = Node(node.name, before.op, map_leaves(swap, before.operands), before.path, before.where)
    return Rewrite((pool, activation), Ref(node.name), note=f"max-pool moved before {before.name}")


def _monotone_of(node: Node, graph: Graph, params: FrozenMap[str, Tensor], *, axes: int) -> Ref | None:
    """What a nondecreasing activation is of, if it is the same along the last ``axes`` axes."""
    match = _first(_NONDECREASING, node, graph)
    if match is not None:
        return None if isinstance(match.axis, int) and match.axis >= -axes else match.input
    found = sloped(node, graph, params) if node.op in ("call", "leaky_relu") else None
    return found.value if found is not None and bool((found.held >= 0).all()) else None


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
PLACEMENT_RULES: tuple[RewriteRule, ...] = (
    written_quantiser, clipped_again, pool_before_activation, one_or_two_relus, quantiser_rectifies,
)  # fmt: skip


def placement_rules(sites: tuple[SiteRule, ...]) -> tuple[RewriteRule, ...]:
    """``PLACEMENT_RULES``, but for activations that one of the site rules has a neuron stand for as they are."""
    own = partial(_unless_site, sites=sites)
    return tuple(own if rule is one_or_two_relus else rule for rule in PLACEMENT_RULES)


def _unless_site(
    node: Node, graph: Graph, params: FrozenMap[str, Tensor], *, sites: tuple[SiteRule, ...]
) -> Rewrite | None:
    made = one_or_two_relus(node, graph, params)
    match = _first(sites, node, graph) if made is not None else None
    return made if match is None or match.readers else None
