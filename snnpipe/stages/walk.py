"""All the data on their way through a network, from neuron to neuron, a few samples at a time.

What the samples have met and somebody further on reads waits on a shelf (``runtime.shelf``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.codes import Clock
from snnpipe.containers import tensors
from snnpipe.errors import InputError
from snnpipe.graph import Graph
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.runtime.activations import activations
from snnpipe.runtime.inputs import TORCH_SAYS
from snnpipe.runtime.presented import budget_for, steps_within
from snnpipe.runtime.shelf import WAITING, Kept, Shelf
from snnpipe.runtime.stretches import Stretch
from snnpipe.stages.prefix import split

#: Roundings of one operator in a graph of n nodes that may add up (as ``frontend.selfcheck`` has it).
_ROUNDINGS = 8


@attrs.frozen(eq=False)
class Part:
    """Some samples of batch ``number``: the inputs by name."""

    number: int
    given: dict[str, Any]


def parts(inputs: Sequence[dict[str, Any]], graph: Graph, root: nn.Module, T: int, budget: int | None) -> list[Part]:
    """The batches, those that are too large cut into parts: T steps of the largest layer fit what is for one run.

    A batch is cut only where its samples are seen to be apart: two of them, run together and alone, must give the same.
    """
    sizes: dict[Any, int] = {}
    found: list[Part] = []
    for number, given in enumerate(inputs):
        kind = tuple((x.shape[1:], x.dtype) for x in tensors(given))
        if kind not in sizes:
            room = min(budget_for(None, given), WAITING if budget is None else budget)
            sizes[kind] = _size(given, graph, root, T, room)
        found += [Part(number, part) for part in (split(given, sizes[kind]) if sizes[kind] else [given])]
    return found


def _size(given: dict[str, Any], graph: Graph, root: nn.Module, T: int, room: int) -> int:
    """How many samples go together; 0 for all of them."""
    samples = split(given, 1)
    if len(samples) == 1:
        return 0
    run, pair = activations(graph), _joined(samples[0], samples[-1])
    try:
        first, last, both = ([z for z, _ in run(root, x).values()] for x in (samples[0], samples[-1], pair))
    except (InputError, *TORCH_SAYS):  # a network that wants all of the batch; if nothing fits, the walk will say so
        return 0
    rounding = _ROUNDINGS * len(graph.nodes)
    if not all(_is_apart(*found, rounding) for found in zip(first, last, both, strict=True)):
        return 0
    if all(torch.equal(a, b) for a, b in zip(first, last, strict=True)):  # which says nothing
        return 0
    return max(1, steps_within(room, {str(k): z for k, z in enumerate(first)}) // T)


def _joined(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = zip_leaves(lambda x, y: torch.cat([x, y]) if isinstance(x, Tensor) else x, a, b)
    return found


def _is_apart(first: Tensor, last: Tensor, both: Tensor, rounding: int) -> bool:
    if not first.ndim or first.shape[1:] != last.shape[1:] or len(first) + len(last) != len(both):
        return False
    alone = torch.cat([first, last])
    bound = rounding * torch.finfo(both.dtype).eps * both.abs().max()
    return bool(((both - alone).abs() <= bound).all())


def begun(data: Sequence[Part], graph: Graph) -> list[dict[str, Any]]:
    """The inputs of each part, by node name."""
    return [{node.name: part.given[node["name"]] for node in graph.inputs} for part in data]


class Walk:
    """Parts of the data on their way.

    Args:
        root: the module that holds the tensors.
        clocks: the steps, or chunks, of the run; none for the ANN.
        shelf: where values wait.
        begin: what each part begins with, by node name.
    """

    def __init__(
        self, root: nn.Module, clocks: Sequence[Clock], shelf: Shelf, begin: Sequence[Mapping[str, Any]]
    ) -> None:
        self.root, self.clocks, self.shelf = root, clocks, shelf
        self.values: list[dict[str, Any]] = [dict(values) for values in begin]
        self.inputs = {name for values in begin for name in values}

    def on(self, way: Stretch, number: int, sent: Mapping[str, Any]) -> Tensor:
        """The current of the next neuron, of part ``number``; ``sent`` is what the one before has sent, by its name."""
        known = self.values[number] | dict(sent)
        current, made = way(self.root, self.clocks, {name: now(known[name]) for name in way.reads})
        known |= made
        self.values[number] = {name: self._waiting(name, known[name]) for name in way.carried}
        return current

    def _waiting(self, name: str, value: Any) -> Any:
        """A value put on the shelf, where it is not there yet; inputs stay where they are."""
        return value if isinstance(value, Kept) or name in self.inputs else self.shelf.keep(value)


def now(value: Any) -> Any:
    """A value, taken from the shelf if it waits there."""
    return value.value if isinstance(value, Kept) else value
