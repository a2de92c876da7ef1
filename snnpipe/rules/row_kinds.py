"""What a value has to do with the samples of a batch.

Knows graphs' nodes and operands; which op keeps samples apart is said in ``rules.row_rules``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from snnpipe.frozen import leaves
from snnpipe.graph import Node


@attrs.frozen
class Rows:
    """A tensor of so many axes, sample b in its row b; or, if ``of`` is not ``""``, what is told of it: its shape,
    the number of its rows, or a tuple of pieces like it."""

    rank: int
    of: str = ""


@attrs.frozen
class Same:
    """What is the same for every sample, of so many axes, the first of them of that size, if these are known."""

    rank: int | None = None
    first: int | None = None


Kind = Rows | Same
#: The kinds of a node's operands and the node -> the kind of its value; ``None``: it may mix samples.
Rule = Callable[[Node, Callable[[Any], "Kind | None"]], "Kind | None"]


def only(node: Node, kind: Callable[[Any], Kind | None], *names: str) -> int | None:
    """The rank of the operands ``names``, rows of one rank, where all others are the same for every sample."""
    kinds = {name: [kind(leaf) for leaf in leaves(value)] for name, value in node.operands.items()}
    mine = [found for name in names for found in kinds.pop(name, ())]
    others = [found for found_of in kinds.values() for found in found_of]
    ranks = {found.rank for found in mine if isinstance(found, Rows) and not found.of}
    clean = len(ranks) == 1 and all(isinstance(found, Rows) and not found.of for found in mine)
    return ranks.pop() if clean and all(isinstance(found, Same) for found in others) else None


def axes_behind_first(value: Any, rank: int) -> set[int] | None:
    """Axes counted from the front; ``None`` where one is the first, or no number."""
    dims = [value] if isinstance(value, int) else leaves(value) if isinstance(value, tuple) else ()
    found = {dim % rank for dim in dims if isinstance(dim, int) and -rank <= dim < rank} if rank else set()
    return found if found and len(found) == len([*dims]) and 0 not in found else None


def has_one_row(source: Same, rank: int) -> bool:
    """Whether something has one row, or none, where ``rank`` axes are wanted."""
    return source.rank is not None and (source.rank < rank or source.first == 1)
