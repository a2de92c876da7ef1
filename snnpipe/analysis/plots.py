"""Figures; matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import attrs

from snnpipe.errors import SnnpipeError

# Okabe and Ito 2008, "Color universal design": told apart with every kind of colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D")

#: What to do where scikit-learn or matplotlib is missing; it works beside a clone and beside an installed package.
HOW_TO_INSTALL = 'pip install scikit-learn matplotlib, or in a clone of snnpipe pip install -e ".[demo]"'


@attrs.frozen
class Row:
    """What a network achieves after T steps.

    Attributes:
        T: steps.
        accuracy: share of right answers, in per cent.
        agreement: share of answers that are the ANN's, in per cent.
        spikes: spikes per neuron and sample up to step T.
    """

    T: int
    accuracy: float
    agreement: float
    spikes: float


def require_matplotlib() -> None:
    """Say how to install matplotlib if it is missing; ask before a long computation.

    Raises:
        SnnpipeError: it is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise SnnpipeError(f"figures need matplotlib: {HOW_TO_INSTALL}") from error


def plain_axes(axes: Any) -> None:
    """A light grid behind the lines, and no box around them."""
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plot_accuracy(
    rows: Sequence[Row],
    ann_accuracy: float,
    path: str | PathLike[str],
    *,
    title: str = "Accuracy of the converted network against time steps",
) -> None:
    """Draw accuracy and agreement with the ANN, and below it spikes per neuron, against T (log2) into a file.

    Args:
        rows: one per T, in ascending order.
        ann_accuracy: the ANN's accuracy in per cent, drawn as a dashed line.
        path: where to write; the ending (``.png``, ``.svg``, ``.pdf``) says in which format.
        title: stands above the figure.

    Raises:
        SnnpipeError: no rows, or matplotlib is missing.

    >>> plot_accuracy([], 98.0, "figure.png")
    Traceback (most recent call last):
    snnpipe.errors.SnnpipeError: plot_accuracy: there are no rows to draw
    """
    if not rows:
        raise SnnpipeError("plot_accuracy: there are no rows to draw")
    require_matplotlib()
    from matplotlib.figure import Figure

    T = [row.T for row in rows]
    figure = Figure(figsize=(7.0, 6.4), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))

    top.axhline(ann_accuracy, color=GREY, linestyle="--", linewidth=1.5, label=f"ANN accuracy ({ann_accuracy:.1f} %)")
    top.plot(T, [row.accuracy for row in rows], "o-", color=BLUE, linewidth=2, label="SNN accuracy")
    top.plot(T, [row.agreement for row in rows], "s:", color=ORANGE, linewidth=2, label="SNN agreement with the ANN")
    low = min(ann_accuracy, *(min(row.accuracy, row.agreement) for row in rows))
    top.set_ylim(low - 0.08 * (100 - low) - 0.5, 100 + 0.06 * (100 - low) + 0.3)
    top.set_ylabel("test samples (%)")
    top.set_title(title, fontsize=13)
    top.legend(loc="best", framealpha=1.0)

    bottom.plot(T, [row.spikes for row in rows], "^-", color=GREEN, linewidth=2)
    for row in rows:
        at = (row.T, row.spikes)  # the curve rises to the right, so there is room on the upper left
        bottom.annotate(f"{row.spikes:.3g}", at, (4, 8), textcoords="offset points", ha="right")
    bottom.set_ylim(0, 1.2 * max(row.spikes for row in rows) or 1.0)
    bottom.set_ylabel("spikes per neuron\nand sample, up to T")
    bottom.set_xlabel("time steps T (log scale)")
    bottom.set_xscale("log", base=2)
    bottom.set_xticks(T, [str(t) for t in T])
    bottom.minorticks_off()
    for axes in (top, bottom):
        plain_axes(axes)
    figure.savefig(path)


def plot_recipes(
    lines: Mapping[str, Sequence[tuple[int, float]]], ann_accuracy: float, path: str | PathLike[str]
) -> None:
    """Draw accuracy against latency (log2), a line for each recipe, into a file.

    Args:
        lines: for each recipe its points ``(latency in steps, accuracy in per cent)``.
        ann_accuracy: the ANN's accuracy in per cent, drawn as a dashed line.
        path: where to write; the ending says in which format.

    Raises:
        SnnpipeError: no points, or matplotlib is missing.
    """
    if not any(lines.values()):
        raise SnnpipeError("plot_recipes: there are no points to draw")
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(7.5, 5.0), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axhline(ann_accuracy, color=GREY, linestyle="--", linewidth=1.5, label=f"ANN ({ann_accuracy:.1f} %)")
    for k, (name, points) in enumerate(lines.items()):
        latency, accuracy = zip(*sorted(points), strict=True)
        colour, marker = _COLOURS[k % len(_COLOURS)], _MARKERS[k // len(_COLOURS) % len(_MARKERS)]
        axes.plot(latency, accuracy, color=colour, marker=marker, linewidth=1.8, markersize=5, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("latency in time steps, first passes and waiting included (log scale)")
    axes.set_ylabel("test samples classified right (%)")
    plain_axes(axes)
    figure.legend(loc="outside right upper", framealpha=1.0, fontsize=8)
    figure.savefig(path)
