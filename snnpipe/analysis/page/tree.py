"""The graph of a network as a tree of its modules, that opens and closes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from torch import Tensor

from snnpipe.graph import Graph, Node
from snnpipe.markup.tags import Markup, joined, more, tag


def tree(graph: Graph, params: Mapping[str, Tensor], errors: Mapping[str, float], units: Mapping[str, str]) -> Markup:
    """Every operator below the modules it stands in; neurons with their thresholds, and with a bar for their error.

    Args:
        errors: by name of the node.
        units: by name of the node, what kind of unit it is, where it is one.
    """
    root: dict[str, Any] = {}
    for node in graph:
        *modules, _ = (node.path or node.name).split(".")
        at = root
        for module in modules:
            at = at.setdefault(module, {})
        at[f"\0{node.name}"] = node
    most = max(errors.values(), default=0.0)

    def inside(level: Mapping[str, Any], depth: int) -> list[Markup]:
        made = []
        for name, below in level.items():
            if isinstance(below, Node):
                made.append(_leaf(below, params, errors.get(below.name), most, units.get(below.name, "")))
            else:
                made.append(more(_title(name, below), *inside(below, depth + 1), open_=depth < 1))
        return made

    return tag("div", *inside(root, 0))


def _counted(level: Mapping[str, Any]) -> tuple[int, int]:
    """How many operators, and how many of them are neurons."""
    each = [(1, int(below.op == "encode")) if isinstance(below, Node) else _counted(below) for below in level.values()]
    return sum(a for a, _ in each), sum(b for _, b in each)


def _title(name: str, level: Mapping[str, Any]) -> Markup:
    operators, neurons = _counted(level)
    words = f" {operators} operator{'s' * (operators != 1)}" + f", {neurons} of them neurons" * bool(neurons)
    return joined(tag("b", name), words)


def _leaf(node: Node, params: Mapping[str, Tensor], error: float | None, most: float, unit: str) -> Markup:
    words = [f"{node.path or node.name}: "]
    words.append(str(node["neuron"]) if node.op == "encode" else node.op)
    words += [f", {unit}"] * bool(unit)
    if node.op == "encode":
        low, high = bounds(node, params)
        words.append(f", theta {low:.3g}..{high:.3g}")
    words += [f", {PurePath(node.where).name}"] * bool(node.where)
    shown: list[Any] = ["".join(words)]
    if error is not None:
        width = 100 * error / most if most > 0 else 0.0
        shown += [
            tag("span", tag("span", class_="bar b", style=f"width:{width:.1f}%"), class_="heat"),
            f"error {error:.3g}",
        ]
    return tag("div", *shown, class_="leaf")


def bounds(node: Node, params: Mapping[str, Tensor]) -> tuple[float, float]:
    """The lowest and highest threshold of a neuron's node."""
    theta = params[node["threshold"].key].detach()
    return float(theta.min()), float(theta.max())
