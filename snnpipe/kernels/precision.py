"""The dtype in which something is kept that every step adds to.

A running sum in bfloat16 stops growing when it is 256 times a term.  So what is carried from step to step is kept in
float32 at least; what travels between operators has the dtype of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.complex32: torch.complex64}


def is_narrow(x: object) -> bool:
    """Whether sums of such numbers are kept in another dtype."""
    return isinstance(x, Tensor) and x.dtype in _WIDER


def wide(x: Tensor) -> Tensor:
    """``x``, in float32 if its dtype is less precise.

    >>> wide(torch.ones(1, dtype=torch.bfloat16)).dtype, wide(torch.ones(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.to(_WIDER[x.dtype]) if is_narrow(x) else x


def keep_finite(theta: Tensor) -> None:
    """The largest threshold there is, of a site that never fired, in another dtype: not infinity, but the largest.

    >>> theta = torch.tensor(torch.finfo(torch.float64).max).float()
    >>> keep_finite(theta); theta.isfinite()
    tensor(True)
    """
    theta.data.clamp_(max=torch.finfo(theta.dtype).max)


def narrowed(x: Tensor, like: Tensor) -> Tensor:
    """``x`` in the dtype of ``like``, which ``wide``, or a threshold that is more precise, has widened.

    >>> narrowed(torch.ones(1, dtype=torch.float64), torch.ones(1)).dtype
    torch.float32
    """
    return x.to(like.dtype) if like.is_floating_point() or is_narrow(like) else x
