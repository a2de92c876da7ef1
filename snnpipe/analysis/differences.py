"""Where a converted network first computes something else than the model, and what its batch norms see."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from snnpipe.graph import Graph, Node, Param


def common(model: Graph, network: Graph) -> frozenset[str]:
    """The nodes that both graphs have, inputs left out."""
    named = {node.name for node in model if node.op != "input"}
    return frozenset(named & {node.name for node in network if node.op != "input"})


def first_change(graph: Graph, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[str, float, bool]:
    """The path of the first node that differs by more than rounding, by how much, and whether only its bias was moved.

    Differences are norms, in parts of the value's.  A neuron's node differs first where its current was corrected.
    """
    for node in graph:
        if node.name not in ours:
            continue
        a, b = ours[node.name], theirs[node.name]
        if not isinstance(a, Tensor) or not a.is_floating_point() or a.shape != b.shape:
            continue
        by = float((b.double() - a.double()).norm() / (a.double().norm() or 1.0))
        if by > 1e3 * torch.finfo(a.dtype).eps:
            return node.path, by, node.op == "encode"
    return "", 0.0, False


@attrs.define(eq=False)
class Norm:
    """What one batch norm sees: sums over batches, by channel."""

    node: Node
    count: int = 0
    total: Tensor = attrs.field(factory=lambda: torch.zeros(1, dtype=torch.float64))
    squares: Tensor = attrs.field(factory=lambda: torch.zeros(1, dtype=torch.float64))

    def add(self, x: Tensor) -> None:
        """Take in its input (B, C, ...)."""
        flat = x.double().movedim(1, 0).flatten(1).cpu()
        self.count += flat.shape[1]
        self.total = self.total + flat.sum(1)
        self.squares = self.squares + flat.square().sum(1)

    def drift(self, params: Mapping[str, Tensor]) -> float:
        """How far its statistics are off: a factor of the variance, or a shift in deviations and 1; the larger."""
        mean, variance = (params[self.node[key].key].detach().double().cpu() for key in ("running_mean", "running_var"))
        seen = self.total / self.count
        spread = (self.squares / self.count - seen.square()).clamp(min=1e-12)
        factor = (spread / variance.clamp(min=1e-12)).log().abs().median()
        shift = ((seen - mean) / torch.maximum(variance, spread).sqrt()).abs().median()
        return max(math.exp(float(factor)), 1.0 + float(shift))


def norms(graph: Graph) -> list[Norm]:
    """The batch norms of a graph that have statistics."""
    found = [node for node in graph if node.op == "batch_norm"]
    return [Norm(node) for node in found if isinstance(node.get("running_mean"), Param)]
