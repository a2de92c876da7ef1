"""Bars beside their names, and bars that go on from each other: rows of a page, so they fit any width."""

from __future__ import annotations

from collections.abc import Sequence

from snnpipe.markup.tags import Markup, joined, tag


def bars(rows: Sequence[tuple[str, float, str]], *, label: str, colour: str = "a") -> Markup:
    """A bar for each ``(name, value, value in words)``; the longest is the largest value."""
    most = max((value for _, value, _ in rows), default=0.0)
    made = [_row(name, words, 0.0, value / most if most > 0 else 0.0, colour) for name, value, words in rows]
    return tag("div", joined(*made), class_="bars", role="list", aria_label=label)


def ranges(rows: Sequence[tuple[str, float, float, str]], *, label: str, colour: str = "c") -> Markup:
    """A bar from low to high for each ``(name, low, high, in words)``."""
    most = max((high for _, _, high, _ in rows), default=0.0)
    made = [
        _row(name, words, low / most if most > 0 else 0.0, (high - low) / most if most > 0 else 0.0, colour)
        for name, low, high, words in rows
    ]
    return tag("div", joined(*made), class_="bars", role="list", aria_label=label)


def waterfall(rows: Sequence[tuple[str, float, str]], total: tuple[str, str], *, label: str) -> Markup:
    """Changes ``(name, change, in words)``, each from where the one before ended, and what they come to.

    What raises the sum and what lowers it have different colours, and a sign.
    """
    ends = [0.0]
    for _, change, _ in rows:
        ends.append(ends[-1] + change)
    low, high = min(ends), max(ends)
    width = high - low or 1.0
    made = [
        _row(name, words, (min(a, b) - low) / width, abs(b - a) / width, "b" if b >= a else "c")
        for (name, _, words), a, b in zip(rows, ends, ends[1:], strict=False)
    ]
    start, end = sorted((0.0, ends[-1]))
    made.append(_row(*total, (start - low) / width, (end - start) / width, "a"))
    return tag("div", joined(*made), class_="bars", role="list", aria_label=label)


def _row(name: str, words: str, start: float, length: float, colour: str) -> Markup:
    bar = tag("span", class_=f"bar {colour}", style=f"margin-left:{100 * start:.2f}%;width:{100 * length:.2f}%")
    return tag(
        "div", tag("span", name, class_="name"), tag("span", bar, class_="track"), tag("span", words, class_="words"),
        class_="row", role="listitem",
    )  # fmt: skip
