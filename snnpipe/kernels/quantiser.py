r"""Quantisers: activations with finitely many levels, which a neuron can represent exactly.

Knows tensors; sites and neurons are other files' business.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnpipe.kernels.statistic import along


@torch.library.custom_op(
    "snnpipe::qcfs",
    mutates_args=(),
    schema="(Tensor input, Tensor theta, int levels, int? axis=None) -> Tensor",
)
def qcfs(input: Tensor, theta: Tensor, levels: int, axis: int | None = None) -> Tensor:
    r"""Quantisation clip-floor-shift: what an IF neuron with threshold theta decodes to after ``levels`` steps.

    .. math:: h(x) = \frac{\theta}{L}\,\mathrm{clip}\left(\lfloor L x / \theta + 1/2 \rfloor, 0, L\right)

    With the derivative of the floor taken as 1 (straight through) and :math:`u = L x / \theta + 1/2`,

    .. math:: \frac{\partial h}{\partial x} = [0 < u < L], \qquad
              \frac{\partial h}{\partial \theta} = \frac{h(x) - x}{\theta}\,[0 \le u < L] + [u \ge L].

    It is one operator for ``torch.fx`` and for ``torch.export``.

    Args:
        input: x, any shape.
        theta: one positive number, or one for each channel, (C,).
        levels: L >= 1; there are L + 1 values.
        axis: the channel axis of ``input``, counted from the end; ``None`` for a single theta.

    Returns:
        The shape of ``input``.

    Reference: Bu et al. 2022, "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural
    networks", ICLR.

    >>> qcfs(torch.tensor([-1.0, 0.2, 0.3, 5.0]), torch.tensor(2.0), 4)
    tensor([0.0000, 0.0000, 0.5000, 2.0000])
    """
    return _quantised(input, along(theta, input.ndim, axis), levels)


def _quantised(x: Tensor, theta: Tensor, levels: int) -> Tensor:
    return (x * levels / theta + 0.5).floor_().clamp_(0, levels) * theta / levels


def _shape(input: Tensor, theta: Tensor, levels: int, axis: int | None = None) -> Tensor:
    return torch.empty_like(input, dtype=torch.result_type(input, along(theta, input.ndim, axis)))


def _kept(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, theta, ctx.levels, ctx.axis = inputs
    ctx.save_for_backward(input, theta, output)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, theta, h = ctx.saved_tensors
    scale = along(theta, x.ndim, ctx.axis)
    u = x * ctx.levels / scale + 0.5
    to_x = grad * ((u > 0) & (u < ctx.levels)) if ctx.needs_input_grad[0] else None
    to_theta = None
    if ctx.needs_input_grad[1]:
        slope = torch.where(u < ctx.levels, (h - x) / scale * (u >= 0), 1.0)
        to_theta = (grad * slope).sum_to_size(scale.shape).reshape(theta.shape)
    return to_x, to_theta, None, None


def _batched(
    info: Any, in_dims: tuple[Any, ...], input: Tensor, theta: Tensor, levels: int, axis: int | None = None
) -> tuple[Tensor, int]:
    at, theta_at, *_ = in_dims
    x = input if at is None else input.movedim(at, 0)
    rank = x.ndim - (at is not None)
    if theta_at is None:
        return _quantised(x, along(theta, rank, axis), levels), 0
    samples = [x] * info.batch_size if at is None else x.unbind()
    pairs = zip(samples, theta.unbind(theta_at), strict=True)
    return torch.stack([_quantised(one, along(own, rank, axis), levels) for one, own in pairs]), 0


def _in_double(input: Tensor, scale: Tensor, zero: Any, low: int, high: int, axis: int | None) -> Tensor:
    """The formula itself: torch's own operator keeps its scale in single precision."""
    zero = along(zero.reshape(-1), input.ndim, axis) if isinstance(zero, Tensor) else zero
    u = input / scale
    whole: Tensor = u + (u.round() - u).detach()
    y: Tensor = ((whole + zero).clamp(low, high) - zero) * scale
    return y


qcfs.register_fake(_shape)
qcfs.register_autograd(_gradient, setup_context=_kept)
qcfs.register_vmap(_batched)


def fake_quantize(
    input: Tensor, scale: Any, zero_point: Any, quant_min: int, quant_max: int, axis: int | None = None
) -> Tensor:
    r"""Uniform quantisation with a zero point, as torch computes it.

    .. math:: y = s\,\left(\mathrm{clip}(\mathrm{round}(x / s) + z, q_{min}, q_{max}) - z\right)

    Halves are rounded to even.  The gradient is straight through between the bounds and 0 outside; a scale that
    requires a gradient gets that of LSQ, :math:`\partial y / \partial s = \mathrm{round}(x / s) - x / s` between.

    Args:
        input: x, any shape.
        scale: s > 0, a number, a tensor of one, or one for each channel, (C,).
        zero_point: z, whole: a number, or a tensor like ``scale``.
        quant_min, quant_max: the smallest and the largest whole number.
        axis: the channel axis of ``input``; ``None`` for a single scale.

    Returns:
        The shape of ``input``.

    References: Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", CVPR; Esser et al. 2020, "Learned step size quantization" (LSQ), ICLR.

    >>> fake_quantize(torch.tensor([-1.0, 0.3, 9.0]), 0.5, 0, 0, 15)
    tensor([0.0000, 0.5000, 7.5000])
    """
    if isinstance(scale, Tensor) and scale.dtype == torch.float64:
        return _in_double(input, along(scale.reshape(-1), input.ndim, axis), zero_point, quant_min, quant_max, axis)
    if isinstance(scale, Tensor) and not isinstance(zero_point, Tensor):
        zero_point = torch.full_like(scale, zero_point, dtype=torch.int32)
    at: Any = () if axis is None else (axis % input.ndim,)
    plain: Any = torch.fake_quantize_per_tensor_affine, torch.fake_quantize_per_channel_affine
    trained: Any = torch._fake_quantize_learnable_per_tensor_affine, torch._fake_quantize_learnable_per_channel_affine
    if isinstance(scale, Tensor) and scale.requires_grad and torch.is_grad_enabled():
        plain, zero_point = trained, zero_point.to(scale)
    y: Tensor = plain[len(at)](input, scale, zero_point, *at, quant_min, quant_max)
    return y
