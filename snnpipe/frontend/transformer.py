"""The forwards of ``nn.Transformer`` and its parts, without the questions that only choose among kernels."""

from __future__ import annotations

from typing import Any

from torch import nn

from snnpipe.errors import TraceError
from snnpipe.frontend.attention_mask import extra_keys


def encoder_layer(
    self: Any, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
) -> Any:
    """``nn.TransformerEncoderLayer``: attention and a perceptron, each added to its input."""
    x = src
    if self.norm_first:
        x = x + self._sa_block(self.norm1(x), src_mask, src_key_padding_mask, is_causal=is_causal)
        return x + self._ff_block(self.norm2(x))
    x = self.norm1(x + self._sa_block(x, src_mask, src_key_padding_mask, is_causal=is_causal))
    return self.norm2(x + self._ff_block(x))


def encoder(
    self: Any, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
) -> Any:
    """``nn.TransformerEncoder``: its layers in turn.

    Padded positions have an output like any other, as torch gives while gradients are recorded; its nested fast path
    puts zeros there.
    """
    hint = _causal(self, mask, is_causal)
    for layer in self.layers:
        src = layer(src, src_mask=mask, is_causal=hint, src_key_padding_mask=src_key_padding_mask)
    return src if self.norm is None else self.norm(src)


def decoder(
    self: Any,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Any:
    """``nn.TransformerDecoder``: its layers in turn, all reading the same memory."""
    options = {
        "tgt_mask": tgt_mask,
        "memory_mask": memory_mask,
        "tgt_key_padding_mask": tgt_key_padding_mask,
        "memory_key_padding_mask": memory_key_padding_mask,
        "tgt_is_causal": _causal(self, tgt_mask, tgt_is_causal),
        "memory_is_causal": memory_is_causal,
    }
    for layer in self.layers:
        tgt = layer(tgt, memory, **options)
    return tgt if self.norm is None else self.norm(tgt)


def transformer(
    self: Any,
    src: Any,
    tgt: Any,
    src_mask: Any = None,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    src_key_padding_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    src_is_causal: bool | None = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Any:
    """``nn.Transformer``: the decoder on what the encoder makes of ``src``."""
    memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
    return self.decoder(
        tgt,
        memory,
        tgt_mask=tgt_mask,
        memory_mask=memory_mask,
        tgt_key_padding_mask=tgt_key_padding_mask,
        memory_key_padding_mask=memory_key_padding_mask,
        tgt_is_causal=tgt_is_causal,
        memory_is_causal=memory_is_causal,
    )


def _causal(self: nn.Module, mask: Any, is_causal: bool | None) -> bool:
    """The hint for the layers of a stack.

    torch compares a mask with the causal one if it was told nothing.  A mask that is read gives the same result as the
    hint, unless keys without a mask follow: then only its values can tell.
    """
    attentions = (m for m in self.modules() if isinstance(m, nn.MultiheadAttention))
    if is_causal is None and mask is not None and any(map(extra_keys, attentions)):
        raise TraceError("trace: say whether the mask of a stack with add_bias_kv or add_zero_attn is causal")
    return is_causal is True
