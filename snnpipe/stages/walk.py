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
from snnpipe.ops.modules import held
from snnpipe.rules.rows import of_batch
from snnpipe.runtime.activations import activations
from snnpipe.runtime.inputs import TORCH_SAYS
from snnpipe.runtime.presented import budget_for, steps_within
from snnpipe.runtime.shelf import WAITING, Kept, Shelf
from snnpipe.runtime.stretches import Stretch, brought
from snnpipe.stages.prefix import split


@attrs.frozen(eq=False)
class Part:
    """Some samples of batch ``number``: the inputs by name."""

    number: int
    given: dict[str, Any]


def parts(inputs: Sequence[dict[str, Any]], graph: Graph, root: nn.Module, T: int, budget: int | None) -> list[Part]:
    """The batches, those that are too large cut into parts: T steps of the largest layer fit what is for one run.

    A batch is cut only where no operator lets its samples meet (``rules.rows``).
    """
    params = {key: held(root, key) for key in graph.param_keys()}
    sizes: dict[Any, int] = {}
    found: list[Part] = []
    for number, given in enumerate(inputs):
        kind = tuple((x.shape[1:], x.dtype) for x in tensors(given))
        count = next((len(x) for x in tensors(given) if x.ndim), 1)
        if kind not in sizes and count > 1:
            room = min(budget_for(None, given), WAITING if budget is None else budget)
            apart = bool(of_batch(graph, params, given, count))
            sizes[kind] = _size(given, graph, root, T, room) if apart else 0
        size = sizes.get(kind, 0)
        found += [Part(number, part) for part in (split(given, size) if size else [given])]
    return found


def _size(given: dict[str, Any], graph: Graph, root: nn.Module, T: int, room: int) -> int:
    """How many samples go together; all of them where they do not fit the network, as the walk will say."""
    try:
        sample = activations(graph)(root, split(given, 1)[0])
    except (InputError, *TORCH_SAYS):
        return 0
    return max(1, steps_within(room, {name: current for name, (current, _) in sample.items()}) // T)


def begun(data: Sequence[Part], graph: Graph) -> list[dict[str, Any]]:
    """The inputs of each part, by node name."""
    return [{node.name: part.given[node["name"]] for node in graph.inputs} for part in data]


class Walk:
    """Parts of the data on their way.

    Args:
        clocks: the steps, or chunks, of the run; none for the ANN.
        shelf: where values wait.
        begin: what each part begins with, by node name.
        device: where to run, by default where the inputs are.
    """

    def __init__(
        self, clocks: Sequence[Clock], shelf: Shelf, begin: Sequence[Mapping[str, Any]], device: torch.device | None
    ) -> None:
        self.clocks, self.shelf, self.device = clocks, shelf, device
        self.values: list[dict[str, Any]] = [dict(values) for values in begin]
        self.inputs = {name for values in begin for name in values}

    def on(self, root: nn.Module, way: Stretch, number: int, sent: Mapping[str, Any]) -> Tensor:
        """The current of the next neuron, of part ``number``.

        Args:
            root: the module that holds the tensors.
            way: the way to the neuron.
            number: of the part.
            sent: what the neuron before has sent, by its name.
        """
        known = self.values[number] | dict(sent)
        current, made = way(root, self.clocks, {name: brought(now(known[name]), self.device) for name in way.reads})
        known |= made
        self.values[number] = {name: self._waiting(name, known[name]) for name in way.carried}
        return current

    def _waiting(self, name: str, value: Any) -> Any:
        """A value put on the shelf, where it is not there yet; inputs stay where they are."""
        return value if isinstance(value, Kept) or name in self.inputs else self.shelf.keep(value)


def now(value: Any) -> Any:
    """A value, taken from the shelf if it waits there."""
    return value.value if isinstance(value, Kept) else value
