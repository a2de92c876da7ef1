"""What is read of a run: the events of an output, and what those since an earlier step decode to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from snnpipe.codes import Clock
from snnpipe.kernels import temporal
from snnpipe.kernels.precision import narrowed
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.runtime.program import Program


def totals(frontier: Mapping[str, Any], cells: Mapping[str, Any], program: Program) -> dict[str, Any]:
    """What is decoded so far of what is read, as precise as the accumulators have it."""
    return {name: cells[name] for name in frontier if name in program.totals}


def since(early: Any, frontier: Mapping[str, Any], cells: Mapping[str, Any], program: Program, kept: float) -> Any:
    """The frontier, of what is decoded what came after ``early``; ``kept`` is the share of that in all."""
    late = temporal.since(early, totals(frontier, cells, program), kept)
    return dict(frontier) | {name: zip_leaves(narrowed, late[name], frontier[name]) for name in late}


def as_events(sent: Any, decoded: Any, clock: Clock) -> tuple[Any, Any]:
    """Events of a decoded output, and what they decode to; what is no float (class indices) is passed on as it is."""

    def one(now: Any, then: Any = None) -> Any:
        coded = isinstance(now, Tensor) and (now.is_floating_point() or now.is_complex()) and now.dtype.itemsize > 1
        return temporal.difference(then, now, clock) if coded else now

    events = zip_leaves(one, decoded) if sent is None else zip_leaves(one, decoded, sent)
    return events, temporal.after(sent, decoded, events, clock)
