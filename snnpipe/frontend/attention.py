"""``nn.MultiheadAttention`` as operators that ask for no rank: axes are counted from the end.

(B, L, E), (L, B, E) and (L, E) so take one path.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from snnpipe.errors import TraceError
from snnpipe.frontend.attention_mask import mask_for, recorded


def multihead_attention(
    self: Any,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    r"""``nn.MultiheadAttention`` in evaluation mode.

    .. math:: y = W_o \, [A_1 v_1, ..., A_H v_H] + b_o, \qquad A_h = softmax(q_h k_h^T / \sqrt{D} + M)

    Args:
        self: the module, or whatever has its attributes.
        query: (B, L, E) where ``self.batch_first``, else (L, B, E); or (L, E).
        key, value: like ``query``, L being S and E ``kdim`` and ``vdim``.
        key_padding_mask: (B, S) or (S); ``True`` or ``-inf`` hides a key.
        need_weights: return A as well; its absence lets torch choose a fused kernel.
        attn_mask: (L, S), or (B H, L, S) and (H, L, S).
        average_attn_weights: the mean of A over heads, not each of them.
        is_causal: the mask is causal, and need not be read where it is the only one.

    Returns:
        ``(y, A)``: y like ``query``; A (B, L, S) or (B, H, L, S), without B for (L, E), or ``None``.

    Reference: Vaswani et al. 2017, "Attention Is All You Need".
    """
    if is_causal and attn_mask is None:
        raise TraceError("trace: nn.MultiheadAttention(is_causal=True) needs attn_mask as well")
    length = -3 if self.batch_first else 0  # the axis of L in (B, L, H, D), (L, B, H, D) or (L, H, D)
    q, k, v = _heads(self, query, key, value, length)
    if self.bias_k is not None:
        k, v = (_appended(x, b.reshape(self.num_heads, 1, -1)) for x, b in ((k, self.bias_k), (v, self.bias_v)))
    if self.add_zero_attn:
        k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
    hinted = is_causal and key_padding_mask is None and not need_weights
    mask = None if hinted else mask_for(self, q, attn_mask, key_padding_mask)
    weights: Any = None
    if need_weights:
        scores = torch.matmul(q * self.head_dim**-0.5, k.transpose(-2, -1))
        weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
        attended = torch.matmul(weights, v)
    else:
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=hinted)
    output = F.linear(attended.movedim(-2, length).flatten(-2), self.out_proj.weight, self.out_proj.bias)
    if weights is not None and average_attn_weights:
        weights = weights.mean(dim=-3)
    return output, weights


def _heads(self: Any, query: Any, key: Any, value: Any, length: int) -> tuple[Any, ...]:
    """Queries, keys and values of each head, (..., H, L, D) each."""

    def projected(x: Any, weight: Any, bias: Any, heads: int) -> Any:
        return F.linear(x, weight, bias).unflatten(-1, (heads, -1)).movedim(length, -2)

    packed, H = self.in_proj_weight is not None, self.num_heads
    if packed and query is key is value:
        return tuple(projected(query, self.in_proj_weight, self.in_proj_bias, 3 * H).chunk(3, -3))
    separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
    weights = tuple(self.in_proj_weight.chunk(3)) if packed else separate
    biases = (None, None, None) if self.in_proj_bias is None else tuple(self.in_proj_bias.chunk(3))
    return tuple(map(projected, (query, key, value), weights, biases, (H, H, H)))


def _appended(x: Any, row: Any) -> Any:
    """One more key for every batch: (..., H, S, D) and (H, 1, D) -> (..., H, S + 1, D)."""
    return torch.cat([x, row.expand_as(x[..., :1, :])], dim=-2)


def attention_function(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """``F.multi_head_attention_forward``: ``multihead_attention`` of its arguments, but for dropout and static keys."""
    given = inspect.signature(_FUNCTION).bind(*args, **kwargs)
    given.apply_defaults()
    a = SimpleNamespace(**given.arguments)
    dropout = a.dropout_p if a.training else 0.0
    if dropout or a.static_k is not None or a.static_v is not None:
        return recorded(_FUNCTION, **{**given.arguments, "dropout_p": dropout})  # type: ignore[no-any-return]
    a.out_proj = SimpleNamespace(weight=a.out_proj_weight, bias=a.out_proj_bias)
    a.head_dim, a.batch_first = a.embed_dim_to_check // a.num_heads, False
    a.in_proj_weight = None if a.use_separate_proj_weight else a.in_proj_weight
    chosen = (a.key_padding_mask, a.need_weights, a.attn_mask, a.average_attn_weights, a.is_causal)
    return multihead_attention(a, a.query, a.key, a.value, *chosen)


_FUNCTION = F.multi_head_attention_forward
