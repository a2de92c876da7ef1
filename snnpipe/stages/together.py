"""The processes of a ``torch.distributed`` group in step, each on its own data; what one has the others get.

Knows processes and how they fail; what the work is, is the caller's business.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from snnpipe.checks import Check, RefusalError
from snnpipe.errors import CalibrationError
from snnpipe.kernels.temporal import zip_leaves

Value = TypeVar("Value")


def _group(value: Any) -> Any:
    if value is ...:
        return value
    if value is None:
        raise RefusalError("call torch.distributed.init_process_group first")
    if not distributed.is_available() or not isinstance(value, distributed.ProcessGroup):
        raise TypeError
    distributed.get_rank(value)  # an error of one that was destroyed
    return value


#: For arguments that are process groups; ``...`` for none.
GROUP = Check(
    "must be a process group", _group, "write group=torch.distributed.group.WORLD, after init_process_group",
    CalibrationError,
)  # fmt: skip


class Together:
    """Processes in step, for a ``with`` block that each of them runs; a process alone is a group of one.

    In the block, all come to the same calls of ``shares`` and ``in_turn`` in the same order.  A process that fails
    says so at the next of them and raises what it failed of; the others raise an error that names it.  Nobody leaves
    the block before all have come to its end.

    Args:
        group: the processes, ``...`` for none but this one.
        called: the stage, for messages.
        same: a text that must be equal in all of them, asked for where there are others.
        device: where tensors that come from other processes go.

    Attributes:
        several: whether there is a group.
        rank, size: which process this is, and of how many.

    >>> with Together(..., "calibrate", str) as everyone:
    ...     everyone.shares("a"), everyone.in_turn(lambda total: total + 2, 1)
    (['a'], 3)

    Raises:
        CalibrationError: another process failed, has ended, did not answer within the timeout of the group, or works on
            another network.
    """

    def __init__(
        self, group: Any, called: str, same: Callable[[], str], device: torch.device | str = "cpu"
    ) -> None:  # fmt: skip
        self.several, self._group, self._called, self._device = group is not ..., group, called, device
        self.rank = distributed.get_rank(group) if self.several else 0
        self.size = distributed.get_world_size(group) if self.several else 1
        self._same = f"{called} {same()}" if self.several else ""
        self._parted = not self.several

    def __enter__(self) -> Together:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        if error is None:
            self.shares(None)
        elif isinstance(error, Exception) and not self._parted:
            with suppress(CalibrationError):  # the others have ended; its own error says more
                self._exchanged(None, f"{type(error).__name__}: {error}")

    def shares(self, value: Value) -> list[Value]:
        """What each process gives here, by rank; equal in all of them."""
        if not self.several:
            return [value]
        answers = self._exchanged(value, "")
        failed = [f"rank {rank}: {said}" for rank, (_, _, said) in enumerate(answers) if said]
        others = [rank for rank, (same, _, _) in enumerate(answers) if same != self._same]
        self._parted = bool(failed or others)
        if failed:
            raise CalibrationError(
                f"{self._called}: another process failed, so not all the data were read; {failed[0]}"
            )
        if others:
            raise CalibrationError(
                f"{self._called}: rank {others[0]} holds another network, or measures something else; "
                "load the same weights and write the same pipeline in every process"
            )
        return [zip_leaves(self._here, found) for _, found, _ in answers]

    def read(self, batches: int) -> int:
        """How many batches all have read, of which this process ``batches``; there must be one."""
        count = sum(self.shares(batches))
        if count == 0:
            raise CalibrationError(
                f"{self._called}: there was no batch in any of the processes; are the loaders empty?"
            )
        return count

    def in_turn(self, go_on: Callable[[Value], Value], value: Value) -> Value:
        """``go_on`` of what the process before it made, by rank: what one process makes of all data, to the bit."""
        for rank in range(self.size):
            value = self.shares(go_on(value) if rank == self.rank else None)[rank]  # type: ignore[assignment]
        return value

    def _exchanged(self, value: Any, failure: str) -> list[tuple[str, Any, str]]:
        """What all say; a process that cannot say it any more is an error."""
        sent = pickle.dumps((self._same, zip_leaves(_sendable, value), failure))
        found: list[Any] = [None] * self.size
        try:
            distributed.all_gather_object(found, sent, group=self._group)
        except RuntimeError as error:
            self._parted = True
            raise CalibrationError(
                f"{self._called}: a process of the group has ended, or did not answer within the group's timeout "
                f"({error}). Look for its own error; a longer timeout is init_process_group(timeout=...)"
            ) from error
        return [pickle.loads(one) for one in found]

    def _here(self, leaf: Any) -> Any:
        return leaf.to(self._device) if isinstance(leaf, Tensor) else leaf


def _sendable(leaf: Any) -> Any:
    """A leaf in memory that any process has, and no more of it than it is."""
    return leaf.cpu().clone() if isinstance(leaf, Tensor) else leaf


#: A process that has no others.
ALONE = Together(..., "", str)
