r"""Folding batch normalisation into the linear map before it.

Knows tensors only; when folding is allowed is a rule's business.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fold_batch_norm(
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    *,
    transposed_groups: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Weight and bias of one map equal to batch norm after a linear map.

    .. math:: W' = g W, \quad b' = g (b - \mu) + \beta, \qquad g = \gamma / \sqrt{\sigma^2 + \epsilon}

    Args:
        weight: (O, I/groups, ...) of a convolution or linear map, or (I, O/groups, ...) of a transposed one.
        bias: (O,) or ``None`` for zero.
        mean, var: running statistics (O,).
        gamma, beta: affine parameters (O,) or ``None`` for 1 and 0.
        eps: added to the variance.
        transposed_groups: the number of groups of a transposed convolution, ``None`` for the others.

    Returns:
        New tensors in the dtype of ``weight``.  g and b' are computed in float64, so an entry of W' is rounded twice
        (g, then the product) and one of b' once.
    """
    wide = torch.float64
    g = torch.rsqrt(var.to(wide) + eps)
    if gamma is not None:
        g = g * gamma.to(wide)
    shift = (0.0 if bias is None else bias.to(wide)) - mean.to(wide)
    new_bias = g * shift if beta is None else g * shift + beta.to(wide)
    scale = g.to(weight.dtype)
    if transposed_groups is None:
        new_weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # (groups, I/groups, O/groups, ...): output channel = group * (O/groups) + index
        grouped = weight.unflatten(0, (transposed_groups, -1))
        per_output = scale.reshape(transposed_groups, 1, -1, *[1] * (weight.ndim - 2))
        new_weight = (grouped * per_output).flatten(0, 1)
    return new_weight, new_bias.to(weight.dtype)
