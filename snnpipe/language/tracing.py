"""The first stage for a language model that is to write: a graph of new tokens and of what is kept of the others."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.checks import takes
from snnpipe.emit import graph_module
from snnpipe.errors import StageError, TraceError
from snnpipe.frontend.exported import exported
from snnpipe.frontend.lowering import Lowered
from snnpipe.frontend.met import tensors_of
from snnpipe.frontend.selfcheck import mismatch, rounding
from snnpipe.frontend.shadow import shadow
from snnpipe.frozen import EMPTY
from snnpipe.language.decoder import Protocol, called, decoding, protocol_of
from snnpipe.language.prompts import IDS, MASK, MEMORY, positions
from snnpipe.options import FLAG, optional
from snnpipe.sharing import marks, without_values
from snnpipe.stages.trace import MODEL, as_state
from snnpipe.state import Event
from snnpipe.text import Configured

#: Axes that grow with a text.
_AXES = {"input_ids": (1,), "attention_mask": (1,), "position_ids": (1,), "past": (2,)}
_MEMORY_AXES = {"memory": (1,), "memory_mask": (1,)}
#: Texts on which the graph is held against the model: samples, new tokens, tokens before them.
_EXAMPLE = (2, 3, 5)
_OTHERS = ((1, 1, 0), (2, 9, 0), (1, 1, 11), (3, 2, 4))
#: The text that is read at once and in pieces, and where it is cut.
_WHOLE, _CUTS = (2, 13, 0), (0, 7, 8, 13)


@takes(
    StageError, model=attrs.evolve(optional(MODEL), wanted=MODEL.wanted), example=IDS, memory=MEMORY,
    memory_mask=MASK, unsafe_share=FLAG,
)  # fmt: skip
def trace_decoder(
    model: nn.Module | None = None,
    *,
    example: Tensor,
    memory: Tensor | None = None,
    memory_mask: Tensor | None = None,
    unsafe_share: bool = False,
) -> Any:
    """Turn a causal language model into a ``ConversionState`` that takes its cache and gives it back.

    The network is ``(input_ids, attention_mask, position_ids, past) -> {"logits", "past"}``, with shapes (B, L), (B,
    P + L), (B, L) and, in ``past``, a key and a value (B, heads, P, width) of each layer; L new tokens, P before them,
    of any number.  What was kept of the tokens before is *static*: it was decoded when they were read, and does not
    change.  Logits are (B, L, vocabulary).  ``prompt`` makes these inputs, ``generate`` writes.

    The model is called as models of ``transformers`` are: ``forward(input_ids, attention_mask=, position_ids=,
    past_key_values=, use_cache=)``.  The graph is held against it with and without cache and padding, and the model
    with its cache against the model without.

    Args:
        model: a trained causal model, or one with an encoder (T5, BART, Whisper), of which this is the decoder.  Left
            out, ``trace_decoder(example=...)`` is a configured stage.
        example: token ids (B, L) as the tokenizer gives them, at least two tokens.
        memory, memory_mask: what the encoder said of an example, (B, S, width), and which of it counts, (B, S).
        unsafe_share: use the model's own tensors instead of copies.

    Raises:
        TraceError: the model has no such cache, does something else with it than without, or cannot be followed.
        UnsupportedError: lists every operation that cannot be converted.
    """
    configured = Configured(
        trace_decoder, example=example, memory=memory, memory_mask=memory_mask, unsafe_share=unsafe_share
    )
    if model is None:
        return configured
    own = dict(tensors_of(model))
    before, lacking = marks(own if unsafe_share else {}), without_values(own)
    private = shadow(model, share=unsafe_share, shapes_only=bool(lacking))
    if lacking:
        example = example.to("meta")
        memory, memory_mask = (x if x is None else x.to("meta") for x in (memory, memory_mask))
    how = protocol_of(private, example, memory)
    plain, private = private, shadow(private, share=True)
    private.__dict__["forward"] = decoding(private, how)
    texts = [_text(private, example, sizes, memory, memory_mask) for sizes in (_EXAMPLE, *_OTHERS)]
    axes = _AXES | {name: axis for name, axis in _MEMORY_AXES.items() if name in texts[0]}
    lowered, note = exported(private, texts[0], EMPTY, (), axes, tuple(texts[1:]))
    if not (lacking or lowered.problems):
        _check_cache(lowered, plain, how, _text(private, example, _WHOLE, memory, memory_mask))
    note += "; held against the model without a cache" if not lacking else f"; {len(lacking)} tensors on meta"
    event = Event("trace", type(model).__name__, "traced by torch.export, with its cache", note)
    still = tuple(name for name in ("past", "memory") if name in axes)
    return as_state("trace_decoder", lowered, still, event, (configured, own, before))


def _text(
    private: nn.Module, example: Tensor, sizes: tuple[int, int, int], memory: Tensor | None, memory_mask: Tensor | None
) -> dict[str, Any]:
    """Inputs of given sizes: the example's tokens, padded on the left but for the first text, what is kept before."""
    samples, new, before = sizes
    places = torch.arange(samples * (new + before), device=example.device).view(samples, -1)
    ids = example.flatten()[places % example.numel()]
    mask = torch.ones_like(ids)
    mask[1:, : (new + before) // 4] = 0
    where = positions(mask)
    further: dict[str, Any] = {}
    if memory is not None:
        rows, columns = torch.arange(samples) % len(memory), torch.arange(4 + new) % memory.shape[1]
        further["memory"] = memory[rows][:, columns]
        if memory_mask is not None:
            further["memory_mask"] = memory_mask[rows][:, columns]
    past = tuple((key[:, :, :0], value[:, :, :0]) for key, value in _kept(private, (ids, mask, where, ()), further))
    if before:
        past = _kept(private, (ids[:, :before], mask[:, :before], where[:, :before], past), further)
    given = {"input_ids": ids[:, before:], "attention_mask": mask, "position_ids": where[:, before:], "past": past}
    return given | further


def _kept(private: nn.Module, text: tuple[Any, ...], further: dict[str, Any]) -> Any:
    """What the model keeps of a text.

    Raises:
        TraceError: it is not a key and a value of each token in each layer.
    """
    try:
        ids, mask, *rest = text
        with torch.no_grad():  # without values a model cannot look whether there is padding
            past = private(ids, None if mask.is_meta else mask, *rest, **further)["past"]
        tokens = {kept.shape[2] for pair in past for kept in pair}
    except Exception as error:  # whatever the reason: it is the model's own
        told = (str(error) or repr(error)).splitlines()[0]
        raise TraceError(
            f"trace_decoder: the model does not run on a cache of keys and values alone: {told}.\n  What a recurrent "
            "layer remembers, or layers that share a cache, cannot be handed in and out; convert it without a cache: "
            "trace(example=...)"
        ) from error
    if tokens != {text[1].shape[1]}:
        raise TraceError(f"trace_decoder: the model keeps {sorted(tokens)} of {text[1].shape[1]} tokens, not each")
    return past


def _check_cache(lowered: Lowered, plain: nn.Module, how: Protocol, text: dict[str, Any]) -> None:
    """Raise a TraceError where a text read in pieces gives other logits than the model gives of the whole text."""
    run, mask, past = graph_module(lowered.graph, lowered.params), text["attention_mask"], text["past"]
    pieces: list[Tensor] = []
    with torch.no_grad():
        want = called(plain, how, text, None).logits
        for begin, end in pairwise(_CUTS):
            part = {name: text[name][:, begin:end] for name in ("input_ids", "position_ids")}
            found = run(**{**text, **part, "attention_mask": mask[:, :end], "past": past})
            past, pieces = found["past"], [*pieces, found["logits"]]
    counts = mask.bool()
    got = torch.cat(pieces, 1)
    said = mismatch(want[counts], got[counts], rounding(lowered, want))
    if said:
        raise TraceError(
            f"trace_decoder: the model with its cache computes something else than without ({said}), so what it would "
            "write token by token is not what it says of the whole text; it cannot be converted with a cache"
        )
