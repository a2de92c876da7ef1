"""How an fx call reads: what is called with what, where, and its functional twin."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch._ops import OpOverload

from snnpipe.frontend import facts, overloads
from snnpipe.frontend.spellings import KNOWN
from snnpipe.frozen import Packed, is_namedtuple, leaves

COPY = "write to a copy, y = x.clone(), or use the functional form, y = x + 1 instead of x += 1"
FUNCTIONAL = f"give an example, trace(example=x), which follows such writes; or {COPY}"


def spelled(node: fx.Node) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """What is called and with what; a function with ``inplace`` among its positional arguments gets it by name."""
    target: Any = node.target
    if isinstance(target, str) and target.startswith("__"):  # Python's own methods of tensors
        target = getattr(operator, target, target)
    spelling = KNOWN.get(target) if facts.hashed(target) is not None else None
    bound = spelling.signature.bind(node.args, dict(node.kwargs)) if spelling is not None else None
    if bound is None or "inplace" not in bound or "inplace" in node.kwargs:
        return target, node.args, dict(node.kwargs)
    return target, (), bound


def functional(target: Any) -> Any:
    """The twin of a call that writes to its first argument, ``None`` if there is none."""
    name = facts.name_of(target)
    if isinstance(target, OpOverload):
        return overloads.functional(target)
    if not facts.is_write(target):
        return target  # with inplace=True
    if facts.hashed(target) in facts.INPLACE_OPERATORS:
        return facts.INPLACE_OPERATORS[target]
    if target is operator.setitem:
        return target
    if isinstance(target, str):
        return name[:-1] if name[:-1] in KNOWN else None
    twin = next((found for module in (torch, F) if (found := getattr(module, name[:-1], None)) is not None), None)
    return twin if facts.hashed(twin) in KNOWN else None


def nodes(tree: Any) -> list[fx.Node]:
    """The fx nodes in a tree, in order."""
    return [leaf for leaf in leaves(plain(tree)) if isinstance(leaf, fx.Node)]


def place(node: fx.Node) -> tuple[str, str, str | None]:
    """Module path, ``file:line`` and name of a node, as a front end has left them."""
    default = (str(node.target), "", "") if node.op == "call_module" else ("", "", None)
    place: tuple[str, str, str | None] = node.meta.get("snnpipe", default)
    return place


def plain(tree: Any) -> Any:
    """fx's immutable lists and dicts as plain ones."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [plain(value) for value in tree]
    if isinstance(tree, Packed):
        return Packed(tree.kind, tuple(map(plain, tree.children)))
    if is_namedtuple(tree):
        return type(tree)(*(plain(value) for value in tree))
    if type(tree) is tuple:
        return tuple(plain(value) for value in tree)
    return tree


def identifier(text: str) -> str:
    """A text as a Python identifier."""
    name = "".join(c if f"_{c}".isidentifier() else "_" for c in text)
    return name if name.isidentifier() else f"_{name}"
