"""What calibration has found so far, which adds up, and where that is kept on the way.

Knows summaries and batches; of files it knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import attrs
import torch

from snnpipe.errors import CalibrationError
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.kernels.statistic import Statistic
from snnpipe.options import instance
from snnpipe.stages.fingerprint import of_batch
from snnpipe.stages.measuring import on_device
from snnpipe.state import ConversionState


@attrs.frozen(eq=False)
class Found:
    """What was measured: a monoid.

    Attributes:
        summaries: by node.
        wholes: of sites that turned out to have no floats, what their values are.
        count: how many batches there were.
    """

    summaries: dict[str, Any]
    wholes: dict[str, str] = attrs.field(factory=dict)
    count: int = 0

    def and_then(self, later: Found, statistic: Statistic) -> Found:
        """Both."""
        merged = dict(self.summaries)
        for name, summary in later.summaries.items():
            known = merged.get(name)
            merged[name] = summary if known is None else statistic.merge(known, summary, **statistic.options)
        return Found(merged, self.wholes | later.wholes, self.count + later.count)

    def on(self, device: torch.device) -> Found:
        """The same, its tensors on a device."""
        return attrs.evolve(self, summaries={name: on_device(held, device) for name, held in self.summaries.items()})


@attrs.frozen(eq=False)
class Kept:
    """A calibration on its way.

    Attributes:
        about: what must be the same where it goes on, by what it is called.
        found: what was found.
        data: the fingerprint of the batches it was found on.
    """

    about: FrozenMap[str, str]
    found: Found
    data: str


@attrs.frozen
class Checkpoint:
    """Where calibrations are kept on their way: what ``checkpoint(path)`` makes.

    Attributes:
        place: for messages.
        every: after how many batches.
        read: ``read(state, about)``, what was kept of this calibration; ``None`` where nothing was.
        write: ``write(state, kept)``.
    """

    place: str
    every: int
    read: Callable[[ConversionState, FrozenMap[str, str]], Kept | None]
    write: Callable[[ConversionState, Kept], None]


#: For arguments that are checkpoints.
CHECKPOINT = instance(Checkpoint, "must be a checkpoint", 'write checkpoint("calibration.safetensors")')


class Journal:
    """A calibration that is kept on its way, where there is a place for it.

    Args:
        checkpoint: the place, ``None`` for none.
        state: whose sites are measured.
        about: what must be the same where it goes on, by what it is called.
        begin: what it begins with, where nothing was kept.

    Attributes:
        begin: what it goes on with.
    """

    def __init__(
        self, checkpoint: Checkpoint | None, state: ConversionState, about: Callable[[], FrozenMap[str, str]],
        begin: Found,
    ) -> None:  # fmt: skip
        self.begin, self._checkpoint, self._state, self._data = begin, checkpoint, state, ""
        self._about: FrozenMap[str, str] = EMPTY if checkpoint is None else about()
        self._kept = None if checkpoint is None else checkpoint.read(state, self._about)
        if self._kept is not None:
            self.begin = self._kept.found
        self._written = self.begin.count

    def unread(self, batches: Iterable[Any], limit: int | None) -> Iterable[Any]:
        """The batches behind those that were read before, which must be the same as then."""
        if self._checkpoint is None or self._kept is None:
            return batches
        place, count = self._checkpoint.place, self.begin.count
        if limit is not None and limit < count:
            raise CalibrationError(f"calibrate: {place} has {count} batches already, more than max_batches={limit}")
        source = iter(batches)
        for number, batch in enumerate(islice(source, count)):
            self._data = of_batch(self._data, batch, number)
        if self._data != self._kept.data:
            raise CalibrationError(
                f"calibrate: {place} has {count} batches, and the first {count} here are not these; are they shuffled, "
                "or changed at random? Read them in the same order, with a seed, or delete the file to begin anew"
            )
        return source

    def see(self, batch: Any, number: int) -> None:
        """Note a batch before it is read."""
        if self._checkpoint is not None:
            self._data = of_batch(self._data, batch, number)

    def keep(self, found: Found, end: bool = False) -> None:
        """Keep what was found on the batches so far, when it is time, and what is new in the end."""
        if self._checkpoint is None or found.count == self._written:
            return
        if end or found.count % self._checkpoint.every == 0:
            self._checkpoint.write(self._state, Kept(self._about, found.on(torch.device("cpu")), self._data))
            self._written = found.count
