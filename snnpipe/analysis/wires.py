"""What travels on the wires of a network: whole numbers, or multiples of thresholds."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.emit import neuron_path
from snnpipe.errors import StageError
from snnpipe.graph import Node
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.neuron import events_in_theta
from snnpipe.ops.lift import unlift
from snnpipe.ops.modules import held
from snnpipe.options import instance
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.state import ConversionState, Event

SUBJECT = instance(
    (ConversionState, SpikingNetwork), "must be a ConversionState or a SpikingNetwork",
    "write wires(pipe(model, trace, ..., absorb)); of a recipe's answer take .snn",
)  # fmt: skip


@attrs.frozen
class Wire:
    """What one neuron layer sends.

    Attributes:
        path: what people call it.
        whole: whether its events are whole numbers.
        low: the lowest event, in units of the smallest; ``None`` where the neuron is one's own.
        high: the highest.
        reason: why its events are no whole numbers, "" if they are.
    """

    path: str
    whole: bool
    low: float | None
    high: float | None
    reason: str = ""

    def __str__(self) -> str:
        if not self.whole:
            return f"{self.path}: multiples of its threshold; {self.reason}"
        return f"{self.path}: whole events {self.low:g}..{self.high:g}"


@takes(StageError, subject=SUBJECT)
def wires(subject: ConversionState | SpikingNetwork) -> tuple[Wire, ...]:
    """Say of each neuron layer whether its events are whole numbers, and why not; the subject is unchanged.

    They are where theta is as many as ``parts``, that is where the smallest event is 1: after ``absorb``, or with
    thresholds that say so.

    >>> from torch import nn
    >>> from snnpipe import fixed, pipe, replace, trace
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> print(*wires(pipe(model, trace, replace(threshold=fixed(0.5)))))
    1__if0: multiples of its threshold; put absorb before to_snn
    """
    tensors, graph = held_params(subject), unlift(subject.graph)
    said = {event.subject: event for event in subject.history if event.stage == "absorb"}
    return tuple(_wire(node, tensors, said) for node in graph if node.op == "encode")


def held_params(subject: ConversionState | SpikingNetwork) -> Mapping[str, Tensor]:
    """The tensors of a state or of a network, by the keys of its graph."""
    if isinstance(subject, ConversionState):
        return subject.params
    return {key: held(subject, key) for key in sorted(subject.graph.param_keys())}


def _wire(node: Node, tensors: Mapping[str, Tensor], said: Mapping[str, Event]) -> Wire:
    parts, path = events_in_theta(node["neuron"]), neuron_path(node)
    book = node["neuron"].options.get("codebook")
    low, high = (book.low, book.high) if isinstance(book, Codebook) else (None, None)
    if parts is not None and bool((tensors[node["threshold"].key] == parts).all()):
        return Wire(path, True, low, high)
    event = said.get(path)
    return Wire(path, False, low, high, event.detail if event else "put absorb before to_snn")
