"""How the operands of an op are called: names, defaults, and how a call binds to them."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs

from snnpipe.frozen import FrozenMap


@attrs.frozen
class Signature:
    """Operand names in order, their defaults, and which of them are keyword-only or variadic.

    >>> Signature.parse("input dim=None * dtype=None").bind((1,), {"dtype": 2})
    {'input': 1, 'dtype': 2}
    >>> Signature.parse("input *size").bind((1, 2, 3), {})
    {'input': 1, 'size': (2, 3)}
    """

    names: tuple[str, ...]
    defaults: FrozenMap[str, Any]
    keyword_only: frozenset[str]
    variadic: str | None

    @classmethod
    def parse(cls, text: str) -> Signature:
        names: list[str] = []
        defaults: dict[str, Any] = {}
        variadic = None
        keyword_only: set[str] = set()
        for word in text.split():
            name, _, default = word.lstrip("*").partition("=")
            if word == "*":
                keyword_only.add("*")
                continue
            if word.startswith("*"):
                variadic = name
            if default:
                defaults[name] = ast.literal_eval(default)
            if "*" in keyword_only:
                keyword_only.add(name)
            names.append(name)
        return cls(tuple(names), FrozenMap(defaults), frozenset(keyword_only - {"*"}), variadic)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Operands by name, defaults left out; ``None`` if the call does not fit this signature."""
        positional = self.positional
        if self.variadic is not None:
            before = positional.index(self.variadic)
            rest = args[before:]
            if rest:
                args = (*args[:before], rest[0] if len(rest) == 1 else tuple(rest))
        if len(args) > len(positional) or any(name not in self.names for name in kwargs):
            return None
        bound = dict(zip(positional, args, strict=False)) | kwargs
        if any(name not in bound and name not in self.defaults and name != self.variadic for name in self.names):
            return None
        return {name: bound[name] for name in self.names if name in bound and not self._is_default(name, bound[name])}

    @cached_property
    def positional(self) -> tuple[str, ...]:
        """The names that may be given by position."""
        return tuple(name for name in self.names if name not in self.keyword_only)

    def call_arguments(self, operands: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments for the op's function, trailing defaults trimmed."""
        names = self.positional
        while names and names[-1] not in operands and names[-1] in self.defaults:
            names = names[:-1]
        args = tuple(operands[name] if name in operands else self.defaults[name] for name in names)
        return args, {name: operands[name] for name in self.names if name in self.keyword_only and name in operands}

    def _is_default(self, name: str, value: Any) -> bool:
        return name in self.defaults and type(value) is type(self.defaults[name]) and value == self.defaults[name]
