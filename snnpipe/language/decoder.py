"""A causal language model as a function of its cache: cache tensors in, cache tensors out.

Knows how models of ``transformers`` and their like are called; does not import them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.errors import TraceError

#: A key (B, heads, P, width) and a value, for each layer with a cache.
Past = tuple[tuple[Tensor, Tensor], ...]
#: What the cache is called as an argument and as a field of the output.
_CACHE = ("cache", "past_key_values")


@attrs.frozen(eq=False)
class Protocol:
    """How a model is called.

    Attributes:
        cache: makes an empty cache.
        keyword: what the model calls it.
        positions: what it calls the positions of tokens, "" if it finds them itself.
        reads: whether it reads what an encoder said of another text (T5, BART, Whisper).
    """

    cache: Callable[[], Any]
    keyword: str
    positions: str
    reads: bool


def decoding(model: nn.Module, how: Protocol) -> Callable[..., dict[str, Any]]:
    """``forward(input_ids, attention_mask, position_ids, past)`` around that of a model."""
    inner = model.forward

    def forward(
        input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: Past,
        memory: Tensor | None = None, memory_mask: Tensor | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        cache = how.cache()
        own = getattr(cache, "self_attention_cache", cache)
        for layer, (key, value) in enumerate(past):
            own.update(key, value, layer)
        text = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        found = called(inner, how, {**text, "memory": memory, "memory_mask": memory_mask}, cache)
        kept = getattr(found, how.keyword)
        return {"logits": found.logits, "past": pairs(getattr(kept, "self_attention_cache", kept))}

    return forward


def called(forward: Callable[..., Any], how: Protocol, text: Mapping[str, Any], cache: Any) -> Any:
    """What a model says of a text, with a cache or without (``None``)."""
    said: dict[str, Any] = {"use_cache": cache is not None, "return_dict": True}
    if cache is not None:
        said[how.keyword] = cache
    if how.positions:
        said[how.positions] = text["position_ids"]
    ids, mask = text["input_ids"], text["attention_mask"]
    if not how.reads:
        return forward(**said, input_ids=ids, attention_mask=mask)
    memory = {"encoder_outputs": (text["memory"],), "attention_mask": text.get("memory_mask")}
    return forward(**said, **memory, decoder_input_ids=ids, decoder_attention_mask=mask)


def pairs(cache: Any) -> Past:
    """The keys and values of a cache, layer by layer."""
    layers = getattr(cache, "layers", None)
    if layers is not None:
        return tuple((layer.keys, layer.values) for layer in layers)
    return tuple(zip(cache.key_cache, cache.value_cache, strict=True))


def protocol_of(model: nn.Module, ids: Tensor, memory: Tensor | None) -> Protocol:
    """How a model is called, as its signature and one run on an example say.

    Raises:
        TraceError: it has no cache that could be handed in and out.
    """
    names = inspect.signature(model.forward).parameters
    keyword = next((name for name in _CACHE if name in names), None)
    reads = "decoder_input_ids" in names
    if keyword is None or "use_cache" not in names:
        raise TraceError(
            f"trace_decoder: {type(model).__name__}.forward takes no cache ({' or '.join(_CACHE)}, and use_cache); "
            "write a module (input_ids, attention_mask, position_ids, past) -> {'logits': ..., 'past': ...} around "
            "it, and trace that: trace(example=..., dynamic_axes=..., static=('past',))"
        )
    if reads != (memory is not None):
        raise TraceError(
            f"trace_decoder: {type(model).__name__} reads what an encoder said; give it: memory=encoder(...)"
            if reads
            else f"trace_decoder: {type(model).__name__} reads no encoder; leave out memory="
        )
    given = {"decoder_input_ids": ids, "encoder_outputs": (memory,)} if reads else {"input_ids": ids}
    try:
        with torch.no_grad():
            kept = getattr(model(**given, use_cache=True, return_dict=True), keyword, None)
    except Exception as error:  # whatever the reason: it is the model's own
        told = (str(error) or repr(error)).splitlines()[0]
        raise TraceError(f"trace_decoder: the model itself does not take the example: {told}") from error
    inner = [getattr(kept, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    makers = [type(part) for part in ([kept] if None in inner else inner)]
    if not all(callable(getattr(maker, "update", None)) for maker in makers):
        raise TraceError(
            f"trace_decoder: {type(model).__name__} keeps a {type(kept).__name__}, no keys and values of each token; "
            "what a recurrent layer remembers cannot be handed in and out this way"
        )
    positions = next((name for name in ("position_ids", "decoder_position_ids") if name in names), "")
    return Protocol(_maker(type(kept), makers, None in inner), keyword, positions, reads)


def _maker(kind: type, makers: list[type], plain: bool) -> Callable[[], Any]:
    return (lambda: kind()) if plain else (lambda: kind(*(maker() for maker in makers)))
