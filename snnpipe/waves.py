"""Schedules: how long the layers of a network wait for each other.

Knows codes; nothing of networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from snnpipe.checks import Check, takes, valid
from snnpipe.codes import Clock, Code
from snnpipe.errors import InputError
from snnpipe.options import WHOLE, optional

_NAMES = {"step": 1, "layer": None}


@attrs.frozen(repr=False)
class Wave:
    """A schedule: every layer takes chunks of ``K`` steps, and begins one when those before it have finished it.

    Args:
        K: steps of a chunk; ``None`` for all steps of a run.
    """

    K: int | None = attrs.field(validator=valid(optional(WHOLE)))

    def clocks(self, code: Code, T: int) -> Iterator[Clock]:
        """The chunks of a run of T steps; the last may be shorter, and none goes on where a code begins anew."""
        first = 1
        while first <= T:
            last = T if self.K is None else min(first + self.K - 1, T)
            anew = (t for t in range(first + 1, last + 1) if code.clock(t).alpha == 0.0)
            last = next(anew, last + 1) - 1
            yield code.chunk(first, last)
            first = last + 1

    def latency(self, T: int, depth: int) -> int:
        """Steps until the answer: ``T + (depth - 1) K``, and T where no layer waits for another.

        Args:
            T: steps each layer takes.
            depth: the largest number of neurons on a path through the network.

        >>> wave(4).latency(16, depth=20), Wave(1).latency(16, depth=20), Wave(None).latency(16, depth=20)
        (92, 16, 320)
        """
        chunk = T if self.K is None else min(self.K, T)
        return T + max(0, depth - 1) * chunk * (self.K != 1)

    def __str__(self) -> str:
        return next((name for name, K in _NAMES.items() if K == self.K), f"wave({self.K})")

    def __repr__(self) -> str:
        return repr(str(self)) if self.K in _NAMES.values() else str(self)


@takes(InputError, K=WHOLE)
def wave(K: int) -> Wave:
    r"""The schedule in which layers pass on chunks of ``K`` steps.

    A neuron waits until its operands have sent all events of a chunk, then fires for K steps on what these add up to;
    its potential is carried from chunk to chunk.  ``wave(1)`` is ``"step"``, all layers at the same time, in which a
    neuron answers events that later ones may not bear out; in ``wave(T)``, ``"layer"``, no event is too early, and an
    IF network is the ANN with activations quantised to T + 1 levels.  Linear operators see one value in a chunk, so a
    run of T steps costs T / K runs of the ANN; the answer comes after ``T + (depth - 1) K`` steps.

    >>> wave(4), wave(1), wave(1) == SCHEDULE.accept("step")
    (wave(4), 'step', True)
    """
    return Wave(K)


def _schedule(value: Any) -> Wave:
    if isinstance(value, str) and value in _NAMES:
        return Wave(_NAMES[value])
    if not isinstance(value, Wave):
        raise TypeError
    return value


#: All layers take a step at the same time.
STEP = Wave(1)
#: For arguments that are schedules.
SCHEDULE = Check('must be "step", "layer" or a wave', _schedule, "write wave(4)", InputError)
