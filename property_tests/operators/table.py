"""PyTorch's own table of operators (``op_db``): a few calls of each, and every way to spell one.

``op_db`` takes seconds to import and needs ``expecttest``, so it is imported when asked for.
"""

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from property_tests.operators.calls import Call, Formula, call, leaves

LOOKED_AT = 60  # samples of an operator among which different ones are chosen
LARGEST = 5000  # elements of a tensor
DTYPES = (torch.float64, torch.float32)
#: Their result is memory as it was found: shape and dtype are all that can be compared.
UNINITIALISED = ("empty", "new_empty", "resize_")


@attrs.frozen(eq=False)
class Spelt:
    """One way to write one call.

    Attributes:
        spelling: the kind of writing, as in the table of results.
        call: the arguments; its inputs are the model's.
        apply: ``(model, args, kwargs) -> output``.
        kept: tensors of the model that the call writes to.
    """

    spelling: str
    call: Call
    apply: Formula
    kept: Mapping[str, Tensor] = attrs.field(factory=dict)


def operators() -> list[Any]:
    """Rows of PyTorch's table."""
    from torch.testing._internal.common_methods_invocations import op_db

    return list(op_db)


def label(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def calls(op: Any, number: int) -> list[Call]:
    """Up to ``number`` sample calls of an operator that differ in more than values.

    The first is one whose result fits its first argument, if there is one, and has many axes, so that writing is tried.
    One of whole numbers comes last, where the operator takes floats too: its input does not change in time.
    """
    dtypes = [d for d in (*DTYPES, *sorted(op.dtypes, key=str)) if op.supports_dtype(d, "cpu")]
    found = _calls(op, dtypes[0]) if dtypes else []
    best = min(
        found, key=lambda made: (not made.inputs[0].ndim, not _fits(op, made), -made.inputs[0].ndim), default=None
    )
    found = [*filter(None, [best]), *(made for made in found if made is not best)][:number]
    whole = dtypes and dtypes[0].is_floating_point and op.supports_dtype(torch.int64, "cpu")
    return found + (_calls(op, torch.int64)[:1] if whole else [])


def _calls(op: Any, dtype: torch.dtype) -> list[Call]:
    torch.manual_seed(zlib.crc32(label(op).encode()))
    chosen: dict[Any, Call] = {}
    for sample in itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=False), LOOKED_AT):
        found = call((sample.input, *sample.args), sample.kwargs)
        if found is None or any(t.numel() > LARGEST for t in found.tensors) or not _finite(found):
            continue
        empty = any(t.layout is torch.strided and t.numel() == 0 for t in found.tensors)
        chosen.setdefault((empty, found.inputs[0].ndim, str(found.tree)), found)
    return [chosen[key] for key in sorted(chosen, key=lambda key: key[0])]


def _fits(op: Any, made: Call) -> bool:
    """Whether the result has the shape of the first argument."""
    (args, _), result = arguments(made), eager(op.op, made)
    return isinstance(result, Tensor) and isinstance(args[0], Tensor) and result.shape == args[0].shape


def _finite(made: Call) -> bool:
    """Whether the inputs are numbers: an infinite one has no events."""
    return all(bool(torch.isfinite(made.tensors[k]).all()) for k in made.floats())


def spellings(op: Any, made: Call, *, writing: bool) -> Iterator[Spelt]:
    """Every way to write the call; those that write to something are ``writing``."""
    name = op.name.rpartition(".")[2]
    if not name.startswith("__"):
        yield Spelt("function", made, _function(op.op))
    for alias in op.aliases:
        yield Spelt("alias", made, _function(alias.op))
    floats = made.floats()
    if 1 < len(floats) <= 3:
        yield Spelt("all operands", attrs.evolve(made, moving=floats), _function(op.op))
    first = made.tree[0][0]
    if isinstance(first, Tensor) or not hasattr(first, "k"):
        first = None
    if first is not None and op.method_variant is not None:
        for method in dict.fromkeys([op.method_variant.__name__, *(a.name for a in op.aliases)]):
            if hasattr(Tensor, method):
                yield Spelt("method", made, _method(method))
    if op.operator_variant is not None:
        yield Spelt("operator", made, _function(op.operator_variant))
    if first is not None and writing:
        yield from _writing(op, made)
    if op.supports_out and writing:
        yield from _out(op, made)


def _writing(op: Any, made: Call) -> Iterator[Spelt]:
    """Writes to the first argument, and through views."""
    writes: Callable[..., Any] | None = None
    if op.inplace_variant is not None:
        name = getattr(op.inplace_variant, "__name__", "")
        writes = _by_name(name) if hasattr(Tensor, name) else op.inplace_variant
    if writes is not None:
        yield Spelt("in place", made, _in_place(writes))
        if 0 in made.moving:
            yield Spelt("in place, input", made, _in_place_input(writes))
            yield Spelt("in place, view", made, _in_place_view(writes))
            yield Spelt("in place, part", made, _in_place_part(writes))
        others = tuple(k for k in made.floats() if k != 0)[:1]
        if others:
            yield Spelt("in place, real", attrs.evolve(made, moving=others), _in_place(writes))
    if op.inplace_operator_variant is not None:
        yield Spelt("augmented", made, _in_place(op.inplace_operator_variant))
    if is_view(op.op, made):
        nested = isinstance(eager(op.op, made), tuple | list)
        yield Spelt("write to view", made, _write_to_view(op.op, nested))
        yield Spelt("write to base", made, _write_to_base(op.op))


def _out(op: Any, made: Call) -> Iterator[Spelt]:
    result = eager(op.op, made)
    if result is None or not all(isinstance(leaf, Tensor) for leaf in leaves(result)):
        return
    like = tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves(result))
    nested = isinstance(result, tuple | list)
    yield Spelt("out= made", made, _with_out(op.op, _zeros(like), nested))
    yield Spelt("out= of symbol", made, _with_out(op.op, _new_zeros(like), nested))
    kept = {f"o{k}": torch.zeros(shape, dtype=dtype) for k, (shape, dtype) in enumerate(like)}
    yield Spelt("out= kept", made, _with_out(op.op, _kept(tuple(kept)), nested), kept)


def arguments(made: Call) -> Any:
    """``(args, kwargs)`` with fresh tensors."""
    from torch.utils import _pytree as pytree

    return pytree.tree_map(lambda leaf: made.tensors[leaf.k].clone() if hasattr(leaf, "k") else leaf, made.tree)


def eager(fn: Callable[..., Any], made: Call) -> Any:
    """What a call gives, ``None`` where it fails."""
    args, kwargs = arguments(made)
    try:
        return fn(*args, **kwargs)
    except Exception:
        return None


def is_view(fn: Callable[..., Any], made: Call) -> bool:
    """Whether the result shares memory with the first argument."""
    args, kwargs = arguments(made)
    try:
        results = [leaf for leaf in leaves(fn(*args, **kwargs)) if isinstance(leaf, Tensor)]
        memory = args[0].untyped_storage().data_ptr()
        return args[0].numel() > 0 and any(r.untyped_storage().data_ptr() == memory for r in results)
    except Exception:
        return False


# ways to write


def _function(fn: Callable[..., Any]) -> Formula:
    return lambda net, args, kwargs: fn(*args, **kwargs)


def _by_name(name: str) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)


def _method(name: str) -> Formula:
    return _function(_by_name(name))


def _in_place(writes: Callable[..., Any]) -> Formula:
    def apply(net: Any, args: Any, kwargs: Any) -> Any:
        y = args[0].clone()
        returned = writes(y, *args[1:], **kwargs)
        return y, returned

    return apply


def _in_place_input(writes: Callable[..., Any]) -> Formula:
    def apply(net: Any, args: Any, kwargs: Any) -> Any:
        writes(args[0], *args[1:], **kwargs)
        return args[0]

    return apply


def _in_place_view(writes: Callable[..., Any]) -> Formula:
    def apply(net: Any, args: Any, kwargs: Any) -> Any:
        y = args[0].clone()
        writes(y[...], *args[1:], **kwargs)
        return y

    return apply


def _in_place_part(writes: Callable[..., Any]) -> Formula:
    def apply(net: Any, args: Any, kwargs: Any) -> Any:
        base = torch.stack([args[0], args[0]])
        writes(base[1], *args[1:], **kwargs)
        return base

    return apply


def _write_to_view(fn: Callable[..., Any], nested: bool) -> Formula:
    def apply(net: Any, args: Any, kwargs: Any) -> Any:
        base = args[0].clone()
        view = fn(base, *args[1:], **kwargs)
        (view[0] if nested else view).mul_(2)
        return base

    return apply


def _write_to_base(fn: Callable[..., Any]) -> Formula:
    def apply(net: Any, args: Any, kwargs: Any) -> Any:
        base = args[0].clone()
        view = fn(base, *args[1:], **kwargs)
        base.mul_(2)
        return view

    return apply


Likes = tuple[tuple[tuple[int, ...], torch.dtype], ...]
Buffers = Callable[[Any, Any], list[Any]]


def _with_out(fn: Callable[..., Any], buffers: Buffers, nested: bool) -> Formula:
    def apply(net: Any, args: Any, kwargs: Any) -> Any:
        out = buffers(net, args)
        returned = fn(*args, **kwargs, out=tuple(out) if nested else out[0])
        return out, returned

    return apply


def _zeros(like: Likes) -> Buffers:
    return lambda net, args: [torch.zeros(shape, dtype=dtype) for shape, dtype in like]


def _new_zeros(like: Likes) -> Buffers:
    def made(net: Any, args: Any) -> list[Any]:
        x = args[0][0] if isinstance(args[0], tuple | list) else args[0]
        return [x.new_zeros(shape, dtype=dtype) for shape, dtype in like]

    return made


def _kept(names: tuple[str, ...]) -> Buffers:
    return lambda net, args: [net.tensor(name) for name in names]
