r"""Two passes: a neuron that learns from a first run what it sends too much or too little.

The first steps of a run send spikes on inputs that later ones do not bear out, and a binary neuron cannot take them
back.  What is left on its membrane after a first pass of tau steps tells how many: v - v_0 is the charge it still owes
(negative: spikes too many).  Under ``codes.restarted(tau)`` decoding begins anew after these steps, every neuron with
its initial potential, and ``repaired`` lets it start from what the first pass has taught.

Knows neurons and the clock; nothing of graphs.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.codes import Clock
from snnpipe.kernels.neuron import NEURON, Neuron
from snnpipe.options import POSITIVE, one_of
from snnpipe.text import remembered


@takes(neuron=NEURON, how=one_of("carry", "mask"), clip=POSITIVE)
@remembered
def repaired(neuron: Neuron, *, how: str = "carry", clip: float = 3.0) -> Neuron:
    r"""``neuron`` for runs of two passes; the latency is that of both, tau + T steps.

    Args:
        neuron: a soft-reset neuron; its state is the potential, or a tuple that begins with it.
        how: ``"carry"``, the second pass starts from ``v_0 + e`` where e = v - v_0 after the first pass, if that
            amounts to a spike (``|e| >= theta / 2``): the spikes that were too many are owed in advance (Hao et al.
            2023, "Bridging the gap between ANNs and SNNs by calibrating offset spikes", ICLR; they do it layer by
            layer).
            ``"mask"``, a neuron with v < 0 after the first pass is silent in the second (Hao et al. 2023, "Reducing
            ANN-SNN conversion error through residual membrane potential", AAAI).
        clip: the largest |e|, in thresholds.
    """
    return attrs.evolve(
        neuron,
        name=f"{neuron.name}_{how}",
        init=_Init(neuron),
        step=_Step(neuron, how, clip),
        state=neuron.state + 1,
        chunk=None,
        scan=None,
    )


@attrs.frozen
class _Init:
    neuron: Neuron

    def __call__(self, theta: Tensor, **options: Any) -> Any:
        return self.neuron.init(theta, **options), None


@attrs.frozen
class _Step:
    neuron: Neuron
    how: str
    clip: float

    def __call__(self, state: Any, z: Tensor, theta: Tensor, clock: Clock, **options: Any) -> tuple[Any, Tensor]:
        inner, allowed = state
        if clock.gain == 0.0:  # the second pass begins
            fresh = self.neuron.init(theta, **options)
            v, v_0 = _potential(inner), _potential(fresh)
            if self.how == "mask":
                allowed = v >= 0
                inner = fresh
            else:
                owed = v - v_0
                owed = torch.where(owed.abs() >= theta / 2, owed, torch.zeros_like(owed))
                inner = _with_potential(fresh, v_0 + torch.clamp(owed, -self.clip * theta, self.clip * theta))
            clock = clock._replace(gain=1.0)
        after, events = self.neuron.step(inner, z, theta, clock, **options)
        if allowed is not None:
            events = events * allowed
        return (after, allowed), events


def _potential(state: Any) -> Tensor:
    v: Tensor = state[0] if isinstance(state, tuple) else state
    return v


def _with_potential(state: Any, v: Tensor) -> Any:
    return (v, *state[1:]) if isinstance(state, tuple) else v
