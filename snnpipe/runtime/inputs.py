"""What a caller hands to a network, checked: inputs by name, which of them are event sequences, how many steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from snnpipe.codes import Clock, Code
from snnpipe.containers import packed, tensors
from snnpipe.errors import InputError, SnnpipeError
from snnpipe.frozen import FrozenMap, Packed, freeze
from snnpipe.graph import Graph, Traced, refs
from snnpipe.kernels.precision import narrowed, wide
from snnpipe.kernels.temporal import Unsteady, zip_leaves
from snnpipe.ops.lift import Case, place
from snnpipe.ops.table import batched_rank
from snnpipe.options import whole
from snnpipe.runtime.unsteady import unsteady
from snnpipe.waves import STEP, Wave


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
            f"got {len(inputs)} by position"
            + (f" and {', '.join(named)} by name" if named else "")
            + f"; {OF_TEXTS}" * reads_texts(names)
        )
    if not tensors(given):
        kinds = ", ".join(type(value).__name__ for value in given.values())
        raise InputError(f"inputs must be tensors, got {kinds}; write snn(torch.as_tensor(x), T=...)")
    return defaults | given


def part_of(tree: Any, index: int | slice) -> Any:
    """One step, or some steps, of an input that is a sequence; what is no tensor does not change."""
    return zip_leaves(lambda leaf: leaf[index] if isinstance(leaf, Tensor) else leaf, tree)


def encoded(
    given: Mapping[str, Any], moving: Collection[str], encode: Callable[[Tensor, Clock], Tensor], clock: Clock
) -> dict[str, Any]:
    """The inputs with the events of one step in place of those that move; of a chunk their mean by worth.

    Events are made step by step, whatever the schedule, and then by name: so a seed says which they are.
    """

    def one(part: Clock) -> dict[str, Any]:
        return {name: zip_leaves(partial(_event, encode, part), given[name]) for name in sorted(moving)}

    def mean(*sent: Any) -> Any:
        if not isinstance(sent[0], Tensor):
            return sent[0]
        weighed = [worth * wide(x) for worth, x in zip(clock.worth, sent, strict=True)]
        return narrowed(sum(weighed[1:], weighed[0]) / clock.a, sent[0])

    if not clock.parts:
        return {**given, **one(clock)}
    steps = [one(part) for part in clock.parts]
    return {**given, **{name: zip_leaves(mean, *(step[name] for step in steps)) for name in steps[0]}}


def _event(encode: Callable[[Tensor, Clock], Tensor], clock: Clock, leaf: Any) -> Any:
    return encode(leaf, clock) if isinstance(leaf, Tensor) else leaf


def sequences(given: Mapping[str, Any], graph: Graph) -> frozenset[str]:
    """The inputs that can be events, which add up: floats, but those that were traced as static.

    Indices and masks do not change.
    """
    still = static(graph)
    held = {name: tensors(value) for name, value in given.items() if name not in still}
    moving = frozenset(name for name, found in held.items() if found and not any(map(_is_whole, found)))
    if not moving:
        raise InputError(
            f"inputs {', '.join(given)} are integers or booleans, or static, so no events; convert images with "
            "x.float(); to present indices, which do not change, write snn(x, T=...)"
        )
    return moving


def static(graph: Graph) -> frozenset[str]:
    """The inputs that were traced as static: they do not change in time, be they floats."""
    return frozenset(node["name"] for node in graph.inputs if node.get("static", False))


@lru_cache(maxsize=64)
def _currents(graph: Graph) -> frozenset[str]:
    """The inputs that reach a neuron, or the output, by linear operators alone: infinity arrives there as infinity."""
    placed = place(graph, temporal_inputs=True)
    found = set(refs([node["input"] for node in graph if node.op == "encode"]))
    for node in reversed(graph.nodes):
        if node.name in found and placed[node.name].case is Case.LINEAR:
            found.update(refs(node.operands))
    return frozenset(node["name"] for node in graph.inputs if node.name in found)


@lru_cache(maxsize=64)
def _minds_nan(graph: Graph) -> bool:
    """Whether no operator asks for NaN, which would be an answer to it."""
    targets = [node["target"] for node in graph if node.op == "call"]
    return not any(word in str(getattr(target, "__name__", "")) for target in targets for word in ("nan", "isfinite"))


def check_numbers(given: Mapping[str, Any], graph: Graph) -> None:
    """NaN is no input, and infinity none that a neuron could count; in a mask infinity is right."""
    currents, minds = _currents(graph), _minds_nan(graph)
    for name, value in given.items():
        for leaf in tensors(value):
            if _is_whole(leaf):
                continue
            if leaf.is_meta:
                raise InputError(
                    f"input {name} is on the meta device, where tensors have no numbers; move it: x.to('cpu')"
                )
            bad = ~leaf.isfinite() if name in currents else leaf.isnan() if minds else None
            if bad is not None and bool(bad.any()):
                what = "NaN" if bool(leaf.isnan().any()) else "infinity"
                raise InputError(
                    f"input {name} holds {what} ({int(bad.sum())} of {leaf.numel()} values); events cannot say it. "
                    "Look for it in the data, or replace it: torch.nan_to_num(x)"
                )


def check_shapes(given: Mapping[str, Any], graph: Graph) -> None:
    """An exported program is right for the sizes, types and constants it was exported for, and for no others."""
    for node in graph.inputs:
        if "shape" in node.operands:
            for reason in _misfits(node["shape"], freeze(packed(given[node["name"]])), node["name"]):
                raise InputError(
                    f"{reason}; trace it again with an example like this: trace(example=x). If a correction is per "
                    "neuron, it is for one size: correct on inputs of this one, or per channel"
                )


def _misfits(wanted: Any, value: Any, name: str) -> Iterator[str]:
    """How a value differs from what an input was traced for."""
    if isinstance(wanted, Traced):
        if not isinstance(value, Tensor):
            yield f"{name} is of type {type(value).__name__}, the network was traced for a tensor"
            return
        same_rank = len(wanted.shape) == value.ndim
        if not same_rank or not all(_allows(n, m) for n, m in zip(wanted.shape, value.shape, strict=True)):
            sizes = ", ".join(_size(size, "any" if k else "B") for k, size in enumerate(wanted.shape))
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


def _size(size: int | range | None, called: str) -> str:
    if isinstance(size, range):
        return f"{called} >= {size.start}" if size.stop > 2**31 else f"{size.start} <= {called} <= {size.stop - 1}"
    return called if size is None else str(size)


#: What torch and Python raise of operands that do not fit.
TORCH_SAYS = (RuntimeError, IndexError, KeyError, TypeError, ValueError)
_OF_DTYPES = re.compile(r"dtype|scalar type|not implemented for '|[Ii]nput type|torch\.\w*Tensor|same type|data type")


@contextmanager
def explained(given: Mapping[str, Any], root: nn.Module) -> Iterator[None]:
    """What torch says of inputs that do not fit, with their shapes, or their dtypes where it is these."""
    try:
        yield
    except SnnpipeError:
        raise
    except Unsteady as error:
        raise unsteady(error, root.graph) from error  # type: ignore[arg-type]
    except TORCH_SAYS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(f"the network cannot run on these inputs: {misfit(error, given, root)}") from error


def misfit(error: Exception, given: Mapping[Any, Any], root: nn.Module) -> str:
    """Why inputs do not fit: what was got, what torch says of it, what was expected."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    held = tensors(dict(given))
    if isinstance(error, KeyError):
        return f"the model reads the key {said}, which is not there"
    if said.startswith("index out of range in self"):
        most = [f"{name} up to {int(x.max())}" for name, x in given.items() if _looks_up(x)]
        return f"an index is beyond the table it is looked up in, a vocabulary or a list of places: {', '.join(most)}"
    if _OF_DTYPES.search(said):
        dtypes = {tensor.dtype for tensor in root.state_dict().values() if tensor.is_floating_point()}
        got = ", ".join(_short(tensor.dtype) for tensor in held)
        wanted = ", ".join(sorted(map(_short, dtypes))) or "of no dtype"
        advice = f"; write x.to(torch.{wanted})" if len(dtypes) == 1 else ""
        return f"inputs of dtypes {got}, but the weights are {wanted}: {said}{advice}"
    return (
        f"inputs of shapes {_listed(tuple(tuple(tensor.shape) for tensor in held))}: {said}. Give them as the ANN "
        "takes them, (B, ...); event sequences with a time axis in front, (T, B, ...)"
    )


def _looks_up(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() > 0 and _kind(value.dtype) == "whole numbers"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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


#: What makes the inputs of a language model that was traced with its cache.
OF_TEXTS = "write prompt(network, input_ids, attention_mask), which makes all of them of a text"


def reads_texts(names: Collection[str]) -> bool:
    """Whether inputs are those of a language model with its cache."""
    return {"input_ids", "past"} <= {*names}


#: How many first steps a readout leaves out.
DELAY = whole(0, wanted="is a number of steps that the readout leaves out, a whole number of at least 0")


def check_delay(delay: int, T: int, code: Code, schedule: Wave = STEP) -> None:
    """A readout may leave out first steps, of a wave whole chunks, if the rest is an average of its own."""
    if delay >= T:
        raise InputError(f"delay is a number of steps that the readout leaves out, 0 <= delay < T = {T}; got {delay!r}")
    ends = {clock.t: clock for clock in schedule.clocks(code, T)} if delay else {}
    if delay and any(clock.alpha >= 1.0 for t, clock in ends.items() if t > min(ends)):
        raise InputError(
            f"delay: under {code} every event is needed for the sum; leave out delay=, or use a code that averages: "
            "td_rewrite(code=RATE)"
        )
    if delay and delay not in ends:
        wanted = ", ".join(map(str, [0, *(t for t in ends if t != T)][:9]))
        raise InputError(f"delay: schedule {schedule} is read after whole chunks, so delay is {wanted}; got {delay}")


def check_samples(where: str, given: Mapping[str, Any], graph: Graph) -> None:
    """What is measured on data needs some."""
    for name, _ in empty(given, graph):
        raise InputError(f"{where}: input {name} is empty; give it at least one sample")


def empty(given: Mapping[str, Any], graph: Graph) -> Iterator[tuple[str, Tensor]]:
    """The tensors without samples or, but for static ones (a cache of no tokens), without values."""
    still = static(graph)
    for name, value in given.items():
        yield from ((name, leaf) for leaf in tensors(value) if 0 in (leaf.shape[:1] if name in still else leaf.shape))


def _is_whole(leaf: Tensor) -> bool:
    eight_bits = leaf.dtype.itemsize == 1  # torch does not add such floats
    return not (leaf.is_floating_point() or leaf.is_complex()) or eight_bits
