"""Numbers and columns of a printed table."""

from __future__ import annotations

from collections.abc import Iterable


def short(number: float) -> str:
    """A number in at most four digits and a prefix.

    >>> [short(n) for n in (0, 0.25, 12, 1234567.0)]
    ['0', '0.25', '12', '1.235 M']
    """
    for exponent, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(number) >= 10 ** max(exponent, 4):
            return f"{number / 10**exponent:.4g} {prefix}"
    return f"{number:.4g}"


def aligned(rows: Iterable[tuple[str, ...]], *, left: int, right: int = 0) -> list[str]:
    """Columns of equal width; the first ``left`` and the last ``right`` of them begin at the left."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    flush = [k < left or k >= len(widths) - right for k in range(len(widths))]
    cells = [[f"{c:<{w}}" if f else f"{c:>{w}}" for c, w, f in zip(row, widths, flush, strict=True)] for row in table]
    return ["  ".join(row).rstrip() for row in cells]
