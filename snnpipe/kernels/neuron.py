r"""Spiking neurons: what turns an input current into events.

A neuron is a pair of pure functions and a label.  Its membrane potential is kept in units of events, so that
one recursion serves every code (``gain`` = 1 for RATE and TD, see ``codes.Clock``):

.. math:: m_t = v_0 + \text{gain}_t\,(v_{t-1} - v_0) + z_t, \qquad v_t = m_t - s_t .

So :math:`v_t - v_0 = (Z_t - Y_t) / a_t` at every step: what the decoded output Y still lacks of the decoded input Z,
in events.  The initial potential only shifts the comparison with the threshold; it is never amplified.

Knows tensors and the clock; nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.codes import Clock
from snnpipe.frozen import EMPTY, FrozenMap

#: What one event of a unit can be: {0, theta}; {-theta, 0, theta}; one of finitely many levels; any float.
UNITS = ("binary", "signed", "multi-level", "graded")


@attrs.frozen
class Neuron:
    """A spiking neuron as a value; write your own by giving two functions.

    Args:
        name: short tag; a neuron made of ``layer1.relu`` is called ``layer1.relu__<name>0``.
        init: ``init(theta, **options) -> state``, the state before the first step.  ``theta`` is shaped so that it
            broadcasts against the current.  A state is a tensor or a tuple of tensors.
        step: ``step(state, z, theta, clock, **options) -> (state, events)`` for one time step; ``z`` and ``events``
            have the ANN activation's shape (B, ...) and its units.
        unit: one of ``UNITS``, what a report calls the events.
        options: keyword arguments handed to both functions.
    """

    name: str
    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Tensor]]
    unit: str = attrs.field(default="binary", validator=attrs.validators.in_(UNITS))
    options: FrozenMap[str, Any] = attrs.field(default=EMPTY, converter=FrozenMap)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in self.options.items())})"


def initial_potential(theta: Tensor, *, v_init: float, **_: Any) -> Tensor:
    """``v_0 = v_init * theta``; 1/2 minimises the expected quantisation error (Bu et al. 2022, "Optimized
    potential initialization", AAAI)."""
    return v_init * theta


def if_step(
    v: Tensor, z: Tensor, theta: Tensor, clock: Clock, *, v_init: float, v_reset: float | None
) -> tuple[Tensor, Tensor]:
    """Integrate and fire: ``m = v_0 + gain (v - v_0) + z; s = theta [m >= theta]``; soft reset ``v = m - s``.

    With ``v_reset`` a number (in units of theta) the reset is hard: ``v = v_reset theta`` after a spike.

    >>> from snnpipe.codes import RATE
    >>> one = torch.ones(())
    >>> if_step(0.5 * one, 0.75 * one, one, RATE.clock(1), v_init=0.5, v_reset=None)
    (tensor(0.2500), tensor(1.))
    """
    m = _charged(v, z, v_init * theta, clock)
    fired = m >= theta
    s = fired * theta
    return (m - s if v_reset is None else torch.where(fired, v_reset * theta, m)), s


def lif_step(
    v: Tensor, z: Tensor, theta: Tensor, clock: Clock, *, tau: float, v_init: float, v_reset: float | None
) -> tuple[Tensor, Tensor]:
    """Leaky integrate and fire: the potential decays by ``1 - 1/tau`` each step, then as ``if_step``."""
    return if_step((1.0 - 1.0 / tau) * v, z, theta, clock, v_init=v_init, v_reset=v_reset)


def signed_init(theta: Tensor, *, v_init: float) -> tuple[Tensor, Tensor]:
    """Potential and spike memory: ``(v_init theta, 0)``."""
    return v_init * theta, torch.zeros_like(theta)


def signed_step(
    state: tuple[Tensor, Tensor], z: Tensor, theta: Tensor, clock: Clock, *, v_init: float
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Signed neuron with memory: a spike too many is taken back, never more than were sent.

    ``m = v_0 + gain (v - v_0) + z``; ``s = theta`` if ``m >= theta``; ``s = -theta`` if ``m < 0`` and the memory
    (events sent so far, in units of theta) is at least 1; soft reset ``v = m - s``.
    """
    v, memory = state
    m = _charged(v, z, v_init * theta, clock)
    memory = memory if clock.gain == 1.0 else clock.gain * memory
    sign = (m >= theta).to(m.dtype) - ((m < 0) & (memory >= 1)).to(m.dtype)
    s = sign * theta
    return (m - s, memory + sign), s


def integrate_and_fire(*, v_init: float = 0.5, v_reset: float | None = None) -> Neuron:
    """The IF neuron; binary events.

    Under RATE with a constant current z, soft reset and ``v_init = 0``, the spike count after T steps is
    ``clip(floor(z T / theta), 0, T)``.

    Args:
        v_init: initial potential in units of the threshold.
        v_reset: ``None`` for the soft reset (subtraction), or the potential after a spike in units of the threshold.

    Reference: Rueckauer et al. 2017, "Conversion of continuous-valued deep networks to efficient event-driven
    networks", Frontiers in Neuroscience.

    >>> print(integrate_and_fire())
    if(v_init=0.5, v_reset=None)
    """
    return Neuron("if", initial_potential, if_step, "binary", FrozenMap(v_init=v_init, v_reset=v_reset))


def leaky_integrate_and_fire(*, tau: float, v_init: float = 0.5, v_reset: float | None = None) -> Neuron:
    """The LIF neuron with time constant ``tau`` > 1 in steps; binary events.

    The leak loses charge, so the decoded value stays below the ANN's however large T is; meant for hardware that
    has no other neuron.
    """
    if not tau > 1:
        raise ValueError(f"leaky_integrate_and_fire: tau must be greater than 1 step, got {tau!r}")
    return Neuron("lif", initial_potential, lif_step, "binary", FrozenMap(tau=tau, v_init=v_init, v_reset=v_reset))


def signed_memory(*, v_init: float = 0.5) -> Neuron:
    """The signed-memory neuron; events in {-theta, 0, theta}.

    Early spikes that later input does not bear out are retracted, which removes most of the error of small T.

    Reference: Wang et al. 2022, "Signed neuron with memory: towards simple, accurate and high-efficient ANN-SNN
    conversion", IJCAI.
    """
    return Neuron("snm", signed_init, signed_step, "signed", FrozenMap(v_init=v_init))


def _charged(v: Tensor, z: Tensor, v_0: Tensor, clock: Clock) -> Tensor:
    return v + z if clock.gain == 1.0 else v_0 + clock.gain * (v - v_0) + z
