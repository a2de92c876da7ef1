"""torch's fake-quantisation modules in a copy of a model: their switches are read once, when the model is traced.

Their own forward asks buffers whether to observe and whether to quantise, which neither front end can follow.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from snnpipe.errors import TraceError
from snnpipe.kernels.quantiser import fake_quantize

#: The forwards that are replaced, by name, for torch may move or drop them; a subclass may have one of its own.
FORWARDS = ("FakeQuantize.forward", "FusedMovingAvgObsFakeQuantize.forward", "_LearnableFakeQuantize.forward")
_HOMES = ("torch.ao.quantization", "torchao.quantization")
_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams)
_SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)


@torch.library.custom_op(
    "snnpipe::fake_quantize",
    mutates_args=(),
    schema="(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, int? axis) -> Tensor",
)
def quantised(
    input: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, axis: int | None
) -> Tensor:
    """``kernels.quantiser.fake_quantize`` as one operator, which ``torch.export`` can follow (it cannot torch's)."""
    return fake_quantize(input, scale, zero_point, quant_min, quant_max, axis)


quantised.register_fake(lambda input, *parameters: torch.empty_like(input))

#: How the graphs of both front ends call it.
QUANTISED: Any = torch.ops.snnpipe.fake_quantize.default


def settle(root: nn.Module) -> None:
    """Let every fake-quantisation module of a copy quantise, or not, as it stands; its tensors are not written to.

    Raises:
        TraceError: one still observes its input.
    """
    for path, module in root.named_modules():
        forward = type(module).forward
        name, home = getattr(forward, "__qualname__", ""), getattr(forward, "__module__", None) or ""
        if home.startswith(_HOMES) and name in FORWARDS:
            _settle(path, module, trained=name.startswith("_Learnable"))


def _settle(path: str, module: Any, *, trained: bool) -> None:
    if bool(module.static_enabled if trained else module.observer_enabled):
        switch = "module.enable_param_learning()" if trained else "model.apply(torch.ao.quantization.disable_observer)"
        raise TraceError(
            f"trace: {path or 'the model'} ({type(module).__name__}) still observes its input, so what it computes "
            f"depends on the data before.\n  Switch its observer off before tracing: {switch}"
        )
    owner = module if trained else module.activation_post_process
    bounds = (owner.quant_min, owner.quant_max)
    if trained:
        zero_point = module.zero_point.detach().round().clamp(*bounds) * (module.qscheme not in _SYMMETRIC)
        _put(module, scale=module.scale.detach().clamp(min=float(module.eps)), zero_point=zero_point.to(torch.int32))
    module.__dict__ |= {
        "settled_bounds": bounds if bool(module.fake_quant_enabled) else None,
        "settled_axis": module.ch_axis if module.qscheme in _PER_CHANNEL else None,
    }
    kind: Any = type(module)
    module.__class__ = _settled(kind)


def _put(module: nn.Module, **buffers: Tensor) -> None:
    for name, tensor in buffers.items():
        module._parameters.pop(name, None)
        module._buffers[name] = tensor


@lru_cache(maxsize=16)
def _settled(kind: Any) -> Any:
    """The class of a settled module: that of the user's with another forward."""
    body = {
        "forward": _forward,
        "__module__": kind.__module__,
        "__reduce__": lambda self: (_revived, (kind, vars(self))),
    }
    return type(kind.__name__, (kind,), body)


def _revived(kind: Any, contents: dict[str, Any]) -> Any:
    module = kind.__new__(kind)
    vars(module).update(contents)
    module.__class__ = _settled(kind)
    return module


def _forward(self: Any, x: Tensor) -> Tensor:
    if self.settled_bounds is None:
        return x
    y: Tensor = quantised(x, self.scale, self.zero_point, *self.settled_bounds, self.settled_axis)
    return y
