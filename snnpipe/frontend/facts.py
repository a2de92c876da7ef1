"""What a torch function, method or ATEN overload does besides computing: what it writes to, what its result may share
memory with, whether it draws random numbers.

Read from torch's own schemas and tags wherever there are some; the few facts that none of them holds are listed here.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx
from torch._C import DispatchKey
from torch._ops import OpOverload

from snnpipe.frontend.foreign import written_arguments

#: In-place operators of Python and the operator that gives their result.
INPLACE_OPERATORS = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.imatmul: operator.matmul, operator.ipow: operator.pow,
    operator.ifloordiv: operator.floordiv, operator.imod: operator.mod, operator.iand: operator.and_,
    operator.ior: operator.or_, operator.ixor: operator.xor, operator.ilshift: operator.lshift,
    operator.irshift: operator.rshift,
}  # fmt: skip

#: Named like writes to a tensor, but of no consequence to what is computed.
HARMLESS = frozenset({"requires_grad_", "detach_", "share_memory_", "rename_", "retain_grad"})
#: Methods that change how a tensor looks at its memory, and nothing of what others see there.
TURNS = frozenset({"as_strided_", "squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_"})
#: Functions that write to a table of vectors what they would write again: with ``max_norm`` they scale rows down to it.
RENORMS = frozenset({"embedding", "embedding_bag"})
#: Methods that change what a tensor is, not its values; a graph of values has no word for that.
UNTRACKED = frozenset({"resize_", "resize_as_", "set_", "sparse_resize_", "sparse_resize_and_clear_"})


def set_data(tensor: Tensor, source: Tensor) -> None:
    """``tensor.data = source``, as a function."""
    tensor.data = source


#: Calls that let their first argument look at the memory of their second.
MOVES = frozenset({"__set__", "set_", "set_data"})

#: What no network through time can do, by the names of functions and methods: why, and what to write.
REFUSED: dict[frozenset[str], tuple[str, str]] = {
    frozenset({"backward", "grad", "hessian", "jacobian", "jvp", "vjp"}): (
        "computes gradients, which are not kept while a network runs through time",
        "write the derivative as an expression, or compute it outside the model",
    ),
    frozenset({
        "sparse_bsc_tensor", "sparse_bsr_tensor", "sparse_coo_tensor", "sparse_csc_tensor", "sparse_csr_tensor",
        "to_mkldnn", "to_sparse", "to_sparse_bsc", "to_sparse_bsr", "to_sparse_coo", "to_sparse_csc", "to_sparse_csr",
    }): ("gives a tensor that has no strides, and so no events", "keep it dense: x.to_dense()"),
}  # fmt: skip

#: What to write where a function that is kept as one call writes to its arguments.
FOLLOWED = "give an example, trace(example=x), which follows it; or let it write to a copy, x = x.clone()"

#: Functions written in Python that draw random numbers; torch's operators carry a tag.
_RANDOM = frozenset({
    "dropout1d", "dropout2d", "dropout3d", "fractional_max_pool2d", "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d", "fractional_max_pool3d_with_indices", "gumbel_softmax", "multi_head_attention_forward",
    "pca_lowrank", "svd_lowrank",
})  # fmt: skip
#: Arguments without which, or with zero for which, nothing is drawn.
_SWITCHES = ("training", "train", "dropout", "dropout_p")
#: The argument that brings the random numbers along.
_DRAWN = "_random_samples"

#: Operators whose schema says less than the truth, and the arguments their result may share memory with.
_SHARED: dict[str, frozenset[str]] = {
    "type_as": frozenset({"self"}), "sum_to_size": frozenset({"self"}), "unsafe_chunk": frozenset({"self"}),
    "unsafe_split": frozenset({"self"}), "unsafe_split_with_sizes": frozenset({"self"}),
}  # fmt: skip
#: Functions written in Python, or made of other operators, whose result is always memory of its own.
_FRESH = frozenset({
    "cosine_similarity", "cross_entropy", "cross_entropy_loss", "gaussian_nll_loss", "grid_sample", "kl_div",
    "linear", "lstm", "gru", "matmul", "multiply", "nll_loss", "normalize", "one_hot", "pairwise_distance", "softmin",
    "softsign", "square", "std", "subtract", "tanhshrink", "var",
})  # fmt: skip


def name_of(target: Any) -> str:
    """What people call a function, a method (given by its name) or an overload."""
    if isinstance(target, OpOverload):
        return str(target.overloadpacket.__name__)
    return target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__.lower())


def is_torchs(target: Any) -> bool:
    """Whether a function is torch's or Python's own; a method of a tensor, given by its name, is."""
    module = getattr(target, "__module__", None) or "torch"
    return isinstance(target, str | OpOverload) or module in ("torch", "_operator") or module.startswith("torch.")


def is_foreign(target: Any) -> bool:
    """Whether a function is neither torch's, nor Python's, nor this package's."""
    home = (getattr(target, "__module__", None) or "torch").partition(".")[0]
    return not (is_torchs(target) or home in ("builtins", "math", __name__.partition(".")[0]))


@lru_cache(maxsize=4096)
def overloads_of(name: str) -> tuple[OpOverload, ...]:
    """The ATEN operators of a name."""
    packet = getattr(torch.ops.aten, name, None)
    found = (getattr(packet, overload) for overload in (packet.overloads() if packet is not None else ()))
    return tuple(overload for overload in found if _is_composed(overload) is not None)


def _is_composed(overload: OpOverload) -> bool | None:
    """Whether an operator is made of others; ``None`` for names that only TorchScript knows."""
    try:
        return overload.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)
    except RuntimeError:
        return None


def named_arguments(overload: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call by the names of the schema, defaults included."""
    arguments = overload._schema.arguments
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | dict(kwargs)
    return {a.name: a.default_value for a in arguments if a.has_default_value()} | given


def _candidates(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[OpOverload]:
    """The operators that a call may mean, as far as the number and names of its arguments tell."""
    known = (target,) if isinstance(target, OpOverload) else overloads_of(name_of(target))
    names = [(overload, [argument.name for argument in overload._schema.arguments]) for overload in known]
    return [overload for overload, own in names if len(args) <= len(own) and set(kwargs) <= set(own)]


# writing


def is_write(target: Any) -> bool:
    """Whether a function or method is named as one that writes to its first argument."""
    name = name_of(target)
    if name in ("setitem", "__setitem__", "__set__", "set_data") or hashed(target) in INPLACE_OPERATORS:
        return True
    if getattr(target, "__module__", "") == "_operator":  # and_, or_, not_: Python's keywords
        return False
    return name.endswith("_") and not name.endswith("__") and name not in HARMLESS and is_torchs(target)


def written(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The arguments that a call writes to: trees of tensors, or of what stands for them."""
    if isinstance(target, OpOverload):
        given = named_arguments(target, args, kwargs)
        names = [a.name for a in target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        return [given[name] for name in names if given.get(name) is not None]
    out = [] if kwargs.get("out") is None else [kwargs["out"]]
    first = args[:1] or tuple(kwargs[name] for name in ("self", "input", "tensor") if name in kwargs)
    return out + [*first[:1]] * (is_write(target) or kwargs.get("inplace") is True)


def returns_written(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether what a call returns is the tensor it writes to, as with ``x.add_(1)`` and ``add(x, 1, out=y)``."""
    if isinstance(target, OpOverload):
        return any(value.alias_info is not None and value.alias_info.is_write for value in target._schema.returns)
    return not any(isinstance(tree, list | tuple) for tree in written(target, args, kwargs))


def hashed(target: Any) -> Any:
    """The target if it can be a key, else ``None``."""
    try:
        hash(target)
    except TypeError:
        return None
    return target


# sharing memory


def sharing(node: fx.Node) -> list[fx.Node]:
    """The values with which the result of an fx call may share memory."""
    target, args, kwargs = node.target, node.args, node.kwargs
    known = _candidates(target, args, kwargs)
    own = is_torchs(target) or isinstance(target, OpOverload)
    if not own or (not known and name_of(target) not in _FRESH):
        return list(node.all_input_nodes)  # of functions nobody knows, we assume it
    found: dict[fx.Node, fx.Node] = {}  # once each: the overloads may agree
    for overload in known:
        names = shared(overload)
        if names is None:
            return list(node.all_input_nodes)
        given = named_arguments(overload, args, kwargs)
        fx.node.map_arg([given.get(name) for name in names], lambda leaf: found.setdefault(leaf, leaf))
    return [*found]


def is_view(target: Any) -> bool:
    """Whether an overload returns another tensor in the memory of an operand."""
    marks = target._schema.returns if isinstance(target, OpOverload) else ()
    return any(value.alias_info is not None and not value.alias_info.is_write for value in marks)


@lru_cache(maxsize=4096)
def shared(overload: OpOverload) -> frozenset[str] | None:
    """The arguments with which the result of an operator may share memory; ``None``: with any."""
    name, schema = name_of(overload), overload._schema
    if name in _SHARED or name in _FRESH:
        return _SHARED.get(name, frozenset())
    sets = [value.alias_info.before_set for value in schema.returns if value.alias_info is not None]
    if not sets and _is_composed(overload):
        return None  # one of the operators it is made of may be a view
    marked = [(a.name, a.alias_info.before_set) for a in schema.arguments if a.alias_info is not None]
    lists = any(not marks for marks in sets)  # the schema of a list of results does not say which argument is meant
    return frozenset(name for name, own in marked if lists or own & set[str]().union(*sets))


# randomness


def is_random(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers."""
    name = name_of(target)
    plain = name if name.endswith("__") else name.rstrip("_")
    known = (target,) if isinstance(target, OpOverload) else overloads_of(name) + overloads_of(plain)
    tagged = any(torch.Tag.nondeterministic_seeded in overload.tags for overload in known)
    if not is_torchs(target) or not (tagged or plain in _RANDOM):
        return False
    given = _python_arguments(target, args, kwargs)
    if given is None:
        fitting = _candidates(target, args, kwargs)
        given = named_arguments(fitting[0], args, kwargs) if fitting else dict(kwargs)
    switches = [given[switch] for switch in _SWITCHES if switch in given]
    drawn = given.get(_DRAWN) is None
    return drawn and all(not isinstance(switch, bool | int | float) or switch != 0 for switch in switches)


def _python_arguments(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments by name, with defaults, of a function written in Python; ``None`` for others."""
    origin = getattr(torch.nn.functional, name_of(target), target)
    if isinstance(target, str) or not inspect.isfunction(origin):
        return None
    try:
        bound = inspect.signature(origin).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in bound.signature.parameters.values()):
        return None  # one of several functions, chosen when it is called
    bound.apply_defaults()
    return dict(bound.arguments)


def refusals(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Why no network through time can make a call, and what to write instead."""
    name = name_of(target)
    if is_random(target, args, kwargs):
        drops = "drop" in name or kwargs.get("dropout_p")
        fix = (
            "let dropout depend on the mode: training=self.training, or p if self.training else 0.0"
            if drops
            else "draw the noise outside the model and pass it as an input"
        )
        yield f"`{name}` is random, so the network computes no function of its input", fix
    for argument, value in written_arguments(target, args, kwargs) if is_foreign(target) else ():
        held: list[fx.Node] = []
        fx.node.map_arg(value, held.append)
        if held:
            yield f"`{name}` is kept as one call and writes to its argument {argument}", FOLLOWED
    for names, (reason, fix) in REFUSED.items() if is_torchs(target) else ():
        if name in names:
            yield f"`{name}` {reason}", fix
