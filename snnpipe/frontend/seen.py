"""What a spelling of an op is, and what it may look at while a graph is being lowered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs
from torch import Tensor

from snnpipe.graph import Node, Ref
from snnpipe.ops.signature import Signature


class Seen(Protocol):
    """What an ``adapt`` function may look at and use while a graph is being lowered."""

    def node(self, operand: Any) -> Node | None:
        """The node behind an operand."""

    def tensor(self, operand: Any) -> Tensor | None:
        """The parameter or constant tensor behind an operand."""

    def emit(self, op: str, **operands: Any) -> Ref:
        """Add a helper node."""


Operands = dict[str, Any]
Adapt = Callable[[Operands, Seen], tuple[str, Operands] | None]


@attrs.frozen
class Spelling:
    """One way to write an op: how its arguments are called, and what they decide."""

    op: str
    signature: Signature
    adapt: Adapt | None = None


def number(operand: Any, seen: Seen) -> float | None:
    """The number that an operand is: a literal, or a tensor that holds it everywhere; ``None`` if it is no number."""
    if isinstance(operand, int | float):
        return operand
    tensor = seen.tensor(operand)
    if tensor is None or tensor.numel() == 0 or bool((tensor != tensor.flatten()[0]).any()):
        return None
    return float(tensor.detach().flatten()[0])
