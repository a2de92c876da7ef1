"""Calibration statistics in files, and merged from several runs.

A file holds plain tensors and numbers.  Beside the statistics it says what was measured, and of each site what must be
the same in the network that reads it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from snnpipe.errors import CalibrationError, SnnpipeError, StageError
from snnpipe.exchange.fit import missing
from snnpipe.exchange.sealed import read_sealed, write_sealed
from snnpipe.exchange.statistics_file import content_of, statistics_in
from snnpipe.exchange.summaries import moved, tensors
from snnpipe.frozen import FrozenMap
from snnpipe.stage import BoundStage, check_state
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.instrument import NO_NEURONS, instrumented
from snnpipe.stages.prefix import home
from snnpipe.state import ConversionState, Event


def save_statistics(state: ConversionState, path: str | PathLike[str]) -> None:
    """Write what calibration measured to a file; the state is unchanged.

    Whatever happens on the way, the file has its old content or all of the new one.

    Raises:
        CalibrationError: nothing was measured, it is a statistic of one's own, or the file cannot be written.
        StageError: neurons have taken the place of the sites; save before ``replace``.
    """
    check_state("save_statistics", state)
    where = _path("save_statistics(state, path)", path)
    holds, sentence = NO_NEURONS
    if not holds(state):
        raise StageError(f"save_statistics: {sentence}")
    if not state.statistics:
        raise CalibrationError("save_statistics: nothing was measured; put calibrate(loader) before it")
    try:
        write_sealed(content_of(state), where)
    except SnnpipeError as error:
        raise CalibrationError(f"save_statistics: {error}") from error


def load_statistics(path: str | PathLike[str]) -> BoundStage:
    """A stage that reads the statistics of the same network from a file, instead of measuring them.

    The file is read, and held against the network, when the stage runs.

    >>> import tempfile, torch, snnpipe
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> state = snnpipe.pipe(model, snnpipe.trace, snnpipe.calibrate([torch.rand(8, 4)]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_statistics(state, f"{folder}/statistics.safetensors")
    ...     again = snnpipe.pipe(model, snnpipe.trace, load_statistics(f"{folder}/statistics.safetensors"))
    >>> snnpipe.state_equal(again, state)
    True

    Raises:
        CalibrationError: there is no such file, it is damaged or holds something else, or what it holds was measured
            for another statistic, at other sites or with other channels than this network's.
    """
    where = _path("load_statistics(path)", path)
    return BoundStage(_load_statistics, (NOT_LIFTED, NO_NEURONS), FrozenMap(path=where))


def _load_statistics(state: ConversionState, *, path: str) -> ConversionState:
    state = instrumented(state)
    try:
        content, sealed = read_sealed(path)
    except SnnpipeError as error:
        expected = "expected a file that save_statistics has written"
        raise CalibrationError(f"load_statistics: {error}; {expected}") from error
    try:
        found = statistics_in(content, sealed, state)
    except CalibrationError as error:
        raise CalibrationError(f"load_statistics: {path} {error}") from error
    return _with_statistics(state, found, "load_statistics", path)


def merge_statistics(*others: ConversionState) -> Callable[[ConversionState], ConversionState]:
    """A stage that adds what other states of the same network measured, as if one had seen all the data.

    >>> import torch, snnpipe
    >>> a, b = torch.rand(8, 4), torch.rand(8, 4)
    >>> base = snnpipe.trace(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()))
    >>> shards = [snnpipe.pipe(base, snnpipe.calibrate([x])) for x in (a, b)]
    >>> whole = snnpipe.pipe(base, snnpipe.calibrate([a, b]))
    >>> snnpipe.state_equal(snnpipe.pipe(shards[0], merge_statistics(shards[1])), whole)
    True

    Raises:
        CalibrationError: a state has no sites, or measured other sites, another statistic or other channels.
    """
    for other in others:
        check_state("merge_statistics", other)

    def stage(state: ConversionState) -> ConversionState:
        check_state("merge_statistics", state)
        merged = dict(state.statistics)
        for other in others:
            if not state.sites or not other.sites:
                raise CalibrationError("merge_statistics: a state has no sites; put calibrate(loader) before it")
            if other.sites != state.sites or not other.threshold.measures(state.threshold):
                raise CalibrationError("merge_statistics: the states measured other sites, or other statistics")
            statistic = state.threshold.statistic
            for node, summary in other.statistics.items():
                known = merged.get(node)
                if known is not None and _shapes(known) != _shapes(summary):
                    name = state.sites[node].name
                    raise CalibrationError(f"merge_statistics: the states measured other channels at site {name}")
                near = moved(summary, home(state))
                merged[node] = near if known is None else statistic.merge(known, near, **statistic.options)
        if lacking := missing(merged, state):
            raise CalibrationError(f"merge_statistics: no state has a statistic for {', '.join(lacking)}")
        return _with_statistics(state, merged, "merge_statistics", f"{len(others)} states")

    return stage


def _with_statistics(state: ConversionState, found: Mapping[str, Any], stage: str, source: str) -> ConversionState:
    near = {node: moved(summary, home(state)) for node, summary in found.items()}
    return state.evolve(Event(stage, source, f"statistics of {len(near)} sites"), statistics=FrozenMap(near))


def _shapes(summary: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for _, tensor in tensors(summary)]


def _path(call: str, path: Any) -> str:
    try:
        text = os.fsdecode(path)
    except TypeError:
        text = ""
    if not text:
        got = "''" if isinstance(path, str) else f"a {type(path).__name__}"
        raise CalibrationError(
            f'{call}: expected the path of a file, got {got}; write for example "statistics.safetensors"'
        )
    return text
