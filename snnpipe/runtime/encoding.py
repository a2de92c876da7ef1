"""How a network's input is turned into events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import takes, valid
from snnpipe.codes import Clock
from snnpipe.errors import InputError
from snnpipe.options import TEXT, function, instance, optional
from snnpipe.text import Call, expression, remembered


@attrs.frozen
class Encoding:
    """A way to present an input; write your own by giving ``encode``.

    Args:
        name: what reports call it.
        encode: ``encode(x, clock) -> x_t``, the events of step ``clock.t``; ``None`` for a constant current, which is
            the only encoding that lets the network compute once what depends on the input alone.  Random numbers come
            from torch's own generator or from ``encode.generator``, so that ``explain`` can have them a second time.
    """

    name: str = attrs.field(validator=valid(TEXT, InputError))
    encode: Callable[[Tensor, Clock], Tensor] | None = attrs.field(
        validator=valid(optional(function("x", "clock")), InputError)
    )
    made: Call | None = attrs.field(default=None, kw_only=True, eq=False)

    def __repr__(self) -> str:
        return expression(self)

    @property
    def is_constant(self) -> bool:
        """Whether the input is a constant current."""
        return self.encode is None

    @property
    def is_events(self) -> bool:
        """Whether the input is a sequence of events already."""
        return self.encode is take_step

    def bookmark(self) -> Callable[[], None]:
        """What sets the source of random numbers back to where it is now: ``encode.generator``, or torch's own.

        So that several runs see the same events.
        """
        if self.is_constant or self.is_events:
            return lambda: None
        own = getattr(self.encode, "generator", None)
        places = [(own.set_state, own.get_state())] if isinstance(own, torch.Generator) else _of_torch()

        def back() -> None:
            for put, there in places:
                put(there)

        return back

    @contextmanager
    def undrawn(self) -> Iterator[Callable[[], None]]:
        """Whatever is drawn inside, the source stands where it stood; what is given sets it back there in between."""
        back = self.bookmark()
        try:
            yield back
        finally:
            back()


def _of_torch() -> list[tuple[Callable[[Any], Any], Any]]:
    """How torch's own sources are set, and where they are."""
    found: list[tuple[Callable[[Any], Any], Any]] = [(torch.set_rng_state, torch.get_rng_state())]
    if torch.cuda.is_initialized():
        found.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return found


#: For arguments that are encodings.
ENCODING = instance(Encoding, "must be an encoding", "write constant(), poisson() or events()")


@remembered
def constant() -> Encoding:
    """The input itself as a constant current (direct encoding): its events decode to x at every step."""
    return Encoding("constant", None)


@attrs.frozen
class _Poisson:
    """Random spikes."""

    generator: torch.Generator | None

    def __call__(self, x: Tensor, clock: Clock) -> Tensor:
        if clock.kappa != 1.0:
            raise InputError("poisson: random spikes have the mean x, which only the RATE code decodes")
        if not bool((x.abs() <= 1).all()):
            raise InputError(f"poisson: inputs must lie in [-1, 1], got up to {x.abs().max():.3g}; scale them first")
        drawn = torch.rand(x.shape, generator=self.generator, dtype=x.dtype, device=x.device)
        return torch.where(drawn < x.abs(), x.sign(), torch.zeros_like(x))


@takes(
    InputError,
    generator=optional(
        instance(torch.Generator, "must be a torch.Generator", "write torch.Generator().manual_seed(0)")
    ),
)
@remembered
def poisson(generator: torch.Generator | None = None) -> Encoding:
    """Bernoulli spikes ``x_t = sign(x) [u < abs(x)]``, u uniform, for inputs in [-1, 1]; their mean is x.

    Args:
        generator: source of randomness; the same seed gives the same spikes.
    """
    return Encoding("poisson", _Poisson(generator))


@remembered
def events() -> Encoding:
    """The input is an event sequence already, (T, B, ...): step t takes ``x[t - 1]``."""
    return Encoding("events", take_step)


def take_step(x: Tensor, clock: Clock) -> Tensor:
    """Step ``clock.t`` of a sequence (T, ...)."""
    if x.ndim == 0 or clock.t > len(x):
        raise InputError(f"events: the sequence has {x.shape[0] if x.ndim else 0} steps, step {clock.t} was asked for")
    return x[clock.t - 1]
