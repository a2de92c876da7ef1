"""The figure of an evaluation; matplotlib is imported when it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from snnpipe.analysis.interval import Interval
from snnpipe.analysis.plots import BLUE, GREEN, GREY, ORANGE, plain_axes, require_matplotlib
from snnpipe.analysis.readouts import Exit, Readout


def plot_evaluation(
    readouts: Sequence[Readout], path: str | PathLike[str], *, measure: str, neurons: int, ann: Interval | None,
    stopped: Exit | None,
) -> None:  # fmt: skip
    """Draw accuracy and agreement with their intervals, and below them events per neuron, against t (log2).

    Args:
        readouts: in the order of their steps.
        path: where to write; the ending says in which format.
        measure: what accuracy is called.
        neurons: of one sample's network.
        ann: the ANN's accuracy, a dashed line.
        stopped: the samples that stopped, a point.

    Raises:
        SnnpipeError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(7.0, 6.0), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    if ann is not None:
        top.axhline(ann.mean, color=GREY, linestyle="--", linewidth=1.5, label=f"ANN ({ann.mean:.1f})")
    _band(top, readouts, "accuracy", measure, BLUE, "-")
    _band(top, readouts, "agreement", "as the ANN", ORANGE, ":")
    if stopped is not None and stopped.accuracy is not None:
        top.plot([stopped.mean], [stopped.accuracy.mean], "D", color=GREY, label="stopped by the rule")
    top.set_ylabel(measure if measure == "metric" else "samples (%)")
    if top.lines:
        top.legend(loc="best", framealpha=1.0)
    times = [r.t for r in readouts]
    bottom.plot(times, [r.events / max(neurons, 1) for r in readouts], "-", color=GREEN, linewidth=2)
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("events per neuron\nand sample, up to t")
    bottom.set_xlabel("time steps t (log scale)")
    bottom.set_xscale("log", base=2)
    bottom.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for axes in (top, bottom):
        plain_axes(axes)
    figure.savefig(path)


def _band(axes: Any, readouts: Sequence[Readout], name: str, label: str, colour: str, style: str) -> None:
    """A line with its interval as a band, where there is one."""
    found = [(r.t, getattr(r, name)) for r in readouts if getattr(r, name) is not None]
    if found:
        times, shares = zip(*found, strict=True)
        axes.plot(times, [s.mean for s in shares], style, color=colour, linewidth=2, label=label)
        axes.fill_between(
            times, [s.low for s in shares], [s.high for s in shares], color=colour, alpha=0.2, linewidth=0
        )
