"""Calibrations on their way in files: what was measured, on which batches, and of what.

Knows the content of such files; what is measured is ``stages.calibrate``'s business.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from os import PathLike
from typing import Any

import torch

from snnpipe.checks import takes
from snnpipe.errors import CalibrationError, SnnpipeError
from snnpipe.exchange.sealed import read_sealed, write_sealed
from snnpipe.exchange.statistics_file import content_of, statistics_in
from snnpipe.exchange.summaries import KINDS
from snnpipe.frozen import FrozenMap
from snnpipe.options import PATH, WHOLE
from snnpipe.stages.found import Checkpoint, Found, Kept
from snnpipe.state import ConversionState

_FORMAT, _VERSION = "snnpipe checkpoint", 1
_KINDS: FrozenMap[str, Any] = FrozenMap(
    format=str, version=int, about=Mapping, count=int, data=str, wholes=Mapping, statistics=Mapping
)


@takes(CalibrationError, path=PATH, every=WHOLE)
def checkpoint(path: str | PathLike[str], *, every: int = 100) -> Checkpoint:
    """Where ``calibrate(loader, checkpoint=...)`` keeps what it has measured, and goes on when it is called again.

    The file is replaced after ``every`` batches and at the end: whatever happens on the way, it has its old content or
    all of the new one.  A calibration that finds it reads the batches that were read before without running the network
    on them, holds them against a hash in the file, and goes on; the result is that of one that was never interrupted,
    bit for bit.  One that was finished is there at once.  Each process of a group has a file of its own.

    Args:
        path: of the file; its folder must exist.
        every: after how many batches it is written.

    Raises:
        CalibrationError: when ``calibrate`` runs: the file is damaged or something else, cannot be written, or was kept
            of other weights, sites or options, in another process of a group, or on other batches.

    >>> import tempfile
    >>> from torch import nn
    >>> from snnpipe import calibrate, pipe, state_equal, trace
    >>> data, state = list(torch.rand(6, 8, 4)), trace(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keep = checkpoint(f"{folder}/calibration.safetensors", every=2)
    ...     _ = pipe(state, calibrate(data, checkpoint=keep, max_batches=4))  # interrupted, say
    ...     whole = pipe(state, calibrate(data, checkpoint=keep))
    >>> state_equal(whole, pipe(state, calibrate(data)))
    True
    """
    place = os.fsdecode(path)
    return Checkpoint(place, every, partial(_read, place), partial(_write, place))


def _read(place: str, state: ConversionState, about: FrozenMap[str, str]) -> Kept | None:
    """What is in the file, held against what it is wanted for; ``None`` where there is none yet, and can be one."""
    kind = type(state.threshold.statistic.summarise(torch.ones(1, 1), 1))
    if kind not in KINDS:
        names = ", ".join(known.__name__ for known in KINDS)
        raise CalibrationError(f"calibrate: a checkpoint holds {names}, no {kind.__name__}; calibrate without one")
    folder = os.path.dirname(os.path.realpath(place))
    if not os.path.exists(place):
        if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
            raise CalibrationError(f"calibrate: checkpoint {place!r} cannot be written: no such folder, or read-only")
        return None
    try:
        content, sealed = read_sealed(place)
    except SnnpipeError as error:
        raise CalibrationError(f"calibrate: {error}; give another path, or delete it to begin anew") from error
    if not sealed or not isinstance(content, Mapping) or str(content.get("format")) != _FORMAT:
        raise CalibrationError(f"calibrate: {place} holds no checkpoint; give another path")
    if not _is_ours(content):
        raise CalibrationError(f"calibrate: {place} is of another version of snnpipe; delete it to begin anew")
    for name, here in about.items():
        there = content["about"].get(name)
        if there != here:
            raise CalibrationError(
                f"calibrate: {place} was kept for another {name}: {there}, here it is {here}; give another path, or "
                "delete it to begin anew"
            )
    wholes = dict(content["wholes"])
    sites = state.evolve(sites=state.sites.only(state.sites.keys() - wholes.keys()))
    try:
        found = Found(statistics_in(content["statistics"], sealed, sites), wholes, content["count"])
    except CalibrationError as error:
        raise CalibrationError(f"calibrate: {place} {error}") from error
    return Kept(about, found, content["data"])


def _write(place: str, state: ConversionState, kept: Kept) -> None:
    try:
        content = {
            "format": _FORMAT, "version": _VERSION, "about": dict(kept.about), "count": kept.found.count,
            "data": kept.data, "wholes": kept.found.wholes,
            "statistics": content_of(state.evolve(statistics=FrozenMap(kept.found.summaries))),
        }  # fmt: skip
        write_sealed(content, place)
    except SnnpipeError as error:
        raise CalibrationError(f"calibrate: {error}") from error


def _is_ours(content: Mapping[str, Any]) -> bool:
    """Whether a file holds what this version writes."""
    fits = content.keys() == _KINDS.keys() and all(isinstance(content[key], kind) for key, kind in _KINDS.items())
    return fits and content["version"] == _VERSION and content["count"] > 0
