"""A private copy of a model to trace: new module objects in evaluation mode around cloned tensors.

Tracing runs the user's ``forward``; whatever that changes, it changes here and never in the user's model.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnpipe.errors import TraceError
from snnpipe.frontend.quantised import settle
from snnpipe.ops.modules import clone

_CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``."""
    while True:
        inner: Any = model.module if isinstance(model, _WRAPPERS) else getattr(model, "_orig_mod", None)
        if inner is None:
            return model
        model = inner


def shadow(model: nn.Module, *, share: bool = False) -> nn.Module:
    """Copy the module tree; the model is unchanged.

    Modules and tensors that are one object in the model (aliases, tied weights) are one object in the copy.
    Parametrizations (``weight_norm``, ``spectral_norm``, old or new) are resolved to plain weights.

    Args:
        model: any module that is not compiled to TorchScript and has no lazy parameters.
        share: keep the model's own tensors instead of clones.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(
            f"trace: {type(model).__name__} is a TorchScript module, which has no Python code to follow. "
            "Trace the module it was compiled from."
        )
    lazy = [name for name, tensor in model.named_parameters() if isinstance(tensor, nn.UninitializedParameter)]
    if lazy:
        raise TraceError(
            f"trace: lazy parameters have no shape yet: {', '.join(lazy)}. Run the model once: model(example)"
        )
    with torch.no_grad():
        copy = _Copier(share).module(model)
        settle(copy)
    return copy


class _Copier:
    """Copies each module and each tensor once."""

    def __init__(self, share: bool) -> None:
        self.share = share
        self.modules: dict[int, nn.Module] = {}
        self.tensors: dict[int, Tensor] = {}
        self.containers: dict[int, Any] = {}

    def module(self, original: nn.Module) -> nn.Module:
        if id(original) in self.modules:
            return self.modules[id(original)]
        cls: Any = type(original)
        twin: nn.Module = cls.__new__(cls)
        self.modules[id(original)] = twin
        twin.__dict__.update(original.__dict__)
        twin.__dict__["training"] = False
        twin.__dict__["_parameters"] = {key: self.tensor(value) for key, value in original._parameters.items()}
        twin.__dict__["_buffers"] = {key: self.tensor(value) for key, value in original._buffers.items()}
        twin.__dict__["_modules"] = {
            key: None if child is None else self.module(child) for key, child in original._modules.items()
        }
        for key, value in list(twin.__dict__.items()):
            if key not in ("_parameters", "_buffers", "_modules"):
                twin.__dict__[key] = self.value(value)
        _resolve_parametrizations(twin)
        _resolve_weight_hooks(twin)
        return twin

    def value(self, original: Any) -> Any:
        """Anything a module may keep as a plain attribute; what is no container, tensor or module is shared."""
        if isinstance(original, Tensor):
            return self.tensor(original)
        if isinstance(original, nn.Module):
            return self.module(original)
        if type(original) not in _CONTAINERS:
            return original
        if id(original) not in self.containers:
            twin = copy.copy(original)
            self.containers[id(original)] = twin
            if isinstance(twin, dict):
                twin.update({key: self.value(item) for key, item in original.items()})
            elif isinstance(twin, list | deque):
                twin.clear()
                twin.extend(self.value(item) for item in original)
        return self.containers[id(original)]

    def tensor(self, original: Tensor | None) -> Tensor | None:
        if original is None or self.share:
            return original
        if id(original) not in self.tensors:
            self.tensors[id(original)] = clone(original, requires_grad=original.requires_grad)
        return self.tensors[id(original)]


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
