"""What to say of a network without a site: what its activations are, and which rules would find some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from snnpipe.graph import Graph
from snnpipe.ops.table import UNARY
from snnpipe.rules.operands import TRANSFORMER_RULES
from snnpipe.rules.signals import torch_name
from snnpipe.rules.sites import SITE_RULES, SiteRule, every_fake_quantize_site
from snnpipe.stages.finding import find_sites

_ACTIVATIONS = UNARY.keys() | {
    "clamp", "fake_quantize", "glu", "hardshrink", "log_softmax", "prelu", "qcfs", "rrelu", "softmax", "softmin",
    "softshrink", "softsign", "tanhshrink", "threshold",
}  # fmt: skip

#: Rules to try, and how they are written.
_OTHERS: tuple[tuple[str, tuple[SiteRule, ...], str], ...] = (
    ("SITE_RULES", SITE_RULES, ""),
    ("SITE_RULES + (every_fake_quantize_site,)", (*SITE_RULES, every_fake_quantize_site),
     ", for replace(rules=(matching_levels,))"),
    ("TRANSFORMER_RULES", TRANSFORMER_RULES, ", for a neuron of both signs: replace(neuron=cascade(n=4))"),
)  # fmt: skip


def activations(graph: Graph) -> str:
    """The activations that depend on the input, counted: ``"2 gelu, 1 softmax"``; "none" without any."""
    varying = graph.descendants(node.name for node in graph.inputs)
    names = (torch_name(node) for node in graph if node.name in varying)
    count = Counter(name for name in names if name in _ACTIVATIONS)
    return ", ".join(f"{number} {name}" for name, number in count.items()) or "none"


def advice(graph: Graph, params: Mapping[str, Tensor]) -> str:
    """The code to write for a network in which the rules found no site."""
    for text, rules, neuron in _OTHERS:
        found = len(find_sites(graph, rules, params)[1])
        if found:
            return f"instrument(rules={text}) finds {found}{neuron}"
    return "no rule of the library finds one; say where with a rule of your own (docs/extending.md)"
