"""Holding a graph against the model it was made of, on an example: the net under both front ends.

The model is run twice, so one that draws random numbers or remembers earlier runs is found as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snnpipe.emit import graph_module
from snnpipe.errors import TraceError
from snnpipe.frontend.lowering import Lowered
from snnpipe.sharing import tied

#: Roundings of one operator in a graph of n nodes that may add up: each node may double what came before at most once
#: in eight, in practice far less; what is larger is looked at again in float64.
_ROUNDINGS = 8
#: What no number of roundings may come to: those of a hundred nodes in bfloat16 would be 6 times the largest value.
_MOST = 0.125

_UNSTEADY = "draws random numbers, remembers earlier runs, or reads memory that nothing was written to (torch.empty)"


@attrs.frozen(eq=False)
class Example:
    """The arguments of one call of ``forward``."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def cast(self, dtype: torch.dtype | None = None, device: str | None = None) -> Example:
        """A copy, its floats of type ``dtype``, on ``device``."""

        def one(leaf: Tensor) -> Tensor:
            made = leaf.detach().to(device) if device else leaf.detach().clone()
            return made.to(dtype) if dtype is not None and made.is_floating_point() else made

        args, kwargs = pytree.tree_map_only(Tensor, one, (self.args, dict(self.kwargs)))
        return Example(args, kwargs)


def differs(lowered: Lowered, model: Callable[[], nn.Module], example: Example) -> str:
    """Where the graph does not compute what the model computes, in words; "" where it does.

    Args:
        lowered: the graph.
        model: makes a private copy of the model, in evaluation mode.
        example: what to run both on; neither is changed.
    """
    private = model()
    outputs = _Outputs(private)
    with torch.no_grad(), torch.random.fork_rng():
        want, first = outputs.run(example)
        again, second = outputs.run(example)
    repeated = mismatch(want, again, 0.0)
    if repeated:
        where = next((path for path in first if path in second and mismatch(first[path], second[path], 0.0)), "")
        return (
            f"the model computes something else when it runs again on the same example{_at(where)} ({repeated}): it "
            f"{_UNSTEADY}"
        )
    try:
        got, inner = _run(lowered, example)
    except Exception as error:  # whatever the reason: the model does run
        return f"the graph cannot be run on the example as the model can: {(str(error) or repr(error)).splitlines()[0]}"
    bound = rounding(lowered, want)
    found = mismatch(want, got, bound)
    if not found or _agree_in_double(lowered, model, example):
        return ""
    where = next((path for path in first if path in inner and mismatch(first[path], inner[path], bound)), "")
    return f"the graph does not compute what the model computes{_at(where)}: {found}"


def check_taken(model: Callable[[], nn.Module], example: Example) -> None:
    """Raise a TraceError where the model itself cannot be run on the example."""
    with torch.no_grad(), torch.random.fork_rng():
        _Outputs(model()).run(example)


def check_example(lowered: Lowered, model: Callable[[], nn.Module], example: Example) -> None:
    """Raise a TraceError where the graph does not compute what the model computes."""
    found = differs(lowered, model, example)
    if found:
        advice = (
            "Make it a function of its input: write what it reads, and give what is drawn or remembered as an input"
            if _UNSTEADY in found
            else "If the model is a function of its input, this is a fault of snnpipe: please report it with the "
            "model.  Meanwhile keep the module as one call: trace(leaves=(ThatModule,))"
        )
        raise TraceError(f"trace: {found}.\n  {advice}")


def _at(where: str) -> str:
    return f", first in module {where!r}" if where else ""


def _agree_in_double(lowered: Lowered, model: Callable[[], nn.Module], example: Example) -> bool:
    """Whether the difference was rounding: in float64 there is none."""
    given = example.cast(torch.float64)
    double = attrs.evolve(lowered, params=type(lowered.params)(tied(lowered.params, _double)))
    try:
        private = model()
        for module in private.modules():  # not by .double(), which writes to tensors that others hold too
            for own in (module._parameters, module._buffers):
                own |= tied({key: tensor for key, tensor in own.items() if tensor is not None}, _double)
        with torch.no_grad():
            want = private(*given.args, **given.kwargs)
            got, _ = _run(double, given)
    except (RuntimeError, TypeError):  # a type is written into the model
        return False
    return _epsilon(want) < 1e-15 and not mismatch(want, got, 1e-10)


def _double(tensor: Tensor) -> Tensor:
    wide = tensor.detach().double() if tensor.is_floating_point() else tensor
    return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide


class _Outputs:
    """A private copy of a model that also says what each of its modules gave at its only call."""

    def __init__(self, private: nn.Module) -> None:
        self.private = private
        self.found: dict[str, Any] = {}
        self.calls: dict[str, int] = {}
        for path, module in private.named_modules():
            if path and not isinstance(module, torch.jit.ScriptModule):
                module.register_forward_hook(self._note(path))

    def _note(self, path: str) -> Callable[..., None]:
        def note(module: nn.Module, given: Any, output: Any) -> None:
            self.calls[path] = self.calls.get(path, 0) + 1
            self.found[path] = pytree.tree_map_only(Tensor, lambda leaf: leaf.detach().clone(), output)

        return note

    def run(self, example: Example) -> tuple[Any, dict[str, Any]]:
        self.found, self.calls = {}, {}
        given = example.cast()
        try:
            output = self.private(*given.args, **given.kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
            raise TraceError(f"trace: the model itself does not take the example: {error}") from error
        output = pytree.tree_map_only(Tensor, lambda leaf: leaf.detach().clone(), output)
        return output, {path: value for path, value in self.found.items() if self.calls[path] == 1}


def _run(lowered: Lowered, example: Example) -> tuple[Any, dict[str, Any]]:
    """The graph's output, and the values of its nodes that stand for a module, by its path."""
    module = graph_module(lowered.graph, lowered.params)
    given = example.cast()
    names = [node["name"] for node in lowered.graph.inputs]
    named = dict(zip(names, given.args, strict=False)) | {k: v for k, v in given.kwargs.items() if k in names}
    values = _Values(module)
    with torch.no_grad():
        output = values.run(*_in_order(module.graph, named))
    return output, values.by_path


def _in_order(graph: fx.Graph, named: Mapping[str, Any]) -> Iterator[Any]:
    for node in graph.nodes:
        if node.op == "placeholder":
            yield named[str(node.target)] if str(node.target) in named else node.args[0]


class _Values(fx.Interpreter):
    """Runs a graph and keeps what a node gave that alone has the path of its module."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.by_path: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        path = n.meta.get("snnpipe", ("",))[0]
        if path:
            self.by_path[path] = copy.copy(value) if not isinstance(value, Tensor) else value
        return value


def rounding(lowered: Lowered, want: Any) -> float:
    """What rounding may come to in an output, relative to its largest value."""
    return min(_ROUNDINGS * len(lowered.graph.nodes) * _epsilon(want), _MOST)


def _epsilon(tree: Any) -> float:
    kinds = [leaf.dtype for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return max((torch.finfo(kind).eps for kind in kinds), default=0.0)


def mismatch(want: Any, got: Any, bound: float) -> str:
    """What differs between two outputs by more than ``bound``, relative to the largest value; "" if nothing."""
    a, b = (pytree.tree_leaves(tree) for tree in (want, got))
    if len(a) != len(b):
        return f"{len(b)} values instead of {len(a)}"
    for one, other in zip(a, b, strict=True):
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{tuple(other.shape)} {other.dtype} instead of {tuple(one.shape)} {one.dtype}"
        found = _distance(one, other)
        if found > bound:
            return f"relative difference {found:.2g}"
    return ""


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to the largest value; NaN is like NaN, infinity like infinity."""
    if a.numel() == 0 or a.is_meta or a.is_quantized or a.layout is not torch.strided:
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.to(wide), b.to(wide)
    same = (a == b) | ((a != a) & (b != b))
    if bool(same.all()):
        return 0.0
    apart = (a - b).abs()[~same]
    size = a.abs()[torch.isfinite(a.abs())]
    found = apart.max().item() / max(size.max().item() if size.numel() else 1.0, 1e-30)
    return found if found == found else float("inf")
