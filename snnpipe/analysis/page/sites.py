"""Thresholds and spike rates of the neurons, as parts of a page."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from snnpipe.analysis.costs import Account
from snnpipe.emit import neuron_path
from snnpipe.graph import Graph
from snnpipe.markup.bars import bars, ranges
from snnpipe.markup.tables import table
from snnpipe.markup.tags import Markup, more, tag


def thresholds(graph: Graph, params: Mapping[str, Tensor]) -> list[Markup]:
    """Of each layer of neurons the lowest to the highest threshold of its channels; empty without neurons."""
    found = [(node, params[node["threshold"].key].detach().double()) for node in graph if node.op == "encode"]
    if not found:
        return []
    bounds = [(neuron_path(node), float(theta.min()), float(theta.max())) for node, theta in found]
    drawn = [(name, low, high, f"{low:.3g}..{high:.3g}") for name, low, high in bounds if high < _SILENT]
    rows = [("layer", "neuron", "lowest", "median", "highest", "channels")]
    rows += [
        (neuron_path(node), str(node["neuron"]), f"{float(theta.min()):.4g}", f"{float(theta.median()):.4g}",
         f"{float(theta.max()):.4g}", str(theta.numel()))
        for node, theta in found
    ]  # fmt: skip
    silent = [name for name, _, high in bounds if high >= _SILENT]
    note = [tag("p", f"silent, for they never fired in calibration: {', '.join(silent)}", class_="note")] * bool(silent)
    made = table(rows, label="thresholds", left=2)
    return [ranges(drawn, label="thresholds from the lowest to the highest channel"), *note, more("as a table", made)]


#: A layer that never fired has the largest float of its type; nothing else comes near.
_SILENT = 1e4


def rates(account: Account) -> list[Markup]:
    """Spikes of each layer per neuron and step."""
    found = [(layer.name, layer.per_neuron / account.T) for layer in account.layers]
    rows = [(name, rate, f"{rate:.3g} per step") for name, rate in found]
    return [bars(rows, label="spikes per neuron and step", colour="a")] * bool(rows)
