"""The neuron that makes no error: it sends, as a float, whatever the ANN's activation has changed by."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from snnpipe.codes import Clock
from snnpipe.kernels.neuron import Neuron
from snnpipe.kernels.temporal import accumulate, after, difference


def _init(theta: Tensor, **_: Any) -> Any:
    return None, None


def _step(
    state: Any, z: Tensor, theta: Tensor, clock: Clock, *, signed: bool = False, cap: Any = None, **_: Any
) -> tuple[Any, Tensor]:
    total, sent = state
    now, total = accumulate(total, z, clock)
    now = now if signed else now.clamp(min=0.0)
    now = now if cap is None else now.clamp(max=cap)
    events: Tensor = difference(sent, now, clock)
    return (total, after(sent, now, events, clock)), events


#: A site with it is kept as the ANN, in the middle of a spiking network.
EXACT = Neuron(
    "ann", _init, _step, "graded", alphabet="{any number}", two_sided=True, caps=True, chunk=_step, at_once=True
)
