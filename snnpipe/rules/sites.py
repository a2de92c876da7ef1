"""Rules that say where neurons go.

A site rule is ``rule(node, graph) -> Match | None``: whether a neuron can stand for the node, or behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import EllipsisType

import attrs

from snnpipe.checks import takes
from snnpipe.errors import StageError
from snnpipe.graph import Graph, Node, Param, Ref
from snnpipe.options import instance
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


@takes(StageError, node=instance(Node, "must be a node of a graph"), graph=instance(Graph, "must be a graph"))
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
