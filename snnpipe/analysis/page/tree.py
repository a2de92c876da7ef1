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
                made.append(more(_title(name, below, errors, most), *inside(below, depth + 1), open_=depth < 1))
        return made

    return tag("div", *inside(root, 0))


def _title(name: str, level: Mapping[str, Any], errors: Mapping[str, float], most: float) -> Markup:
    """A module, what is in it, and the largest error of it."""
    nodes = _nodes(level)
    operators, neurons = len(nodes), sum(node.op == "encode" for node in nodes)
    words = f" {operators} operator{'s' * (operators != 1)}" + f", {neurons} of them neurons" * bool(neurons)
    found = [errors[node.name] for node in nodes if node.name in errors]
    return joined(tag("b", name), words, *([_heat(max(found), most, "largest error")] if found else []))


def _nodes(level: Mapping[str, Any]) -> list[Node]:
    each = [[below] if isinstance(below, Node) else _nodes(below) for below in level.values()]
    return [node for found in each for node in found]


def _heat(error: float, most: float, words: str = "error") -> Markup:
    """A bar as long as an error is large, and the error."""
    width = 100 * error / most if most > 0 else 0.0
    bar = tag("span", class_="bar b", style=f"width:{width:.1f}%")
    return joined(tag("span", bar, class_="heat"), f"{words} {100 * error:.3g} %")


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
        shown.append(_heat(error, most))
    return tag("div", *shown, class_="leaf")


def bounds(node: Node, params: Mapping[str, Tensor]) -> tuple[float, float]:
    """The lowest and highest threshold of a neuron's node."""
    theta = params[node["threshold"].key].detach()
    return float(theta.min()), float(theta.max())
