"""Tables of a page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from snnpipe.markup.tags import Markup, joined, tag


def table(
    rows: Iterable[tuple[Any, ...]], *, label: str, left: int = 1, words: int = 0, strong: Iterable[int] = ()
) -> Markup:
    """A table whose first row is its head; the first ``left`` columns begin at the left, the others end at the right.

    The last ``words`` columns are sentences, which may go on in a next line.

    Where it is wider than the page it can be scrolled, with the keyboard too.

    Args:
        label: what it holds, for those who hear it.
        strong: rows, counted from 0 behind the head, that stand out.
    """
    head, *body = rows
    marked, width = set(strong), len(head)

    def kind(k: int) -> str | None:
        return "wrap" if k >= width - words else None if k < left else "n"

    def row(cells: tuple[Any, ...], number: int) -> Markup:
        inside = [
            tag("th" if k == 0 else "td", cell, class_=kind(k), scope="row" if k == 0 else None)
            for k, cell in enumerate(cells)
        ]
        return tag("tr", *inside, class_="strong" if number in marked else None)

    titles = [tag("th", cell, scope="col", class_=kind(k)) for k, cell in enumerate(head)]
    made = tag(
        "table", tag("thead", tag("tr", *titles)), tag("tbody", joined(*(row(r, k) for k, r in enumerate(body))))
    )  # fmt: skip
    return tag("div", made, class_="wide", role="region", aria_label=label, tabindex=0)
