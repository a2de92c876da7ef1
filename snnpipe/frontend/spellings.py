"""Which functions and methods of torch mean which op of the table: data, and the few that need a second look.

A spelling may carry an ``adapt`` function ``(operands, seen) -> (op, operands) | None`` for cases where the op depends
on the operands (``clamp(min=0)`` is a ``relu``); ``None`` means "no row fits: keep the call as it is".
"""

from __future__ import annotations

import math
import operator
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from snnpipe.frontend.quantised import QUANTISED
from snnpipe.frontend.seen import Adapt, Operands, Seen, Spelling, number
from snnpipe.frontend.values import dtype_of, is_zero, is_zero_tensor
from snnpipe.ops.functions import events_of
from snnpipe.ops.signature import Signature
from snnpipe.ops.table import OPS, TABLE, UNARY


def _clamp(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    low = None if operands.get("min") == -math.inf else operands.get("min")
    high = None if operands.get("max") == math.inf else operands.get("max")
    if low is not None and high is None and is_zero(low, operands["input"], seen):
        return "relu", {"input": operands["input"]}
    bounds = {name: value for name, value in (("min", low), ("max", high)) if value is not None}
    return "clamp", {"input": operands["input"], **bounds}


def _hardtanh(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    low, high = map(_whole, (operands.get("min_val", -1), operands.get("max_val", 1)))  # whole numbers stay whole
    kind = dtype_of(operands["input"], seen)
    if any(isinstance(bound, float) for bound in (low, high)) and (kind is None or not kind.is_floating_point):
        return None  # of whole numbers it makes whole numbers, which clamp does not
    return _clamp({"input": operands["input"], "min": low, "max": high}, seen)


def _whole(bound: Any) -> Any:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _relu6(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    return "clamp", {"input": operands["input"], "min": 0, "max": 6}


def _threshold(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    x = operands["input"]
    if is_zero(operands["threshold"], x, seen) and is_zero(operands["value"], x, seen):
        return "relu", {"input": x}
    return None


def _maximum(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    a, b = operands["input"], operands["other"]  # of max(x, 0), 0 is an axis
    if is_zero_tensor(b, a, seen):
        return "relu", {"input": a}
    if is_zero_tensor(a, b, seen):
        return "relu", {"input": b}
    return None


_POSITIVE = (operator.gt, operator.ge, torch.gt, torch.ge, Tensor.gt, Tensor.ge, torch.greater, torch.greater_equal)
_NEGATIVE = (operator.lt, operator.le, torch.lt, torch.le, Tensor.lt, Tensor.le, torch.less, torch.less_equal)


def _where(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    if "other" not in operands:
        return None
    condition, yes, no = operands["condition"], operands["input"], operands["other"]
    test = seen.node(condition)
    if test is not None and test.op == "call" and len(test["args"]) == 2:
        x, bound = test["args"]
        kept, dropped = (yes, no) if test["target"] in _POSITIVE else (no, yes)
        known = test["target"] in _POSITIVE + _NEGATIVE
        if known and kept == x and is_zero(bound, x, seen) and is_zero(dropped, x, seen):
            return "relu", {"input": x}
    return "where", operands


def _batch_norm(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    if operands.get("training") or operands.get("running_mean") is None or operands.get("running_var") is None:
        return None
    return "batch_norm", {k: v for k, v in operands.items() if k not in ("training", "momentum") and v is not None}


def _dropout(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    trains = operands.get("training", operands.get("train", True))
    if trains is False or operands.get("p") == 0:
        return "identity", {"input": operands["input"]}
    return None


def _scaled_sum(op: str) -> Adapt:
    def adapt(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        b, alpha = operands["other"], operands.get("alpha", 1)
        if alpha != 1:
            b = seen.emit("mul", a=b, b=alpha)
        return op, {"a": operands["input"], "b": b}

    return adapt


def _rsub(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    a = operands["input"]
    if operands.get("alpha", 1) != 1:
        a = seen.emit("mul", a=a, b=operands["alpha"])
    return "sub", {"a": operands["other"], "b": a}


def _binary(op: str, second: str = "other") -> Adapt:
    def adapt(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        if operands.get("rounding_mode") is not None:
            return None
        return op, {"a": operands["input"], "b": operands[second]}

    return adapt


def _unary(op: str) -> Adapt:
    def adapt(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        return op, {"a": operands["input"]}

    return adapt


_METADATA = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "layout"})


#: What may be a container: an input, and what was taken out of one.
_TAKEN = frozenset({"input", "getitem", "field", "child"})


def _getattr(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    if operands["name"] in _METADATA:
        return "attribute", operands
    node = seen.node(operands["input"])
    if operands["name"] == "data" and (node is None or node.op not in _TAKEN):
        return "detach", {"input": operands["input"]}
    if operands["name"] == "mT":
        return "transpose", {"input": operands["input"], "dim0": -2, "dim1": -1}
    return None if hasattr(Tensor, operands["name"]) and operands["name"] != "data" else ("field", operands)


def _to(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    """Linear only where the target is known to be floating point; anything else stays a call."""
    target = operands["dtype"]
    node = seen.node(target)
    moves = isinstance(target, torch.device | str) or (
        node is not None and node.op == "attribute" and node["name"] == "device"
    )
    if moves or (isinstance(target, torch.dtype) and target.is_floating_point):
        return "to", operands
    return None


def _cast(dtype: torch.dtype) -> Adapt:
    def adapt(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        return "to", {"input": operands["input"], "dtype": dtype}

    return adapt


def _without(*names: str, harmless: bool = False) -> Adapt:
    """The op of the spelling unless one of the named flags is set and not ``harmless``."""

    def adapt(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        if not harmless and any(operands.get(name) for name in names):
            return None
        return "", {key: value for key, value in operands.items() if key not in names}

    return adapt


def _softmax(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    """``_stacklevel`` is torch's own business; without ``dim`` the axis depends on the rank."""
    if operands.get("dim") is None:
        return None
    return "", {key: value for key, value in operands.items() if key != "_stacklevel"}


def _einsum(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    """``einsum(equation, a, b, c)``, or with the tensors in a list."""
    tensors = operands.get("operands", ())
    tensors = tuple(tensors) if isinstance(tensors, tuple | list) else (tensors,)
    if not isinstance(operands["equation"], str) or not 1 <= len(tensors) <= 3:
        return None
    return "einsum", {"equation": operands["equation"], **dict(zip("abc", tensors, strict=False))}


def _attention(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    return None if operands.get("dropout_p") else ("", operands)


def _filled(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    return "filled_like", {"input": operands["input"], "value": operands.get("value", 0.0)}


def _fake_quantize(*, trained: bool) -> Adapt:
    """Its zero point becomes a number if it is one; torch rounds and clips one that is trained."""

    def adapt(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        operands.pop("grad_factor", None)
        value = number(operands["zero_point"], seen)
        if trained and value is not None:
            value = min(max(round(value), operands["quant_min"]), operands["quant_max"])
        if value is None or value != round(value):
            return None if trained else ("", operands)
        return "", operands | {"zero_point": round(value)}

    return adapt


_IN = "input inplace=False"
_TWO = "input other"
_POOL_F = "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False"
_SOFTMAX = "input dim=None _stacklevel=3 dtype=None"
_DROP = "input p=0.5 training=True inplace=False"

#: op, targets (functions, or names of tensor methods), signature of the spelling, adapt
SPELLINGS: tuple[tuple[str, tuple[Any, ...], str, Adapt | None], ...] = (
    ("clamp", (torch.clamp, torch.clip, "clamp", "clip"), "input min=None max=None", _clamp),
    ("clamp", (torch.clamp_min, "clamp_min"), "input min", _clamp),
    ("clamp", (torch.clamp_max, "clamp_max"), "input max", _clamp),
    ("clamp", (F.hardtanh,), "input min_val=None max_val=None inplace=False", _hardtanh),
    ("clamp", (F.relu6,), _IN, _relu6),
    ("relu", (F.threshold, torch.threshold), "input threshold value inplace=False", _threshold),
    ("relu", (torch.maximum, torch.max, torch.fmax, "maximum", "max", "fmax"), _TWO, _maximum),
    ("where", (torch.where,), "condition input other", _where),
    ("where", ("where",), "input condition other", _where),
    ("batch_norm", (F.batch_norm,), "input running_mean running_var weight=None bias=None training=False momentum=0.1"
     " eps=1e-05", _batch_norm),
    ("identity", (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout), _DROP,
     _dropout),
    ("identity", (torch.dropout,), "input p train", _dropout),
    ("identity", (operator.pos, events_of), "input", None),
    ("add", (torch.add, "add"), "input other * alpha=1", _scaled_sum("add")),
    ("sub", (torch.sub, torch.subtract, "sub", "subtract"), "input other * alpha=1", _scaled_sum("sub")),
    ("sub", (torch.rsub, "rsub"), "input other alpha=1", _rsub),
    ("mul", (torch.mul, torch.multiply, "mul", "multiply"), _TWO, _binary("mul")),
    ("div", (torch.div, torch.divide, torch.true_divide, "div", "divide", "true_divide"),
     "input other * rounding_mode=None", _binary("div")),
    ("neg", (torch.neg, torch.negative, "neg", "negative"), "input", _unary("neg")),
    ("matmul", (torch.matmul, operator.matmul, "matmul", "__matmul__"), _TWO, _binary("matmul")),
    ("matmul", (torch.mm, torch.bmm, "mm", "bmm"), "input other", _binary("matmul")),
    ("max_pool1d", (F.max_pool1d,), _POOL_F, _without("return_indices")),
    ("max_pool2d", (F.max_pool2d,), _POOL_F, _without("return_indices")),
    ("max_pool3d", (F.max_pool3d,), _POOL_F, _without("return_indices")),
    ("adaptive_max_pool1d", (F.adaptive_max_pool1d,), "input output_size return_indices=False",
     _without("return_indices")),
    ("adaptive_max_pool2d", (F.adaptive_max_pool2d,), "input output_size return_indices=False",
     _without("return_indices")),
    ("adaptive_max_pool3d", (F.adaptive_max_pool3d,), "input output_size return_indices=False",
     _without("return_indices")),
    ("softmax", (F.softmax,), _SOFTMAX, _softmax),
    ("softmax", (torch.softmax, "softmax", torch.special.softmax), "input dim=None dtype=None", _softmax),
    ("log_softmax", (F.log_softmax,), _SOFTMAX, _softmax),
    ("log_softmax", (torch.log_softmax, "log_softmax"), "input dim=None dtype=None", _softmax),
    ("einsum", (torch.einsum,), "equation *operands", _einsum),
    ("scaled_dot_product_attention", (F.scaled_dot_product_attention,), "query key value attn_mask=None dropout_p=0.0"
     " is_causal=False * scale=None enable_gqa=False", _attention),
    ("fake_quantize", (QUANTISED,), "input scale zero_point quant_min quant_max axis=None",
     _fake_quantize(trained=False)),
    ("fake_quantize", (torch.fake_quantize_per_tensor_affine,), "input scale zero_point quant_min quant_max",
     _fake_quantize(trained=False)),
    ("fake_quantize", (torch.fake_quantize_per_channel_affine,), "input scale zero_point axis quant_min quant_max",
     _fake_quantize(trained=False)),
    ("fake_quantize", (torch._fake_quantize_learnable_per_tensor_affine,),
     "input scale zero_point quant_min quant_max grad_factor=1.0", _fake_quantize(trained=True)),
    ("fake_quantize", (torch._fake_quantize_learnable_per_channel_affine,),
     "input scale zero_point axis quant_min quant_max grad_factor=1.0", _fake_quantize(trained=True)),
    ("pow", (operator.pow,), "a b", None),
    ("pow", (torch.pow, "pow", "__pow__"), "input exponent", _binary("pow", "exponent")),
    ("group_norm", (torch.group_norm,), "input num_groups weight=None bias=None eps=1e-05 cudnn_enabled=True",
     _without("cudnn_enabled", harmless=True)),
    ("layer_norm", (torch.layer_norm,), "input normalized_shape weight=None bias=None eps=1e-05 cudnn_enable=True",
     _without("cudnn_enable", harmless=True)),
    ("cat", (torch.concat, torch.concatenate), "tensors dim=0", None),
    ("to", ("to",), "input dtype * copy=False", _to),
    ("to", ("float",), "input", _cast(torch.float32)),
    ("to", ("double",), "input", _cast(torch.float64)),
    ("to", ("half",), "input", _cast(torch.float16)),
    ("to", ("bfloat16",), "input", _cast(torch.bfloat16)),
    ("transpose", ("swapaxes", "swapdims", torch.swapaxes), "input dim0 dim1", None),
    ("permute", (torch.permute,), "input dims", None),
    ("reshape", (torch.reshape,), "input shape", None),
    ("flip", (torch.flip,), "input dims", None),
    ("unflatten", (torch.unflatten,), "input dim sizes", None),
    ("split", ("split_with_sizes",), "tensor split_size_or_sections dim=0", None),
    ("movedim", ("moveaxis", torch.moveaxis), "input source destination", None),
    ("dim", ("ndimension",), "input", None),
    ("numel", ("nelement",), "input", None),
    ("attribute", (getattr,), "input name", _getattr),
    ("set_item", (operator.setitem,), "input index value", None),
    ("filled_like", ("copy",), "input value non_blocking=False", _filled),
    ("filled_like", ("fill", "zero", torch.fill), "input value=0.0", _filled),
)  # fmt: skip


def _dictionary() -> dict[Any, Spelling]:
    known: dict[Any, Spelling] = {}
    for op in TABLE:
        if op.name == "call":
            continue
        known[op.fn] = Spelling(op.name, op.signature)
        if op.fn in (getattr(torch, op.name, None), getattr(Tensor, op.name, None)):
            known[op.name] = Spelling(op.name, op.signature)
    for name in UNARY:
        places = (getattr(module, name, None) for module in (torch, F, torch.special))
        own = OPS[name].signature
        either = attrs.evolve(own, names=(*own.names, "inplace"), defaults=own.defaults | {"inplace": False})
        known |= {target: Spelling(name, either) for target in (*places, name) if target is not None}
    for name, targets, signature, adapt in SPELLINGS:
        for target in targets:
            known[target] = Spelling(name, Signature.parse(signature), adapt)
    return known


#: Every known spelling: torch function or method name -> op.
KNOWN: dict[Any, Spelling] = _dictionary()
