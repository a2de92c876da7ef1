"""Containers that torch does not know, made known to it while it exports a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snnpipe.containers import built, opened, unknown
from snnpipe.errors import TraceError

_LEAVES = (
    Tensor, int, float, complex, str, Enum, torch.SymInt, torch.SymFloat, torch.SymBool, torch.dtype, torch.device,
)  # fmt: skip
#: ``known(value)`` lets torch open the containers in it.
Known = Callable[[Any], None]


@contextmanager
def pytrees() -> Iterator[Known]:
    """While it is open, dataclasses and their like (``containers``) can be pytrees; then torch is as it was before."""
    before: dict[Any, Any] = {}

    def known(value: Any) -> None:
        cls, found = pytree._get_node_type(value), opened(value)
        node = pytree.SUPPORTED_NODES.get(cls)
        if node is None and found is not None:
            before[cls] = None
            pytree.SUPPORTED_NODES[cls] = pytree.NodeDef(cls, _children, built, _keyed)
        elif node is not None and node.flatten_with_keys_fn is None:
            before[cls] = node
            numbered = _numbered(node.flatten_fn)
            pytree.SUPPORTED_NODES[cls] = pytree.NodeDef(cls, node.flatten_fn, node.unflatten_fn, numbered)
        for child in pytree.SUPPORTED_NODES[cls].flatten_fn(value)[0] if cls in pytree.SUPPORTED_NODES else ():
            known(child)

    try:
        yield known
    finally:
        for cls, node in before.items():
            del pytree.SUPPORTED_NODES[cls]
            if node is not None:
                pytree.SUPPORTED_NODES[cls] = node


def telling(module: nn.Module, known: Known) -> None:
    """Let ``module`` say what containers its ``forward`` returns."""
    forward = module.forward

    @functools.wraps(forward)
    def told(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        known(output)
        for leaf in pytree.tree_leaves(output):
            if leaf is not None and not isinstance(leaf, _LEAVES):
                raise TraceError(unknown(leaf))
        return output

    module.__dict__["forward"] = told


def _children(value: Any) -> tuple[list[Any], Any]:
    kind, children = _opened(value)
    return list(children), kind


def _keyed(value: Any) -> tuple[list[tuple[Any, Any]], Any]:
    kind, children = _opened(value)
    keys = [*map(pytree.GetAttrKey, kind.names), *map(pytree.MappingKey, kind.keys)]
    return list(zip(keys, children, strict=True)), kind


def _numbered(flatten: Callable[[Any], tuple[Iterable[Any], Any]]) -> Callable[[Any], Any]:
    """Keys for a pytree that was registered without."""

    def keyed(value: Any) -> tuple[list[tuple[Any, Any]], Any]:
        children, context = flatten(value)
        return [(pytree.SequenceKey(k), child) for k, child in enumerate(children)], context

    return keyed


def _opened(value: Any) -> Any:
    return opened(value)
