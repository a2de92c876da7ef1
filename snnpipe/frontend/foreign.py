"""Functions of the user's own that ``torch.fx`` keeps as one call (``torch.fx.wrap``): what they write to.

Read from their source: which names may stand for memory of an argument, and which of these are written to.  What has no
source is taken for a function that writes to nothing.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

#: Which arguments a name may share memory with.
Aliases = dict[str, frozenset[str]]

_NOTHING: frozenset[str] = frozenset()
_INSIDE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def written_arguments(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments that a function may write to, by name."""
    names = _written(function)
    if not names:
        return
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        return
    yield from ((name, value) for name, value in given.items() if name in names)


@lru_cache(maxsize=256)
def _written(function: Any, depth: int = 4) -> frozenset[str]:
    """The parameters that a function may write to."""
    plain = inspect.unwrap(function) if callable(function) else function
    try:
        tree: Any = ast.parse(textwrap.dedent(inspect.getsource(plain))).body[0]
        names = frozenset(inspect.signature(plain).parameters)
    except (OSError, TypeError, ValueError, SyntaxError, IndexError):
        return _NOTHING
    if not isinstance(tree, _INSIDE):
        return _NOTHING
    found: set[str] = set()
    body: list[ast.stmt] = [ast.Expr(tree.body)] if isinstance(tree, ast.Lambda) else tree.body
    _followed(body, {name: frozenset({name}) for name in names}, found, plain, depth)
    return frozenset(found)


def _followed(body: list[ast.stmt], known: Aliases, found: set[str], function: Any, depth: int) -> Aliases:
    """Statement by statement: what names may stand for behind them; what is written to is added to ``found``."""
    for statement in body:
        branches = [part for name in ("body", "orelse", "finalbody") if (part := getattr(statement, name, None))]
        branches += [handler.body for handler in getattr(statement, "handlers", ())]
        inner = {id(node) for branch in branches for part in branch for node in ast.walk(part)}
        own = [node for node in ast.walk(statement) if id(node) not in inner]
        for place in (place for node in own for place in _places(node, function, depth)):
            found |= _shared(place, known, function, depth)
        made = [pair for node in own for pair in _assignments(node)]
        known = known | {name: _shared(value, known, function, depth) for name, value in made}
        loops = 2 if isinstance(statement, ast.For | ast.While) else 1
        for branch in branches * loops:
            after = _followed(branch, known, found, function, depth)
            known = {name: known.get(name, _NOTHING) | after.get(name, _NOTHING) for name in known | after}
    return known


def _assignments(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names that are given a value, and the value, or what it is a piece of."""
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.For | ast.NamedExpr):
        value = node.iter if isinstance(node, ast.For) else node.value
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            names = [
                leaf.id for leaf in ast.walk(target) if isinstance(leaf, ast.Name) and isinstance(leaf.ctx, ast.Store)
            ]
            yield from ((name, value) for name in names if value is not None)


def _places(node: ast.AST, function: Any, depth: int) -> Iterator[ast.expr]:
    """The expressions whose memory a statement writes to."""
    if isinstance(node, ast.AugAssign):
        yield node.target
    elif isinstance(node, ast.Assign):
        yield from (target.value for target in node.targets if isinstance(target, ast.Subscript))
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr.endswith("_") and not node.func.attr.endswith("__"):
            yield node.func.value
            yield from node.args[:1] if _value_of(node.func, function) is not None else ()  # nn.init.zeros_(x)
        yield from (keyword.value for keyword in node.keywords if keyword.arg == "out")
        called = _value_of(node.func, function)
        if depth and inspect.isfunction(called) and not (called.__module__ or "torch").startswith("torch."):
            written = _written(called, depth - 1)
            names = list(inspect.signature(called).parameters)
            yield from (value for name, value in zip(names, node.args, strict=False) if name in written)
            yield from (keyword.value for keyword in node.keywords if keyword.arg in written)


def _shared(value: ast.expr, known: Aliases, function: Any, depth: int) -> frozenset[str]:
    """The arguments that a value may share memory with."""
    if isinstance(value, ast.Name):
        return known.get(value.id, _NOTHING)
    if isinstance(value, ast.Subscript | ast.Attribute | ast.Starred):
        return _shared(value.value, known, function, depth)
    if isinstance(value, ast.Call):
        if _value_of(value.func, function) is None and isinstance(value.func, ast.Attribute):
            own = value.func.attr.endswith("_") or _may_be_a_view(value.func.attr)
            return _shared(value.func.value, known, function, depth) if own else _NOTHING
        called = _value_of(value.func, function)
        own = inspect.isfunction(called) and not (called.__module__ or "torch").startswith("torch")
        name = getattr(called, "__name__", "")
        parts = [*value.args, *(keyword.value for keyword in value.keywords)] if own or _may_be_a_view(name) else []
        return _NOTHING.union(*(_shared(part, known, function, depth) for part in parts))
    if isinstance(value, ast.IfExp | ast.BoolOp | ast.Tuple | ast.List):
        parts = [child for child in ast.iter_child_nodes(value) if isinstance(child, ast.expr)]
        return _NOTHING.union(*(_shared(part, known, function, depth) for part in parts))
    return _NOTHING


@lru_cache(maxsize=1024)
def _may_be_a_view(name: str) -> bool:
    """Whether a method, or a function of torch, may give back memory of what it is given."""
    packet = getattr(torch.ops.aten, name, None) if hasattr(Tensor, name) else None
    overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
    marked = any(
        value.alias_info is not None and not value.alias_info.is_write
        for found in overloads
        for value in found._schema.returns
    )
    return marked or name in ("reshape", "contiguous", "flatten", "to", "type_as", "tensor_split", "chunk", "float")


def _value_of(expression: ast.expr, function: Any) -> Any:
    """What a name, or a dotted one, means among the globals of a function; ``None`` if nothing."""
    if isinstance(expression, ast.Name):
        return getattr(function, "__globals__", {}).get(expression.id)
    if isinstance(expression, ast.Attribute):
        return getattr(_value_of(expression.value, function), expression.attr, None)
    return None
