"""What a network says of texts, and how well it foresees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch

from snnpipe.checks import takes
from snnpipe.errors import InputError
from snnpipe.language.prompts import IDS, WRITER, Writer, prompt
from snnpipe.options import RUN, optional
from snnpipe.recipe import Converted
from snnpipe.runtime.inputs import DELAY
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stages.batches import BATCHES
from snnpipe.stages.to_snn import to_module
from snnpipe.waves import SCHEDULE, STEP, Wave


def reader(
    where: str, network: Writer, T: int | None, schedule: Any = STEP, delay: int = 0
) -> Callable[[Mapping[str, Any]], Any]:
    """What runs a network on inputs by name.

    Raises:
        InputError: T is missing, or there is no use for one.
    """
    if isinstance(network, SpikingNetwork):
        if T is None:
            raise InputError(f"{where}: a spiking network runs for a number of steps; write {where}(snn, ..., T=8)")
        return lambda given: network(**given, T=T, schedule=schedule, delay=delay)
    if T is not None or schedule != STEP or delay:
        own = "what a recipe gave has its own T, schedule and delay"
        raise InputError(
            f"{where}: {own if isinstance(network, Converted) else 'a state runs as the ANN, without steps'}; leave "
            "out T=, schedule= and delay="
        )
    if isinstance(network, Converted):
        return lambda given: network.snn(**given, **network.run)
    ann = to_module(network)

    def run(given: Mapping[str, Any]) -> Any:
        with torch.no_grad():
            return ann(**given)

    return run


@attrs.frozen
class Perplexity:
    """How well a network foresees texts.

    Attributes:
        loss: the sum of ``-log p(token)`` over the tokens, in nats.
        tokens: how many were foreseen, all but the first of each text.
    """

    loss: float
    tokens: int

    @property
    def value(self) -> float:
        """``exp(loss / tokens)``: among so many equally likely tokens it might as well have chosen."""
        return math.exp(self.loss / self.tokens)

    def __str__(self) -> str:
        return f"perplexity {self.value:.4g} of {self.tokens} tokens"


_TEXTS = attrs.evolve(
    BATCHES, wanted="must be an iterable of token ids (B, L)", write="write {where}(network, [input_ids], ...)",
    error=InputError,
)  # fmt: skip


@takes(
    InputError, network=WRITER, texts=_TEXTS, T=optional(RUN),
    schedule=SCHEDULE, delay=DELAY,
)  # fmt: skip
def perplexity(
    network: Writer,
    texts: Iterable[Any],
    *,
    T: int | None = None,
    schedule: Wave | str = STEP,
    delay: int = 0,
) -> Perplexity:
    r"""How well a causal language model foresees the next token; the network is unchanged.

    ``exp(-1/N sum log p(x_i | x_1 .. x_{i-1}))`` over the N tokens that have one before them, each text in one run.
    Padding is left out.

    Args:
        network: made by ``trace_decoder``; a state runs as the ANN, without T.
        texts: token ids (B, L), or ``(input_ids, attention_mask)``, or dictionaries of what ``prompt`` takes.
        T, schedule, delay: how the network runs; what a recipe gave has its own.

    Raises:
        InputError: there is no text of two tokens.

    Reference:
        Jelinek, Mercer, Bahl, Baker 1977, "Perplexity: a measure of the difficulty of speech recognition tasks".
    """
    run, loss, tokens = reader("perplexity", network, T, schedule, delay), 0.0, 0
    for batch in texts:
        given = prompt(network, **_text(batch))
        logits = run(given)["logits"][:, :-1].double()
        ids, mask = given["input_ids"], given["attention_mask"].bool()
        counts = mask[:, :-1] & mask[:, 1:]
        said = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        loss -= float(said[counts].sum())
        tokens += int(counts.sum())
    if not tokens:
        raise InputError("perplexity: there is no text of two tokens, so none was foreseen; give longer ones")
    return Perplexity(loss, tokens)


def _text(batch: Any) -> dict[str, Any]:
    """A text as the arguments of ``prompt``."""
    if isinstance(batch, Mapping):
        taken = ("input_ids", "attention_mask", "memory", "memory_mask")
        if "input_ids" not in batch:
            raise InputError(f"perplexity: a text is a dictionary of {', '.join(taken)}, got {list(batch)}")
        return {name: batch[name] for name in taken if name in batch}  # a tokenizer says more
    ids, *mask = batch if isinstance(batch, tuple | list) and batch else (batch,)
    found = {"input_ids": IDS.hold(ids, "a text", "perplexity", InputError)}
    return found | {"attention_mask": mask[0]} if mask else found
