"""What to say of a network without a site: what in it is not linear, and which rules would find some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from snnpipe.graph import Graph
from snnpipe.ops.lift import Case, place
from snnpipe.rules.operands import TRANSFORMER_RULES
from snnpipe.rules.signals import torch_name
from snnpipe.rules.sites import SITE_RULES, SiteRule, every_fake_quantize_site
from snnpipe.rules.wholes import wholes
from snnpipe.stages.finding import find_sites

#: Rules to try, and how they are written.
_OTHERS: tuple[tuple[str, tuple[SiteRule, ...], str], ...] = (
    ("SITE_RULES", SITE_RULES, ""),
    ("SITE_RULES + (every_fake_quantize_site,)", (*SITE_RULES, every_fake_quantize_site),
     ", for replace(rules=(matching_levels,))"),
    ("TRANSFORMER_RULES", TRANSFORMER_RULES, ", for a neuron of both signs: replace(neuron=cascade(n=4))"),
)  # fmt: skip


def nonlinear(graph: Graph, params: Mapping[str, Tensor]) -> str:
    """The operators on what varies that are not linear, counted: ``"2 gelu, 1 softmax"``; ``""`` without any."""
    placed, whole = place(graph, temporal_inputs=True), wholes(graph, params)
    names = [torch_name(node) for node in graph
             if node.name not in whole and placed[node.name].case in (Case.GENERAL, Case.BILINEAR)]  # fmt: skip
    return ", ".join(f"{number} {name}" for name, number in Counter(names).items())


def advice(graph: Graph, params: Mapping[str, Tensor]) -> str:
    """The code to write for a network in which the rules found no site."""
    for text, rules, neuron in _OTHERS:
        found = len(find_sites(graph, rules, params)[1])
        if found:
            return f"instrument(rules={text}) finds {found}{neuron}"
    return "no rule of the library finds one; say where with a rule of your own (docs/extending.md)"
