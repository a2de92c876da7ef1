"""Tracing by ``torch.fx``: the model's ``forward`` is run once on symbols.

torch's own modules are followed into their ``forward`` like the user's, so a model that calls ``nn.ReLU`` and one
that calls ``F.relu`` give the same graph.  Those whose ``forward`` cannot be followed (``nn.LSTM``) stay whole, and so
do the modules the user names as leaves.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from snnpipe.containers import opened, unknown
from snnpipe.errors import TraceError
from snnpipe.frontend import facts
from snnpipe.frontend.chance import undisturbed
from snnpipe.frontend.composites import followed
from snnpipe.frontend.lowering import Lowered, lower
from snnpipe.frontend.memory import Kept, assignments, check_same, nodes_in, same_values
from snnpipe.frontend.met import CALL, Met, entry, refuse_autocast, tensors_of, unused_name
from snnpipe.frontend.places import is_torch, untraceable, user_line
from snnpipe.frontend.shadow import is_private, unregistered
from snnpipe.frontend.symbols import Symbol, holds_symbols, known_length
from snnpipe.frontend.watch import Watch
from snnpipe.frozen import Packed, is_namedtuple

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
    with ONE_AT_A_TIME, followed(), undisturbed():  # fx patches torch.nn.Module while it traces
        first = _traced(root, _Tracer(inputs, dict(constants), leaves))
        try:
            second = _traced(root, _Tracer(inputs, dict(constants), leaves))
        except Kept as kept:
            if kept.depends_on_values:
                raise TraceError(str(kept)) from None
        else:
            check_same(first, second)
    return first


def _traced(root: nn.Module, tracer: _Tracer) -> Lowered:
    try:
        with assignments(tracer.assigned), tracer.watch:
            graph = tracer.trace(root)
    except (TraceError, Kept):
        raise
    except Exception as error:
        raise TraceError(untraceable(error, root, tracer.failed)) from error
    finally:
        tracer.closed = True
    kept = [key for key in tracer.assigned if key in tracer.tensors]
    own = dict(root._modules)
    try:
        root._modules |= tracer.adopted  # after forward, which may go through its own modules
        return lower(graph, root, tracer.tensors, made=tracer.made, kept=kept)
    finally:
        root.__dict__["_modules"] = own
        for name in tracer.added:
            delattr(root, name)


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
        self.watch = Watch(self._constant, self._record, user_line)
        self.closed = False
        self.made: set[str] = set()
        self.added: list[str] = []
        self.assigned: dict[str, nn.Module] = {}

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
        if self.closed:  # a symbol of the run before, which the model has kept
            raise Kept(next(iter(nodes_in(args)), None))
        node = super().create_node(*args, **kwargs)
        path = self.scope.module_path or ""
        module = self.module_at(path) if path else None
        refuse_autocast(node)
        node.meta["snnpipe"] = (path, user_line(), "" if module is not None and is_torch(module) else None)
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Symbol(node, self)

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
        if m in self.whole or isinstance(m, containers) or not all(map(is_torch, m.modules())):
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
        """A tensor that belongs to no module (a constant) is copied, as it is now; containers stay what they are."""
        if isinstance(a, fx.Proxy):
            if a.tracer is not self:
                raise Kept(a.node)
            return a.node
        if is_namedtuple(a):
            return type(a)(*map(self.create_arg, a))
        if type(a).__module__ == "numpy" and hasattr(a, "ndim"):
            a = torch.tensor(a) if a.ndim else a.item()  # to torch, an array is a tensor and its number one of Python
        if isinstance(a, types.FunctionType | types.BuiltinFunctionType | functools.partial) and not holds_symbols(a):
            return a
        found = opened(a)
        if found is not None:
            return Packed(found[0], tuple(map(self.create_arg, found[1])))
        if not isinstance(a, torch.Tensor) or id(a) in self.tensor_keys:
            try:
                return super().create_arg(a)
            except NotImplementedError as error:
                raise TraceError(unknown(a, user_line())) from error
        a = self.watch.seen(a)
        if isinstance(a, fx.Proxy):
            return a.node
        self.watch.constant(a)
        known, copy = self.foreign.get(id(a), (a, None))
        if copy is None or not same_values(known, copy):
            copy = a.detach().clone()
            self.foreign[id(a)] = (a, copy)
        new = copy not in self.tensor_attrs
        node: Any = super().create_arg(copy)
        if new:
            self.added.append(str(node.target))
            self.made |= {str(node.target)} if self.watch.is_made(a) else set()
        return node

    def _constant(self, tensor: torch.Tensor) -> fx.Proxy:
        return self.proxy(self.create_arg(tensor))

    def _record(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A call that touches symbols."""
        for leaf in pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, fx.Proxy) and leaf.tracer is not self:
                raise Kept(leaf.node)
        if facts.name_of(function) == "__get__":
            return getattr(args[0], function.__self__.__name__)
        if facts.name_of(function) == "__set__":
            return setattr(args[0], function.__self__.__name__, args[1])
        return fx.Proxy.__torch_function__(function, (), args, kwargs)

    def iter(self, obj: Any) -> Any:
        """Unroll a loop over the pieces of a tensor; fx itself unpacks ``a, b = x`` and nothing else."""
        pieces = known_length(obj.node)
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


def _accept(x: Any) -> None:
    """Stands in for a shape check that symbols cannot pass."""
