"""What attention adds to its scores, as one call that looks at its masks when they are there: rank, type and size.

A graph holds it as a node, so that a mask may be a buffer, a constant or an input of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx


def additive_mask(
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    rank: int,
    dtype: torch.dtype,
    heads: int,
    extra_keys: int = 0,
) -> Tensor:
    """What attention adds to its scores: the sum of both masks, each ``-inf`` where it is boolean and ``True``.

    Args:
        attn_mask: (L, S), (B H, L, S) or (H, L, S).
        key_padding_mask: (B, S) or (S).
        rank: of the scores: 4 for (B, H, L, S), 3 for (H, L, S).
        dtype: of the scores.
        heads: H.
        extra_keys: how many keys without a mask follow.

    Returns:
        A tensor that broadcasts to the scores, (..., S + extra_keys).

    >>> additive_mask(None, torch.tensor([[False, True]]), 4, torch.float32, 2)
    tensor([[[[0., -inf]]]])
    """

    def numbers(mask: Tensor) -> Tensor:
        return mask if mask.is_floating_point() else torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)

    parts: list[Tensor] = []
    if attn_mask is not None:
        mask = numbers(attn_mask)
        parts.append(mask.unflatten(0, (-1, heads)) if mask.ndim == 3 and rank == 4 else mask)
    if key_padding_mask is not None:
        parts.append(numbers(key_padding_mask)[..., None, None, :])
    return F.pad(sum(parts[1:], parts[0]), (0, extra_keys))


def extra_keys(self: Any) -> int:
    """How many keys without a mask attention appends to those it is given."""
    return (self.bias_k is not None) + bool(self.add_zero_attn)


def mask_for(self: Any, q: Any, attn_mask: Any, key_padding_mask: Any) -> Any:
    """A call of ``additive_mask``; what it reads of q is the same at every step, so the mask is static if it was."""
    if attn_mask is None and key_padding_mask is None:
        return None
    return recorded(
        additive_mask,
        attn_mask=attn_mask,
        key_padding_mask=key_padding_mask,
        rank=q.dim(),
        dtype=q.dtype,
        heads=self.num_heads,
        extra_keys=extra_keys(self),
    )


def recorded(target: Callable[..., Any], **kwargs: Any) -> Any:
    """A call that is one node of the graph, where symbols are among its arguments."""
    tracer = next((value.tracer for value in kwargs.values() if isinstance(value, fx.Proxy)), None)
    return target(**kwargs) if tracer is None else tracer.create_proxy("call_function", target, (), kwargs)
