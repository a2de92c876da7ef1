"""What a symbolic trace does not see by itself: torch calls that touch no symbol.

Symbols record the calls that touch them; everything else is computed while ``forward`` runs and enters the graph as a
constant.  That is right unless a symbol is written into such a tensor, or it was drawn at random.  So every call is
watched: a tensor that a symbol is written to becomes a symbol itself, and what comes of a random number is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from snnpipe.errors import TraceError
from snnpipe.frontend import facts
from snnpipe.frontend.chance import torch_state

#: What may be asked of a tensor whatever its values are.
_METADATA = frozenset({
    "__format__", "__hash__", "__len__", "__repr__", "data_ptr", "device", "dim", "dtype", "element_size", "grad",
    "grad_fn", "is_complex", "is_contiguous", "is_cpu", "is_cuda", "is_floating_point", "is_leaf", "is_meta", "is_mps",
    "is_nested", "is_quantized", "is_sparse", "itemsize", "layout", "names", "nbytes", "ndim", "ndimension",
    "nelement", "numel", "requires_grad", "shape", "size", "storage_offset", "stride", "untyped_storage", "_version",
})  # fmt: skip


_UNINITIALISED = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})


@attrs.frozen(eq=False)
class _Known:
    """A real tensor that something is known of; kept, so that no other takes its place in memory."""

    tensor: Tensor
    symbol: fx.Proxy | None = None
    origin: str = ""


@attrs.frozen(eq=False)
class _View:
    """A real tensor that a call has made of another, in its memory; ``at`` is its place among several."""

    tensor: Tensor
    func: Callable[..., Any]
    args: Any
    kwargs: Any
    at: int | None


class Watch(TorchFunctionMode):
    """Active while a forward runs on symbols.

    Args:
        symbol: ``symbol(tensor)``, a symbol that stands for a real tensor, a constant so far.
        record: ``record(function, args, kwargs)`` adds a call that touches symbols to the graph.
        place: where the user's code is, ``file:line``.
    """

    def __init__(
        self, symbol: Callable[[Tensor], fx.Proxy], record: Callable[..., Any], place: Callable[[], str]
    ) -> None:
        super().__init__()
        self.symbol, self.record, self.place = symbol, record, place
        self.made: dict[int, Tensor] = {}
        self.written: dict[int, _Known] = {}
        self.random: dict[int, _Known] = {}
        self.views: dict[int, _View] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _asked(func)
        if name in _METADATA:
            return func(*args, **kwargs)
        given = args
        args, kwargs = pytree.tree_map_only(Tensor, self.seen, (args, kwargs))
        found = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor | fx.Proxy)]
        if any(isinstance(leaf, fx.Proxy) for leaf in found):
            if name in facts.MOVES:
                self._leave(given[0])
            self._write(func, args, kwargs)
            args, kwargs = pytree.tree_map_only(Tensor, self.seen, (args, kwargs))
            return self.record(func, args, kwargs)
        return self._computed(func, name, args, kwargs, found)

    def seen(self, tensor: Any) -> Any:
        """What a real tensor is now: a symbol once one was written to it.

        Raises:
            TraceError: it shares memory with one that a symbol was written to, or comes of a random number.
        """
        if isinstance(tensor, fx.Proxy):
            return tensor
        known = self.written.get(id(tensor))
        if known is not None:
            return known.symbol
        if self.written and any(_overlap(tensor, other.tensor) for other in self.written.values()):
            if id(tensor) in self.views:
                return self._symbol(tensor)
            raise TraceError(
                f"trace: at {self.place()} a tensor is read that shares memory with one that depends on the input and "
                "was written to.\n  Give an example, which follows such writes: trace(example=x)"
            )
        return tensor

    def is_made(self, tensor: Tensor) -> bool:
        """Whether a real tensor lies in memory that forward made while it ran."""
        return _memory(tensor) in self.made

    def constant(self, tensor: Tensor) -> None:
        """Hold a real tensor that enters the graph as a constant against what is known of it."""
        known = self.random.get(id(tensor))
        if known is not None:
            raise TraceError(
                f"trace: `{known.origin}` is random, so the network computes no function of its input.\n"
                "  Draw random numbers only in training mode (if self.training: ...), or outside the model, as an input"
            )

    def _symbol(self, tensor: Tensor) -> Any:
        """A symbol for a real tensor that is, or is about to be, written to: of a view, that view of its base's."""
        if id(tensor) not in self.written:
            view = self.views.get(id(tensor))
            self.written[id(tensor)] = _Known(tensor, self.symbol(tensor) if view is None else self._view(view))
        return self.written[id(tensor)].symbol

    def _view(self, view: _View) -> Any:
        args, kwargs = pytree.tree_map_only(
            Tensor, lambda leaf: self._symbol(leaf) if _overlap(leaf, view.tensor) else leaf, (view.args, view.kwargs)
        )
        made = self.record(view.func, args, kwargs)
        return made if view.at is None else made[view.at]

    def _leave(self, tensor: Any) -> None:
        """Views of a real tensor that is about to look at another memory stay where they are."""
        for view in [*self.views.values()]:
            if isinstance(tensor, Tensor) and _overlap(view.tensor, tensor):
                self._symbol(view.tensor)

    def _write(self, func: Any, args: Any, kwargs: Any) -> None:
        """Real tensors that a call with symbols writes to become symbols."""
        for tree in facts.written(func, args, kwargs):
            for leaf in pytree.tree_leaves(tree):
                if isinstance(leaf, Tensor) and not isinstance(leaf, fx.Proxy):
                    self.constant(leaf)
                    self._symbol(leaf)

    def _computed(self, func: Any, name: str, args: Any, kwargs: Any, given: list[Any]) -> Any:
        """Run a call on real tensors, and note what it makes."""
        before = torch_state()
        result = func(*args, **kwargs)
        origins = [self.random[id(leaf)].origin for leaf in given if id(leaf) in self.random]
        if torch_state() != before or ("generator" in kwargs and facts.is_random(func, args, kwargs)):
            origins = [f"{name} at {self.place()}" if self.place() else name]
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        if name in _UNINITIALISED:  # whatever lies there is overwritten, or the model computes no function
            made[0].zero_()
        for at, leaf in enumerate(made):
            if not any(_overlap(leaf, other) for other in given):
                self.made.setdefault(_memory(leaf), leaf)
            elif not any(leaf is other for other in given):
                place = None if isinstance(result, Tensor) else at
                self.views[id(leaf)] = _View(leaf, func, args, kwargs, place)
            if origins:
                self.random[id(leaf)] = _Known(leaf, origin=origins[0])
            elif name in ("fill_", "zero_", "copy_"):
                self.random.pop(id(leaf), None)
        if origins and not made and result is not None:
            raise TraceError(
                f"trace: `{origins[0]}` is random, and what forward does depends on it.\n"
                "  Draw random numbers only in training mode (if self.training: ...), or outside the model, as an input"
            )
        return result


def _asked(func: Any) -> str:
    """The name of a function, method or property."""
    name = facts.name_of(func)
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name


def _overlap(a: Tensor, b: Tensor) -> bool:
    return _memory(a) == _memory(b) != 0


def _memory(tensor: Tensor) -> int:
    """Where a tensor lies; 0 where that means nothing."""
    if isinstance(tensor, fx.Proxy):
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0
