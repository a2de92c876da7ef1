"""Lines over steps, as SVG written by hand: text stays text, and colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from snnpipe.markup.tags import Markup, tag

_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 46
_DASHES = {"a": None, "b": "2 5", "c": "8 4"}


@attrs.frozen
class Line:
    """A line through ``points`` (x, low, y, high), with a band from low to high.

    Attributes:
        name: what it is.
        colour: ``"a"``, ``"b"`` or ``"c"``, each with dashes of its own.
    """

    name: str
    points: tuple[tuple[float, float, float, float], ...]
    colour: str


def lines(drawn: Sequence[Line], *, label: str, across: str, up: str, level: tuple[str, float] | None = None) -> Markup:
    """Lines over a logarithmic axis, with what they are called below.

    Args:
        label: the whole in a sentence, for those who hear it.
        across, up: the axes in words.
        level: ``(name, y)``, a dashed line across.
    """
    xs = [math.log2(x) for line in drawn for x, *_ in line.points]
    ys = [y for line in drawn for _, *found in line.points for y in found] + ([level[1]] if level else [])
    ys = [y for y in ys if math.isfinite(y)]
    low, high = (min(ys), max(ys)) if ys else (0.0, 1.0)
    low, high = (low, high) if high > low else (low - 1, high + 1)
    left, right = (min(xs), max(xs)) if xs else (0.0, 1.0)
    left, right = (left, right) if right > left else (left - 1, left + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        shown = min(max(y, low), high)
        return (
            _LEFT + (math.log2(x) - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (high - shown) / (high - low) * (_HEIGHT - _TOP - _BOTTOM),
        )  # fmt: skip

    parts = [tag("title", label)]
    for value in ticks(low, high):
        _, y = at(2**left, value)
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid"))
        parts.append(tag("text", f"{value:g}", x=_LEFT - 6, y=f"{y + 5:.1f}", text_anchor="end"))
    for power in range(math.ceil(left), math.floor(right) + 1, max(1, math.ceil((right - left) / 8))):
        x, _ = at(2.0**power, low)
        parts.append(tag("text", f"{2**power:g}", x=f"{x:.1f}", y=_HEIGHT - _BOTTOM + 18, text_anchor="middle"))
    parts.append(tag("text", across, x=(_LEFT + _WIDTH) / 2, y=_HEIGHT - 6, text_anchor="middle"))
    if level:
        _, y = at(2**left, level[1])
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="level"))
    for line in drawn:
        band = [at(x, a) for x, a, _, _ in line.points] + [at(x, b) for x, _, _, b in reversed(line.points)]
        parts.append(tag("polygon", points=_points(band), class_=f"band {line.colour}"))
        middle = [at(x, y) for x, _, y, _ in line.points]
        parts.append(
            tag("polyline", points=_points(middle), class_=f"line {line.colour}", stroke_dasharray=_DASHES[line.colour])
        )
        if len(middle) <= 16:
            parts += [tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3.5, class_=line.colour) for x, y in middle]
    chart = tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=label)
    named = [_key(line.name, line.colour, _DASHES[line.colour]) for line in drawn]
    named += [_key(level[0], "level", None)] if level else []
    return tag("figure", tag("div", up, class_="up"), chart, tag("figcaption", *named))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two bounds, about five.

    >>> ticks(0, 100), ticks(0.31, 0.34)
    ([0.0, 20.0, 40.0, 60.0, 80.0, 100.0], [0.31, 0.32, 0.33, 0.34])
    """
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * k for k in (1, 2, 5, 10) if size * k >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


def _points(found: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in found)


def _key(name: str, colour: str, dashes: str | None) -> Markup:
    stroke = tag("line", x1=0, x2=28, y1=6, y2=6, class_=colour if colour == "level" else f"line {colour}",
                 stroke_dasharray=dashes)  # fmt: skip
    return tag("span", tag("svg", stroke, viewBox="0 0 28 12", class_="key", aria_hidden="true"), name)
