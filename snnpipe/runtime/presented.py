"""The inputs of a run of T steps, and how many of these are computed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from torch import Tensor

from snnpipe.codes import Clock
from snnpipe.containers import tensors
from snnpipe.graph import Graph
from snnpipe.ops.sequence import at, stacked
from snnpipe.options import optional, whole
from snnpipe.runtime.inputs import check_shapes, encoded
from snnpipe.runtime.program import Program

#: Bytes for the steps that are computed together, unless a network is told otherwise: on a CPU what its caches bear, on
#: an accelerator what keeps it busy.
BUDGET, ELSEWHERE = 2**26, 2**31
#: What a budget must be.
BYTES = optional(whole(most=2**62, wanted="must be a whole number of bytes, at least 1"))
#: Values of a layer that are there at the same time: a current, the events made of it, a skip beside them, what an
#: operator makes of them and the memory it takes for that.
_AT_ONCE = 6
#: Before the first steps only what does not move is known; a layer further on may be so many times as large.
UNSEEN = 4


@attrs.frozen(eq=False)
class Presented:
    """What a network is shown in a run.

    Attributes:
        program, statics: what is run, and what it has computed once.
        given: the inputs by name.
        moving: those that are events, made by ``encode``.
        encode: ``encode(x, clock) -> x_t``; ``None`` for constant inputs.
        graph: that of the network.
        budget: bytes for the steps that are computed together; ``None`` for what suits the device.
    """

    program: Program
    statics: Any
    given: Mapping[str, Any]
    moving: frozenset[str]
    encode: Callable[[Tensor, Clock], Tensor] | None
    graph: Graph
    budget: int | None

    def size(self, cells: Mapping[str, Any]) -> int:
        """How many steps are computed together, as the cells after the steps before tell."""
        budget = budget_for(self.budget, dict(self.given))
        if cells:
            return steps_within(budget, cells)
        return steps_within(budget // UNSEEN, {"seen": (self.statics, self.given)})

    def step(self, clock: Clock) -> Mapping[str, Any]:
        """The inputs at one step, or chunk."""
        if self.encode is None:
            return self.given
        now = encoded(self.given, self.moving, self.encode, clock)
        check_shapes(now, self.graph)
        return now

    def window(self, clocks: Sequence[Clock]) -> Mapping[str, Any]:
        """The inputs at several steps."""
        if self.encode is None:
            return self.given
        each = [self.step(clock) for clock in clocks]
        return dict(self.given) | {name: stacked([now[name] for now in each]) for name in self.moving}

    def axis(self, name: str, clocks: Sequence[Clock]) -> int:
        """Which axis of an input, as it is given at these steps, counts the samples."""
        return int(len(clocks) > 1 and self.encode is not None and name in self.moving)

    def at(self, clocks: Sequence[Clock]) -> Mapping[str, Any]:
        """The inputs at some steps, with a time axis, or at one."""
        return self.window(clocks) if len(clocks) > 1 else self.step(clocks[0])

    def last(self, window: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inputs at the last of several steps."""
        return dict(window) | {name: at(window[name], -1) for name in self.moving}


def cut(ahead: Iterator[Clock], most: int, end: int) -> list[Clock]:
    """The next steps, at most so many, and none beyond step ``end`` if they begin before it."""
    found: list[Clock] = []
    for clock in ahead:
        found.append(clock)
        if len(found) == most or clock.t == end:
            break
    return found


def budget_for(budget: int | None, values: Any) -> int:
    """The budget, or that of the device where the values lie."""
    if budget is not None:
        return budget
    return BUDGET if all(x.device.type == "cpu" for x in tensors(values)) else ELSEWHERE


def steps_within(budget: int, cells: Mapping[str, Any]) -> int:
    """How many steps may be computed together so that the values of the largest layer take no more than the budget."""
    largest = max((x.numel() * x.element_size() for x in tensors(dict(cells))), default=1)
    return max(1, budget // (_AT_ONCE * max(1, largest)))
