r"""Spiking neurons: what turns an input current into events.

A neuron is a pair of pure functions and some labels.  Nearly all are the greedy encoder (``kernels.encoder``) with a
codebook (``kernels.codebook``); those with more than one level are in ``kernels.multilevel``.

Knows what a neuron is; nothing of graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import takes, valid
from snnpipe.codes import Clock, Code
from snnpipe.errors import StageError
from snnpipe.frozen import EMPTY, FrozenMap, as_map
from snnpipe.kernels.codebook import BINARY, SIGNED, UNIT, Codebook
from snnpipe.kernels.encoder import TWO_SIDED, encode, encode_chunk, encode_init, encode_scan, wire_spikes
from snnpipe.kernels.levels import power_of_two, reaches, whole
from snnpipe.kernels.precision import wide
from snnpipe.options import FLAG, LONGER_THAN_ONE, MAPPING, POTENTIAL, TEXT, WHOLE, function, instance, optional
from snnpipe.options import whole as whole_number
from snnpipe.text import Call, expression, remembered


def nonzero(events: Tensor, theta: Tensor, **options: Any) -> Tensor:
    """One spike for each event that is not zero."""
    return (events != 0).to(torch.int64)


def any_code(code: Code) -> str:
    """No objection."""
    return ""


_STEP = function("state", "z", "theta", "clock", options=True)
_SPIKES = function("events", "theta", options=True)


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
        wires: the lines its events travel on in parallel.
        alphabet: its events in words, in terms of theta.
        state: floats of state per neuron that stands for a ReLU.
        spikes: ``spikes(events, theta, **options) -> counts``, how many spikes each event is on its wires.
        two_sided: whether it may stand for a value of either sign; there, both functions get ``signed=True`` too.
            Elsewhere it stands for a ReLU and its decoded output must not be negative.
        caps: whether both functions take ``cap=6.0``, the largest value the decoded output may have, where it stands
            for a ReLU6.
        objection: ``objection(code) -> str``, why it is of no use under a code, ``""`` if it is.
        at_once: whether it loses no charge (soft reset, no leak), so that what a chunk of a wave adds up to may arrive
            at its first step (``Clock.presented``); else it is a constant current for all its steps.
        chunk: ``chunk(state, z, theta, clock, **options) -> (state, events)``, the steps of a chunk in closed form, z
            and events being what stands for those of its steps, or ``None`` where there is none; with ``at_once``.
        scan: ``scan(state, zs, theta, clocks, **options) -> (state, events)``, several steps in one call, events on a
            new first axis, or ``None`` where it does not know better than step by step.
    """

    name: str = attrs.field(validator=valid(TEXT))
    init: Callable[..., Any] = attrs.field(validator=valid(function("theta", options=True)))
    step: Callable[..., tuple[Any, Tensor]] = attrs.field(validator=valid(_STEP))
    unit: str = attrs.field(default="binary", validator=valid(UNIT))
    options: FrozenMap[str, Any] = attrs.field(default=EMPTY, converter=as_map, validator=valid(MAPPING))
    wires: int = attrs.field(default=1, validator=valid(WHOLE))
    alphabet: str = attrs.field(default="", validator=valid(TEXT))
    state: int = attrs.field(default=1, validator=valid(whole_number(0)))
    spikes: Callable[..., Tensor] = attrs.field(default=nonzero, validator=valid(_SPIKES))
    two_sided: bool = attrs.field(default=False, validator=valid(FLAG))
    caps: bool = attrs.field(default=False, validator=valid(FLAG))
    objection: Callable[[Code], str] = attrs.field(default=any_code, validator=valid(function("code")))
    at_once: bool = attrs.field(default=False, validator=valid(FLAG))
    chunk: Callable[..., tuple[Any, Tensor] | None] | None = attrs.field(default=None, validator=valid(optional(_STEP)))
    scan: Callable[..., tuple[Any, Tensor] | None] | None = attrs.field(default=None, validator=valid(optional(_STEP)))
    made: Call | None = attrs.field(default=None, kw_only=True, eq=False)

    def stepping(self, step: Callable[..., tuple[Any, Tensor]]) -> Neuron:
        """The same neuron with another ``step``, which is asked for every step of a run."""
        return attrs.evolve(self, step=step, chunk=None, scan=None)

    def __repr__(self) -> str:
        return expression(self)

    def __str__(self) -> str:
        shown: dict[str, Any] = {}
        for key, value in self.options.items():
            shown |= value.options if isinstance(value, Codebook) else {key: value}
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in shown.items())})"


def in_turn(
    neuron: Neuron, state: Any, z: Tensor, theta: Tensor, clock: Clock, options: Mapping[str, Any]
) -> tuple[Any, Tensor]:
    """The steps of a chunk one after the other; ``z``, and what is returned, is the event that stands for theirs."""
    total: Any = 0.0
    for part, worth, factor in zip(clock.parts, clock.worth, clock.presented(neuron.at_once), strict=True):
        state, sent = neuron.step(state, torch.zeros_like(z) if factor == 0.0 else factor * z, theta, part, **options)
        total = total + worth * wide(sent)
    return state, total / clock.a


#: For arguments that are neurons.
NEURON = instance(Neuron, "must be a neuron", "write integrate_and_fire(), signed_memory() or cascade(n=4)")


def check_code(neuron: Neuron, code: Code) -> None:
    """Refuse a neuron under a code that makes it meaningless.

    Raises:
        StageError: with the reason, and what to write instead.
    """
    reason = neuron.objection(code)
    if reason:
        raise StageError(f"{neuron} cannot run under {code}: {reason}")


def check_signed(neuron: Neuron) -> None:
    """Refuse a neuron whose events have one sign where the value has both.

    Raises:
        StageError: with what to write instead.
    """
    if not neuron.two_sided:
        raise StageError(f"{neuron} says nothing below zero, but the value has both signs; {TWO_SIDED}")


@takes(
    codebook=instance(Codebook, "must be a Codebook", 'write encoder(Codebook("mine", whole, "multi-level", 0, 3))'),
    v_init=POTENTIAL,
)
@remembered
def encoder(codebook: Codebook, *, v_init: float = 0.5) -> Neuron:
    """The neuron of a codebook: greedy, with soft reset.

    At a site that stands for a ReLU it takes back what it sent, never more; where ``signed`` is asked for, events of
    either sign come as they are needed.

    Args:
        codebook: what its events can be.
        v_init: initial potential in smallest events; 1/2 makes ``whole`` levels round to the nearest.

    >>> from snnpipe.kernels.levels import whole
    >>> print(encoder(Codebook("three", whole, "multi-level", 0, 3), v_init=0.0))
    three(v_init=0.0)
    """
    return Neuron(
        codebook.name,
        encode_init,
        encode,
        codebook.unit,
        FrozenMap(codebook=codebook, v_init=v_init),
        wires=codebook.wires,
        alphabet=codebook.alphabet,
        state=1 + codebook.remembers(False),
        spikes=wire_spikes,
        two_sided=codebook.two_sided,
        caps=True,
        at_once=True,
        chunk=encode_chunk,
        scan=encode_scan,
    )


@takes(v_init=POTENTIAL, v_reset=optional(POTENTIAL))
@remembered
def integrate_and_fire(*, v_init: float = 0.5, v_reset: float | None = None) -> Neuron:
    """The IF neuron; binary events.

    Under RATE with a constant current z, soft reset and ``v_init = 0``, the spike count after T steps is
    ``clip(floor(z T / theta), 0, T)``.  It takes nothing back: under a code that adds up (TD, DIFFERENTIAL, geometric)
    what it said too early stays said, and a two-sided neuron does better.

    Args:
        v_init: initial potential in units of the threshold.
        v_reset: ``None`` for the soft reset (subtraction), or the potential after a spike in units of the threshold.

    Reference: Rueckauer et al. 2017, "Conversion of continuous-valued deep networks to efficient event-driven
    networks", Frontiers in Neuroscience.

    >>> print(integrate_and_fire())
    if(v_init=0.5, v_reset=None)
    """
    made = encoder(BINARY, v_init=v_init)
    made = attrs.evolve(made, options=made.options | {"v_reset": v_reset})
    return (
        made
        if v_reset is None
        else attrs.evolve(made, caps=False, objection=_forgets, at_once=False, chunk=None, scan=None)
    )


def lif_step(v: Tensor, z: Tensor, theta: Tensor, clock: Clock, *, tau: float, **options: Any) -> tuple[Any, Tensor]:
    """Leaky integrate and fire: the potential decays by ``1 - 1/tau`` each step, then as ``encode``."""
    return encode((1.0 - 1.0 / tau) * v, z, theta, clock, **options)


@takes(tau=LONGER_THAN_ONE, v_init=POTENTIAL, v_reset=optional(POTENTIAL))
@remembered
def leaky_integrate_and_fire(*, tau: float, v_init: float = 0.5, v_reset: float | None = None) -> Neuron:
    """The LIF neuron with time constant ``tau`` > 1 in steps; binary events.

    The leak loses charge, so the decoded value stays below the ANN's however large T is; meant for hardware that
    has no other neuron.
    """
    made = integrate_and_fire(v_init=v_init, v_reset=v_reset)
    options: FrozenMap[str, Any] = FrozenMap({"tau": tau, **made.options})
    return _losing(attrs.evolve(made, name="lif", step=lif_step, options=options))


@takes(v_init=POTENTIAL)
@remembered
def signed_memory(*, v_init: float = 0.5) -> Neuron:
    """The signed-memory neuron; events in {-theta, 0, theta}.

    Early spikes that later input does not bear out are retracted, which removes most of the error of small T.

    Reference: Wang et al. 2022, "Signed neuron with memory: towards simple, accurate and high-efficient ANN-SNN
    conversion", IJCAI.
    """
    return encoder(SIGNED, v_init=v_init)


def events_in_theta(neuron: Neuron) -> int | None:
    """How many smallest events theta is worth, where a neuron of c theta sends c times what one of theta does.

    That holds of the greedy encoder with a codebook of ours, for every c > 0: each term of its recursion is a current,
    a threshold, or a level times a threshold.  Of a step or a choice of one's own nobody knows: ``None``.
    """
    book = neuron.options.get("codebook")
    ours = neuron.init is encode_init and neuron.step in (encode, lif_step)
    known = isinstance(book, Codebook) and book.quantise in (reaches, whole, power_of_two)
    return book.parts if ours and isinstance(book, Codebook) and known else None


def _losing(neuron: Neuron) -> Neuron:
    """A neuron that loses charge: what it decodes to has no bound, and its steps no closed form."""
    return attrs.evolve(neuron, caps=False, objection=_forgets, at_once=False, chunk=None, scan=None)


def _forgets(code: Code) -> str:
    """A potential that leaks or is reset is no longer what the decoded output lacks."""
    clocks = [code.clock(t) for t in range(1, 9)]
    if all(math.isclose(clock.kappa, 1.0) and math.isclose(clock.gain, 1.0) for clock in clocks):
        return ""
    return (
        "it forgets charge, which under this code is presented once and not again, so its output would not follow the "
        "input at any T; use td_rewrite(code=RATE), or a neuron that keeps its charge: integrate_and_fire()"
    )
