"""Calibration statistics in files, and merged from several runs.

A file holds plain tensors and numbers and is read with ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import attrs
import torch

from snnpipe.errors import CalibrationError
from snnpipe.frozen import FrozenMap
from snnpipe.kernels.histogram import Histogram
from snnpipe.kernels.moments import Moments
from snnpipe.kernels.moving import MovingAverage
from snnpipe.kernels.statistic import Extrema
from snnpipe.stage import check_state
from snnpipe.stages.instrument import instrumented
from snnpipe.state import ConversionState, Event

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (Extrema, Histogram, Moments, MovingAverage)}


def save_statistics(state: ConversionState, path: str | PathLike[str]) -> None:
    """Write what calibration measured to a file; the state is unchanged.

    Raises:
        CalibrationError: nothing was measured.
    """
    if not state.statistics:
        raise CalibrationError("save_statistics: nothing was measured; put calibrate(loader) before it")
    plain = {
        node: {"kind": type(summary).__name__, **attrs.asdict(summary, recurse=False)}
        for node, summary in state.statistics.items()
    }
    torch.save(plain, path)


def load_statistics(path: str | PathLike[str]) -> Callable[[ConversionState], ConversionState]:
    """A stage that reads the statistics of the same network from a file, instead of measuring them.

    >>> import tempfile, torch, snnpipe
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> state = snnpipe.pipe(model, snnpipe.trace, snnpipe.calibrate([torch.rand(8, 4)]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_statistics(state, f"{folder}/statistics.pt")
    ...     again = snnpipe.pipe(model, snnpipe.trace, load_statistics(f"{folder}/statistics.pt"))
    >>> snnpipe.state_equal(again, state)
    True

    Raises:
        CalibrationError: the file does not hold a statistic for every site.
    """

    def stage(state: ConversionState) -> ConversionState:
        check_state("load_statistics", state)
        plain = torch.load(path, weights_only=True)
        found = {node: _KINDS[fields["kind"]](**_without_kind(fields)) for node, fields in plain.items()}
        return _with_statistics(state, found, "load_statistics", str(path))

    return stage


def merge_statistics(*others: ConversionState) -> Callable[[ConversionState], ConversionState]:
    """A stage that adds what other states of the same network measured, as if one had seen all the data.

    >>> import torch, snnpipe
    >>> a, b = torch.rand(8, 4), torch.rand(8, 4)
    >>> base = snnpipe.trace(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()))
    >>> shards = [snnpipe.pipe(base, snnpipe.calibrate([x])) for x in (a, b)]
    >>> whole = snnpipe.pipe(base, snnpipe.calibrate([a, b]))
    >>> snnpipe.state_equal(snnpipe.pipe(shards[0], merge_statistics(shards[1])), whole)
    True
    """

    def stage(state: ConversionState) -> ConversionState:
        check_state("merge_statistics", state)
        merged = dict(state.statistics)
        for other in others:
            if not state.sites or not other.sites:
                raise CalibrationError("merge_statistics: a state has no sites; put calibrate(loader) before it")
            if other.sites.keys() != state.sites.keys() or not other.threshold.measures(state.threshold):
                raise CalibrationError("merge_statistics: the states measured other sites, or other statistics")
            statistic = state.threshold.statistic
            for node, summary in other.statistics.items():
                known = merged.get(node)
                merged[node] = summary if known is None else statistic.merge(known, summary, **statistic.options)
        return _with_statistics(state, merged, "merge_statistics", f"{len(others)} states")

    return stage


def _with_statistics(state: ConversionState, found: dict[str, Any], stage: str, source: str) -> ConversionState:
    state = instrumented(state)
    missing = [site.name for node, site in state.sites.items() if site.cap is None and node not in found]
    if missing:
        raise CalibrationError(f"{stage}: {source} has no statistic for {', '.join(missing)}; was it the same network?")
    statistics: FrozenMap[str, Any] = FrozenMap(found).only(state.sites)
    return state.evolve(Event(stage, source, f"statistics of {len(statistics)} sites"), statistics=statistics)


def _without_kind(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != "kind"}
