"""What a caller hands to a network, checked: inputs by name, which of them are event sequences, how many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from snnpipe.codes import Clock, Code
from snnpipe.containers import packed, tensors
from snnpipe.errors import InputError
from snnpipe.frozen import FrozenMap, Packed, freeze
from snnpipe.graph import Graph, Traced
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.ops.table import batched_rank
from snnpipe.options import whole


def bind(graph: Graph, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs by name of the ANN's argument."""
    names = [node["name"] for node in graph.inputs]
    given = dict(zip(names, inputs, strict=False)) | dict(named)
    defaults = {node["name"]: node["default"] for node in graph.inputs if "default" in node.operands}
    missing = [name for name in names if name not in given | defaults]
    unknown = [name for name in named if name not in names]
    twice = [name for name in names[: len(inputs)] if name in named]
    if len(inputs) > len(names) or missing or unknown or twice:
        raise InputError(
            f"this network takes {len(names)} input{'s' * (len(names) > 1)}, {', '.join(names)}; "
            f"got {len(inputs)} by position" + (f" and {', '.join(named)} by name" if named else "")
        )
    if not tensors(given):
        kinds = ", ".join(type(value).__name__ for value in given.values())
        raise InputError(f"inputs must be tensors, got {kinds}; write snn(torch.as_tensor(x), T=...)")
    return defaults | given


def part_of(tree: Any, index: int | slice) -> Any:
    """One step, or some steps, of an input that is a sequence; what is no tensor does not change."""
    return zip_leaves(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, tree)


def encoded(tree: Any, encode: Callable[[Tensor, Clock], Tensor], clock: Clock) -> Any:
    """The events of one step of an input."""
    return zip_leaves(lambda leaf: encode(leaf, clock) if isinstance(leaf, Tensor) else leaf, tree)


def sequences(given: Mapping[str, Any]) -> frozenset[str]:
    """The inputs that can be events, which add up: floats.  Indices and masks do not change."""
    held = {name: tensors(value) for name, value in given.items()}
    moving = frozenset(name for name, found in held.items() if found and not any(map(_is_whole, found)))
    if not moving:
        raise InputError(
            f"inputs {', '.join(given)} are integers or booleans, which are no events; convert images with x.float(); "
            "to present indices, which do not change, write snn(x, T=...)"
        )
    return moving


def check_shapes(given: Mapping[str, Any], graph: Graph) -> None:
    """An exported program is right for the sizes, types and constants it was exported for, and for no others."""
    for node in graph.inputs:
        if "shape" in node.operands:
            for reason in _misfits(node["shape"], freeze(packed(given[node["name"]])), node["name"]):
                raise InputError(f"{reason}; trace it again with an example like this: trace(example=x)")


def _misfits(wanted: Any, value: Any, name: str) -> Iterator[str]:
    """How a value differs from what an input was traced for."""
    if isinstance(wanted, Traced):
        if not isinstance(value, Tensor):
            yield f"{name} is of type {type(value).__name__}, the network was traced for a tensor"
            return
        same_rank = len(wanted.shape) == value.ndim
        if not same_rank or not all(_allows(n, m) for n, m in zip(wanted.shape, value.shape, strict=True)):
            sizes = ", ".join(map(_size, wanted.shape))
            yield f"{name} has shape {tuple(value.shape)} at each step, the network was traced for ({sizes})"
        if _kind(value.dtype) != _kind(wanted.dtype):
            yield f"{name} is {_kind(value.dtype)} ({value.dtype}), the network was traced for {_kind(wanted.dtype)}"
        return
    keys, had = _children(wanted), _children(value)
    if keys is None or had is None:
        if keys is not had or not (wanted is value or bool(wanted == value)):
            yield f"{name} is {value!r}, the network was traced for the constant {wanted!r}"
        return
    missing = [key for key in keys if key not in had]
    if missing or (len(had) > len(keys) and not isinstance(wanted, FrozenMap)):
        yield f"{name} holds {', '.join(had)}, the network was traced for {', '.join(keys)}"
        return
    for key, child in keys.items():
        yield from _misfits(child, had[key], f"{name}{key}")


def _children(tree: Any) -> dict[str, Any] | None:
    """What a container holds, by how it is read."""
    if isinstance(tree, Packed):
        return dict(zip(tree.kind.labels, tree.children))  # noqa: B905
    if isinstance(tree, FrozenMap):
        return {f"[{key!r}]": child for key, child in tree.items()}
    return {f"[{k}]": child for k, child in enumerate(tree)} if isinstance(tree, tuple) else None


def _kind(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "boolean"
    return "floating point" if dtype.is_floating_point else "complex" if dtype.is_complex else "whole numbers"


def _allows(size: int | range | None, found: int) -> bool:
    return size is None or (found in size if isinstance(size, range) else found == size)


def _size(size: int | range | None) -> str:
    if isinstance(size, range):
        return f"B >= {size.start}" if size.stop > 2**31 else f"{size.start} <= B <= {size.stop - 1}"
    return "B" if size is None else str(size)


def same_shapes(given: Mapping[str, Any], before: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shapes of a step's tensors, which must be those of the steps ``before``."""
    shapes = tuple(tuple(leaf.shape) for leaf in tensors(dict(given)))
    if before and shapes != before:
        raise InputError(
            f"step: inputs of shapes {_listed(shapes)}, but the steps before had {_listed(before)}; "
            "start a new run with snn.init(x) for another batch"
        )
    return shapes


@contextmanager
def explained(given: Mapping[str, Any]) -> Iterator[None]:
    """What torch says of inputs that do not fit, with their shapes."""
    try:
        yield
    except (RuntimeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError | NotImplementedError):
            raise
        shapes = _listed(tuple(tuple(leaf.shape) for leaf in tensors(dict(given))))
        raise InputError(
            f"the network cannot run on inputs of shapes {shapes}: {str(error).splitlines()[0]}. Give them as the "
            "ANN takes them, (B, ...); event sequences with a time axis in front, (T, B, ...)"
        ) from error


def _listed(shapes: tuple[Any, ...]) -> str:
    return ", ".join(map(str, shapes))


def steps(given: Mapping[str, Any], moving: frozenset[str], graph: Graph) -> int:
    """The length of the sequences ``moving``."""
    for node in graph.inputs:
        expected, value = batched_rank(node, graph), given[node["name"]]
        if expected is not None and isinstance(value, Tensor) and value.ndim != expected + 1:
            raise InputError(
                f"sequence: {node['name']} goes into a layer for {expected} axes (B, ...), so a sequence of it has "
                f"{expected + 1} axes (T, B, ...); got shape {tuple(value.shape)}. For one input write snn(x, T=...)"
            )
    found = [tensor for name in given if name in moving for tensor in tensors(given[name])]
    lengths = {tensor.shape[0] if tensor.ndim else 0 for tensor in found}
    if len(lengths) != 1 or 0 in lengths:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
        raise InputError(
            f"sequence: inputs are event sequences (T, B, ...) of one length T >= 1, got shapes {shapes}; "
            "for one input presented for T steps write snn(x, T=...)"
        )
    return lengths.pop()


#: How many first steps a readout leaves out.
DELAY = whole(0, wanted="is a number of steps that the readout leaves out, a whole number of at least 0")


def check_delay(delay: int, T: int, code: Code) -> None:
    """A readout may leave out first steps if the rest is an average of its own."""
    if delay >= T:
        raise InputError(f"delay is a number of steps that the readout leaves out, 0 <= delay < T = {T}; got {delay!r}")
    if delay and any(code.clock(t).alpha >= 1.0 for t in range(2, T + 1)):
        raise InputError(
            f"delay: under {code} every event is needed for the sum; leave out delay=, or use a code that averages: "
            "td_rewrite(code=RATE)"
        )


def check_samples(where: str, given: Mapping[str, Any]) -> None:
    """What is measured on data needs some."""
    empty = [name for name, value in given.items() for leaf in tensors(value) if not leaf.numel()]
    if empty:
        raise InputError(f"{where}: input {empty[0]} is empty; give it at least one sample")


def _is_whole(leaf: Tensor) -> bool:
    return not (leaf.is_floating_point() or leaf.is_complex())
