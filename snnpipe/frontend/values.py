"""What is surely known of a value while a graph is being lowered: that it is a size, a view, a zero, of which type."""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType
from typing import Any

import torch

from snnpipe.frontend.facts import name_of
from snnpipe.frontend.seen import Seen
from snnpipe.frozen import leaves
from snnpipe.graph import Param, Ref
from snnpipe.ops.table import OPS, UNARY

_SIZES = frozenset({"dim", "numel", "size"})
_ARITHMETIC = frozenset({"add", "div", "mul", "pow", "sub"})


def is_size(operand: Any, seen: Seen) -> bool:
    """Whether a value is a size, or a number made of sizes: no tensor."""
    node = seen.node(operand)
    if node is None:
        return isinstance(operand, bool | int | float)
    if node.op in _SIZES or (node.op == "attribute" and node["name"] in ("ndim", "shape")):
        return True
    if node.op == "getitem":
        return is_size(node["a"], seen)
    if node.op in _ARITHMETIC:
        return is_size(node["a"], seen) and is_size(node["b"], seen)
    known = node.op == "call" and getattr(node["target"], "__module__", "") in ("_operator", "builtins", "math")
    return known and all(is_size(value, seen) for value in node["args"])


#: Ops and functions whose result is a view of their first operand whatever the layout of that is.
_VIEWS = frozenset({
    "H", "T", "adjoint", "alias", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_to", "chunk", "conj", "detach",
    "diagonal", "dsplit", "expand", "expand_as", "hsplit", "imag", "linalg_diagonal", "mH", "mT", "moveaxis", "movedim",
    "narrow", "permute", "positive", "real", "select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes",
    "swapdims", "t", "tensor_split", "transpose", "unbind", "unflatten", "unsafe_chunk", "unsafe_split",
    "unsafe_split_with_sizes", "unsqueeze", "view", "view_as", "view_as_complex", "view_as_real", "vsplit",
})  # fmt: skip


def is_view(op: str, operands: dict[str, Any]) -> bool:
    """Whether a call surely makes a view of its first operand."""
    if op == "getitem":
        index = operands["index"]
        parts = index if type(index) is tuple else (index,)
        return all(part is None or isinstance(part, EllipsisType | slice | str) or type(part) is int for part in parts)
    if op != "call":
        return op in _VIEWS
    name, args = name_of(operands["target"]), operands["args"]
    if name == "getattr" and len(args) == 2:
        name = args[1]
    if name == "unfold":  # the method; the function of that name is a row
        return True
    return name in _VIEWS and bool(args) and isinstance(args[0], Ref | Param)


def overlaps(op: str, operands: Mapping[str, Any]) -> bool:
    """Whether a call may show one place of its operand several times; torch itself refuses writes to an ``expand``."""
    if op != "call":
        return False
    name, args, kwargs = name_of(operands["target"]), operands["args"][1:], operands["kwargs"]
    if name == "unfold":
        given = dict(zip(("dimension", "size", "step"), args, strict=False)) | dict(kwargs)
        size, step = given.get("size"), given.get("step")
        return not (isinstance(size, int) and isinstance(step, int) and size <= step)
    if name != "as_strided":
        return False
    given = dict(zip(("size", "stride"), args, strict=False)) | dict(kwargs)
    size, stride = given.get("size"), given.get("stride")
    if not all(isinstance(n, int) for n in (*leaves(size), *leaves(stride))):
        return True
    reach = 0  # of the axes so far, from the nearest neighbours to the farthest
    for step, count in sorted(zip(stride or (), size or (), strict=True)):
        if count > 1 and step <= reach:
            return True
        reach += step * (count - 1)
    return False


def may_share(op: str, operands: dict[str, Any], seen: Seen) -> bool:
    """Whether the result of an op may lie in the memory of an operand."""
    if op == "getitem":  # an index with a list, a tensor of the model's or a mask gathers into new memory
        index = operands["index"]
        parts = index if type(index) is tuple else (index,)
        return not any(isinstance(part, list | Param) or _is_mask(part, seen) for part in parts)
    return "b" not in operands if op == "einsum" else OPS[op].aliases


#: Functions that give booleans; as an index they gather, whereas a whole number may select.
_MASKS = frozenset({
    "eq", "ge", "greater", "greater_equal", "gt", "isclose", "isfinite", "isinf", "isnan", "isneginf", "isposinf", "le",
    "less", "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne", "not_equal", "signbit",
})  # fmt: skip


def _is_mask(operand: Any, seen: Seen) -> bool:
    node = seen.node(operand)
    return node is not None and node.op == "call" and name_of(node["target"]) in _MASKS


#: Ops whose result has the type of their first operand, if the others are numbers.
_KEEP_TYPE = frozenset({*UNARY, "add", "clamp", "div", "mul", "pow", "sub", "neg"})
#: Ops whose result has the type of their first operand, whatever the others are.
_TAKE_TYPE = frozenset({"filled_like", "identity", "masked_fill", "set_item", "type_as"})
#: The operand that decides the type of what an op makes of floats.
_TYPE_FROM = {
    **dict.fromkeys((f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)), "weight"), "linear": "weight",
    "batch_norm": "input", "layer_norm": "input", "group_norm": "input", "cat": "tensors", "stack": "tensors",
    "chunk": "input", "split": "tensor",
}  # fmt: skip
_PASS_TYPE = frozenset({
    *UNARY, "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "clamp", "clone", "contiguous", "detach",
    "expand", "flatten", "identity", "interpolate", "max_pool2d", "mean", "narrow", "neg", "pad", "permute", "reshape",
    "select", "set_item", "softmax", "squeeze", "sum", "transpose", "unsqueeze", "view",
})  # fmt: skip


def keeps_dtype(value: Ref, before: Any, seen: Seen) -> bool:
    """Whether the value of an in-place operation surely has the type of what it is written to."""
    node = seen.node(value)
    assert node is not None
    rest = [leaf for operand in tuple(node.operands.values())[1:] for leaf in leaves(operand)]
    if node.op in _TAKE_TYPE or (node.op in _KEEP_TYPE and not any(isinstance(leaf, Ref | Param) for leaf in rest)):
        return True
    known = dtype_of(before, seen)
    return known is not None and known == dtype_of(value, seen)


def dtype_of(operand: Any, seen: Seen) -> torch.dtype | None:
    """The type of a value of a network that runs, as far as its weights tell; ``None`` where they do not."""
    tensor = seen.tensor(operand)
    if tensor is not None:
        return tensor.dtype
    node = seen.node(operand)
    if node is None:
        return None
    if node.op in _TYPE_FROM:
        source = node.get(_TYPE_FROM[node.op])
        return dtype_of(source[0] if isinstance(source, tuple | list) and source else source, seen)
    if node.op in _ARITHMETIC:
        a, b = (None if is_size(node[name], seen) else node[name] for name in ("a", "b"))
        found = {dtype_of(value, seen) for value in (a, b) if value is not None}
        return found.pop() if len(found) == 1 else None
    first = next(iter(node.operands.values()), None)
    return dtype_of(first, seen) if node.op in _PASS_TYPE and node.get("dtype") is None else None


# zeros


def is_zero(operand: Any, beside: Any, seen: Seen) -> bool:
    """Whether an operand is zero, and changes neither shape nor type of the value ``beside`` it: 0, or a tensor."""
    if isinstance(operand, int | float) and not isinstance(operand, bool):
        return operand == 0
    return is_zero_tensor(operand, beside, seen)


def is_zero_tensor(operand: Any, beside: Any, seen: Seen) -> bool:
    """Whether a tensor is zero everywhere, and broadcasts to the value ``beside`` it without changing its type."""
    if isinstance(operand, Param):
        tensor = seen.tensor(operand)
        if tensor is None or isinstance(tensor, torch.nn.Parameter) or bool(tensor.any()):
            return False
        return _fits(tuple(tensor.shape), tensor.dtype, beside, seen)
    node = seen.node(operand)
    if node is None:
        return False
    made, value = node.op, node.get("fill_value", 0)
    given: Any = node.operands
    if node.op == "call" and node["target"] in (torch.zeros, torch.full, torch.zeros_like, torch.full_like):
        made, args, given = node["target"].__name__, node["args"], node["kwargs"]
        value = args[1] if made.startswith("full") and len(args) > 1 else given.get("fill_value", 0)
        size = args[0] if len(args) == 1 or made.startswith("full") else args
    else:
        size = node.get("size", node.get("input"))
    if isinstance(value, bool) or not isinstance(value, int | float) or value != 0:
        return False
    if made in ("zeros_like", "full_like"):
        return (node.get("input", size) == beside) and given.get("dtype") is None
    if made not in ("zeros", "full", "new_zeros", "new_full"):
        return False
    shape = (size,) if isinstance(size, int) else size
    own = given.get("dtype") or (dtype_of(node["input"], seen) if made.startswith("new") else torch.get_default_dtype())
    return isinstance(shape, tuple | list) and _fits(tuple(shape), own, beside, seen)


def _fits(shape: tuple[Any, ...], dtype: torch.dtype | None, beside: Any, seen: Seen) -> bool:
    """Whether a tensor broadcasts to the value beside it, whose type stands: it has no axes, or one of size 1."""
    if shape == ():
        return dtype is None or not dtype.is_complex
    return shape == (1,) and dtype is not None and dtype == dtype_of(beside, seen) and _has_axes(beside, seen)


def _has_axes(operand: Any, seen: Seen) -> bool:
    """Whether a value surely has at least one axis."""
    node = seen.node(operand)
    if node is None:
        return False
    return node.op in _TYPE_FROM or (node.op in _PASS_TYPE - {"mean", "sum", "view", "reshape", "select", "squeeze"}
                                     and _has_axes(next(iter(node.operands.values())), seen))  # fmt: skip
