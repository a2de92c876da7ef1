"""What sites decode to beside the ANN's activations: charts that stay small, however many sites and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from snnpipe.markup.density import density
from snnpipe.markup.tags import Markup, tag

#: A page draws no more cells than so many, of about ten bytes each, and no more sites.
CELLS, SITES = 12_000, 60


def scatters(sites: Sequence[Any]) -> list[Markup]:
    """A chart for each site, of those with the least correlation where there are many; cells are merged to fit."""
    chosen = sorted(sorted(range(len(sites)), key=lambda k: float(sites[k].correlation))[:SITES])
    joints = [(sites[k].joint.cell, sites[k].joint.cells) for k in chosen]
    while sum(len(cells) for _, cells in joints) > CELLS:
        joints = [(2 * cell, merged(cells)) for cell, cells in joints]
    drawn = [_chart(sites[k], *joint) for k, joint in zip(chosen, joints, strict=True)]
    words = "The stronger the colour, the more often. On the dashed line both are equal, below it the SNN says too "
    words += "little; rows are the levels that T steps can say."
    left = f" Of {len(sites)} sites the {SITES} with the least correlation." * (len(sites) > SITES)
    return [tag("div", *drawn, class_="many"), tag("p", words + left, class_="note")]


def merged(cells: Sequence[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Cells of twice the size.

    >>> merged([(0, 0, 1), (1, 1, 2), (-1, 3, 4)])
    ((-1, 1, 4), (0, 0, 3))
    """
    found: Counter[tuple[int, int]] = Counter()
    for i, j, count in cells:
        found[i // 2, j // 2] += count
    return tuple(sorted((i, j, count) for (i, j), count in found.items()))


def _chart(site: Any, cell: float, cells: Sequence[tuple[int, int, int]]) -> Markup:
    pairs, on = sum(count for *_, count in cells), sum(count for i, j, count in cells if i == j)
    told = f"correlation {float(site.correlation):.3f}; {100 * on / max(pairs, 1):.3g} % of {pairs} pairs are equal, "
    label = f"{site.site}, decoded beside the ANN's activation"
    chart = density(cells, cell, label=label, told=f"{told}within {cell:.2g}", across="ANN", up="SNN")
    return tag("figure", tag("figcaption", str(site.site)), chart)
