"""torch's fake-quantisation modules in a copy of a model: their switches are read once, when the model is traced.

Their own forward asks buffers whether to observe and whether to quantise, which neither front end can follow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, FakeQuantizeBase, FusedMovingAvgObsFakeQuantize
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize

from snnpipe.errors import TraceError
from snnpipe.kernels.quantiser import fake_quantize

_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams)
_SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)
_FORWARDS = (FakeQuantize.forward, FusedMovingAvgObsFakeQuantize.forward, _LearnableFakeQuantize.forward)


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


class SettledFakeQuantize(FakeQuantizeBase):
    """A fake-quantisation module that quantises with constant parameters, or passes everything."""

    scale: Tensor
    zero_point: Tensor
    quantises: bool
    bounds: tuple[int, int]
    axis: int | None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = quantised(x, self.scale, self.zero_point, *self.bounds, self.axis) if self.quantises else x
        return y

    def calculate_qparams(self, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.scale, self.zero_point


def settle(root: nn.Module) -> None:
    """Make every fake-quantisation module of a copy a ``SettledFakeQuantize``, in place; its tensors stay unchanged.

    A subclass with a ``forward`` of its own keeps it.

    Raises:
        TraceError: one still observes its input.
    """
    for path, module in root.named_modules():
        if type(module).forward in _FORWARDS:
            _settle(path, module)


def _settle(path: str, module: Any) -> None:
    trained = isinstance(module, _LearnableFakeQuantize)
    if bool(module.static_enabled if trained else module.observer_enabled):
        switch = "module.enable_param_learning()" if trained else "model.apply(torch.ao.quantization.disable_observer)"
        raise TraceError(
            f"trace: {path or 'the model'} ({type(module).__name__}) still observes its input, so what it computes "
            f"depends on the data before.\n  Switch its observer off before tracing: {switch}"
        )
    owner = module if trained else module.activation_post_process
    module.__dict__ |= {
        "quantises": bool(module.fake_quant_enabled),
        "bounds": (owner.quant_min, owner.quant_max),
        "axis": module.ch_axis if module.qscheme in _PER_CHANNEL else None,
    }
    if trained:
        scale, zero_point = module.scale.detach(), module.zero_point.detach().round().clamp(*module.__dict__["bounds"])
        tensors = {"scale": scale.clamp(min=float(module.eps)), "zero_point": zero_point.to(torch.int32)}
        if module.qscheme in _SYMMETRIC:
            tensors["zero_point"] = torch.zeros_like(tensors["zero_point"])
        for name, tensor in tensors.items():
            module._parameters.pop(name, None)
            module._buffers[name] = tensor
    module._modules.pop("activation_post_process", None)
    module.__class__ = SettledFakeQuantize
