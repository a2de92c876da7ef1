"""From an fx graph to something that runs: a function, or a ``GraphModule`` to read.

What a user may call anything, or be an object of any kind, never gets into the text of a program: the function reads
tensors and modules by their paths and objects by reference.  A ``GraphModule`` prints and holds them as torch does, so
names that torch has taken for itself are changed there (``names``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate

from snnpipe.graph import unique_name
from snnpipe.names import safe_argument, safe_paths
from snnpipe.ops.functions import call
from snnpipe.ops.modules import held

#: What may be printed into a program, because its ``repr`` is the value.
_LITERALS = frozenset({
    str, bool, int, float, type(None), type(...), range, torch.dtype, torch.device, torch.layout, torch.memory_format,
    torch.Size,
})  # fmt: skip


def compiled(code: fx.Graph) -> Callable[..., Any]:
    """The generated function of an fx graph; its first argument is the module that holds the tensors."""
    target = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    objects: dict[str, Any] = {}
    root: Any = _Name("self")
    same = dict[Any, Any]().setdefault  # fx of torch 2.6 takes equal functions for two of one name

    def by_reference(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            return env[leaf]
        if type(leaf) in _LITERALS:
            return leaf
        name = f"\N{GREEK SMALL LETTER OMICRON}{len(objects)}"  # names of nodes are ASCII
        objects[name] = leaf
        return _Name(name)

    for node in code.nodes:
        args, kwargs = map_aggregate(node.args, by_reference), map_aggregate(dict(node.kwargs), by_reference)
        if node.op in ("get_attr", "call_module"):
            made = target.call_function(held, (root, str(node.target)))
            made = made if node.op == "get_attr" else target.call_function(call, (made, args, kwargs))
        elif _is_nameless(node):
            made = target.call_function(call, (by_reference(node.target), args, kwargs))
        else:
            made_of = safe_argument(str(node.target)) if node.op == "placeholder" else same(node.target, node.target)
            made = target.create_node(node.op, made_of, args, kwargs, _named(node))  # type: ignore[arg-type]
        env[node] = made
    source = target.python_code("self")
    namespace: dict[str, Any] = {**source.globals, **objects}
    exec(compile(source.src, "<snnpipe>", "exec"), namespace)
    return namespace["forward"]  # type: ignore[no-any-return]


def packaged(code: fx.Graph, root: nn.Module) -> fx.GraphModule:
    """A ``GraphModule`` of a copy of the graph, around the tensors and modules of ``root`` under ``safe_paths``.

    Objects that cannot be printed are its attributes ``_object_0``, ``_object_1``, ...
    """
    target = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    names, content = safe_paths(root), dict[str, Any]()
    same = dict[Any, Any]().setdefault

    def printable(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            return env[leaf]
        printed = isinstance(leaf, torch._ops.OpOverload | complex) or type(leaf) in _LITERALS
        if printed or (isinstance(leaf, enum.Enum) and leaf.name in type(leaf).__members__):
            return leaf
        return attribute(unique_name(f"_object_{len(content)}", {*names.values(), *content}), leaf)

    def attribute(name: str, value: Any) -> fx.Node:
        content[name] = value
        return target.get_attr(name)

    for node in code.nodes:
        args, kwargs = map_aggregate(node.args, printable), map_aggregate(dict(node.kwargs), printable)
        made_of: Any = node.target
        if node.op in ("get_attr", "call_module"):
            made_of = names[str(node.target)]
            content[made_of] = held(root, str(node.target))
        elif node.op == "placeholder":
            made_of = safe_argument(str(made_of))
        elif _is_nameless(node):
            made_of, args, kwargs = call, (attribute(f"_object_{len(content)}", made_of), args, kwargs), {}
        made_of = same(made_of, made_of)
        made = env[node] = target.create_node(node.op, made_of, args, kwargs, _named(node))  # type: ignore[arg-type]
        made.meta = dict(node.meta)
    return fx.GraphModule(content, target)


class _Name:
    """Stands for a name of the program."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def _named(node: fx.Node) -> str:
    """The node's name; ``self`` is the module."""
    return safe_argument(node.name) if node.op == "placeholder" or node.name == "self" else node.name


def _is_nameless(node: fx.Node) -> bool:
    """Whether it calls something that has no name to be printed."""
    return node.op == "call_function" and getattr(node.target, "__name__", "<lambda>") == "<lambda>"
