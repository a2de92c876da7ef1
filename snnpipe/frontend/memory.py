"""What a model keeps from one run to the next: a graph has no such memory, so where it counts the model is refused.

``forward`` is followed twice.  A model that computes a function of its input gives the same graph both times.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnpipe.errors import TraceError
from snnpipe.frontend.facts import name_of
from snnpipe.frontend.lowering import Lowered
from snnpipe.frozen import leaves
from snnpipe.graph import Node, Param
from snnpipe.ops.functions import Opaque

_FIX = (
    "  A network computes a function of its input.  Give what is remembered as an input and return what is to be\n"
    "  remembered, reset it at the beginning of forward, or keep the module as one call: trace(leaves=(ThatModule,))"
)


class Kept(Exception):  # noqa: N818
    """The second run read a symbol of the first."""

    def __init__(self, node: fx.Node | None) -> None:
        self.node = node
        where = "" if node is None else (node.meta.get("snnpipe") or ("", ""))[1]
        place = f", made at {where}" if where else ""
        super().__init__(f"trace: forward reads what an earlier run has left{place}.\n{_FIX}")

    @property
    def depends_on_values(self) -> bool:
        """Whether what was kept hangs on more than the shapes of the inputs (tables made at the first run do not)."""
        return self.node is None or _reads_values(self.node, set())


_SHAPES = frozenset({"dim", "ndimension", "numel", "nelement", "size"})
_LIKE = frozenset({"empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros",
                   "ones_like", "zeros_like"})  # fmt: skip


def _reads_values(node: fx.Node, seen: set[fx.Node]) -> bool:
    name = name_of(node.target)
    shape = name == "getattr" and node.args[1] in ("device", "dtype", "ndim", "shape")
    if node in seen or shape or name in _SHAPES | _LIKE:
        return False
    seen.add(node)
    return node.op == "placeholder" or any(_reads_values(source, seen) for source in node.all_input_nodes)


def nodes_in(tree: Any) -> Iterator[fx.Node]:
    """The fx nodes among the arguments of a new one."""
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.node.map_arg(tree, note)
    yield from found


@contextmanager
def assignments(assigned: dict[str, nn.Module]) -> Iterator[None]:
    """Let this thread assign symbols to buffers and parameters; ``assigned`` says which, by their keys' last part."""
    thread, original = threading.get_ident(), nn.Module.__setattr__
    held: list[tuple[nn.Module, str]] = []

    @wraps(original)
    def assign(module: nn.Module, name: str, value: Any) -> None:
        known = name in module._buffers or name in module._parameters
        if isinstance(value, fx.Proxy) and known and threading.get_ident() == thread:
            module.__dict__[name] = value
            held.append((module, name))
        else:
            original(module, name, value)

    nn.Module.__setattr__ = assign  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__setattr__ = original  # type: ignore[method-assign]
        for module, name in held:
            module.__dict__.pop(name, None)
            assigned[name] = module


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same values, bit for bit but for the sign of zero; NaN is like NaN."""
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if a.is_meta or a.is_quantized or a.layout is not torch.strided:
        return True
    return bool(((a == b) | ((a != a) & (b != b))).all())


def check_same(first: Lowered, second: Lowered) -> None:
    """Raise a TraceError that names the first node in which two graphs of one model differ."""
    pairs = zip(first.graph.nodes, second.graph.nodes, strict=False)
    for a, b in pairs:
        if not _same_node(a, first, b, second):
            break
    else:
        if len(first.graph.nodes) == len(second.graph.nodes):
            return
        a = max(first.graph.nodes, second.graph.nodes, key=len)[-1]
    place = f" ({a.where})" if a.where else ""
    raise TraceError(
        f"trace: forward computes something else when it runs again, first at {a.path or a.name}{place}.\n{_FIX}"
    )


def _same_node(a: Node, first: Lowered, b: Node, second: Lowered) -> bool:
    if (a.op, a.operands.keys()) != (b.op, b.operands.keys()):
        return False
    x, y = ([*map(_comparable, leaves(node.operands))] for node in (a, b))
    return len(x) == len(y) and all(_same(p, first, q, second) for p, q in zip(x, y, strict=True))


def _comparable(leaf: Any) -> Any:
    return repr(leaf) if isinstance(leaf, Opaque) else leaf


def _same(p: Any, first: Lowered, q: Any, second: Lowered) -> bool:
    if isinstance(p, Param) and isinstance(q, Param):
        return same_values(first.params[p.key], second.params[q.key])
    if type(p) is not type(q):
        return False
    return p is q or bool(p == q) or (p != p and q != q)
