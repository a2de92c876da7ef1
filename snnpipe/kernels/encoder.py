r"""The greedy encoder: one recursion for every codebook and every code.

The membrane potential is kept in units of events (``gain`` = 1 for RATE and TD, see ``codes.Clock``):

.. math:: m_t = v_0 + \text{gain}_t\,(v_{t-1} - v_0) + z_t, \qquad v_t = m_t - s_t .

So :math:`v_t - v_0 = (Z_t - Y_t) / a_t` at every step: what the decoded output Y still lacks of the decoded input Z,
in events.  The initial potential only shifts the comparison with the threshold; it is never amplified.

Knows tensors, the clock and codebooks; nothing of graphs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnpipe.codes import Clock
from snnpipe.errors import StageError
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.levels import Bound
from snnpipe.kernels.precision import narrowed, wide

#: What to write where events of both signs are needed.
TWO_SIDED = "write cascade(n=4), one_of_n(n=4), signed_memory(), graded() or burst(two_sided=True)"


def encode_init(
    theta: Tensor, *, codebook: Codebook, v_init: float, signed: bool = False, cap: Bound | None = None, **_: Any
) -> Any:  # fmt: skip
    """The state before the first step: the potential, ``v_init`` smallest events, and 0 events sent if it counts them.

    1/2 minimises the expected quantisation error (Bu et al. 2022, "Optimized potential initialization for low-latency
    spiking neural networks", AAAI).
    """
    if signed and not codebook.two_sided:
        raise StageError(f"{codebook} says nothing below zero, but the value has both signs; {TWO_SIDED}")
    v = v_init * codebook.smallest(theta)
    return (v, torch.zeros_like(theta)) if codebook.remembers(signed, cap is not None) else v


def encode(
    state: Any, z: Tensor, theta: Tensor, clock: Clock, *, codebook: Codebook, v_init: float,
    v_reset: float | None = None, signed: bool = False, cap: Bound | None = None,
) -> tuple[Any, Tensor]:  # fmt: skip
    r"""One step of the greedy encoder: ``m = v_0 + gain (v - v_0) + z; s = Q(m); v = m - s`` (soft reset).

    A codebook that looks back is given what was sent so far, ``Y / a``, counted in smallest events.  It never takes
    back more than that, which makes this the encoder of ``max(Z, 0)``: where Z is negative it asks for no other event
    than where Z is 0.

    Args:
        state: as from ``encode_init``.
        z: current (B, ...).
        theta: threshold, broadcasting against ``z``, in the dtype of the state; events have that of ``z``.
        clock: the code at this step.
        codebook: what an event can be.
        v_init: initial potential in smallest events.
        v_reset: the potential after a spike, in units of theta (hard reset); ``None`` for the soft reset.
        signed: the decoded output may be negative.
        cap: the largest value the decoded output may take.

    >>> from snnpipe.codes import RATE
    >>> from snnpipe.kernels.codebook import BINARY
    >>> one = torch.ones(())
    >>> encode(0.5 * one, 0.75 * one, one, RATE.clock(1), codebook=BINARY, v_init=0.5)
    (tensor(0.2500), tensor(1.))
    """
    smallest = codebook.smallest(theta)
    v, sent = state if codebook.remembers(signed, cap is not None) else (state, None)
    z, like = wide(z), z
    m = v + z if clock.gain == 1.0 else v_init * smallest + clock.gain * (v - v_init * smallest) + z
    if sent is None:
        q = codebook.choose(m, smallest, codebook.low, codebook.high)
        s = narrowed(q * smallest, like)
        return (_less(m, s) if v_reset is None else (1 - q.detach()) * m + q.detach() * (v_reset * theta)), s
    sent = _carried(sent, clock)
    q = codebook.choose(m, smallest, *codebook.room(sent, smallest, a=clock.a, signed=signed, cap=cap))
    s = narrowed(q * smallest, like)
    return (_less(m, s), sent + q), s


def wire_spikes(events: Tensor, theta: Tensor, *, codebook: Codebook, **_: Any) -> Tensor:
    """How many spikes each event is on the wires of the codebook."""
    return codebook.spikes((events / codebook.smallest(theta)).round())


def _less(m: Tensor, s: Tensor) -> Tensor:
    """``m - s``, in the memory of m where no gradient needs it."""
    return m - s if m.requires_grad else m.sub_(s)


def _carried(value: Tensor, clock: Clock) -> Tensor:
    """What a decoded value is in events, when time moves on by a step."""
    return value if clock.gain == 1.0 else clock.gain * value
