"""One neuron while it is adjusted: what it sends, what it lacks, and how much of that an adjustment may mend.

Knows the data of one neuron; the network around it is ``stages.adjust``'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.codes import Clock, worths
from snnpipe.emit import neuron_path
from snnpipe.errors import CalibrationError
from snnpipe.graph import Node
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.evidence import added, below, decoded, estimate, per_sample
from snnpipe.kernels.statistic import along
from snnpipe.kernels.temporal import constant
from snnpipe.runtime.scans import fired
from snnpipe.runtime.shelf import Kept, Row, Shelf
from snnpipe.stages.together import Together


@attrs.frozen(eq=False)
class Seen:
    """One neuron on some samples.

    Attributes:
        z, a: the ANN's current and activation, (B, ...); the current where it is asked for.
        current: what the neuron is given at each step, or chunk, (T, B, ...); (B, ...) if that is always the same.
    """

    z: Kept | None
    a: Kept
    current: Kept


@attrs.frozen
class Adjustment:
    """What of a neuron is adjusted, and what for.

    Attributes:
        key: ``"shift"``, a constant added to its current; ``"charge"``, one more event that it is given before the
            first step; ``"scale"``, a factor of its output.
        name: what a report calls it.
        of_current: whether it makes up for what the decoded current lacks, or the decoded output.
    """

    key: str
    name: str
    of_current: bool = False


class Neuron:
    """A neuron that is given all its data again and again.

    Args:
        node: its ``encode`` node.
        module: what runs it.
        clocks: the steps, or chunks, of the run.
        per: ``"channel"`` or ``"neuron"``, what has an adjustment of its own.
        timed: whether its current has a time axis.
        called: the stage, for messages.
        everyone: the processes that have data.
    """

    def __init__(
        self, node: Node, module: Any, clocks: Sequence[Clock], per: str, *, timed: bool, called: str,
        everyone: Together,
    ) -> None:  # fmt: skip
        self.everyone = everyone
        self.node, self.path, self.module, self.per, self.called = node, neuron_path(node), module, per, called
        self.clocks, self.timed, self.worth = clocks, timed, worths(clocks)
        self.begin = clocks[0].worth[0] / clocks[0].a  # of the first step in the mean of the first chunk
        single = [part for clock in clocks for part in clock.parts or (clock,)]
        self.steps, self.least = len(single), min(w for w in worths(single) if w > 0)

    def given(self, current: Tensor, own: dict[str, Tensor]) -> Tensor:
        """The current at each step, (T, B, ...), with what is adjusted so far."""
        if not self.timed:
            current = current.expand(len(self.clocks), *current.shape)
        if "shift" in own:
            pairs = zip(current, self.clocks, strict=True)
            current = torch.stack([z + constant(own["shift"], clock) for z, clock in pairs])
        return torch.cat([current[:1] + self.begin * own["charge"], current[1:]]) if "charge" in own else current

    def sent(self, current: Tensor, own: dict[str, Tensor]) -> Tensor:
        """The events (T, B, ...)."""
        events, _ = fired(self.module, None, self.given(current, own), self.clocks, True)
        return own["scale"] * events if "scale" in own else events

    def adjusted(
        self, adjustments: Sequence[Adjustment], seen: Sequence[Seen], shelf: Shelf
    ) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
        """What is adjusted, by key, and words for it; made in order, the neuron runs anew after each."""
        own: dict[str, Tensor] = {}
        notes: list[tuple[str, str]] = []
        like = self._like(seen)
        for adjustment in adjustments:
            change, evident, before, terms = self._estimated(adjustment, seen, own, shelf)
            kept = evident
            if adjustment.key != "scale":  # least squares never add to the error that they minimise
                after = self._error(seen, self._with(own, adjustment.key, change, like), shelf)
                kept = evident & below(after, before, terms)
            change = torch.where(kept, change, 0.0)
            own = self._with(own, adjustment.key, change, like)
            notes.append(self._note(adjustment, change, evident, kept))
        return own, notes

    def _estimated(
        self, adjustment: Adjustment, seen: Sequence[Seen], own: dict[str, Tensor], shelf: Shelf
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """The change of each channel, whether there is evidence for it, the error without it, and of how many terms."""
        sums, errors, terms, scales = list[Kept](), list[Kept](), 0, adjustment.key == "scale"
        for part in seen:
            wanted, current = part.a.value, part.current.value
            a = decoded(self.sent(current, own), self.worth)
            lacking = wanted - a
            errors.append(shelf.keep(self._sums(lacking.square())))
            terms += a.numel()
            if adjustment.of_current and part.z is not None:
                lacking = part.z.value - decoded(self.given(current, own), self.worth)
            cross = self._sums(lacking * a if scales else lacking)
            positions = cross.new_tensor(float(a.numel() // cross.numel())).expand_as(cross)
            sums.append(shelf.keep((cross, self._sums(a.square()) if scales else positions)))
        before, terms = self._total(errors), sum(self.everyone.shares(terms))
        one = self._smallest(before.numel()).square() if scales else 1.0
        change, evident = estimate(Row(sums), one, self.everyone.in_turn)
        if scales:
            evident &= (change >= -1) & (change <= 2 * sum(self.worth) / self.least - 1)
        if adjustment.key == "charge":
            change = change / (self.worth[0] * self.begin)
            evident &= change.abs() <= self._most()
        return change, evident, before, terms

    def _error(self, seen: Sequence[Seen], own: dict[str, Tensor], shelf: Shelf) -> Tensor:
        """The squared error of the output, by channel."""
        errors = list[Kept]()
        for part in seen:
            lacking = part.a.value - decoded(self.sent(part.current.value, own), self.worth)
            errors.append(shelf.keep(self._sums(lacking.square())))
        return self._total(errors)

    def _total(self, rows: Sequence[Kept]) -> Tensor:
        """The sum of rows, (B, C) each, over the samples of all processes."""
        total: Tensor = self.everyone.in_turn(lambda now: reduce(self._added, Row(rows), now), torch.zeros(()))
        return total

    def _like(self, seen: Sequence[Seen]) -> Tensor:
        """A tensor of the kind of the activation, of no samples; a process without data has it of the others."""
        mine = seen[0].a.value if seen else None
        kinds = self.everyone.shares(None if mine is None else mine.new_empty(0, *mine.shape[1:]))
        found: Tensor = next(kind for kind in kinds if kind is not None)
        return found

    def _with(self, own: dict[str, Tensor], key: str, change: Tensor, like: Tensor) -> dict[str, Tensor]:
        change = change.to(like.dtype)
        change = change.reshape(like.shape[1:]) if self.per == "neuron" else along(change, like.ndim, self.node["axis"])
        if key == "scale":
            return own | {key: (1 + change) * own.get(key, 1.0)}
        return own | {key: change + own.get(key, 0.0)}

    def _sums(self, x: Tensor) -> Tensor:
        return per_sample(x, self.node["axis"], each=self.per == "neuron")

    def _added(self, total: Tensor, sums: Tensor) -> Tensor:
        if total.ndim and len(total) != sums.shape[1]:
            raise CalibrationError(
                f"{self.called}: at {self.path}, batches of different sizes have no neurons in common; "
                'use per="channel", or give all inputs one size'
            )
        return added(total, sums)

    def _smallest(self, channels: int) -> Tensor:
        """The decoded value of the smallest event, sent when it is worth least."""
        theta, book = self.module.threshold.double(), self.module.neuron.options.get("codebook")
        smallest = (book.smallest(theta) if isinstance(book, Codebook) else theta).flatten()
        return self.least * (smallest if smallest.numel() in (1, channels) else smallest.min())

    def _most(self) -> float:
        """More charge than this the neuron cannot send in all its steps."""
        book = self.module.neuron.options.get("codebook")
        top = float(book.top) if isinstance(book, Codebook) else 1.0
        return self.steps * top * float(self.module.threshold.max())

    def _note(self, adjustment: Adjustment, change: Tensor, evident: Tensor, kept: Tensor) -> tuple[str, str]:
        kind = "channels" if self.per == "channel" else "neurons"
        left = {"no evidence": int((~evident).sum()), "no better with it": int((evident & ~kept).sum())}
        reasons = ", ".join(f"{count} {reason}" for reason, count in left.items() if count)
        size = change[kept].abs().mean() if bool(kept.any()) else torch.zeros(())
        action = f"{adjustment.name} of {int(kept.sum())} {kind} corrected"
        total = sum(left.values())
        return action, f"by {size:.3g} on average" + (f", {total} left ({reasons})" if total else "")
