"""Tracing by ``torch.export``: the model's ``forward`` is run once on an example, shapes known, values not.

This follows what symbols cannot: branches and loops over shapes, ``len(x)``, modules made in ``forward``.  The program
that ``export`` gives is written again as an fx graph of the model's own arguments, tensors and output, and lowered like
any other; its ATEN overloads are spellings (``frontend.aten``).
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from snnpipe.emit import cloned
from snnpipe.errors import TraceError
from snnpipe.frontend.aten import FIRST_RESULT
from snnpipe.frontend.composites import followed
from snnpipe.frontend.lowering import Lowered, lower
from snnpipe.frontend.met import Met, replaced, tensors_of
from snnpipe.frontend.overloads import name_of
from snnpipe.frontend.shadow import shadow
from snnpipe.frontend.symbolic import LIBRARIES, ONE_AT_A_TIME, is_users_file, untraceable
from snnpipe.frozen import is_namedtuple


def exported(root: nn.Module, example: Any, constants: Mapping[str, Any]) -> tuple[Lowered, str]:
    """Export and lower ``root``, a private copy (``shadow``).

    Args:
        root: the model; its tensors become the parameters, under their own keys.
        example: an input tensor, a tuple of positional inputs or a dict of inputs by name.
        constants: further arguments of ``forward``, by name; they are no inputs.

    Returns:
        The lowered graph, and in words which input shapes it is for.
    """
    if isinstance(example, Mapping):
        args, kwargs = (), dict(example) | dict(constants)
    else:
        args, kwargs = tuple(example) if isinstance(example, tuple | list) else (example,), dict(constants)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
        raise TraceError("trace: example= holds no tensor; give an input as forward takes it: trace(example=x)")
    met = Met()
    with ONE_AT_A_TIME, _plain_export(), replaced(met):
        program = _export(root, args, kwargs)
    own = dict(tensors_of(root))
    others = met.tensors(root)
    known = {_memory(tensor): tensor for tensor in others.values()}
    held = (program.constants | program.state_dict).items()
    lifted = {key: value for key, value in held if key not in own and isinstance(value, Tensor)}
    named = {key: known[_memory(value)] for key, value in lifted.items() if _memory(value) in known}
    return _lowered(program, others | own | cloned(lifted) | named), _shapes(program)


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """What tells a tensor that ``export`` lifts: it has no name, and is another object."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.numel()
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if plain else (id(tensor),)


def lower_program(program: ExportedProgram, *, unsafe_share: bool = False) -> Lowered:
    """Lower an exported program, around copies of its tensors unless ``unsafe_share``; it is unchanged."""
    held = {key: value for key, value in (program.constants | program.state_dict).items() if isinstance(value, Tensor)}
    return _lowered(program, held if unsafe_share else cloned(held))


def _lowered(program: ExportedProgram, tensors: Mapping[str, Tensor]) -> Lowered:
    tensors = dict(_with_parts(tensors))
    lowered = lower(_as_called(program, tensors), nn.Module(), tensors)
    if lowered.problems and any(_writes(node) for node in program.graph.nodes):
        # a write through a view: torch can make any of them functional, at the price of a second export
        with ONE_AT_A_TIME, _plain_export():
            functional = program.run_decompositions({})
        parts = {key: value for key, value in functional.state_dict.items() if key not in tensors}
        tensors = cloned(parts) | tensors  # weights of a class of their own have been taken apart
        again = lower(_as_called(functional, tensors), nn.Module(), tensors)
        lowered = again if len(again.problems) < len(lowered.problems) else lowered
    return lowered


def _with_parts(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by key, and the plain tensors that those of a class of their own are made of: ``weight.scale``."""
    for key, tensor in tensors.items():
        yield key, tensor
        if is_traceable_wrapper_subclass(tensor):
            yield from _with_parts({f"{key}.{name}": getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]})


def _export(root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    """With any batch size where that is possible, else with the example's."""
    attempts: list[tuple[Any, bool]] = [((args, kwargs), True), ((args, kwargs), False)]
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
    if all(tensor.shape[0] == 1 for tensor in tensors):  # a size of 1 is always taken for a constant
        attempts.insert(0, (pytree.tree_map(_doubled, (args, kwargs)), True))
    for (given, named), dynamic in attempts:
        batches = ShapesCollection()
        for leaf in pytree.tree_leaves((given, named)) if dynamic else ():
            if isinstance(leaf, Tensor) and leaf.ndim:
                batches[leaf] = {0: Dim.AUTO}
        copy = shadow(root, share=True)  # an attempt may change its modules
        try:
            shapes: Any = batches if dynamic else None
            program = torch.export.export(copy, given, named, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            failure = error
            continue
        if given is args or _batch_sizes(program):
            return program
    raise TraceError(untraceable(failure, root, example=True)) from failure


@contextmanager
def _plain_export() -> Iterator[None]:
    """Ops as the model writes them: no fused fast paths, no regions of their own for gradients, no warnings."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), followed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _doubled(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.ndim else leaf


# what the program is for


def _inputs(program: ExportedProgram) -> list[fx.Node]:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    chosen = [s.arg.name for s in specs if s.kind is InputKind.USER_INPUT and isinstance(s.arg, TensorArgument)]
    return [nodes[name] for name in chosen]


def _batch_sizes(program: ExportedProgram) -> str:
    """The batch sizes the program is right for, "" when there is only one."""
    sizes = [node.meta["val"].shape[0] for node in _inputs(program) if node.meta["val"].ndim]
    free = [size for size in sizes if isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None]
    limits = {program.range_constraints.get(size.node.expr) for size in free} - {None}
    known = [(r.lower, r.upper) for r in limits if r.lower > 2 or r.upper < 2**31]
    texts = [f"{low} to {high}" if high < 2**31 else f"{low} or more" for low, high in known]
    return ", ".join(texts) or "any" if free else ""


def _shapes(program: ExportedProgram) -> str:
    batch = _batch_sizes(program)
    size = f"batch sizes: {batch}" if batch else "the batch size is fixed"
    values = [(node.name, node.meta["val"].shape) for node in _inputs(program)]
    shapes = (f"{name} ({', '.join('B' if isinstance(n, torch.SymInt) else str(n) for n in s)})" for name, s in values)
    return f"for inputs {', '.join(shapes)}; {size}"


# the program as an fx graph of the model's own arguments, tensors and output


def _as_called(program: ExportedProgram, tensors: Mapping[str, Tensor]) -> fx.Graph:
    copy = _Copy(program.graph_module, fx.Graph())
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    user: list[Any] = [s.arg for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    args, kwargs = pytree.tree_unflatten(user, program.call_spec.in_spec)
    names = program.module_call_graph[0].signature.forward_arg_names or [str(arg.name) for arg in user]  # type: ignore[union-attr]
    for name, tree in (*zip(names, args, strict=False), *kwargs.items()):
        copy.argument(name, tree, placeholders)
        if isinstance(tree, TensorArgument):
            shape = placeholders[tree.name].meta["val"].shape
            copy.env[placeholders[tree.name]].meta["shape"] = tuple(n if isinstance(n, int) else None for n in shape)
    names_of: dict[int, list[str]] = {}
    for key, tensor in tensors.items():
        names_of.setdefault(id(tensor), []).append(key)
    for spec in program.graph_signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            node, key = placeholders[spec.arg.name], str(spec.target)
            tied = names_of[id(tensors[key])]
            copy.env[node] = copy.target.get_attr(tied[0])
            if len(tied) > 1 and spec.kind is InputKind.PARAMETER:
                copy.tied[node] = {name.rpartition(".")[0]: copy.target.get_attr(name) for name in reversed(tied)}
        elif spec.kind is not InputKind.USER_INPUT:
            raise TraceError(f"trace: {spec.arg.name} is neither a tensor nor a number ({spec.kind.name})")
    results = copy.nodes(program.graph)
    outputs = program.graph_signature.output_specs
    given = [value for value, spec in zip(results, outputs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
    copy.target.output(_plain(pytree.tree_unflatten(given, program.call_spec.out_spec)))
    return copy.target


@attrs.define(eq=False)
class _Copy:
    """Nodes of one graph written into another."""

    owner: fx.GraphModule
    target: fx.Graph
    env: dict[fx.Node, Any] = attrs.field(factory=dict)
    tied: dict[fx.Node, dict[str, fx.Node]] = attrs.field(factory=dict)
    device: tuple[torch.device, fx.Node] | None = None

    def argument(self, name: str, tree: Any, placeholders: Mapping[str, fx.Node]) -> None:
        """An argument of ``forward``: an input if it holds a tensor, else a constant."""
        leaves = pytree.tree_flatten_with_path(tree)[0]
        made = self.target.placeholder(name) if any(isinstance(leaf, TensorArgument) for _, leaf in leaves) else None
        for path, leaf in leaves:
            node = placeholders[leaf.name]
            if isinstance(leaf, ConstantArgument):
                self.env[node] = leaf.value
                continue
            value = made
            for step in path:
                if isinstance(step, pytree.GetAttrKey):
                    value = self.target.call_function(getattr, (value, step.name))
                else:
                    key = step.key if isinstance(step, pytree.MappingKey) else getattr(step, "idx", None)
                    value = self.target.call_function(operator.getitem, (value, key))
            self.env[node] = value
            if self.device is None and value is not None:
                self.device = (node.meta["val"].device, self.target.call_function(getattr, (value, "device")))

    def nodes(self, graph: fx.Graph) -> Any:
        """Copy all but the placeholders; what the graph returns."""
        for node in graph.nodes:
            if node.op == "output":
                return map_arg(node.args[0], self.env.__getitem__)
            if node.op == "call_function" and not _is_assertion(node.target):
                self.env[node] = self._call(node)
        return None

    def _call(self, node: fx.Node) -> Any:
        target: Any = node.target
        if isinstance(target, HigherOrderOperator):
            return self._region(node)
        origin = _origin(node)

        def value(read: fx.Node) -> Any:  # a tied parameter is called as the module that reads it calls it
            return self.tied.get(read, {}).get(origin[0], self.env[read])

        args: Any = map_arg(node.args, value)
        kwargs: Any = map_arg(node.kwargs, value)
        if target is operator.getitem and isinstance(args[0], tuple | list):
            return args[0][args[1]]
        if isinstance(target, OpOverload) and name_of(target) == "access_subclass_inner_tensor":
            return self.target.get_attr(f"{args[0].target}.{args[1]}")
        if target is torch.ops.aten.batch_norm.default and args[5] and args[3] is not None:
            raise TraceError("trace: the program was exported in training mode; call model.eval() before exporting it")
        if self.device is not None and kwargs.get("device") == self.device[0]:
            kwargs = {**kwargs, "device": self.device[1]}  # the input's device, not the one of the example
        read = [user for user in node.users if user.users or user.target is not operator.getitem]
        first = FIRST_RESULT.get(target) if all(user.args[1:] == (0,) for user in read) else None
        if first is not None:
            target, args = first[0], first[1](args)
        made = self.target.call_function(target, tuple(args), dict(kwargs))
        made.meta["snnpipe"] = origin
        return made if first is None else (made, None, None)

    def _region(self, node: fx.Node) -> Any:
        """A region with gradients or autocast switched: its nodes in place of it."""
        switched = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
        name = getattr(node.target, "__name__", str(node.target))
        at = switched.get(name)
        if at is None or (name == "wrap_with_autocast" and node.args[2]):
            _, where, _ = _origin(node)
            reason = "switches autocast on" if at else f"uses {name}, a branch or loop over values,"
            raise TraceError(
                f"trace: the model {reason}" + f" at {where}" * bool(where) + ".\n  Convert the parts before and "
                "after separately, or keep the module that does it as one call: trace(leaves=(ThatModule,))"
            )
        region: Any = getattr(self.owner, str(node.args[at].target))  # type: ignore[union-attr]
        inside = _Copy(region, self.target, device=self.device)
        operands = map_arg(node.args[at + 1 :], self.env.__getitem__)
        entries = [entry for entry in region.graph.nodes if entry.op == "placeholder"]
        inside.env = dict(zip(entries, operands, strict=True))
        return inside.nodes(region.graph)


def _is_assertion(target: Callable[..., Any] | str) -> bool:
    checks = ("_assert", "sym_constrain_range")
    return isinstance(target, OpOverload) and name_of(target).startswith(checks)


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _plain(tree: Any) -> Any:
    """An output of tuples, lists and dicts; other mappings (the outputs of ``transformers``) become dicts."""
    if isinstance(tree, Mapping):
        return {key: _plain(value) for key, value in tree.items()}
    if is_namedtuple(tree):
        return type(tree)(*map(_plain, tree))
    return type(tree)(map(_plain, tree)) if type(tree) in (tuple, list) else tree


_FRAME = re.compile(r'File "(.+?)", line (\d+)')


def _origin(node: fx.Node) -> tuple[str, str, str | None]:
    """``(module path, file:line, name)`` for ``lower``."""
    written = _FRAME.findall(node.meta.get("stack_trace") or "")
    frames = [f"{file}:{line}" for file, line in written if is_users_file(file) and not file.startswith("torch/")]
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    path = re.sub(r"@\d+", "", path) if isinstance(path, str) and not path.startswith("_empty") else ""
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return path, frames[-1] if frames else "", "" if path and kind.startswith(LIBRARIES) else None
