"""What stands for a tensor while ``forward`` is followed by ``torch.fx``."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from snnpipe.frontend.facts import INPLACE_OPERATORS, set_data


class Symbol(fx.Proxy):
    """A symbol that also records Python's in-place operators, item assignment and ``x.data = y``."""

    __array_ufunc__ = None  # numpy leaves its operators to us, as it does to tensors

    def __len__(self) -> int:
        pieces = known_length(self.node)
        return super().__len__() if pieces is None else pieces

    def __getattr__(self, name: str) -> _Attribute:
        return _Attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":
            self.tracer.create_proxy("call_function", set_data, (self, value), {})
        elif name in ("imag", "real"):
            getattr(self, name).copy_(value)
        else:
            super().__setattr__(name, value)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


class _Attribute(Symbol, fx.proxy.Attribute):
    """A symbol for an attribute of another; called, it is a call of that method."""


def known_length(node: fx.Node) -> int | None:
    """The number of pieces a tensor was cut into, where the call says it."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    cut = node.args[1] if len(node.args) > 1 else None
    if name == "chunk":
        cut = node.kwargs.get("chunks", cut)
        return cut if isinstance(cut, int) else None
    if name in ("split", "split_with_sizes"):
        cut = node.kwargs.get("split_size", node.kwargs.get("split_size_or_sections", cut))
        return len(cut) if isinstance(cut, tuple | list) else None
    return None


def _recorder(target: Callable[..., Any]) -> Callable[[Symbol, Any], Any]:
    def inplace(self: Symbol, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return inplace


for _operator in INPLACE_OPERATORS:
    setattr(Symbol, f"__{_operator.__name__}__", _recorder(_operator))


def holds_symbols(function: Any) -> bool:
    """Whether a function brings symbols with it, in its closure or as arguments of a ``partial``."""
    given = (*function.args, *function.keywords.values()) if isinstance(function, functools.partial) else ()
    cells = getattr(function, "__closure__", None) or ()
    return any(isinstance(value, fx.Proxy) for value in (*given, *(cell.cell_contents for cell in cells)))
