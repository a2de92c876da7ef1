"""The plain attributes of a module: numbers, texts, configurations; nothing that it computes with."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from snnpipe.frontend.shadow import MARK

#: What every module has.
NOT_OWN = frozenset({*dir(nn.Module()), MARK})
_ATOMS = (
    type(None), bool, int, float, complex, str, bytes, range, slice, type, enum.Enum, torch.dtype, torch.device,
    torch.layout, torch.Size,
)  # fmt: skip
_DEEPEST = 6


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module and its class that hold no module, tensor or function.

    >>> plain_attributes(nn.Linear(4, 2))
    {'in_features': 4, 'out_features': 2}
    """
    bases = [base for base in reversed(type(module).__mro__) if base not in nn.Module.__mro__]
    found = {name: value for base in bases for name, value in vars(base).items() if not name.startswith("__")}
    found |= vars(module)
    return {name: value for name, value in found.items() if name not in NOT_OWN and _is_plain(value)}


def _is_plain(value: Any, depth: int = _DEEPEST) -> bool:
    if isinstance(value, _ATOMS):
        return True
    if not depth or callable(value) or isinstance(value, Tensor) or hasattr(value, "__get__"):
        return False
    if isinstance(value, Mapping):
        return all(_is_plain(item, depth - 1) for pair in value.items() for item in pair)
    if isinstance(value, tuple | list | set | frozenset):
        return all(_is_plain(item, depth - 1) for item in value)
    held = getattr(value, "__dict__", None)
    return held is not None and all(_is_plain(item, depth - 1) for item in held.values())
