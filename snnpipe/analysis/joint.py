"""How two values go together: counts on a square grid that grows with what it meets.

Knows numbers; nothing of networks.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

#: Cells on each side.
GRID = 64
#: Of one batch no more pairs are looked at, evenly spread.
PAIRS = 2**16


@attrs.frozen
class Joint:
    """Pairs (x, y), counted in cells of one size.

    Attributes:
        cell: the length of a cell.
        cells: ``(i, j, count)`` of each that is not empty: x in ``[i, i + 1] cell``, y in ``[j, j + 1] cell``.
    """

    cell: float
    cells: tuple[tuple[int, int, int], ...]


@attrs.define(eq=False)
class JointCounts:
    """A grid from 0 to ``reach``, or from ``-reach`` where a value is negative, to which batches are added.

    It is doubled by merging four cells into one, so what is counted does not depend on the order of the batches.
    """

    reach: float = 2.0**-40
    signed: bool = False
    counts: Tensor = attrs.field(factory=lambda: torch.zeros(GRID, GRID, dtype=torch.int64))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in pairs of numbers.

        >>> found = JointCounts()
        >>> found.add(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.5]))
        >>> found.joint
        Joint(cell=0.015625, cells=((0, 0, 1), (63, 32, 1)))
        """
        stride = max(1, x.numel() // PAIRS)
        x, y = (z.detach().reshape(-1)[::stride].double().cpu() for z in (x, y))
        low = min(float(x.min()), float(y.min()))
        self._grow(max(float(x.max()), float(y.max()), -low), low < 0)
        cell = self.reach * (1 + self.signed) / GRID
        i, j = (((z / cell).floor().long() + self.signed * GRID // 2).clamp(0, GRID - 1) for z in (x, y))
        self.counts += torch.bincount(i * GRID + j, minlength=GRID * GRID).view(GRID, GRID)

    def _grow(self, most: float, negative: bool) -> None:
        if negative and not self.signed:
            self.signed = True
            self._merge(GRID // 2)
        while self.reach < most:
            self.reach *= 2
            self._merge(GRID // 4 if self.signed else 0)

    def _merge(self, start: int) -> None:
        """Four cells into one; the old grid begins at cell ``start`` of the new one."""
        half, merged = GRID // 2, torch.zeros_like(self.counts)
        part = slice(start, start + half)
        merged[part, part] = self.counts.view(half, 2, half, 2).sum((1, 3))
        self.counts = merged

    @property
    def joint(self) -> Joint:
        """The counts so far."""
        start = self.signed * GRID // 2
        cells = [(i - start, j - start, int(self.counts[i, j])) for i, j in self.counts.nonzero().tolist()]
        return Joint(self.reach * (1 + self.signed) / GRID, tuple(cells))
