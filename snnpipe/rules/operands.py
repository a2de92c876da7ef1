"""Sites in front of products: where a transformer, which has no ReLU, is to send events.

What a product reads (the input of a linear layer, queries, keys, values, attention probabilities) is to be events, so
that multiplying becomes adding.  Which neuron stands at such a site is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from snnpipe.graph import Graph, Node, Ref, refs
from snnpipe.rules.axes import LAYER_AXIS, last_counts_features
from snnpipe.rules.signals import (
    SEQUENCES,
    Signal,
    factors,
    multiplies_streams,
    nonnegative,
    rearranges,
    signals,
    torch_name,
)
from snnpipe.rules.sites import SITE_RULES, Match, SiteRule
from snnpipe.text import Configured


def operand_site(
    node: Node, graph: Graph, *, neurons: tuple[SiteRule, ...] = SITE_RULES, currents: bool = False
) -> Match | None:
    """An encoder behind a value, for those of its readers that multiply it.

    * A layer with static weights (linear, convolution, ``x @ W``) gets an encoder in front if its input is no linear
      function of events.  The channel axis is that of the layer's features.
    * A product of two values of the network (q k^T, attention times v) gets one for each of them that is not events.
      It stands before whatever only rearranges the value on its way: before a key is transposed, and before one
      layer's output is split into queries, keys and values, where the last axis counts features of all heads.

    Values are signed unless they are probabilities or the like.  Other readers, residual streams above all, read the
    value as it is.

    Args:
        node: the node that computes the value.
        graph: its graph.
        neurons: the rules of the other sites, whose neurons emit events.
        currents: a layer that reads what another layer computed, with no activation in between, gets an encoder too:
            at the linear bottlenecks of inverted residual blocks.
    """
    return _operand_sites(graph, neurons, currents).get(node.name)


def transformer_rules(rules: tuple[SiteRule, ...] = SITE_RULES, *, currents: bool = False) -> tuple[SiteRule, ...]:
    """``rules``, and operand sites for what they leave as floats, or as ``currents`` as well."""
    return (*rules, Configured(operand_site, neurons=rules, currents=currents))


#: For ``instrument``: sites at activations, and in front of products.
TRANSFORMER_RULES: tuple[SiteRule, ...] = transformer_rules()
#: For ``instrument``: the same, and at linear bottlenecks, so that every layer behind the first reads events.
BOTTLENECK_RULES: tuple[SiteRule, ...] = transformer_rules(currents=True)


@lru_cache(maxsize=1)  # a rule is asked about all nodes of one graph in turn
def _operand_sites(graph: Graph, neurons: tuple[SiteRule, ...], currents: bool) -> dict[str, Match]:
    def is_neuron(node: Node) -> bool:
        return any(match is not None and not match.readers for match in (rule(node, graph) for rule in neurons))

    found = signals(graph, is_neuron)
    carried = _carried(graph, found)
    most = Signal.SUM if currents else Signal.CURRENT
    sites = {node.name: _site(node, graph, found, carried, most) for node in graph if node.op not in SEQUENCES}
    return {name: match for name, match in sites.items() if match is not None and name not in carried}


def _site(
    node: Node, graph: Graph, found: Mapping[str, Signal], carried: Mapping[str, str], most: Signal
) -> Match | None:
    users = [name for name in graph.users[node.name] if name != "output"]
    products = [name for name in users if _encodes(graph[name], node, found, most)]
    readers = {*products, *(name for name in users if carried.get(name) == node.name)}
    if not readers:
        return None
    axes = [_data_axis(graph[name], node) for name in products if not multiplies_streams(graph[name], found)]
    known = [axis for axis in axes if axis is not None] + [-1] * last_counts_features(Ref(node.name), graph)
    match = Match(Ref(node.name), None, not nonnegative(Ref(node.name), graph), known[0] if known else None)
    if node.op == "identity" and readers == set(graph.users[node.name]):
        return Match(node["input"], None, match.signed, match.axis)
    return Match(match.input, None, match.signed, match.axis, frozenset(readers))


def _encodes(reader: Node, node: Node, found: Mapping[str, Signal], most: Signal = Signal.CURRENT) -> bool:
    """Whether a product wants ``node``, one of its factors, as events; a layer reads ``most`` as it is."""
    if Ref(node.name) not in factors(reader):
        return False
    return found[node.name] > (Signal.EVENTS if multiplies_streams(reader, found) else most)


def _carried(graph: Graph, found: Mapping[str, Signal]) -> dict[str, str]:
    """Nodes that only rearrange a value on its way to products of two values, and where they read it."""
    lead: set[str] = set()
    for node in reversed(graph.nodes):
        users = graph.users[node.name]
        on = all(name in lead or (name != "output" and _wants_both(graph[name], node, found)) for name in users)
        if users and on and found[node.name] > Signal.EVENTS and rearranges(node, found):
            lead.add(node.name)
    carried: dict[str, str] = {}
    for node in graph:
        if node.name in lead:
            before = next(graph[name] for name in refs(node.operands) if found[name])
            if before.name in carried or before.op not in SEQUENCES | {"call"}:  # a call may return several tensors
                carried[node.name] = before.name
    return carried


def _wants_both(reader: Node, node: Node, found: Mapping[str, Signal]) -> bool:
    return multiplies_streams(reader, found) and _encodes(reader, node, found)


def _data_axis(layer: Node, node: Node) -> int | None:
    """The axis of ``node`` that a product with something static sums over: in matrices that of the features."""
    if layer.op in LAYER_AXIS:
        return LAYER_AXIS[layer.op]
    at = factors(layer).index(Ref(node.name))
    return (-1, -2)[at] if torch_name(layer) in ("matmul", "mm", "bmm", "baddbmm", "addmm") else None
