"""Tracing by ``torch.fx``: the model's ``forward`` is run once on symbols.

torch's own modules are followed into their ``forward`` like the user's, so a model that calls ``nn.ReLU`` and one
that calls ``F.relu`` give the same graph.  Those whose ``forward`` cannot be followed (``nn.LSTM``) stay whole, and so
do the modules the user names as leaves.
"""

from __future__ import annotations

import inspect
import operator
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

from snnpipe.errors import TraceError
from snnpipe.frontend.composites import followed
from snnpipe.frontend.lowering import Lowered, lower
from snnpipe.frontend.met import CALL, Met, entry, refuse_autocast, tensors_of, unused_name
from snnpipe.frontend.shadow import is_private, unregistered

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)
_PACKAGE = str(Path(__file__).parents[1])
_OPS = str(Path(_PACKAGE, "ops"))
#: Where modules live that stand for one operator: its node is called as the module is.
LIBRARIES = ("torch.", "torchao.", "onnx2torch.", "snnpipe.ops.")
#: Both front ends patch torch while they run.
ONE_AT_A_TIME = threading.RLock()


def symbolic(
    root: nn.Module,
    *,
    inputs: tuple[str, ...] | None,
    constants: Mapping[str, Any],
    leaves: tuple[type[nn.Module], ...],
) -> Lowered:
    """Trace and lower ``root``, a private copy (``shadow``).

    Args:
        inputs: the arguments of ``forward`` that stay inputs; by default those without a default value.
        constants: values for other arguments, instead of their defaults.
        leaves: module classes to keep as one call.
    """
    for module in root.modules():
        if isinstance(module, _NormBase) and type(module)._check_input_dim.__module__.startswith("torch.nn"):
            module.__dict__["_check_input_dim"] = _accept  # it asks a symbol for its rank
    tracer = _Tracer(inputs, dict(constants), leaves)
    try:
        with ONE_AT_A_TIME, followed():  # fx patches torch.nn.Module while it traces
            graph = tracer.trace(root)
    except TraceError:
        raise
    except Exception as error:
        raise TraceError(untraceable(error, root, tracer.failed)) from error
    root._modules |= tracer.adopted  # after forward, which may go through its own modules
    return lower(graph, root, tracer.tensors)


class _Tracer(fx.Tracer):
    traced_func_name = "__call__"  # hooks and what else a call of the outermost module runs

    def __init__(
        self, inputs: tuple[str, ...] | None, constants: dict[str, Any], leaves: tuple[type[nn.Module], ...]
    ) -> None:
        super().__init__()
        self.inputs, self.constants, self.leaves = inputs, constants, leaves
        self.thread = threading.get_ident()
        self.whole: set[nn.Module] = set()
        self.failed = ""
        self.paths: dict[nn.Module, str] = {}
        self.adopted: dict[str, nn.Module | None] = {}
        self.met = Met()
        self.tensor_keys: dict[int, list[str]] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.fetched: dict[str, fx.Proxy] = {}
        self.foreign: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        """Inputs become symbols; every other argument takes its given or default value."""
        for key, tensor in tensors_of(self.root):
            self.tensor_keys.setdefault(id(tensor), []).append(key)
            self.tensors[key] = tensor  # forward may assign to a buffer; what it was before counts
        self.paths = {module: path for path, module in reversed(list(self.root.named_modules()))}
        for name, module in unregistered(self.root).items():
            self.adopt(name, module)
        signature = inspect.signature(entry(self.root))
        parameters = list(signature.parameters.values())
        names = [p.name for p in parameters]
        wrong = [name for name in (*(self.inputs or ()), *self.constants) if name not in names]
        if wrong:
            raise TraceError(f"trace: forward has no argument {', '.join(map(repr, wrong))}; it has {names}")
        keywords: dict[str, Any] = {}
        positional: list[Any] = [self.root]
        for p in parameters:
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                continue
            chosen = p.name in self.inputs if self.inputs is not None else p.default is p.empty
            if p.name in self.constants:
                value = self.constants[p.name]
            elif chosen:
                value = self.create_proxy("placeholder", p.name, (), {})
            elif p.default is p.empty:
                raise TraceError(f"trace: argument {p.name!r} has no default; add it to inputs= or constants=")
            else:
                value = p.default
            if p.kind is p.KEYWORD_ONLY:
                keywords[p.name] = value
            else:
                positional.append(value)
        if not any(isinstance(value, fx.Proxy) for value in (*positional, *keywords.values())):
            raise TraceError(
                f"trace: forward{signature} has no argument that is surely an input. "
                "Name the inputs: trace(inputs=('x',)), or give forward named arguments instead of *args"
            )
        return (lambda root, *args: root(*args, **keywords)), positional

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        path = self.scope.module_path or ""
        module = self.module_at(path) if path else None
        refuse_autocast(node)
        node.meta["snnpipe"] = (path, _user_line(), "" if module is not None and _is_torch(module) else None)
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.whole

    def path_of_module(self, mod: nn.Module) -> str:
        if mod not in self.paths:
            self.adopt(unused_name(mod, {**vars(self.root)["_modules"], **self.adopted}), mod)
        return self.paths[mod]

    def adopt(self, name: str, module: nn.Module) -> None:
        """Give a private module that the root does not register a path, and its tensors keys."""
        self.adopted[name] = module
        for path, part in module.named_modules(prefix=name):
            self.paths.setdefault(part, path)
        for key, tensor in tensors_of(module, name):
            self.tensor_keys.setdefault(id(tensor), []).append(key)
            self.tensors[key] = tensor

    def module_at(self, path: str) -> nn.Module:
        first, _, rest = path.partition(".")
        adopted = self.adopted.get(first)
        return self.root.get_submodule(path) if adopted is None else adopted.get_submodule(rest)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)  # another thread is using a model of its own
        if not is_private(m):
            m = self.met.twin(m)
            forward = partial(CALL, m)
        if isinstance(m, self.leaves):
            self.whole.add(m)
        containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        if m in self.whole or isinstance(m, containers) or not all(map(_is_torch, m.modules())):
            try:
                return super().call_module(m, forward, args, kwargs)
            except Exception:
                self.failed = self.failed or type(m).__name__
                raise
        before, stack = len(self.graph.nodes), self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            if isinstance(error, TraceError) and m is self.root:
                raise
            self._forget(before)
            self.module_stack = stack
            self.whole.add(m)
            return super().call_module(m, forward, args, kwargs)

    def _forget(self, kept: int) -> None:
        """Undo what a failed attempt recorded."""
        for node in reversed(list(self.graph.nodes)[kept:]):
            for key in [key for key, proxy in self.fetched.items() if proxy.node is node]:
                del self.fetched[key]
            self.graph.erase_node(node)

    def create_arg(self, a: Any) -> Any:
        """A tensor that belongs to no module (a global, a constant) is copied once."""
        if isinstance(a, torch.Tensor) and id(a) not in self.tensor_keys:
            a = self.foreign.setdefault(id(a), (a, a.detach().clone()))[1]
        return super().create_arg(a)

    def iter(self, obj: Any) -> Any:
        """Unroll a loop over the pieces of a tensor; fx itself unpacks ``a, b = x`` and nothing else."""
        pieces = _known_length(obj.node)
        return super().iter(obj) if pieces is None else iter([obj[k] for k in range(pieces)])

    def _key(self, attr: str, value: Any) -> str | None:
        """The key of a parameter or buffer: a tied one is called as the module that reads it calls it."""
        keys = self.tensor_keys.get(id(value), []) if isinstance(value, torch.Tensor) else []
        own = f"{self.scope.module_path}.{attr}" if self.scope.module_path else attr
        return own if own in keys else next(iter(keys), None)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Parameters and buffers become symbols, one for each tensor however often it is read."""
        key = self._key(attr, attr_val)
        if key is None:
            return attr_val
        if key not in self.fetched:
            self.fetched[key] = self.create_proxy("get_attr", key, (), {})
        return self.fetched[key]


class _Symbol(fx.Proxy):
    """A symbol that also records Python's in-place operators and item assignment."""

    def __len__(self) -> int:
        pieces = _known_length(self.node)
        return super().__len__() if pieces is None else pieces

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})


def _known_length(node: fx.Node) -> int | None:
    """The number of pieces a tensor was cut into, where the call says it."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    cut = node.args[1] if len(node.args) > 1 else None
    if name == "chunk":
        cut = node.kwargs.get("chunks", cut)
        return cut if isinstance(cut, int) else None
    if name in ("split", "split_with_sizes"):
        cut = node.kwargs.get("split_size", node.kwargs.get("split_size_or_sections", cut))
        return len(cut) if isinstance(cut, tuple | list) else None
    return None


def _recorder(target: Callable[..., Any]) -> Callable[[_Symbol, Any], Any]:
    def inplace(self: _Symbol, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return inplace


for _name in ("iadd", "isub", "imul", "itruediv", "imatmul", "ipow", "ifloordiv", "imod"):
    setattr(_Symbol, f"__{_name}__", _recorder(getattr(operator, _name)))


def _accept(x: Any) -> None:
    """Stands in for a shape check that symbols cannot pass."""


def _is_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith(LIBRARIES)


def is_users_file(name: str) -> bool:
    """Whether code in this file is the user's, neither torch's nor ours."""
    return not name.startswith((_TORCH, _PACKAGE, "<")) and "toolz" not in Path(name).parts


def _user_line() -> str:
    """``file:line`` of the user's code that is running, "" if none is."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if frame.f_code.co_name == "symbolic" and name.startswith(_HERE):
            return ""
        if not name.startswith((_TORCH, _HERE, _OPS, "<")):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def untraceable(error: BaseException, root: nn.Module, failed: str = "", *, example: bool = False) -> str:
    """Why ``forward`` cannot be followed, where, and what to do.

    Args:
        error: what was raised while it ran.
        root: the model.
        failed: the class of the module whose ``forward`` it was, if known.
        example: whether an example input was given.
    """
    while example and error.__context__ is not None:  # export raises its errors anew
        error = error.__context__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users_file(f.filename)]
    running = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    inner = [
        type(m).__name__ for m in running if isinstance(m, nn.Module) and not _is_torch(m) and type(m) is not type(root)
    ]
    failed = failed or (inner[-1] if inner and example else "")
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "the model's forward"
    code = f"\n    {frames[-1].line}" if frames and frames[-1].line else ""
    if failed:
        leaf = f"keep the module that does it as one call: trace(leaves=({failed},))"
    else:
        leaf = f"keep the model as one call: trace(leaves=({type(root).__name__},))"
    why = (
        "  Values of the input are not known while forward runs, so Python cannot branch on them or turn them into\n"
        "  numbers.  Do one of these:\n"
        if example
        else "  A symbol stands for the input while forward runs, so Python cannot branch on its values, loop over\n"
        "  its shape or turn it into a number.  Do one of these:\n"
        "   - where only its shape decides, give an example: trace(example=x);\n"
    )
    return (
        f"trace: cannot follow the model at {place}:{code}\n"
        f"  cause: {str(error).splitlines()[0] if str(error) else type(error).__name__}\n"
        f"{why}"
        f"   - {leaf};\n"
        "     it is then converted as a whole, on decoded values, and stays a graded (float) unit;\n"
        "   - fix an argument that only selects a branch: trace(constants={'flag': True});\n"
        "   - write the branch with torch.where, and the loop over a known length"
    )
