"""Short texts that are equal where networks, options and data are, in whatever process.

Knows states and tensors; what is compared, and when, is the caller's business.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.containers import packed
from snnpipe.errors import CalibrationError
from snnpipe.frontend.met import tensors_of
from snnpipe.frozen import leaves
from snnpipe.state import ConversionState, feed

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # where an object lies differs from process to process


def fingerprint(said: object, held: Mapping[str, Any]) -> str:
    """A hash of what is said in words and of tensors by key."""
    h = hashlib.blake2b(_ADDRESS.sub("", str(said)).encode(), digest_size=16)
    for key, value in sorted(held.items()):
        feed(h, key, value)
    return h.hexdigest()


def of_state(state: ConversionState, *options: object) -> str:
    """The fingerprint of all of a state that a measurement can hang on, and of what is asked of it."""
    held: dict[str, Any] = dict(state.params)
    for node, summary in state.statistics.items():
        held |= {f"{node}: {key}": value for key, value in attrs.asdict(summary, recurse=False).items()}
    if state.whole is not None:
        held |= {f"whole: {key}": tensor for key, tensor in tensors_of(state.whole.model)}
    return fingerprint(f"{state.graph};{state.sites};{state.threshold};{state.code};{options}", held)


def of_batch(before: str, batch: Any, number: int) -> str:
    """The fingerprint of some batches and of one more.

    Raises:
        CalibrationError: the batch holds what nobody can compare.

    >>> of_batch("", torch.ones(2), 0) == of_batch("", [torch.ones(2)], 0) != of_batch("", torch.ones(3), 0)
    True
    """
    h = hashlib.blake2b(before.encode(), digest_size=16)
    for leaf in leaves(packed(batch)):
        feed(h, type(leaf).__name__ if isinstance(leaf, Tensor) else "", _content(leaf, number))
    return h.hexdigest()


def _content(leaf: Any, number: int) -> Any:
    """A tensor with all its numbers in memory, or what has a text that says all of it."""
    if isinstance(leaf, Tensor):
        return leaf if leaf.layout is torch.strided else leaf.to_dense()
    if isinstance(leaf, str | bytes | int | float | complex | None):
        return leaf
    try:
        return pickle.dumps(leaf)
    except Exception as error:
        raise CalibrationError(
            f"calibrate: batch {number} holds a {type(leaf).__name__}, of which a checkpoint cannot tell whether it is "
            "the same the next time; leave it out of the batches, or calibrate without checkpoint"
        ) from error
