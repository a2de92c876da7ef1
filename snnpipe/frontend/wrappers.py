"""Modules that only stand around another one, and modules that have no Python code or no weights of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from snnpipe.errors import TraceError

#: Classes whose forward is that of the module inside: where they live, their name, and what they call that module.
#: A file that nobody imported has no instances.
WRAPPERS = (
    ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
    ("torch.nn.parallel", "DataParallel", "module"),
    ("torch.nn.parallel", "DistributedDataParallel", "module"),
)
#: Classes that cannot be followed, and what to do about it.
REFUSED = (
    ("torch.jit", "ScriptModule", "is TorchScript (scripted or traced), which has no Python code to follow",
     "Trace the module it was compiled from"),
    ("torch.distributed.fsdp", "FullyShardedDataParallel", "holds shards of its weights",
     "Gather them into the plain model first (FullyShardedDataParallel.summon_full_params)"),
    ("torch.distributed.fsdp", "FSDPModule", "holds shards of its weights",
     "Gather them into the plain model first (model.unshard())"),
)  # fmt: skip


def unwrapped(module: nn.Module, path: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The module inside compiled and parallel wrappers, and what those call it.

    Wrappers are known by their type: an attribute such as ``_orig_mod`` may be delegated.  A subclass with a
    ``forward`` of its own is no mere wrapper.

    Raises:
        TraceError: a wrapper has hooks or a ``forward`` put on it, which would be lost.
    """
    names: tuple[str, ...] = ()
    while True:
        inside = next((name for kind, name in _loaded(WRAPPERS) if _is_mere(type(module), kind)), None)
        if inside is None:
            return module, names
        replaced = inside == "module" and "forward" in vars(module)
        if replaced or module._forward_hooks or module._forward_pre_hooks:
            what = "a forward" if replaced else "hooks"
            raise TraceError(
                f"trace: {path or 'the model'} ({type(module).__name__}) has {what} of its own around the module it "
                f"wraps.\n  Put them on that module: wrapper.{inside}"
            )
        module, names = vars(module)["_modules"][inside], (*names, inside)


def refuse(module: nn.Module, path: str) -> None:
    """Raises a ``TraceError`` for a module that cannot be copied and followed."""
    for kind, reason, fix in _loaded(REFUSED):
        if issubclass(type(module), kind):
            name = f"{path or 'the model'} ({type(module).__name__})"
            raise TraceError(f"trace: {name} {reason}. {fix}.")
    tensors = {**vars(module)["_parameters"], **vars(module)["_buffers"]}
    lazy = [f"{path}.{name}".lstrip(".") for name, tensor in tensors.items() if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise TraceError(
            f"trace: lazy parameters have no shape yet: {', '.join(lazy)}. Run the model once: model(example)"
        )


def _loaded(table: tuple[tuple[str, ...], ...]) -> Iterator[tuple[Any, ...]]:
    for home, name, *rest in table:
        kind = getattr(sys.modules.get(home), name, None)
        if kind is not None:
            yield kind, *rest


def _is_mere(kind: Any, wrapper: Any) -> bool:
    return issubclass(kind, wrapper) and kind.forward is wrapper.forward and kind.__call__ is wrapper.__call__


@contextmanager
def uncompiled() -> Iterator[None]:
    """Functions under ``torch.compile`` are followed as they were written, and autocast around us stays outside."""
    config = sys.modules.get("torch._dynamo.config")
    devices = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    casting = [torch.autocast(device, enabled=False) for device in devices]
    kept = getattr(config, "error_on_nested_fx_trace", True)
    for region in casting:
        region.__enter__()
    try:
        if config is not None:
            config.error_on_nested_fx_trace = False  # type: ignore[attr-defined]
        yield
    finally:
        if config is not None:
            config.error_on_nested_fx_trace = kept  # type: ignore[attr-defined]
        for region in reversed(casting):
            region.__exit__(None, None, None)
