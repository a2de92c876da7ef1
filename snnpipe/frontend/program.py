"""An exported program, written again as an fx graph of the model's own arguments, tensors and output."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, fx
from torch._ops import HigherOrderOperator, OpOverload
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from snnpipe.containers import Record, packed
from snnpipe.errors import TraceError
from snnpipe.frontend.aten import FIRST_RESULT
from snnpipe.frontend.facts import name_of
from snnpipe.frontend.leaves import CALLS
from snnpipe.frontend.places import LIBRARIES, TRANSFORM, is_users_file
from snnpipe.frozen import Packed, leaves, map_leaves
from snnpipe.graph import Traced
from snnpipe.ops.functions import child_of

#: Sizes of this and more are any size.
OPEN = 2**31


def kept_keys(program: ExportedProgram) -> set[str]:
    """The keys of the buffers that the program writes to."""
    written = (OutputKind.BUFFER_MUTATION, getattr(OutputKind, "PARAMETER_MUTATION", OutputKind.BUFFER_MUTATION))
    return {str(spec.target) for spec in program.graph_signature.output_specs if spec.kind in written}


def refuse_transforms(program: ExportedProgram) -> None:
    """Raise a TraceError where a program holds what is left of a transform of ``torch.func``: no sense alone."""
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]
    nodes = (node for graph in graphs for node in graph.nodes)
    left = next((node for node in nodes if _transforms(node)), None)
    if left is not None or any(map(_is_inside, program.constants.values())):
        where = _origin(left)[1] if left is not None else ""
        raise TraceError(
            f"trace: {TRANSFORM}" + f", at {where}" * bool(where) + ".\n  Write what it computes as an expression, "
            "or keep the module that does it as one call: trace(leaves=(ThatModule,))"
        )


def _transforms(node: fx.Node) -> bool:
    return (getattr(node.target, "__module__", "") or "").startswith(("torch._functorch", "torch._C._functorch"))


def _is_inside(constant: Any) -> bool:
    """Whether a constant is a value from inside a transform: all that the programs of torch 2.6 keep of one."""
    inside = torch._C._functorch.is_functorch_wrapped_tensor
    return isinstance(constant, FakeTensor) or (isinstance(constant, Tensor) and inside(constant))


# what the program is for


def _inputs(program: ExportedProgram) -> list[fx.Node]:
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    chosen = [s.arg.name for s in specs if s.kind is InputKind.USER_INPUT and isinstance(s.arg, TensorArgument)]
    return [nodes[name] for name in chosen]


def batch_sizes(program: ExportedProgram) -> str:
    """The batch sizes the program is right for, "" when there is only one."""
    sizes = [node.meta["val"].shape[0] for node in _inputs(program) if node.meta["val"].ndim]
    free = [size for size in sizes if isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None]
    limits = {program.range_constraints.get(size.node.expr) for size in free} - {None}
    known = [(r.lower, r.upper) for r in limits if r.lower > 2 or r.upper < OPEN]
    texts = [f"{low} to {high}" if high < OPEN else f"{low} or more" for low, high in known]
    return ", ".join(texts) or "any" if free else ""


def _size(program: ExportedProgram, size: int | torch.SymInt) -> Any:
    """A size as an input remembers it: a number, the range it may lie in, ``None`` for any."""
    known = size if isinstance(size, int) else size.node.maybe_as_int()
    if known is not None:
        return known
    assert isinstance(size, torch.SymInt)
    limits = program.range_constraints.get(size.node.expr)
    if limits is None or (limits.lower <= 2 and limits.upper >= OPEN):
        return None
    return range(int(limits.lower), (OPEN if limits.upper >= OPEN else int(limits.upper)) + 1)


def shapes_of(program: ExportedProgram, low: int) -> str:
    """Which inputs a program is for, in words; ``low`` is the smallest batch, 0 for what the program says."""
    batch = batch_sizes(program)
    batch = "2 or more" if batch == "any" and low == 2 else batch
    size = f"batch sizes: {batch}" if batch else "the batch size is fixed"
    values = [(node.name, node.meta["val"].shape) for node in _inputs(program)]
    shapes = (f"{name} ({', '.join(_told(n, k) for k, n in enumerate(s))})" for name, s in values)
    return f"for inputs {', '.join(shapes)}; {size}"


def _told(size: int | torch.SymInt, axis: int) -> str:
    return ("any" if axis else "B") if isinstance(size, torch.SymInt) else str(size)


# the program as an fx graph of the model's own arguments, tensors and output


def as_called(program: ExportedProgram, tensors: Mapping[str, Tensor]) -> fx.Graph:
    """The program as an fx graph for ``lower``, around ``tensors`` by key."""
    copy = _Copy(program.graph_module, fx.Graph())
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    user = [_Given(s.arg) for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    args, kwargs = pytree.tree_unflatten(user, program.call_spec.in_spec)
    names = program.module_call_graph[0].signature.forward_arg_names or [str(given.arg.name) for given in user]  # type: ignore[union-attr]
    for name, tree in (*zip(names, args, strict=False), *kwargs.items()):
        copy.argument(name, packed(tree), program, placeholders)
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
    copy.target.output(packed(pytree.tree_unflatten(given, program.call_spec.out_spec)))
    return copy.target


@attrs.frozen
class _Given:
    """A leaf of an argument, as the program describes it; of the result of a kept module, its place there."""

    arg: Any


@attrs.define(eq=False)
class _Copy:
    """Nodes of one graph written into another."""

    owner: fx.GraphModule
    target: fx.Graph
    env: dict[fx.Node, Any] = attrs.field(factory=dict)
    tied: dict[fx.Node, dict[str, fx.Node]] = attrs.field(factory=dict)
    device: tuple[torch.device, fx.Node] | None = None

    def argument(self, name: str, tree: Any, program: ExportedProgram, placeholders: Mapping[str, fx.Node]) -> None:
        """An argument of ``forward``: an input if it holds a tensor, else a constant."""
        found = leaves(tree)
        self.env |= {
            placeholders[given.arg.name]: given.arg.value for given in found if isinstance(given.arg, ConstantArgument)
        }
        if not any(isinstance(given.arg, TensorArgument) for given in found):
            return
        made = self.target.placeholder(name)
        made.meta["shape"] = map_leaves(lambda given: _as_traced(given.arg, program, placeholders), tree)
        for given, value in self.parts(made, tree):
            if isinstance(given.arg, ConstantArgument):
                continue
            node = placeholders[given.arg.name]
            self.env[node] = value
            if self.device is None:
                self.device = (node.meta["val"].device, self.target.call_function(getattr, (value, "device")))

    def parts(self, value: fx.Node, tree: Any) -> Iterator[tuple[_Given, fx.Node]]:
        """The leaves of a value, each taken out of the container it is in."""
        if isinstance(tree, _Given):
            yield tree, value
        elif isinstance(tree, Packed):
            names = tree.kind.names if isinstance(tree.kind, Record) else ()
            for k, child in enumerate(tree.children):
                how: Any = (getattr, (value, names[k])) if k < len(names) else (child_of, (value, k))
                yield from self.parts(self.target.call_function(*how), child)
        else:
            for key, child in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
                yield from self.parts(self.target.call_function(operator.getitem, (value, key)), child)

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
        if target is torch.ops.snnpipe.leaf.default:
            return self._leaf(args, origin)
        if target is torch.ops.aten.batch_norm.default and args[5] and args[3] is not None:
            raise TraceError(
                "trace: batch_norm runs in training mode and writes to its running statistics"
                + f", at {origin[1]}" * bool(origin[1])
                + "; call model.eval() before exporting, or pass training=self.training"
            )
        if self.device is not None:  # the input's device, not the one of the example
            args, kwargs = map_leaves(partial(_there, *self.device), (args, dict(kwargs)))
        read = [user for user in node.users if user.users or user.target is not operator.getitem]
        first = FIRST_RESULT.get(target) if all(user.args[1:] == (0,) for user in read) else None
        if first is not None:
            target, args = first[0], first[1](args)
        made = self.target.call_function(target, tuple(args), dict(kwargs))
        made.meta["snnpipe"] = origin
        return made if first is None else (made, None, None)

    def _leaf(self, args: tuple[Any, ...], origin: tuple[str, str, str | None]) -> list[Any]:
        """The call of a module kept whole; its tensors, one by one."""
        call = CALLS[args[1]]
        given, named = call.arguments(args[0])
        made = self.target.call_module(call.path, given, named)
        made.meta["snnpipe"] = (call.path, origin[1], "")
        places = [_Given(k) for k in range(len(call.results))]
        return [value for _, value in self.parts(made, packed(pytree.tree_unflatten(places, call.taken)))]

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


def _there(given: torch.device, there: fx.Node, leaf: Any) -> Any:
    """The node that says where the input is, for the device that the example was on."""
    return there if isinstance(leaf, torch.device) and leaf == given else leaf


def _as_traced(leaf: Any, program: ExportedProgram, placeholders: Mapping[str, fx.Node]) -> Any:
    """What an input was exported for: the sizes and type of a tensor, the value of anything else."""
    if isinstance(leaf, ConstantArgument):
        return leaf.value
    example = placeholders[leaf.name].meta["val"]
    return Traced(tuple(_size(program, n) for n in example.shape), example.dtype)


def _is_assertion(target: Callable[..., Any] | str) -> bool:
    checks = ("_assert", "sym_constrain_range")
    return isinstance(target, OpOverload) and name_of(target).startswith(checks)


def writes(node: fx.Node) -> bool:
    """Whether a call of the program writes to an argument."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


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
