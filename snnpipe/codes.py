r"""Neural codes: how a train of events stands for a value.

Knows the schedules of a code; what neurons and operators do with them is said elsewhere.

A code is a pair of schedules :math:`(\alpha_t, a_t)`, t = 1, 2, ...  Events x_t decode to

.. math:: X_t = \alpha_t X_{t-1} + a_t x_t, \qquad X_0 = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import attrs

from snnpipe.checks import Check, takes, valid
from snnpipe.errors import InputError
from snnpipe.options import COUNTABLE, LONGER_THAN_ONE, TEXT, function, number, plain, whole
from snnpipe.text import Call, expression, remembered

_SCHEDULE = function("t")
_BASE = number(f"must be a positive number, at most {COUNTABLE}", lambda value: 1 / COUNTABLE <= value <= COUNTABLE)
_LEAST = 2.0**-1022  # the reciprocal of anything smaller may be infinite


class Clock(NamedTuple):
    """A code read off at one step; the only thing a kernel needs to know about time.

    Attributes:
        t: the step, counted from 1.
        alpha: weight of the value decoded so far.
        a: weight of this step's events.
        kappa: what a constant c must be multiplied by so that the events ``kappa_t c`` decode to c at every t.
        gain: ``alpha_t a_{t-1} / a_t``, what a difference of decoded values, measured in events, is multiplied by
            when time moves on by a step; 1 for RATE and TD.
        parts: the steps of a chunk, empty for a single step.  A chunk is a step of a coarser code, in which its one
            event stands for those of its steps, ``shares`` of it; t is the last of them.
    """

    t: int
    alpha: float
    a: float
    kappa: float
    gain: float
    parts: tuple[Any, ...] = ()

    @property
    def worth(self) -> tuple[float, ...]:
        """What an event of each step of the chunk is worth at its end."""
        return worths(self.parts or (self,))

    @property
    def shares(self) -> tuple[float, ...]:
        """The events at each step that the chunk's event stands for, in units of it: those of a constant.

        >>> RATE.chunk(3, 4).shares, TD.chunk(1, 2).shares
        ((1.0, 1.0), (1.0, 0.0))
        """
        first, *later = self.parts or (self,)
        return 1.0, *(part.kappa / first.kappa if first.kappa else 0.0 for part in later)

    @property
    def is_even(self) -> bool:
        """Whether the events of all steps of the chunk are worth the same."""
        return all(part.gain == 1.0 for part in self.parts[1:])

    def presented(self, at_once: bool) -> tuple[float, ...]:
        """What a neuron is given at each step of the chunk, in units of the chunk's event; its worth is the event's.

        Args:
            at_once: a neuron that loses no charge may be given all of it at the first step, where events are all worth
                the same; any other is given a constant current.

        >>> RATE.chunk(3, 4).presented(True), RATE.chunk(3, 4).presented(False)
        ((2.0, 0.0), (1.0, 1.0))
        """
        if not at_once:
            return (self.a / sum(self.worth),) * len(self.parts)
        return (sum(self.shares), *(0.0,) * (len(self.parts) - 1)) if self.is_even else self.shares


def worths(clocks: Sequence[Clock]) -> tuple[float, ...]:
    """What an event of each of some steps, or chunks, is worth at the end of them.

    >>> worths([RATE.chunk(1, 2), RATE.clock(3)])
    (0.6666666666666666, 0.3333333333333333)
    """
    found, kept = [], 1.0
    for clock in reversed(clocks):
        found.append(clock.a * kept)
        kept *= clock.alpha
    return tuple(reversed(found))


@attrs.frozen
class Code:
    """A named pair of schedules.

    Args:
        name: what reports call it.
        alpha: ``alpha(t)`` for t >= 1; the value at t = 1 is immaterial because X_0 = 0.
        a: ``a(t)`` > 0 for t >= 1.

    >>> [RATE.clock(t).kappa for t in (1, 2, 3)]
    [1.0, 1.0, 1.0]
    >>> [TD.clock(t).kappa for t in (1, 2, 3)]
    [1.0, 0.0, 0.0]
    """

    name: str = attrs.field(validator=valid(TEXT))
    alpha: Callable[[int], float] = attrs.field(validator=valid(_SCHEDULE))
    a: Callable[[int], float] = attrs.field(validator=valid(_SCHEDULE))
    made: Call | None = attrs.field(default=None, kw_only=True, eq=False)

    def clock(self, t: int) -> Clock:
        """The code at step ``t`` (from 1): ``kappa_t = (1 - alpha_t [t > 1]) / a_t``.

        Raises:
            InputError: the schedules leave the numbers that a float can say.
        """
        a = self._said("a", t, 0.0)
        if t == 1:
            return Clock(t, 0.0, a, 1.0 / a, 1.0)
        alpha = self._said("alpha", t, -math.inf)
        return Clock(t, alpha, a, (1.0 - alpha) / a, alpha * self._said("a", t - 1, 0.0) / a)

    def chunk(self, first: int, last: int) -> Clock:
        r"""The steps ``first``, ..., ``last`` as one: ``alpha = prod alpha_t``, ``a`` the worth of its ``shares``.

        So :math:`X_{last} = \alpha X_{first-1} + a \tilde x` for the event :math:`\tilde x` of the chunk.  Where a
        constant's events are all the same it is their mean; where they add up it is what they add up to.

        >>> RATE.chunk(3, 4)[:4], TD.chunk(1, 4)[:4]
        ((4, 0.5, 0.5, 1.0), (4, 0.0, 1.0, 1.0))
        """
        parts = tuple(self.clock(t) for t in range(first, last + 1))
        if len(parts) == 1:
            return parts[0]
        alpha, whole = math.prod(part.alpha for part in parts), Clock(last, 0.0, 0.0, 0.0, 0.0, parts)
        a = sum(worth * share for worth, share in zip(whole.worth, whole.shares, strict=True))
        if parts[0].alpha == 0.0:  # a constant is told at the first step, and then held
            a = parts[0].a
        return Clock(last, alpha, a, parts[0].kappa if alpha == 0.0 else (1.0 - alpha) / a, 1.0, parts)

    def _said(self, schedule: str, t: int, above: float) -> float:
        """What a schedule says of step ``t``: a finite number, and ``a`` a positive one whose reciprocal is finite."""
        try:
            value = plain(getattr(self, schedule)(t))
        except OverflowError:
            value = math.inf
        if not isinstance(value, int | float) or not above < value < math.inf or (schedule == "a" and value < _LEAST):
            wanted = "positive and finite" if schedule == "a" else "finite"
            raise InputError(
                f"{self}: {schedule}({t}) is {value!r}, it must be a number, {wanted}; use fewer steps, or another code"
            )
        return float(value)

    @property
    def steady(self) -> bool:
        """Whether every constant is its own events, ``kappa_t = 1``."""
        return False

    def worth(self, T: int) -> tuple[float, ...]:
        """What an event of step 1, ..., T is worth in the end: ``X_T = sum_t worth_t x_t``.

        >>> geometric(2.0).worth(3)
        (0.5, 0.25, 0.125)
        """
        return worths([self.clock(t) for t in range(1, T + 1)])

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name if CODES.get(self.name) == self else expression(self)


def _one(t: int) -> float:
    return 1.0


def _reciprocal(t: int) -> float:
    return 1.0 / t


def _before(t: int) -> float:
    return (t - 1) / t


@attrs.frozen
class _Geometric:
    beta: float

    def __call__(self, t: int) -> float:
        return self.beta**-t


@attrs.frozen
class _Newest:
    """The weight of the newest event in a mean whose weights fall by ``keep`` a step into the past."""

    keep: float

    def __call__(self, t: int) -> float:
        return (1.0 - self.keep) / (1.0 - self.keep**t)


@attrs.frozen
class _Rest:
    """What a weight leaves."""

    of: Callable[[int], float]

    def __call__(self, t: int) -> float:
        return 1.0 - self.of(t)


@attrs.frozen(repr=False)
class _Rate(Code):
    """RATE in closed form: kappa and gain are 1 exactly, where the quotients would round."""

    def clock(self, t: int) -> Clock:
        return Clock(t, (t - 1) / t, 1.0 / t, 1.0, 1.0)

    def chunk(self, first: int, last: int) -> Clock:
        made = super().chunk(first, last)
        if not made.parts:
            return made
        exact = {"alpha": (first - 1) / last, "a": (last - first + 1) / last} if type(self) is _Rate else {}
        return Clock(**made._asdict() | exact | {"kappa": 1.0})

    @property
    def steady(self) -> bool:
        return True

    def worth(self, T: int) -> tuple[float, ...]:
        return (1.0 / T,) * T


@attrs.frozen(repr=False)
class _LowPass(_Rate):
    """The mean of the events, each weighing ``keep`` times what the next one does; in closed form like RATE."""

    keep: float

    def clock(self, t: int) -> Clock:
        return Clock(t, self.alpha(t), self.a(t), 1.0, self.keep if t > 1 else 1.0)

    def worth(self, T: int) -> tuple[float, ...]:
        return tuple(self.a(T) * self.keep ** (T - t) for t in range(1, T + 1))


@attrs.frozen(repr=False)
class _Restarted(_Rate):
    """RATE in which nothing of the first ``tau`` steps is kept."""

    tau: int

    def clock(self, t: int) -> Clock:
        if t <= self.tau:
            return RATE.clock(t)
        clock = RATE.clock(t - self.tau)
        return clock._replace(t=t, gain=0.0 if t == self.tau + 1 else 1.0)

    def worth(self, T: int) -> tuple[float, ...]:
        return RATE.worth(T) if self.tau >= T else (0.0,) * self.tau + RATE.worth(T - self.tau)


#: The decoded value is the running mean of the events.
RATE = _Rate("RATE", _before, _reciprocal)
#: The decoded value is the running sum of the events (temporal difference, sigma-delta).
TD = Code("TD", _one, _one)
#: The decoded value is the sum of the events weighted by 1/t (differential coding, DCGS, ICML 2025).
DIFFERENTIAL = Code("DIFFERENTIAL", _one, _reciprocal)

#: The codes that have no options, by name.
CODES = {code.name: code for code in (RATE, TD, DIFFERENTIAL)}


def as_code(value: Any) -> Code:
    """A code as it is, or the one without options of that name.

    >>> as_code("TD") is TD
    True
    """
    if isinstance(value, Code):
        return value
    if isinstance(value, str) and value in CODES:
        return CODES[value]
    raise TypeError


#: For arguments that are codes.
CODE = Check("must be a code", as_code, "write RATE, TD, DIFFERENTIAL, geometric(2.0) or low_pass(8.0)")


@takes(beta=_BASE)
@remembered
def geometric(beta: float) -> Code:
    """Weighted spikes: the event at step t is worth ``beta**-t``.

    >>> geometric(2.0).clock(3).a
    0.125
    """
    return Code(f"geometric({beta:g})", _one, _Geometric(beta))


@takes(tau=LONGER_THAN_ONE)
@remembered
def low_pass(tau: float) -> Code:
    r"""The mean of the events in which older ones fade: an event s steps old weighs ``(1 - 1/tau)^s``.

    .. math:: X_t = \sum_{s \le t} \lambda^{t-s} x_s \Big/ \sum_{s \le t} \lambda^{t-s}, \qquad \lambda = 1 - 1/\tau

    In a deep network early events are often wrong: they answer layers that had not spoken yet, and a binary neuron
    cannot take them back.  RATE remembers them to the end; here they fade.  The price is resolution: no more than about
    ``2 tau - 1`` events count, so tau should grow with T (``recipes.fading`` takes 0.7 T).  RATE is the limit of large
    tau.  By the membrane equation a neuron's potential leaks at the same rate (gain = lambda): with this decoding the
    leaky integrate-and-fire neuron is not a lossy IF neuron but the right one.

    Args:
        tau: time constant in steps, > 1.

    >>> [round(low_pass(2.0).clock(t).a, 3) for t in (1, 2, 3)]
    [1.0, 0.667, 0.571]
    >>> [round(w, 3) for w in low_pass(2.0).worth(3)]
    [0.143, 0.286, 0.571]
    """
    keep = 1.0 - 1.0 / tau
    return _LowPass(f"low_pass({tau:g})", _Rest(_Newest(keep)), _Newest(keep), keep)


@takes(tau=whole(wanted="is a number of steps, a whole number of at least 1"))
@remembered
def restarted(tau: int) -> Code:
    """RATE, begun anew after ``tau`` steps: the running mean of the events since then.

    A run of ``tau + T`` steps has two passes; a neuron starts the second with its initial potential, or with what
    ``repaired`` has learnt from the first.

    >>> [restarted(2).clock(t).alpha for t in (1, 2, 3, 4)]
    [0.0, 0.5, 0.0, 0.5]
    """
    return _Restarted(f"RATE after {tau}", _before, _reciprocal, tau)
