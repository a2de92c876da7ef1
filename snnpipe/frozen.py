"""Immutable containers, and walking through trees made of them.

Knows containers only; what the leaves mean is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FrozenMap(Mapping[K, V]):
    """An immutable mapping that remembers insertion order.

    >>> m = FrozenMap(a=1)
    >>> m | {"b": 2}
    FrozenMap({'a': 1, 'b': 2})
    >>> m
    FrozenMap({'a': 1})
    """

    __slots__ = ("_data",)
    _data: dict[K, V]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self, "_data", dict(*args, **kwargs))

    def __getitem__(self, key: K) -> V:
        return self._data[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __or__(self, other: Mapping[K, V]) -> FrozenMap[K, V]:
        return FrozenMap({**self._data, **other})

    def only(self, keys: Iterable[Any]) -> FrozenMap[K, V]:
        """The entries whose key is in ``keys``; ``self`` when that is all of them."""
        wanted = set(keys)
        if wanted >= self._data.keys():
            return self
        return FrozenMap({k: v for k, v in self._data.items() if k in wanted})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a FrozenMap is immutable: make a new one with `map | {key: value}`")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a FrozenMap is immutable: make a new one with `map.only(keys)`")

    def __hash__(self) -> int:
        return hash(frozenset(self._data.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({self._data!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMap, (dict(self._data),)


def as_map(value: Any) -> Any:
    """A mapping that cannot be changed; what is one already, or none, as it is."""
    return FrozenMap(value) if isinstance(value, Mapping) and type(value) is not FrozenMap else value


#: The map with nothing in it.
EMPTY: FrozenMap[Any, Any] = FrozenMap()


class FrozenList(tuple):  # type: ignore[type-arg]
    """A tuple that was a list and thaws to one, so that a model's output keeps its structure."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"FrozenList({list(self)!r})"


class Packed(NamedTuple):
    """A container of another kind, taken apart (``containers.packed``); it thaws to ``kind(*children)``.

    A named tuple, so that ``torch.fx`` finds the nodes inside.
    """

    kind: Any
    children: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.kind!r}{self.children!r}"


def is_namedtuple(value: object) -> bool:
    """Whether a tuple has named fields, so that it is rebuilt with its fields as arguments."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


_CONTAINERS: Any = (tuple, list, dict, slice)


def map_leaves(fn: Callable[[Any], Any], tree: Any) -> Any:
    """Apply ``fn`` to every leaf of a tree of tuples, lists, mappings and slices; containers keep their type.

    Other containers are leaves, unless they are ``Packed``.

    >>> map_leaves(lambda v: v + 1, (1, FrozenMap(a=2), [3]))
    (2, FrozenMap({'a': 3}), [4])
    """
    if type(tree) is not FrozenMap and not isinstance(tree, _CONTAINERS):  # as most are
        return fn(tree)
    if isinstance(tree, Packed):
        return Packed(tree.kind, tuple(map_leaves(fn, item) for item in tree.children))
    if is_namedtuple(tree):
        return type(tree)(*(map_leaves(fn, item) for item in tree))
    if type(tree) in (tuple, list, FrozenList):
        return type(tree)(map_leaves(fn, item) for item in tree)
    if type(tree) in (dict, FrozenMap):
        return type(tree)({key: map_leaves(fn, item) for key, item in tree.items()})
    if type(tree) is slice:
        return slice(*(map_leaves(fn, part) for part in (tree.start, tree.stop, tree.step)))
    return fn(tree)


def leaves(tree: Any) -> list[Any]:
    """The leaves of a tree, left to right.

    >>> leaves((1, FrozenMap(a=2), slice(3, None)))
    [1, 2, 3, None, None]
    """
    found: list[Any] = []
    map_leaves(found.append, tree)
    return found


def freeze(tree: Any) -> Any:
    """Lists become ``FrozenList``, dicts ``FrozenMap``; everything else keeps its type.

    >>> thaw(freeze({"a": [1, (2,)]})) == {"a": [1, (2,)]}
    True
    """
    if isinstance(tree, Packed):
        return Packed(tree.kind, tuple(map(freeze, tree.children)))
    if is_namedtuple(tree):
        return type(tree)(*map(freeze, tree))
    if isinstance(tree, list):
        return FrozenList(map(freeze, tree))
    if type(tree) is tuple:
        return tuple(map(freeze, tree))
    if isinstance(tree, dict):
        return FrozenMap({key: freeze(item) for key, item in tree.items()})
    return tree


def thaw(tree: Any) -> Any:
    """Undo ``freeze``: ``FrozenList`` becomes a list, ``FrozenMap`` a dict; what is ``Packed`` is built again."""
    if type(tree) is not FrozenMap and not isinstance(tree, tuple):  # as most are
        return tree
    if isinstance(tree, Packed):
        return tree.kind(*map(thaw, tree.children))
    if is_namedtuple(tree):
        return type(tree)(*map(thaw, tree))
    if isinstance(tree, FrozenList):
        return [thaw(item) for item in tree]
    if type(tree) is tuple:
        return tuple(map(thaw, tree))
    if isinstance(tree, FrozenMap):
        return {key: thaw(item) for key, item in tree.items()}
    return tree
