"""Small distributions beside their names, a row of columns each."""

from __future__ import annotations

from collections.abc import Sequence

from snnpipe.markup.tags import Markup, joined, tag


def columns(rows: Sequence[tuple[str, Sequence[float], int, str]], *, label: str) -> Markup:
    """For each ``(name, heights, first, in words)`` its columns; from column ``first`` on they have another colour."""
    return tag("div", joined(*(_row(*row) for row in rows)), class_="bars", role="list", aria_label=label)


def _row(name: str, heights: Sequence[float], first: int, words: str) -> Markup:
    most = max(heights, default=0.0) or 1.0
    made = [
        tag("span", class_="b" if k >= first else None, style=f"height:{100 * height / most:.1f}%")
        for k, height in enumerate(heights)
    ]
    return tag(
        "div", tag("span", name, class_="name"), tag("span", *made, class_="track columns", aria_hidden="true"),
        tag("span", words, class_="words"), class_="row", role="listitem",
    )  # fmt: skip
