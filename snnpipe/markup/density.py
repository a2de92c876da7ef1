"""How two values go together, as shaded squares: SVG written by hand, as large for ten pairs as for a million."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from snnpipe.markup.lines import ticks
from snnpipe.markup.tags import Markup, tag

_SIDE, _LEFT, _TOP, _RIGHT, _BOTTOM = 160, 38, 10, 10, 36
#: How opaque cells are, from those with few pairs to those with most.
_SHADES = (0.2, 0.35, 0.55, 0.75, 1.0)


def density(
    cells: Sequence[tuple[int, int, int]], cell: float, *, label: str, told: str, across: str, up: str
) -> Markup:  # fmt: skip
    """Cells ``(i, j, count)``, from ``(i, j)`` to ``(i + 1, j + 1)`` times ``cell``, and the line of equal values.

    The logarithm of the count is the shade.

    Args:
        label, told: the whole in a few words and in a sentence, for those who hear it.
        across, up: the axes in words.
    """
    low = min((k for i, j, _ in cells for k in (i, j)), default=0)
    high = max((k + 1 for i, j, _ in cells for k in (i, j)), default=1)
    unit = _SIDE / (high - low)
    bottom, right = _TOP + _SIDE, _LEFT + _SIDE
    parts = [tag("title", label), tag("desc", told)]
    for value in ticks(low * cell, high * cell)[: 2 * 5]:
        at = (value / cell - low) * unit
        parts.append(tag("line", x1=_LEFT, x2=right, y1=_n(bottom - at), y2=_n(bottom - at), class_="grid"))
        parts.append(tag("text", f"{value:g}", x=_LEFT - 5, y=_n(bottom - at + 4), text_anchor="end"))
        parts.append(tag("text", f"{value:g}", x=_n(_LEFT + at), y=bottom + 15, text_anchor="middle"))
    parts.append(tag("text", across, x=right, y=bottom + 31, text_anchor="end"))
    parts.append(tag("text", up, x=_LEFT + 5, y=_TOP + 12))
    most = math.log(max((count for *_, count in cells), default=1)) or 1.0
    shade = {(i, j): min(int(len(_SHADES) * math.log(count) / most), len(_SHADES) - 1) for i, j, count in cells}
    paths = [
        tag("path", d=_runs((i - low, high - 1 - j) for (i, j), found in shade.items() if found == k), stroke_opacity=s)
        for k, s in enumerate(_SHADES) if k in shade.values()
    ]  # fmt: skip
    move = f"translate({_LEFT},{_n(_TOP + unit / 2)})scale({unit:.4g})"
    parts.append(tag("g", *paths, class_="cells", transform=move))
    parts.append(tag("line", x1=_LEFT, y1=bottom, x2=right, y2=_TOP, class_="level"))
    width, height = right + _RIGHT, bottom + _BOTTOM
    return tag("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=f"{label}: {told}")


def _runs(cells: Iterable[tuple[int, int]]) -> str:
    """A path along the cells ``(column, row)``, those that lie side by side in one stroke.

    >>> _runs([(1, 0), (2, 0), (5, 0), (1, 3)])
    'M1 0h2M5 0h1M1 3h1'
    """
    found = []
    for row, line in groupby(sorted((row, column) for column, row in cells), lambda one: one[0]):
        columns = [column for _, column in line]
        for _, run in groupby(enumerate(columns), lambda pair: pair[1] - pair[0]):
            stroke = [column for _, column in run]
            found.append(f"M{stroke[0]} {row}h{len(stroke)}")
    return "".join(found)


def _n(number: float) -> str:
    return f"{number:.4g}"
