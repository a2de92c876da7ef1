"""The same work in every process of a ``torch.distributed`` group, each on its own data; all get what all have done.

Knows processes and how they fail; what the work is, is the caller's business.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from typing import Any

from torch import distributed

from snnpipe.checks import Check, RefusalError
from snnpipe.errors import CalibrationError
from snnpipe.state import ConversionState, feed


def _group(value: Any) -> Any:
    if value is ...:
        return value
    if value is None:
        raise RefusalError("call torch.distributed.init_process_group first")
    if not distributed.is_available() or not isinstance(value, distributed.ProcessGroup):
        raise TypeError
    return value


#: For arguments that are process groups; ``...`` for none.
GROUP = Check(
    "must be a process group", _group, "write group=torch.distributed.group.WORLD, after init_process_group",
    CalibrationError,
)  # fmt: skip


def fingerprint(state: ConversionState) -> str:
    """A hash of the network and of what is measured where, the same in every process."""
    h = hashlib.blake2b(digest_size=16)
    h.update(f"{state.graph};{sorted(state.sites)};{state.threshold};".encode())
    for key, tensor in sorted(state.params.items()):
        feed(h, key, tensor)
    return h.hexdigest()


def together(group: Any, same: str, work: Callable[[], Any], called: str) -> list[Any]:
    """What ``work()`` gave in each process, by rank.

    A process whose work fails says so to the others, and raises what it failed of; they raise that it failed.

    Args:
        group: the processes.
        same: what must be equal in all of them.
        work: what is to be done; gives what can be pickled.
        called: the stage, for messages.

    Raises:
        CalibrationError: another process failed, has ended, did not answer within the timeout of the group, or works on
            another network.
    """
    failure: Exception | None = None
    try:
        sent = pickle.dumps((same, work(), ""))
    except Exception as error:
        failure, sent = error, pickle.dumps((same, None, f"{type(error).__name__}: {error}"))
    found: list[Any] = [None] * distributed.get_world_size(group)
    try:
        distributed.all_gather_object(found, sent, group=group)
    except RuntimeError as error:
        if failure is not None:
            raise failure from error
        raise CalibrationError(
            f"{called}: a process of the group has ended, or did not answer within the group's timeout ({error}). Look "
            "for its own error; a longer timeout is init_process_group(timeout=...)"
        ) from error
    if failure is not None:
        raise failure
    answers = [pickle.loads(one) for one in found]
    failed = [f"rank {rank}: {said}" for rank, (_, _, said) in enumerate(answers) if said]
    if failed:
        raise CalibrationError(f"{called}: another process failed, so not all the data were read; {failed[0]}")
    others = [rank for rank, (theirs, _, _) in enumerate(answers) if theirs != same]
    if others:
        raise CalibrationError(
            f"{called}: rank {others[0]} holds another network, or measures something else; "
            "load the same weights and write the same pipeline in every process"
        )
    return [work for _, work, _ in answers]
