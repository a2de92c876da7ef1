"""A network that writes: one token after the other, each from what was kept of those before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.errors import InputError
from snnpipe.language.prompts import IDS, MASK, MEMORY, WRITER, Writer, following, prompt
from snnpipe.language.reading import reader
from snnpipe.options import RUN, WHOLE, function, optional, whole
from snnpipe.runtime.inputs import DELAY
from snnpipe.waves import SCHEDULE, STEP, Wave

#: ``choose(logits) -> ids``: (B, vocabulary) to (B,).
Choose = Callable[[Tensor], Tensor]


def most_likely(logits: Tensor) -> Tensor:
    """Of each text the token with the largest logit, (B,): greedy."""
    return logits.argmax(-1)


@takes(
    InputError, network=WRITER, input_ids=IDS, attention_mask=MASK, memory=MEMORY, memory_mask=MASK, tokens=WHOLE,
    T=optional(RUN), schedule=SCHEDULE, delay=DELAY, choose=function("logits"), end=optional(whole(0)),
)  # fmt: skip
def generate(
    network: Writer,
    input_ids: Tensor,
    *,
    tokens: int,
    T: int | None = None,
    attention_mask: Tensor | None = None,
    memory: Tensor | None = None,
    memory_mask: Tensor | None = None,
    choose: Choose = most_likely,
    end: int | None = None,
    schedule: Wave | str = STEP,
    delay: int = 0,
) -> Tensor:
    """Let a causal language model go on with texts; the network is unchanged.

    Each token costs a run of T steps on one token: keys and values of those before it were decoded when they were
    read.

    Args:
        network: made by ``trace_decoder``; a state runs as the ANN, without T.
        input_ids: token ids (B, L), padded on the left.
        tokens: how many are written at the most.
        T, schedule, delay: how the network runs; what a recipe gave has its own.
        attention_mask: 0 for padding, 1 for the rest, (B, L).
        memory, memory_mask: of an encoder, as for ``prompt``.
        choose: ``choose(logits) -> ids``, (B, vocabulary) to (B,); greedy by default.  To draw:
            ``lambda logits: torch.multinomial(logits.softmax(-1), 1, generator=g)[:, 0]``.
        end: the id that ends a text; it is repeated until all texts have ended.

    Returns:
        Token ids (B, L + written).

    Raises:
        InputError: the network was not made by ``trace_decoder``, T is missing, or ``choose`` gives no token ids.
    """
    run = reader("generate", network, T, schedule, delay)
    given = prompt(network, input_ids, attention_mask, memory=memory, memory_mask=memory_mask)
    text, ended = input_ids, torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    for _ in range(tokens):
        found = run(given)
        chosen = _chosen(choose(found["logits"][:, -1]), input_ids)
        if end is not None:
            chosen = torch.where(ended, end, chosen)
            ended = ended | (chosen == end)
        text = torch.cat([text, chosen[:, None]], 1)
        if bool(ended.all()):
            break
        given = following(given, found["past"], chosen)
    return text


def _chosen(ids: Any, text: Tensor) -> Tensor:
    if not isinstance(ids, Tensor) or ids.shape != text.shape[:1] or ids.is_floating_point():
        shown = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(f"generate: choose(logits) gives a token id for each text, ({len(text)},), got {shown}")
    return ids.to(text)
