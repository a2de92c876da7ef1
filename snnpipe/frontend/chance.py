"""The random number generators of a process while a model is followed: undisturbed, and watched.

Python's and numpy's generators leave no trace in a graph, so a ``forward`` that moves them is refused.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from snnpipe.errors import TraceError


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave all generators as they were.

    Raises:
        TraceError: Python's or numpy's generator was used inside.
    """
    numpy: Any = sys.modules.get("numpy")
    python, numbers = random.getstate(), None if numpy is None else numpy.random.get_state()
    failure = None
    try:
        with torch.random.fork_rng():
            try:
                yield
            except TraceError as error:  # which may be for what was drawn
                failure = error
        moved = ["random"] * (random.getstate() != python)
        moved += ["numpy.random"] * (numpy is not None and not _same(numpy.random.get_state(), numbers))
    finally:
        random.setstate(python)
        if numpy is not None and numbers is not None:
            numpy.random.set_state(numbers)
    if failure is not None and not moved:
        raise failure
    if moved:
        raise TraceError(
            f"trace: forward draws random numbers ({' and '.join(moved)}), so the network computes no function of its "
            "input.\n  Draw them only in training mode (if self.training: ...), or outside the model, as an input"
        )


def _same(now: tuple[Any, ...], before: tuple[Any, ...] | None) -> bool:
    return before is not None and repr(now[2:]) == repr(before[2:]) and bool((now[1] == before[1]).all())


def torch_state() -> bytes:
    """The state of torch's generator of the CPU."""
    return bytes(torch.random.get_rng_state().numpy().tobytes())
