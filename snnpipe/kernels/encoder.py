r"""The greedy encoder: one recursion for every codebook and every code.

The membrane potential is kept in units of events (``gain`` = 1 for RATE and TD, see ``codes.Clock``):

.. math:: m_t = v_0 + \text{gain}_t\,(v_{t-1} - v_0) + z_t, \qquad v_t = m_t - s_t .

So :math:`v_t - v_0 = (Z_t - Y_t) / a_t` at every step: what the decoded output Y still lacks of the decoded input Z,
in events.  The initial potential only shifts the comparison with the threshold; it is never amplified.

Knows tensors, the clock and codebooks; nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnpipe.codes import Clock
from snnpipe.errors import StageError
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.levels import Bound, reaches, whole
from snnpipe.kernels.precision import is_narrow, narrowed, wide

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


def encode_chunk(
    state: Any, z: Tensor, theta: Tensor, clock: Clock, *, codebook: Codebook, **options: Any
) -> tuple[Any, Tensor] | None:  # fmt: skip
    r"""The K steps of a chunk at once, where its events are all worth the same: ``None`` elsewhere.

    .. math:: n = \mathrm{clip}(\lfloor (v + r z) / \lambda \rfloor, K\,low, K\,high), \qquad
        v \leftarrow v + r z - n \lambda, \qquad s = n \lambda / r

    where r is the number of steps, K, if z is a mean (RATE), and 1 if it is a sum (TD).  That is what K steps of
    ``encode`` send if all of r z arrives at the first: as long as the potential holds an event, one more is sent.  So
    it is one step of the codebook whose largest event is K times as large.

    >>> from snnpipe.codes import RATE
    >>> from snnpipe.kernels.codebook import BINARY
    >>> one = torch.ones(())
    >>> encode_chunk(0.5 * one, 0.6 * one, one, RATE.chunk(1, 4), codebook=BINARY, v_init=0.5)  # 2.4 + 0.5: two events
    (tensor(0.9000), tensor(0.5000))
    """
    book = codebook.times(len(clock.parts))
    if book is None or not clock.is_even:
        return None
    r = sum(clock.shares)
    end = clock.parts[-1]._replace(gain=clock.parts[0].gain)
    state, sent = encode(state, r * wide(z), theta, end, codebook=book, **options)
    return state, narrowed(sent / r, z)


def encode_scan(
    state: Any, zs: Sequence[Tensor], theta: Tensor, clocks: Sequence[Clock], *, codebook: Codebook,
    signed: bool = False, cap: Bound | None = None, v_reset: float | None = None, **_: Any,
) -> tuple[Any, Tensor] | None:  # fmt: skip
    """Several steps, or chunks, in place: per step the sum, the choice, the events, the rest, and no new memory.

    ``None`` where the events depend on more than the potential, where a gradient is wanted, or where potentials would
    have to be scaled from step to step.
    """
    z = zs[0]
    if v_reset is not None or not in_place(zs, theta, clocks, codebook=codebook, signed=signed, cap=cap):
        return None
    smallest = codebook.smallest(theta)
    v = torch.empty_like(z).copy_(state)
    events = torch.empty_strided((len(zs), *z.shape), (z.numel(), *v.stride()), dtype=z.dtype, device=z.device)
    for now, s, clock in zip(zs, events, clocks, strict=True):
        steps, r = len(clock.parts) or 1, sum(clock.shares)
        v.add_(now, alpha=r)
        if codebook.quantise is reaches and steps == 1:
            torch.ge(v, smallest, out=s)
        else:
            torch.div(v, smallest, out=s).floor_().clamp_(steps * codebook.low, steps * codebook.high)
        s.mul_(smallest)
        v.sub_(s)
        if r != 1.0:
            s.div_(r)
    return v, events


def in_place(
    zs: Sequence[Tensor], theta: Tensor, clocks: Sequence[Clock], *, codebook: Codebook, signed: bool = False,
    cap: Bound | None = None,
) -> bool:  # fmt: skip
    """Whether events depend on the potential alone and no potential is scaled between steps; what a gradient or a
    compiler follows is never written in place."""
    z, single = zs[0], [part for clock in clocks for part in clock.parts or (clock,)]
    wanted = torch.is_grad_enabled() and (theta.requires_grad or any(now.requires_grad for now in zs))
    plain = codebook.quantise in (whole, reaches) and not codebook.remembers(signed, cap is not None)
    odd = is_narrow(z) or z.dtype != theta.dtype or any(part.gain != 1.0 for part in single)
    return plain and not wanted and not odd and not torch.compiler.is_compiling()


def wire_spikes(events: Tensor, theta: Tensor, *, codebook: Codebook, **_: Any) -> Tensor:
    """How many spikes each event is on the wires of the codebook."""
    return codebook.spikes((events / codebook.smallest(theta)).round())


def _less(m: Tensor, s: Tensor) -> Tensor:
    """``m - s``, in the memory of m where no gradient needs it."""
    return m - s if m.requires_grad else m.sub_(s)


def _carried(value: Tensor, clock: Clock) -> Tensor:
    """What a decoded value is in events, when time moves on by a step."""
    return value if clock.gain == 1.0 else clock.gain * value
