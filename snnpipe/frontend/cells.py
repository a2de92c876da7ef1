"""The memory of a traced program: which values lie in the same place, and what a write to one does to the others.

Every value is a *cell*: a tensor and what has been written to it since.  A write replaces the value in its cell, so
whoever reads the cell later sees the result.  A *view* remembers how it was made of its base: a write through it
becomes a new value of the base, and after a write to the base the view is made again.  Where it hangs on the layout of
a tensor whether two cells share memory (``reshape``), a read after a write to the other is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from snnpipe.graph import Param
from snnpipe.ops import functions


@attrs.frozen(eq=False)
class Step:
    """One call that makes a view: ``make(base)`` adds it to the graph, ``fn(base, *args, **kwargs)`` computes it."""

    make: Callable[[Any], Any]
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@attrs.define(eq=False)
class Cell:
    """A value of the program.

    Attributes:
        value: what it is now.
        place: the cells that lie, or may lie, in the same memory.
        base: the cell that it is surely a view of, and ``steps``, how.
        outdated: whether the base was written to since ``value`` was made.
        stale: why it may not be read any more, "" if it may.
        memory: the key of the model's own tensor that it was at first.
        overlapping: whether it may show one place in memory several times.
    """

    value: Any
    place: Place
    base: Cell | None = None
    steps: tuple[Step, ...] = ()
    outdated: bool = False
    stale: str = ""
    memory: str = ""
    overlapping: bool = False

    @property
    def root(self) -> Cell:
        """The cell that it is a view of, itself if it is none."""
        return self if self.base is None else self.base

    def read(self) -> Any:
        """The value now; a view whose base was written to is made again."""
        if self.outdated:
            assert self.base is not None
            value = self.base.value
            for step in self.steps:
                value = step.make(value)
            self.value, self.outdated = value, False
        return self.value


@attrs.define(eq=False)
class Place:
    """Cells that may lie in the same memory."""

    cells: list[Cell] = attrs.field(factory=list)


def fresh(value: Any) -> Cell:
    """A cell in memory of its own."""
    cell = Cell(value, Place())
    cell.place.cells.append(cell)
    if isinstance(value, Param):
        cell.memory = value.key
    return cell


def view(value: Any, base: Cell, step: Step) -> Cell:
    """A cell that is surely a view of another."""
    cell = Cell(value, base.place, base.root, (*base.steps, step))
    base.place.cells.append(cell)
    return cell


def again(base: Cell) -> Cell:
    """A cell that looks at another as it is: a tensor of its own in the same memory."""
    return view(base.read(), base, Step(lambda now: now, functions.identity, (), {}))


def alias(value: Any, others: Iterable[Cell]) -> Cell:
    """A cell that may share memory with others."""
    cell = fresh(value)
    for other in others:
        if other.place is not cell.place:
            for moved in other.place.cells:
                moved.place = cell.place
                cell.place.cells.append(moved)
    return cell


def turn(cell: Cell, value: Any, step: Step, why: str) -> None:
    """Let a cell look at its memory in another way; what lies there stays."""
    cell.value = value
    if cell.base is not None:
        cell.steps = (*cell.steps, step)
        return
    for other in cell.place.cells:
        other.stale = "" if other is cell else why


def write(cell: Cell, value: Any, through: Callable[[Any, Any, tuple[Step, ...]], Any], why: str) -> None:
    """Let a cell have a new value.

    Args:
        cell: what is written to.
        value: what it is from now on.
        through: ``through(base, value, steps)``, the base after the write to its view.
        why: what readers of cells that may lie in the same memory are told.
    """
    root = cell.root
    cell.value, cell.outdated = value, False
    if cell is not root:
        root.value = through(root.value, value, cell.steps)
    for other in cell.place.cells:
        if other is cell or other is root:
            continue
        if other.root is root:
            other.outdated = True
        else:
            other.stale = why
