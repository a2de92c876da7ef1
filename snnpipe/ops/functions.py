"""The few functions of the operator table that torch does not have under one name.

They are called from generated code, so each is public, pure and named for what it does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from snnpipe.containers import opened, tensors
from snnpipe.kernels.temporal import zip_leaves


def identity(input: Any) -> Any:
    """The value itself."""
    return input


def set_item(input: Tensor, index: Any, value: Any) -> Tensor:
    """A copy of ``input`` with ``input[index] = value``; linear in ``(input, value)`` jointly.

    >>> set_item(torch.zeros(3), 1, 2.0)
    tensor([0., 2., 0.])
    """
    out = input.clone()
    out[index] = value
    return out


def filled_like(input: Tensor, value: Any) -> Tensor:
    """``value`` broadcast to the shape and dtype of ``input`` (what ``copy_`` and ``fill_`` leave behind)."""
    source = value if isinstance(value, Tensor) else torch.tensor(value)
    return source.to(input).expand_as(input).clone()


def einsum(equation: str, a: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Tensor:
    """``torch.einsum`` of one, two or three tensors."""
    result: Tensor = torch.einsum(equation, *(x for x in (a, b, c) if x is not None))
    return result


def relu_reusing(input: Tensor) -> Tensor:
    """``relu(input)`` in the memory of ``input``, which nobody reads afterwards (kept if gradients need it)."""
    return torch.relu(input) if torch.is_grad_enabled() and input.requires_grad else input.relu_()


def events_of(pair: tuple[Tensor, Any]) -> Tensor:
    """The events of a neuron that returns ``(events, state)``."""
    return pair[0]


def attribute(input: Any, name: str) -> Any:
    """``input.name``: a shape, dtype, device or rank, the same for every step."""
    return getattr(input, name)


def field(input: Any, name: str) -> Any:
    """``input.name`` of a container: linear."""
    return getattr(input, name)


def child_of(input: Any, k: int) -> Any:
    """The ``k``-th of what a container holds; linear.

    >>> from collections import OrderedDict
    >>> child_of(OrderedDict(a=1, b=2), 1)
    2
    """
    if has_torch_function_unary(input):  # a symbol
        return handle_torch_function(child_of, (input,), input, k)
    found = opened(input)
    return input[k] if found is None else found[1][k]


def call_method(input: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """``input.name(*args, **kwargs)``."""
    return getattr(input, name)(*args, **kwargs)


def call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``target(*args, **kwargs)``: an op that the table has no row for."""
    return target(*args, **kwargs)


@attrs.frozen
class OnCopies:
    """A function that writes to some of its arguments, as one that does not: ``(what it returns, *written copies)``.

    Attributes:
        target: the function, or the name of a method of its first argument.
        at: positions and keywords of the arguments that it writes to, tensors or lists of them.
    """

    target: Callable[..., Any] | str
    at: tuple[int | str, ...]

    @property
    def __name__(self) -> str:
        return str(self.target if isinstance(self.target, str) else getattr(self.target, "__name__", "function"))

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        given: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        copies = {key: zip_leaves(_copied, given[key]) for key in self.at}
        given |= copies
        args = tuple(given[k] for k in range(len(args)))
        kwargs = {key: given[key] for key in kwargs}
        call = getattr(args[0], self.target) if isinstance(self.target, str) else partial(self.target, *args[:1])
        return call(*args[1:], **kwargs), *copies.values()


@attrs.frozen
class WriteThrough:
    """A copy of a tensor with a value written to a view of it, made by ``views``, one after the other.

    Of a call that gives several tensors the copy is of them all, and the first view takes one.
    """

    views: tuple[Callable[..., Any], ...]

    @property
    def __name__(self) -> str:
        return "write_through"

    def __call__(self, base: Any, value: Tensor, *arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        out = view = zip_leaves(_copied, base)
        if len({leaf.untyped_storage()._cdata for leaf in tensors(base)}) < len(tensors(base)):
            raise RuntimeError("it writes to one of several results that lie in the same memory")
        for make, (args, kwargs) in zip(self.views, arguments, strict=True):
            view = make(view, *args, **kwargs)
        view.copy_(value)
        return out


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


class Opaque:
    """A module that is kept as one call: ``opaque(params, *args, **kwargs)``, weights given from outside.

    Holds a skeleton of the module without its weights.
    """

    def __init__(self, module: nn.Module) -> None:
        self._skeleton = (module,)  # in a tuple, so that copying modules does not register it

    def __call__(self, params: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        # nobody knows what it writes to: give it copies of its buffers and arguments
        own = {key: value if isinstance(value, nn.Parameter) else value.clone() for key, value in params.items()}
        args, kwargs = zip_leaves(_copied, (args, kwargs))
        return torch.func.functional_call(self._skeleton[0], own, args, kwargs)

    def __repr__(self) -> str:
        return f"Opaque({' '.join(repr(self._skeleton[0]).split())})"
