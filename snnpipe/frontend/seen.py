"""What a spelling of an op is, and what it may look at while a graph is being lowered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from snnpipe.graph import Node, Param, Ref
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


def is_zero(operand: Any, seen: Seen) -> bool:
    """Whether an operand is known to be zero: a literal, a fresh tensor of zeros, a constant zero tensor."""
    if isinstance(operand, int | float) and not isinstance(operand, bool):
        return operand == 0
    if isinstance(operand, Param):
        tensor = seen.tensor(operand)
        return tensor is not None and not isinstance(tensor, torch.nn.Parameter) and not bool(tensor.any())
    node = seen.node(operand)
    if node is None:
        return False
    made = node.op in ("zeros_like", "new_zeros") or (node.op == "call" and node["target"] is torch.zeros)
    return made or (node.op in ("full_like", "new_full") and is_zero(node.get("fill_value"), seen))


def number(operand: Any, seen: Seen) -> float | None:
    """The number that an operand is: a literal, or a tensor that holds it everywhere; ``None`` if it is no number."""
    if isinstance(operand, int | float):
        return operand
    tensor = seen.tensor(operand)
    if tensor is None or tensor.numel() == 0 or bool((tensor != tensor.flatten()[0]).any()):
        return None
    return float(tensor.detach().flatten()[0])
