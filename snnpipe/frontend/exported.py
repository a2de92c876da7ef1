"""Tracing by ``torch.export``: the model's ``forward`` is run once on an example, shapes known, values not.

This follows what symbols cannot: branches and loops over shapes, ``len(x)``, modules made in ``forward``.  The program
that ``export`` gives is written again as an fx graph of the model's own arguments, tensors and output, and lowered like
any other; its ATEN overloads are spellings (``frontend.aten``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from snnpipe.containers import tensors
from snnpipe.emit import cloned
from snnpipe.errors import TraceError
from snnpipe.frontend.axes import Axes, check_axes, check_free, check_others, least_sizes, limited, marked
from snnpipe.frontend.calls import COPY, FUNCTIONAL
from snnpipe.frontend.chance import undisturbed
from snnpipe.frontend.composites import followed
from snnpipe.frontend.facts import name_of
from snnpipe.frontend.leaves import keep, learn
from snnpipe.frontend.lowering import Lowered, lower
from snnpipe.frontend.met import Met, replaced, tensors_of
from snnpipe.frontend.places import untraceable
from snnpipe.frontend.program import as_called, batch_sizes, kept_keys, refuse_transforms, shapes_of, writes
from snnpipe.frontend.pytrees import Known, pytrees, telling
from snnpipe.frontend.quiet import silenced
from snnpipe.frontend.selfcheck import Example, check_example, check_taken, differs
from snnpipe.frontend.shadow import shadow
from snnpipe.frontend.symbolic import ONE_AT_A_TIME
from snnpipe.frozen import EMPTY, is_namedtuple
from snnpipe.frozen import leaves as leaves_of
from snnpipe.graph import Node, Traced
from snnpipe.sharing import without_values

#: torch runs these on operands that do not fit, and destroys memory: they are never run on another batch size.
_UNCHECKED = frozenset({"lu_unpack"})


def exported(
    root: nn.Module, example: Any, constants: Mapping[str, Any], leaves: tuple[type[nn.Module], ...] = (),
    axes: Axes = EMPTY, others: tuple[Any, ...] = (),
) -> tuple[Lowered, str]:  # fmt: skip
    """Export and lower ``root``, a private copy (``shadow``), and hold the graph against it on the example.

    Args:
        root: the model; its tensors become the parameters, under their own keys.
        example: an input tensor, a tuple of positional inputs or a dict of inputs by name.
        constants: further arguments of ``forward``, by name; they are no inputs.
        leaves: module classes to keep as one call.
        axes: further axes that may have another size than in the example, by input.
        others: examples in which they have.

    Returns:
        The lowered graph, and in words which input shapes it is for.
    """
    given = as_arguments(example, constants)
    if not tensors((given.args, given.kwargs)):
        raise TraceError("trace: example= holds no tensor; give an input as forward takes it: trace(example=x)")
    with ONE_AT_A_TIME, pytrees() as known:
        known((given.args, dict(given.kwargs)))
        check_axes(root, given, axes)
        further = tuple(as_arguments(x, constants) for x in others)
        check_others(root, given, axes, further)
        return _first_right(root, given, leaves, known, axes, further)


def _first_right(
    root: nn.Module, given: Example, leaves: tuple[type[nn.Module], ...], known: Known, axes: Axes,
    others: tuple[Example, ...],
) -> tuple[Lowered, str]:  # fmt: skip
    """The first attempt that computes what the model computes on its example."""
    own = dict(tensors_of(root))
    lacking = bool(without_values(own))  # what holds a graph against its model runs both
    given = given.cast(device="meta") if lacking else given
    failure: Exception = RuntimeError("it treats one sample otherwise than several")
    for tried, dynamic, compiling in _attempts(given):
        met = Met()
        with _plain_export(compiling), undisturbed(), replaced(met):
            try:
                program = _export(root, tried, dynamic, leaves, known, axes)
                refuse_transforms(program)
            except TraceError:
                raise
            except Exception as error:
                failure = error if compiling else failure
                continue
        if dynamic and any(name_of(node.target) in _UNCHECKED for node in program.graph.nodes):
            failure = RuntimeError("torch does not check the shapes of what it calls")
            continue
        held = _held(program, own, met.tensors(root))
        lowered = _lowered(program, held, root, lambda graph: not _fails(graph, root, tried))  # noqa: B023
        if lacking and not lowered.problems:
            return lowered, f"{shapes_of(program, 0)}; not held against the model, which has no values"
        if tried is not given and (not batch_sizes(program) or _fails(lowered, root, given)):
            continue  # the example is one sample, which is not treated as two are
        if lowered.problems:
            told = (attrs.evolve(p, fix=COPY if p.fix == FUNCTIONAL else p.fix) for p in lowered.problems)
            return attrs.evolve(lowered, problems=tuple(told)), shapes_of(program, 0)
        check_example(lowered, partial(runnable, root), given)
        if dynamic and batch_sizes(program) and _hangs_on_batch(lowered, root, given):
            failure = RuntimeError("what it computes hangs on the batch size")
            continue
        check_free(lowered, axes)
        least = least_sizes(lowered, root, partial(runnable, root), given, axes, others)
        low = _least(lowered, root, given, program)
        return limited(lowered, low, least), shapes_of(program, low)
    if not lacking:
        check_taken(partial(runnable, root), given)
    raise TraceError(untraceable(failure, root, example=True)) from failure


def as_arguments(example: Any, constants: Mapping[str, Any]) -> Example:
    """An example as the arguments of ``forward``."""
    if isinstance(example, Mapping):
        return Example((), dict(example) | dict(constants))
    several = isinstance(example, tuple | list) and not is_namedtuple(example)
    return Example(tuple(example) if several else (example,), dict(constants))


def runnable(root: nn.Module) -> nn.Module:
    """A copy around the same weights that may be run: what it writes to its buffers stays its own."""
    copy = shadow(root, share=True)
    for module in copy.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    return copy


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """What tells a tensor that ``export`` lifts: it has no name, and is another object."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.numel()
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if plain else (id(tensor),)


def _held(program: ExportedProgram, own: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a program by key: the model's own, those of modules it met, and constants that were lifted."""
    known = {_memory(tensor): tensor for tensor in others.values()}
    held = (program.constants | program.state_dict).items()
    lifted = {key: value for key, value in held if key not in own and isinstance(value, Tensor)}
    named = {key: known[_memory(value)] for key, value in lifted.items() if _memory(value) in known}
    return dict(others) | dict(own) | cloned(lifted) | named


def lower_program(program: ExportedProgram, *, unsafe_share: bool = False) -> Lowered:
    """Lower an exported program, around copies of its tensors unless ``unsafe_share``; it is unchanged."""
    refuse_transforms(program)
    held = held_by(program)
    return _lowered(program, held if unsafe_share else cloned(held), nn.Module())


def held_by(program: ExportedProgram) -> dict[str, Tensor]:
    """The tensors of a program, by key."""
    return {key: value for key, value in (program.constants | program.state_dict).items() if isinstance(value, Tensor)}


def _lowered(
    program: ExportedProgram,
    tensors: Mapping[str, Tensor],
    root: nn.Module,
    is_right: Callable[[Lowered], bool] = lambda graph: True,
) -> Lowered:
    kept = kept_keys(program)
    tensors = dict(_with_parts(tensors))
    lowered = lower(as_called(program, tensors), root, tensors, kept=kept)
    by_view = all(problem.fix == FUNCTIONAL for problem in lowered.problems)
    if lowered.problems and by_view and any(writes(node) for node in program.graph.nodes):
        # a write through a view: torch can make any of them functional, at the price of a second export
        try:
            with ONE_AT_A_TIME, _plain_export():
                functional = program.run_decompositions({})
        except Exception:  # whatever the reason: the problems stand
            return lowered
        parts = {key: value for key, value in functional.state_dict.items() if key not in tensors}
        tensors = cloned(parts) | tensors  # weights of a class of their own have been taken apart
        again = lower(as_called(functional, tensors), root, tensors, kept=kept | kept_keys(functional))
        lowered = again if len(again.problems) < len(lowered.problems) and is_right(again) else lowered
    return lowered


def _attempts(given: Example) -> Iterator[tuple[Example, bool, bool]]:
    """With any batch size where that is possible, else with the example's; as if compiled, else as the model runs."""
    found = [leaf for leaf in pytree.tree_leaves((given.args, given.kwargs)) if isinstance(leaf, Tensor)]
    if all(tensor.shape[0] == 1 for tensor in found if tensor.ndim):  # a size of 1 is always taken for a constant
        yield Example(*pytree.tree_map(_doubled, (given.args, given.kwargs))), True, True
    yield given, True, True
    yield given, False, True
    yield given, True, False
    yield given, False, False


def _export(
    root: nn.Module, given: Example, dynamic: bool, leaves: tuple[type[nn.Module], ...], known: Known, axes: Axes
) -> ExportedProgram:
    given = given.cast()  # torch marks the tensors whose sizes are free, for ever
    shapes: Any = marked(root, given, axes, dynamic)
    copy = shadow(root, share=True)  # an attempt may change its modules
    kept = keep(copy, leaves) if leaves else []
    if kept:
        learn(copy, kept, given.args, dict(given.kwargs))
    telling(copy, known)
    return torch.export.export(copy, given.args, dict(given.kwargs), dynamic_shapes=shapes, strict=False)


def _fails(lowered: Lowered, root: nn.Module, given: Example) -> bool:
    """Whether the graph does not compute what the model does on these arguments, or cannot be run on them."""
    try:
        return bool(lowered.problems or differs(lowered, partial(runnable, root), given))
    except Exception:  # whatever the reason: it is not right for them
        return True


def _hangs_on_batch(lowered: Lowered, root: nn.Module, given: Example) -> bool:
    """Whether the graph is wrong for one sample more: a loop over the batch leaves no trace in a program."""
    found = [leaf for leaf in pytree.tree_leaves((given.args, dict(given.kwargs))) if isinstance(leaf, Tensor)]
    size = next(len(leaf) for leaf in found if leaf.ndim)

    def grown(leaf: Tensor) -> Tensor:
        return torch.cat([leaf, leaf[:1]]) if leaf.ndim and len(leaf) == size else leaf

    more = Example(*pytree.tree_map_only(Tensor, grown, (given.args, dict(given.kwargs))))
    taken = more.cast()
    try:
        with torch.no_grad():
            runnable(root)(*taken.args, **taken.kwargs)
    except Exception:  # whatever the reason: the model does not take it either
        return False
    return _fails(lowered, root, more)


def _least(lowered: Lowered, root: nn.Module, given: Example, program: ExportedProgram) -> int:
    """The smallest batch the graph is right for: ``export`` leaves open what happens to a batch of one."""
    sizes = [size for node in lowered.graph.inputs for traced in _traced(node) for size in traced.shape]
    if not batch_sizes(program) or any(isinstance(size, range) and size.start > 1 for size in sizes):
        return 0
    one = Example(*pytree.tree_map_only(Tensor, lambda x: x[:1] if x.ndim else x, (given.args, dict(given.kwargs))))
    return 2 if _fails(lowered, root, one) else 1


def _with_parts(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by key, and the plain tensors that those of a class of their own are made of: ``weight.scale``."""
    for key, tensor in tensors.items():
        yield key, tensor
        if is_traceable_wrapper_subclass(tensor):
            yield from _with_parts({f"{key}.{name}": getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]})


@contextmanager
def _plain_export(compiling: bool = True) -> Iterator[None]:
    """Ops as the model writes them: no fused fast paths, no regions of their own for gradients, no words of torch's.

    Args:
        compiling: what the model finds when it asks torch whether it is compiled or exported; some then leave out what
            they do as a rule, such as making a mask.
    """
    fast, asked = torch.backends.mha.get_fastpath_enabled(), {name: getattr(torch.compiler, name) for name in _ASKED}
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for name in () if compiling else _ASKED:
            setattr(torch.compiler, name, bool)
        with torch.no_grad(), followed(), silenced(), _InCalls():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for name, function in asked.items():
            setattr(torch.compiler, name, function)


#: Functions of ``torch.compiler`` by which a model asks how it is run.
_ASKED = [name for name in ("is_compiling", "is_dynamo_compiling", "is_exporting") if hasattr(torch.compiler, name)]


_DATA: Any = Tensor.data


class _InCalls(TorchFunctionMode):
    """``x.data`` and ``x.data = y`` as the calls they mean; ``export`` sees neither."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _DATA.__get__:
            return args[0].detach()
        if func == _DATA.__set__:
            return args[0].set_(args[1].detach())
        return func(*args, **(kwargs or {}))


def _doubled(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim else leaf


def _traced(node: Node) -> list[Traced]:
    """What the tensors of an input were exported for."""
    return [leaf for leaf in leaves_of(node.get("shape")) if isinstance(leaf, Traced)]
