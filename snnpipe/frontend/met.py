"""Modules that ``forward`` meets while it is followed and that no copy was made of: a global variable's, or new ones.

The user's are copied on first meeting; what ``forward`` makes itself is nobody else's.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import count
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn

from snnpipe.errors import TraceError
from snnpipe.frontend.shadow import MARK, is_private, shadow, unregistered
from snnpipe.frontend.twins import fields

#: ``nn.Module.__call__`` as it is when nobody traces.
CALL: Callable[..., Any] = nn.Module.__call__


@attrs.define(eq=False)
class Met:
    """Copies of the user's modules that were met so far; they keep the mode they are in, as ``model.eval()`` would."""

    twins: dict[int, tuple[nn.Module, nn.Module]] = attrs.field(factory=dict)

    def twin(self, module: nn.Module) -> nn.Module:
        if is_private(module):
            return module
        if id(module) not in self.twins:
            self.twins[id(module)] = (module, shadow(module, evaluate=False))
        return self.twins[id(module)][1]

    def tensors(self, root: nn.Module) -> dict[str, Tensor]:
        """The parameters and buffers that a copy reaches or meets without registering them, by name."""
        found = dict(unregistered(root))
        for _, twin in self.twins.values():
            found[unused_name(twin, {**found, **fields(root)["_modules"]})] = twin
        return {key: tensor for name, module in found.items() for key, tensor in tensors_of(module, name)}


def unused_name(module: nn.Module, taken: Container[str]) -> str:
    """``linear_0`` for a ``Linear`` without a name."""
    names = (f"{type(module).__name__.lower()}_{k}" for k in count())
    return next(name for name in names if name not in taken)


def entry(root: nn.Module) -> Callable[..., Any]:
    """What says which arguments a model takes: its class's own ``__call__`` if that names any, else its ``forward``."""
    call: Any = type(root).__call__
    code = getattr(call, "__code__", None)
    named = call is not CALL and code is not None and code.co_argcount + code.co_kwonlyargcount > 1
    return types.MethodType(call, root) if named else root.forward


def tensors_of(root: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by key, tied ones under each of their keys."""
    yield from root.named_parameters(prefix, remove_duplicate=False)
    yield from root.named_buffers(prefix, remove_duplicate=False)


def refuse_autocast(node: fx.Node) -> None:
    """Refuse an operation that is recorded while autocast is on."""
    if node.op.startswith("call_") and any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
        raise TraceError(
            "trace: the model switches autocast on in its forward, so the types of its values are torch's choice.\n"
            "  Convert the model without it, or keep the module that does it as one call: trace(leaves=(ThatModule,))"
        )


@contextmanager
def noted() -> Iterator[None]:
    """Modules that this thread makes are private."""
    thread, init = threading.get_ident(), nn.Module.__init__

    @wraps(init)
    def marked(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if threading.get_ident() == thread:
            self.__dict__.setdefault(MARK, {})

    nn.Module.__init__ = marked  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__init__ = init  # type: ignore[method-assign]


@contextmanager
def replaced(met: Met) -> Iterator[None]:
    """Calls of the user's modules, made in this thread, go to their copies."""
    thread, call = threading.get_ident(), nn.Module._call_impl

    @wraps(call)
    def redirected(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return call(met.twin(self) if threading.get_ident() == thread else self, *args, **kwargs)

    nn.Module._call_impl = redirected  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._call_impl = call  # type: ignore[method-assign]
