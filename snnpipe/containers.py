"""Containers that are no plain tuple, list or dict, taken apart and built again.

These are the pytrees registered with torch (the outputs of ``transformers``, ``OrderedDict``, ``torch.return_types``),
dataclasses and attrs classes, and subclasses of dict, list and tuple.  Knows containers; nothing of what is inside.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import UserDict, UserList, defaultdict
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from snnpipe.frozen import FrozenList, FrozenMap, Packed, is_namedtuple, leaves

_PLAIN = frozenset({tuple, list, dict, FrozenList, FrozenMap, Packed})
_OPENED = (dict, list, tuple, UserDict, UserList, SimpleNamespace)
_CLOSED = (Tensor, nn.Module, torch.Size)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class written in Python


@attrs.frozen(eq=False, repr=False)
class Registered:
    """A pytree that torch knows how to build: ``kind(*children)``."""

    cls: type
    context: Any

    @property
    def __name__(self) -> str:
        return self.cls.__name__

    @property
    def labels(self) -> Iterable[str]:
        """How each child is called in messages."""
        return (f".<{k}>" for k in itertools.count())

    def __call__(self, *children: Any) -> Any:
        return pytree.SUPPORTED_NODES[self.cls].unflatten_fn(list(children), self.context)

    def __repr__(self) -> str:
        return f"{self.cls.__qualname__}<{self.context!r}>"


@attrs.frozen(eq=False, repr=False)
class Record:
    """An object made of attributes and, if it is a dict, list or tuple, items: ``kind(*attributes, *items)``.

    It is filled without a call of its own code: what ``__init__`` computed is among the attributes.

    Attributes:
        cls: its class.
        names: of the attributes.
        keys: of the items of a dict; the positions of those of a list or tuple.
    """

    cls: type
    names: tuple[str, ...]
    keys: tuple[Any, ...]

    @property
    def __name__(self) -> str:
        return self.cls.__name__

    @property
    def labels(self) -> Iterable[str]:
        """How each child is called in messages."""
        return (*(f".{name}" for name in self.names), *(f"[{key!r}]" for key in self.keys))

    def __call__(self, *children: Any) -> Any:
        base: Any = _solid(self.cls)
        items = children[len(self.names) :]
        made = base.__new__(self.cls, items) if base is tuple else base.__new__(self.cls)
        if base is list:
            base.extend(made, items)
        elif issubclass(base, dict):
            for key, item in zip(self.keys, items, strict=True):
                base.__setitem__(made, key, item)
        for name, value in zip(self.names, children, strict=False):
            object.__setattr__(made, name, value)
        return made

    def __repr__(self) -> str:
        return f"{self.cls.__qualname__}<{', '.join((*self.names, *map(repr, self.keys)))}>"


#: What rebuilds a container from its children.
Kind = Registered | Record


def opened(value: Any) -> tuple[Kind, tuple[Any, ...]] | None:
    """A container that is no plain one as its kind and children; ``None`` for anything else.

    >>> from collections import OrderedDict
    >>> kind, children = opened(OrderedDict(a=1, b=2))
    >>> children, kind(*children) == OrderedDict(a=1, b=2)
    ((1, 2), True)
    """
    cls = type(value)
    if cls in _PLAIN or issubclass(cls, _CLOSED):
        return None
    node = pytree.SUPPORTED_NODES.get(cls)
    if node is not None and node.unflatten_fn is not built:
        children, context = node.flatten_fn(value)
        return Registered(cls, context), tuple(children)
    own = cls.__module__.partition(".")[0] == __name__.partition(".")[0]  # records of this package are leaves
    if own or is_namedtuple(value) or not (dataclasses.is_dataclass(cls) or attrs.has(cls) or issubclass(cls, _OPENED)):
        return None
    names, base = _attributes(value), _solid(cls)
    attributes = tuple(getattr(value, name) for name in names)
    if issubclass(base, dict):
        return Record(cls, names, tuple(base.keys(value))), (*attributes, *base.values(value))
    items = tuple(base.__iter__(value)) if base in (list, tuple) else ()
    return Record(cls, names, tuple(range(len(items)))), (*attributes, *items)


def built(children: Iterable[Any], kind: Record) -> Any:
    """How a pytree is put together that is one only for now (``frontend.pytrees``)."""
    return kind(*children)


def packed(value: Any) -> Any:
    """A tree of values with the containers that are not plain ``Packed``; plain ones are copied.

    >>> from snnpipe.frozen import freeze, thaw
    >>> thaw(freeze(packed([SimpleNamespace(a=(1, 2))])))
    [namespace(a=(1, 2))]
    """
    if is_namedtuple(value):
        return type(value)(*map(packed, value))
    if type(value) in (tuple, list, FrozenList):
        return type(value)(map(packed, value))
    if type(value) in (dict, FrozenMap):
        return type(value)({key: packed(item) for key, item in value.items()})
    found = opened(value)
    return value if found is None else Packed(found[0], tuple(map(packed, found[1])))


def tensors(value: Any) -> list[Tensor]:
    """The tensors of a tree of values, left to right.

    >>> len(tensors({"a": [torch.ones(1), SimpleNamespace(b=torch.ones(1), c="no")]}))
    2
    """
    return [leaf for leaf in leaves(packed(value)) if isinstance(leaf, Tensor)]


def unknown(value: Any, where: str = "") -> str:
    """Why an object that may hold what a model computes cannot be followed, and what to write."""
    name = type(value).__name__
    return (
        f"trace: the model hands on a {name}" + f" at {where}" * bool(where) + ", and what it holds cannot be seen.\n"
        f"  Make {name} a dataclass, a named tuple or a dict, or let torch know it:\n"
        f"  torch.utils._pytree.register_pytree_node({name}, flatten, unflatten)"
    ) + (
        "\n  Or leave a cache of keys and values out, trace(constants={'use_cache': False}), or carry it along,\n"
        "  trace_decoder(example=input_ids)"
    ) * name.endswith("Cache")


def _solid(cls: type) -> Any:
    """The class, among those it derives from, that says how its memory is laid out."""
    return next(base for base in cls.__mro__ if not base.__flags__ & _HEAP_TYPE)


def _attributes(value: Any) -> tuple[str, ...]:
    """Names of what an object itself holds."""
    declared = [vars(cls).get("__slots__", ()) for cls in type(value).__mro__]
    slots = [name for names in declared for name in ((names,) if isinstance(names, str) else names)]
    slots += ["default_factory"] * isinstance(value, defaultdict)
    held = [name for name in dict.fromkeys(slots) if not name.startswith("__") and hasattr(value, name)]
    return (*getattr(value, "__dict__", ()), *held)
