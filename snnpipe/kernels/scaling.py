r"""Scaling the channels of linear maps: the weights of the same map where its input and its output are kept at
other scales.

Knows the shapes of weights; when a map may be scaled is a rule's business.
"""

from __future__ import annotations

import torch
from torch import Tensor


def output_axes(op: str, weight: Tensor, groups: int) -> Tensor:
    """The weights as (O, I / groups, ...), one row for each output channel; its own inverse.

    Args:
        op: ``linear``, ``conv2d``, ``conv_transpose2d``, ...
        weight: (O, I / groups, ...), of a transposed convolution (I, O / groups, ...).
        groups: of the convolution.

    >>> output_axes("conv_transpose1d", torch.zeros(4, 3, 5), 2).shape
    torch.Size([6, 2, 5])
    >>> output_axes("conv_transpose1d", torch.zeros(6, 2, 5), 2).shape
    torch.Size([4, 3, 5])
    """
    if not op.startswith("conv_transpose"):
        return weight
    grouped: Tensor = weight.unflatten(0, (groups, -1))
    return grouped.transpose(1, 2).flatten(0, 1)


def scaled_map(
    op: str, weight: Tensor, bias: Tensor | None, before: Tensor, after: Tensor, *, groups: int = 1
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    r"""Weight and bias of the map :math:`x' \mapsto D_a^{-1} f(D_b x')` for :math:`f(x) = W x + b`.

    .. math:: W'_{oi} = W_{oi} \, b_i / a_o, \qquad b'_o = b_o / a_o

    Args:
        op: ``linear``, ``conv2d``, ``conv_transpose2d``, ...
        weight, bias: of f.
        before: what 1 of the new input is in the old, (1,), (I,), or (C,) where each stands for I / C inputs.
        after: the same of the output, (1,) or (O,).
        groups: of the convolution.

    Returns:
        New tensors in the dtype of ``weight``, each entry rounded once; not at all where the scales are powers of two
        (and nothing under- or overflows).

    >>> scaled_map("linear", torch.tensor([[1.0, 2.0]]), None, torch.tensor([2.0, 4.0]), torch.tensor([8.0]))
    (tensor([[0.2500, 1.0000]]), None)
    """
    rows = output_axes(op, weight, groups).double()
    per_row = rows.shape[1] * groups  # input channels
    inputs = before.double().repeat_interleave(per_row // before.numel()).reshape(groups, 1, -1)
    factor = inputs / after.double().expand(rows.shape[0]).reshape(groups, -1, 1)  # (groups, O / groups, I / groups)
    made = rows * factor.reshape(rows.shape[0], rows.shape[1], *[1] * (rows.ndim - 2))
    new_bias = None if bias is None else (bias.double() / after.double()).to(bias.dtype)
    return output_axes(op, made, groups).to(weight.dtype), new_bias


def scaled_norm(
    mean: Tensor, weight: Tensor | None, bias: Tensor | None, before: Tensor, after: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Running mean, weight and bias of batch norm whose input and output have other scales; see ``scaled_map``.

    .. math:: (b x' - \mu) g / a + \beta / a = (x' - \mu / b) (b g / a) + \beta / a
    """
    before, after = before.double().expand(mean.shape), after.double()
    gain = torch.ones_like(mean) if weight is None else weight
    shift = None if bias is None else (bias.double() / after).to(bias.dtype)
    return (mean.double() / before).to(mean.dtype), (gain.double() * before / after).to(mean.dtype), shift
