"""The neurons of a network as a table of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from snnpipe.markup import told
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.markup.tags import Markup, tag
from snnpipe.ops.modules import SpikingNeuron
from snnpipe.state import Event


def network(head: str, found: Mapping[str, SpikingNeuron], made: Sequence[str], events: Sequence[Event]) -> str:
    """A network for a notebook."""
    return piece(tag("b", head), *told.pipeline(made), neurons(found), *told.history(events))


def neurons(found: Mapping[str, SpikingNeuron]) -> Markup:
    """A row for each layer of neurons: what it is, what it sends, between which thresholds."""
    if not found:
        return tag("p", "no neurons")
    rows = [("layer", "neuron", "unit", "wires", "lowest theta", "highest theta", "stands for")]
    for name, module in found.items():
        kind = module.neuron
        rows.append((name, str(kind), kind.unit, str(kind.wires), *module.ends, module.origin))
    return table(rows, label="neurons", left=3, words=1)
