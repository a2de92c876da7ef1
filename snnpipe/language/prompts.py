"""The inputs of a language model: tokens, which of them count, where they stand, and what was kept of those before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snnpipe.checks import Check, RefusalError, takes
from snnpipe.errors import InputError
from snnpipe.frozen import thaw
from snnpipe.graph import Graph, Traced
from snnpipe.options import instance, optional
from snnpipe.recipe import Converted
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.state import ConversionState

#: What can write: a network, what a recipe gave, or a state between two stages, which runs as the ANN it is.
Writer = SpikingNetwork | Converted | ConversionState
WRITER = instance(
    (SpikingNetwork, Converted, ConversionState), "must be a converted network, what a recipe gave, or a state",
    "write pipe(model, trace_decoder(example=ids), ..., to_snn)",
)  # fmt: skip


def _ids(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 2 or value.is_floating_point() or value.dtype == torch.bool:
        raise TypeError
    if not value.numel():
        raise RefusalError("there is no token in it")
    return value


def _mask(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 2 or value.is_floating_point():
        raise TypeError
    return value


IDS = Check("are token ids, whole numbers (B, L)", _ids, 'write tokenizer(text, return_tensors="pt").input_ids')
MEMORY = optional(instance(Tensor, "is what an encoder said, a tensor (B, S, width)"))
MASK = optional(Check("is 1 for tokens that count and 0 for padding, whole numbers (B, L)", _mask))


@takes(InputError, network=WRITER, input_ids=IDS, attention_mask=MASK, memory=MEMORY, memory_mask=MASK)
def prompt(
    network: Writer,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    memory: Tensor | None = None,
    memory_mask: Tensor | None = None,
) -> dict[str, Any]:
    """The inputs of a network made by ``trace_decoder`` for whole texts: nothing kept, positions counted from 0.

    Args:
        network: the network, or the state of it.
        input_ids: token ids (B, L).
        attention_mask: 0 for padding, 1 for the rest, (B, L); texts are padded on the left.
        memory, memory_mask: what the encoder said, (B, S, width), and which of it counts, (B, S).

    Returns:
        A dictionary of inputs: a batch for ``calibrate`` and all that takes one.

    Raises:
        InputError: the network was not made by ``trace_decoder``, or padding that is not on the left.
    """
    graph = graph_of(network)
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids)
    if mask.shape != input_ids.shape:
        raise InputError(f"prompt: attention_mask is {tuple(mask.shape)}, and input_ids {tuple(input_ids.shape)}")
    if bool((mask.diff(dim=1) < 0).any()) or not bool(mask[:, -1].all()):
        raise InputError(
            "prompt: texts are padded on the left, so that each ends with its last token; set "
            'tokenizer.padding_side = "left"'
        )
    past = empty(graph, len(input_ids), input_ids.device)
    given = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions(mask), "past": past}
    said = {"memory": memory, "memory_mask": memory_mask}
    return given | {name: value for name, value in said.items() if value is not None}


def following(given: Mapping[str, Any], past: Any, chosen: Tensor) -> dict[str, Any]:
    """The inputs of the next token of each text."""
    mask = torch.cat([given["attention_mask"], torch.ones_like(chosen)[:, None].to(given["attention_mask"])], 1)
    now = {"input_ids": chosen[:, None], "attention_mask": mask, "position_ids": positions(mask)[:, -1:], "past": past}
    return {**given, **now}


def positions(mask: Tensor) -> Tensor:
    """Where tokens stand in their text, counted from 0; padding on the left stands at 0."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def graph_of(network: Writer) -> Graph:
    """The graph of a network that ``trace_decoder`` began.

    Raises:
        InputError: it has other inputs.
    """
    graph = network.snn.graph if isinstance(network, Converted) else network.graph
    names = [node["name"] for node in graph.inputs]
    if names[:4] != ["input_ids", "attention_mask", "position_ids", "past"]:
        raise InputError(
            f"a network that writes takes input_ids, attention_mask, position_ids and past; this one takes "
            f"{', '.join(names)}. Write pipe(model, trace_decoder(example=ids), ...)"
        )
    return graph


def empty(graph: Graph, samples: int, device: torch.device) -> Any:
    """A cache without tokens."""

    def none_kept(leaf: Any) -> Any:
        if isinstance(leaf, Traced):
            sizes: Any = [samples, *(0 if axis == 2 else size for axis, size in enumerate(leaf.shape) if axis)]
            return torch.zeros(sizes, dtype=leaf.dtype, device=device)
        return tuple(map(none_kept, leaf))

    past = next(node for node in graph.inputs if node["name"] == "past")
    return none_kept(thaw(past["shape"]))
