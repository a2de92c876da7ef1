"""A private copy of a model to trace: new module objects in evaluation mode around cloned tensors.

Tracing runs the user's ``forward``; whatever that changes, it changes here and never in the user's model.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from snnpipe.errors import TraceError
from snnpipe.frontend.quantised import settle
from snnpipe.frontend.twins import BUILT, Twins, blank, fields, fill_slots
from snnpipe.frontend.wrappers import refuse, unwrapped
from snnpipe.frozen import EMPTY
from snnpipe.ops.modules import clone

#: What a private module is known by; the copy of the outermost one keeps there what it reaches without registering it.
MARK = "_snnpipe_private"
#: Of no use to a copy that is neither trained nor saved.
_FOR_TRAINING_AND_FILES = (
    "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
_TREE = ("_parameters", "_buffers", "_modules")
_CLASS_CONTAINERS = (list, dict, set)


def shadow(
    model: nn.Module, *, share: bool = False, evaluate: bool = True, instead: Mapping[nn.Module, nn.Module] = EMPTY,
    shapes_only: bool = False,
) -> nn.Module:  # fmt: skip
    """Copy the module tree and all that its modules refer to; the model is unchanged.

    Objects that are one in the model (aliases, tied weights) are one in the copy.  Bound methods, partials and closures
    refer to the copy.  Compiled and parallel wrappers are left out, and parametrizations (``weight_norm``,
    ``spectral_norm``, old or new) are resolved to plain weights.

    Args:
        model: any module that is not compiled to TorchScript and has no lazy parameters.
        share: keep the model's own tensors instead of clones.
        evaluate: in evaluation mode; a copy of a private module keeps the mode it is in.
        instead: modules that are not copied, and what the copy refers to in their place.
        shapes_only: put all tensors of the copy on the meta device, where they have no values.

    Raises:
        TraceError: names what cannot be copied.
    """
    hooks = nn.modules.module._global_forward_hooks or nn.modules.module._global_forward_pre_hooks
    if hooks and not is_private(model):
        raise TraceError(
            "trace: hooks on all modules (register_module_forward_hook) would run while the model is followed. "
            "Remove them: handle.remove()"
        )
    copier = _Copier(share, shapes_only)
    for original, other in instead.items():
        copier.twins.keep(original, other)
    with torch.inference_mode(False), torch.no_grad():
        root: nn.Module = copier.twins.of(model, "")
        fields(root)[MARK] = copier.unregistered(root)
        if evaluate and not is_private(model):
            _evaluate(root, share)
        for part in (root, *unregistered(root).values()):
            settle(part)
    return root


def is_private(module: nn.Module) -> bool:
    """Whether a module is a copy, or was made by a ``forward`` that is being followed."""
    return MARK in fields(module)


def unregistered(root: nn.Module) -> Mapping[str, nn.Module]:
    """The modules that a copy reaches through lists, closures and the like, by names made of where they were found."""
    found: Mapping[str, nn.Module] = fields(root)[MARK]
    return found


class _Copier:
    """Copies each module and each tensor once."""

    def __init__(self, share: bool, shapes_only: bool) -> None:
        self.share, self.shapes_only = share, shapes_only
        self.modules: dict[str, nn.Module] = {}
        self.kinds: dict[type, dict[str, Any]] = {}
        self.twins = Twins(((nn.Module, self.module), (Tensor, self.tensor)))

    def module(self, wrapped: nn.Module, twins: Twins, path: str) -> Any:
        path = path.removeprefix(".")
        refuse(wrapped, path)
        original, names = unwrapped(wrapped, path)
        if original is not wrapped:
            twin = twins.of(original, path)
            for name in names:  # the wrapper's name for what it wraps goes on naming it
                if not hasattr(twin, name):
                    fields(twin)[name] = twin
            return twin
        kind: Any = type(original)
        copy = kind.__new__(kind) if issubclass(kind, fx.GraphModule) else blank(kind)
        if copy is None or issubclass(kind, BUILT):
            name = f"{path or 'the model'} ({kind.__name__})"
            raise TraceError(f"trace: {name} keeps its state where Python has no access")
        self.modules[path] = twins.keep(original, copy)
        held = fields(copy)
        if kind not in self.kinds:
            self.kinds[kind] = _class_containers(kind)
        held.update(self.kinds[kind], **fields(original))
        held.update({name: OrderedDict[Any, Any]() for name in _FOR_TRAINING_AND_FILES if name in held})
        held["_compiled_call_impl"] = None
        for name in _TREE:
            held[name] = {key: twins.of(value, f"{path}.{key}") for key, value in held[name].items()}
        for name in held.keys() - {*_TREE, MARK}:
            held[name] = twins.of(held[name], f"{path}.{name}")
        held[MARK] = {}
        fill_slots(copy, original, twins, path)
        if isinstance(copy, fx.GraphModule):
            copy.recompile()  # each has a class of its own, and so has its copy
        _resolve_parametrizations(copy)
        _resolve_weight_hooks(copy)
        return copy

    def tensor(self, original: Tensor, twins: Twins, path: str) -> Any:
        if self.share and not (self.shapes_only and not original.is_meta):
            return original
        copy = clone(original, requires_grad=original.requires_grad, to="meta" if self.shapes_only else None)
        for name, value in vars(original).items():
            copy.__dict__.setdefault(name, twins.of(value, f"{path}.{name}"))
        return twins.keep(original, copy)

    def unregistered(self, root: nn.Module) -> dict[str, nn.Module]:
        known, found = set(root.modules()), {}
        taken = {*root._modules, *root._parameters, *root._buffers}
        for path, module in self.modules.items():
            if module not in known:
                name = re.sub(r"\W+", "_", path).strip("_") or "model"
                while name in taken:
                    name += "_"
                found[name] = module
                taken.add(name)
                known |= set(module.modules())
        return found


def _class_containers(kind: type) -> dict[str, Any]:
    """Lists and the like that are kept on the user's classes: a copy has its own."""
    held = {name: value for base in reversed(kind.__mro__) for name, value in _own(base)}
    return {name: value for name, value in held.items() if type(value) in _CLASS_CONTAINERS}


def _own(base: type) -> list[tuple[str, Any]]:
    if base.__module__.partition(".")[0] in ("torch", "builtins"):
        return []
    return [(name, value) for name, value in vars(base).items() if not name.startswith("__")]


def _evaluate(root: nn.Module, share: bool) -> None:
    """What ``model.eval()`` does to a copy, which is the class's own affair where it says so."""
    outermost = [root, *unregistered(root).values()]
    modules = [module for part in outermost for module in part.modules()]
    switches = ("train", "eval")
    own = any(getattr(type(m), name) is not getattr(nn.Module, name) for m in modules for name in switches)
    replaced = any(name in fields(m) for m in modules for name in switches)  # torch.export forbids the switch that way
    if not own or replaced or not any(module.training for module in modules):
        for module in modules:
            fields(module)["training"] = False
        return
    if share:
        raise TraceError(
            "trace: the model has a train() or eval() of its own, which may write to its weights. "
            "Call model.eval() before tracing it with unsafe_share=True"
        )
    try:
        for part in outermost:
            part.eval()
    except Exception as error:
        raise TraceError(f"trace: model.eval() fails: {error}") from error


def _resolve_parametrizations(copy: nn.Module) -> None:
    """Make ``Parametrized<Class>`` an instance of ``Class`` again, holding the computed weights."""
    if not parametrize.is_parametrized(copy):
        return
    names = list(copy.parametrizations)  # type: ignore[arg-type]
    weights = {name: getattr(copy, name) for name in names}
    copy.__class__ = type(copy).__mro__[1]
    del copy._modules["parametrizations"]
    for name, weight in weights.items():
        copy._parameters[name] = nn.Parameter(weight.detach().clone(), requires_grad=False)


def _resolve_weight_hooks(copy: nn.Module) -> None:
    """Run and drop the hooks that ``nn.utils.weight_norm`` and ``nn.utils.spectral_norm`` (the old ones) install."""
    kept = copy._forward_pre_hooks.copy()
    for key, hook in list(kept.items()):
        if not (hasattr(hook, "compute_weight") and hasattr(hook, "name")):
            continue
        extra = (False,) if type(hook).__name__ == "SpectralNorm" else ()
        weight = hook.compute_weight(copy, *extra)
        copy.__dict__.pop(hook.name, None)
        copy._parameters[hook.name] = nn.Parameter(weight.detach().clone(), requires_grad=False)
        del kept[key]
    copy.__dict__["_forward_pre_hooks"] = kept
