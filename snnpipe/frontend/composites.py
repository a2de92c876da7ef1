"""Which composite modules of torch are followed by another ``forward`` than their own, and how that is arranged.

Their own asks its input for rank, layout and values, to choose among ways to compute the same; a symbol cannot answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from snnpipe.frontend.attention import attention_function, multihead_attention
from snnpipe.frontend.met import noted
from snnpipe.frontend.transformer import decoder, encoder, encoder_layer, transformer
from snnpipe.frontend.wrappers import uncompiled

#: Where torch keeps a forward that symbols cannot follow, what it is called there, and the one to follow instead.  A
#: subclass with a ``forward`` of its own keeps it.
COMPOSITES: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (nn.MultiheadAttention, "forward", multihead_attention),
    (nn.TransformerEncoderLayer, "forward", encoder_layer),
    (nn.TransformerEncoder, "forward", encoder),
    (nn.TransformerDecoder, "forward", decoder),
    (nn.Transformer, "forward", transformer),
    (F, "multi_head_attention_forward", attention_function),
    (torch, "is_tensor", lambda value: isinstance(value, torch.Tensor | fx.Proxy)),
)


@contextmanager
def followed() -> Iterator[None]:
    """Let this thread run the forwards of ``COMPOSITES`` in place of torch's; torch is as it was afterwards."""
    tracing = threading.get_ident()
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in COMPOSITES]
    try:
        for (owner, name, replacement), (_, _, original) in zip(COMPOSITES, originals, strict=True):
            setattr(owner, name, _in_thread(tracing, replacement, original))
        with noted(), uncompiled():
            yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _in_thread(thread: int, replacement: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """``replacement`` in one thread, ``original`` in all others, which are using models of their own."""

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return (replacement if threading.get_ident() == thread else original)(*args, **kwargs)

    return forward
