"""Which ATEN overloads mean which op of the table: more spellings, read from torch's own schemas.

An overload whose arguments are called as the operands of the row of its name *is* that row (``aten.conv2d.default``);
the others are listed.  An overload that no row fits stays a call (``frontend.overloads``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch._ops import OpOverload

from snnpipe.frontend.seen import Adapt, Operands, Seen, Spelling
from snnpipe.frontend.spellings import KNOWN
from snnpipe.frozen import FrozenMap
from snnpipe.ops.signature import Signature
from snnpipe.ops.table import OPS, TABLE

_aten = torch.ops.aten

#: Arguments that change nothing a graph says: memory and kernels.
_HARMLESS = frozenset(
    {"cudnn_enable", "cudnn_enabled", "layout", "memory_format", "non_blocking", "copy", "pin_memory", "implicit"}
)
#: The largest number ``export`` writes for an open end of a slice.
_OPEN_END = 2**63 - 1


def _as(function: Callable[..., Any]) -> Adapt | None:
    """The ``adapt`` of a Python spelling whose arguments are called the same."""
    return KNOWN[function].adapt


def _renamed(**names: str) -> Adapt:
    """The op of the spelling, operands called as the row calls them."""

    def adapt(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        return "", {names.get(name, name): value for name, value in operands.items()}

    return adapt


def _comparison(function: Callable[..., Any]) -> Adapt:
    def adapt(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        return "call", {"target": function, "args": (operands["input"], operands["other"]), "kwargs": {}}

    return adapt


def _einsum(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    return KNOWN[torch.einsum].adapt({"equation": operands["equation"], "operands": operands["tensors"]}, seen)  # type: ignore[misc]


def _zeros(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    kwargs = {name: operands[name] for name in ("dtype", "device") if operands.get(name) is not None}
    return "call", {"target": torch.zeros, "args": (operands["size"],), "kwargs": kwargs}


def _along(dim: int, index: Any) -> tuple[Any, ...]:
    """``x[_along(dim, index)]`` applies an index to one axis."""
    return (slice(None),) * dim + (index,) if dim >= 0 else (..., index) + (slice(None),) * (-dim - 1)


def _range(operands: Operands) -> slice | None:
    """The slice ``start:end:step``, ``None`` when it is everything."""
    start, end, step = operands.get("start") or 0, operands.get("end"), operands.get("step", 1)
    end = None if end == _OPEN_END else end
    return None if start == 0 and end is None and step == 1 else slice(start, end, None if step == 1 else step)


def _slice(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    part = _range(operands)
    if part is None:
        return "identity", {"input": operands["input"]}
    return "getitem", {"a": operands["input"], "index": _along(operands.get("dim", 0), part)}


def _slice_scatter(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    index = _along(operands.get("dim", 0), _range(operands) or slice(None))
    return "set_item", {"input": operands["input"], "index": index, "value": operands["src"]}


def _select_scatter(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    index = _along(operands["dim"], operands["index"])
    return "set_item", {"input": operands["input"], "index": index, "value": operands["src"]}


def _indices(operands: Operands) -> tuple[Any, ...]:
    return tuple(slice(None) if index is None else index for index in operands["indices"])


def _index(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    return "getitem", {"a": operands["input"], "index": _indices(operands)}


def _index_put(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    if operands.get("accumulate"):
        return None
    return "set_item", {"input": operands["input"], "index": _indices(operands), "value": operands["values"]}


def _filled(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    return "filled_like", {"input": operands["input"], "value": operands.get("src", operands.get("value", 0.0))}


def _transposed(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    return "transpose", {"input": operands["input"], "dim0": -2, "dim1": -1}


def _moved(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    """A change of dtype or device or both; linear only where the dtype is floating point."""
    result, changes = operands["input"], [operands.get("dtype"), operands.get("device")]
    changes = [change for change in changes if change is not None]
    found: list[tuple[str, Operands]] = []
    for change in changes:
        adapted = KNOWN["to"].adapt({"input": result, "dtype": change}, seen)  # type: ignore[misc]
        if adapted is None:
            return None
        found.append(adapted)
        if len(found) < len(changes):
            result = seen.emit(adapted[0], **adapted[1])
    return found[-1] if found else ("clone", {"input": operands["input"]})


def _convolution(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
    transposed, axes = operands.pop("transposed"), len(operands["stride"])
    if not transposed:
        operands.pop("output_padding")
    kept = {name: value for name, value in operands.items() if value is not None}
    return f"conv{'_transpose' if transposed else ''}{axes}d", kept


def _upsample(mode: str, *, antialias: bool = False) -> Adapt:
    def adapt(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        made = {"input": operands["input"], "mode": mode}
        for name, source in (("size", "output_size"), ("scale_factor", "scale_factors")):
            if operands.get(source) is not None:
                made[name] = operands[source]
        if "align_corners" in operands:
            made["align_corners"] = operands["align_corners"]
        return "interpolate", made | ({"antialias": True} if antialias else {})

    return adapt


#: op, overloads ("name" stands for "name.default"), adapt; operands are called as in the schema, ``self`` as input.
_SPELLINGS: tuple[tuple[str, str, Adapt | None], ...] = (
    ("add", "add.Tensor add.Scalar", _as(torch.add)),
    ("sub", "sub.Tensor sub.Scalar", _as(torch.sub)),
    ("sub", "rsub.Tensor rsub.Scalar", _as(torch.rsub)),
    ("mul", "mul.Tensor mul.Scalar", _as(torch.mul)),
    ("div", "div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode", _as(torch.div)),
    ("matmul", "matmul mm bmm", _renamed(input="a", other="b", mat2="b")),
    ("neg", "neg", _renamed(input="a")),
    ("pow", "pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar", _renamed(input="a", exponent="b")),
    ("scaled_dot_product_attention", "scaled_dot_product_attention", _as(F.scaled_dot_product_attention)),
    ("clamp", "clamp clamp.Tensor clip clip.Tensor", _as(torch.clamp)),
    ("clamp", "clamp_min clamp_min.Tensor", _as(torch.clamp_min)),
    ("clamp", "clamp_max clamp_max.Tensor", _as(torch.clamp_max)),
    ("clamp", "hardtanh", _as(F.hardtanh)),
    ("clamp", "relu6", _as(F.relu6)),
    ("relu", "threshold", _as(torch.threshold)),
    ("relu", "maximum max.other fmax", _as(torch.maximum)),
    ("where", "where.self where.ScalarOther where.ScalarSelf where.Scalar", _as(torch.where)),
    ("call", "gt.Scalar gt.Tensor", _comparison(torch.gt)),
    ("call", "ge.Scalar ge.Tensor", _comparison(torch.ge)),
    ("call", "lt.Scalar lt.Tensor", _comparison(torch.lt)),
    ("call", "le.Scalar le.Tensor", _comparison(torch.le)),
    ("call", "zeros", _zeros),
    ("call", "einsum", _einsum),
    ("identity", "dropout feature_dropout alpha_dropout feature_alpha_dropout", _as(torch.dropout)),
    ("identity", "lift_fresh detach_ alias", None),
    ("clone", "lift_fresh_copy", None),
    ("conv2d", "convolution", _convolution),
    ("batch_norm", "batch_norm", _as(F.batch_norm)),
    ("split", "split.Tensor split.sizes split_with_sizes",
     _renamed(input="tensor", split_size="split_size_or_sections", split_sizes="split_size_or_sections")),
    ("getitem", "slice.Tensor", _slice),
    ("getitem", "index.Tensor", _index),
    ("set_item", "slice_scatter", _slice_scatter),
    ("set_item", "select_scatter", _select_scatter),
    ("set_item", "index_put", _index_put),
    ("filled_like", "copy fill.Scalar fill.Tensor zero", _filled),
    ("transpose", "mT", _transposed),
    ("transpose", "swapdims swapaxes", _renamed(axis0="dim0", axis1="dim1")),
    ("movedim", "moveaxis.int moveaxis.intlist", None),
    ("reshape", "view _unsafe_view", _renamed(size="shape")),  # it need not share memory
    ("adaptive_avg_pool2d", "_adaptive_avg_pool2d", None),
    ("adaptive_avg_pool3d", "_adaptive_avg_pool3d", None),
    ("pad", "constant_pad_nd", None),
    ("to", "to.dtype to.device to.dtype_layout _to_copy", _moved),
    ("unfold", "im2col", None),
    ("fold", "col2im", None),
    ("interpolate", "upsample_nearest1d.vec upsample_nearest2d.vec upsample_nearest3d.vec", _upsample("nearest")),
    ("interpolate", "_upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec _upsample_nearest_exact3d.vec",
     _upsample("nearest-exact")),
    ("interpolate", "upsample_linear1d.vec", _upsample("linear")),
    ("interpolate", "upsample_bilinear2d.vec", _upsample("bilinear")),
    ("interpolate", "upsample_bicubic2d.vec", _upsample("bicubic")),
    ("interpolate", "upsample_trilinear3d.vec", _upsample("trilinear")),
    ("interpolate", "_upsample_bilinear2d_aa.vec", _upsample("bilinear", antialias=True)),
    ("interpolate", "_upsample_bicubic2d_aa.vec", _upsample("bicubic", antialias=True)),
    ("fake_quantize", "fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine.tensor_qparams",
     _as(torch.fake_quantize_per_tensor_affine)),
    ("fake_quantize", "fake_quantize_per_channel_affine", _as(torch.fake_quantize_per_channel_affine)),
    ("fake_quantize", "_fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_channel_affine",
     _as(torch._fake_quantize_learnable_per_tensor_affine)),
    ("size", "sym_size.int", None),
    ("numel", "sym_numel", None),
)  # fmt: skip


def _overloads(names: str) -> Iterator[OpOverload]:
    """The overloads of that name that this version of torch has."""
    for name in names.split():
        packet, _, overload = name.partition(".")
        found = getattr(getattr(_aten, packet, None), overload or "default", None)
        if found is not None:
            yield found


#: Overloads that return more than their op does: for readers of the first result alone, what to call and with what.
FIRST_RESULT: dict[Any, tuple[Any, Callable[[Any], Any]]] = {
    found: (target, arguments)
    for names, target, arguments in (
        ("_native_batch_norm_legit_no_training", _aten.batch_norm.default, lambda a: (*a[:5], False, *a[5:7], False)),
        ("max_pool2d_with_indices", F.max_pool2d, tuple),
        ("max_pool3d_with_indices", F.max_pool3d, tuple),
        ("adaptive_max_pool1d", F.adaptive_max_pool1d, tuple),
        ("adaptive_max_pool2d", F.adaptive_max_pool2d, tuple),
        ("adaptive_max_pool3d", F.adaptive_max_pool3d, tuple),
    )
    for found in _overloads(names)
}


def _fitted(op: str, adapt: Adapt | None) -> Adapt:
    """Adapt, drop what is harmless, and see whether the row of the op takes the rest."""

    def adapted(operands: Operands, seen: Seen) -> tuple[str, Operands] | None:
        found = (op, operands) if adapt is None else adapt(operands, seen)
        if found is None or found[0] == "call":
            return found
        name = found[0] or op
        row = OPS[name].signature
        kept = {key: value for key, value in found[1].items() if key in row.names or key not in _HARMLESS}
        bound = row.bind((), kept)
        return None if bound is None else (name, bound)

    return adapted


def _schema_signature(overload: OpOverload) -> Signature:
    arguments = overload._schema.arguments
    names = tuple("input" if argument.name == "self" else argument.name for argument in arguments)
    pairs = list(zip(names, arguments, strict=True))
    return Signature(
        names,
        FrozenMap({name: argument.default_value for name, argument in pairs if argument.has_default_value()}),
        frozenset(name for name, argument in pairs if argument.kwarg_only),
        None,
    )


def _rows() -> Iterator[tuple[str, OpOverload]]:
    """The overloads of the name of a row that return what the row returns."""
    for op in TABLE:
        packet = getattr(_aten, op.name, None)
        for overload in packet.overloads() if packet is not None else ():
            found = getattr(packet, overload)
            if len(found._schema.returns) == 1:
                yield op.name, found


def _dictionary() -> dict[OpOverload, Spelling]:
    known = {found: Spelling(op, _schema_signature(found), _fitted(op, None)) for op, found in _rows()}
    for op, names, adapt in _SPELLINGS:
        for found in _overloads(names):
            known[found] = Spelling(op, _schema_signature(found), _fitted(op, adapt))
    return known


#: Every overload that may mean an op of the table.
ATEN: dict[OpOverload, Spelling] = _dictionary()
