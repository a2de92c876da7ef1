"""Labelled data that networks are held against: what they get right, and at what price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.analysis.energy import account
from snnpipe.checks import Check
from snnpipe.containers import packed, tensors
from snnpipe.errors import InputError
from snnpipe.frozen import leaves
from snnpipe.kernels.codebook import UNITS
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.recipe import Converted
from snnpipe.runtime.batches import Reader
from snnpipe.stages.to_snn import to_module
from snnpipe.stages.together import ALONE, Together
from snnpipe.state import ConversionState

#: Samples the prices are counted on.
SAMPLES = 8


@attrs.frozen
class Outcome:
    """One recipe at one T.

    Attributes:
        recipe: its name.
        T: steps that count.
        latency: steps until the answer: with those of a first pass, and of waiting for the layers before.
        accuracy: share of right answers, percent.
        agreement: share of the ANN's answers, percent.
        events: spikes per neuron and sample on all its wires, until the answer.
        wires: the most wires of a neuron.
        unit: what an event is, of the neuron that says most: ``binary``, ``signed``, ``multi-level``, ``graded``.
        state: floats carried from step to step, per sample.
        macs: multiplications of floats per sample and answer.
    """

    recipe: str
    T: int
    latency: int
    accuracy: float
    agreement: float
    events: float
    wires: int
    unit: str
    state: float
    macs: float


def _shard(value: Any) -> Any:
    if not isinstance(value, Sequence) or not all(_is_pair(pair) for pair in value):
        raise TypeError
    return value


def _labelled(value: Any) -> Any:
    if not _shard(value):
        raise TypeError
    return value


def _is_pair(pair: Any) -> bool:
    """Inputs and labels, of as many samples."""
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[1], Tensor):
        return False
    sizes = [len(x) for x in leaves(packed(pair[0])) if hasattr(x, "__array__") and getattr(x, "ndim", False)]
    return pair[1].ndim == 1 and bool(sizes) and 0 < len(pair[1]) == sizes[0]


#: For arguments that are labelled data, and for those that may be none.
DATA = Check("is a list of batches (x, labels)", _labelled, "write [(images, labels)] or list(loader)")
SHARD = attrs.evolve(DATA, accept=_shard)


@attrs.frozen(eq=False)
class Judge:
    """Labelled data that networks are held against.

    Attributes:
        inputs: of each batch, in the order of the model's.
        labels, answers: (N,), the right classes and those the ANN sees.
    """

    inputs: tuple[tuple[Any, ...], ...]
    labels: Tensor
    answers: Tensor

    @property
    def ann(self) -> float:
        """The ANN's accuracy, percent."""
        return self.accuracy(self.answers)[1]

    def few(self, samples: int) -> Judge:
        """The first batches that hold so many samples, all of them if these are fewer."""
        count, batches = 0, list[tuple[Any, ...]]()
        for given in self.inputs:
            if count >= samples:
                break
            batches.append(given)
            count += int(next(leaf.shape[0] for leaf in tensors(given)))
        return Judge(tuple(batches), self.labels[:count], self.answers[:count])

    def accuracy(self, guesses: Tensor, everyone: Together = ALONE) -> tuple[int, float, float]:
        """How many samples there are, and the shares of right answers and of the ANN's, percent, in all processes."""
        own = len(guesses), int((guesses == self.labels).sum()), int((guesses == self.answers).sum())
        samples, right, alike = map(sum, zip(*everyone.shares(own), strict=True))
        return samples, 100.0 * (right / samples), 100.0 * (alike / samples)

    def outcome(self, made: Converted, everyone: Together = ALONE) -> Outcome:
        """What a network gets right, and at what price, with the data of all processes."""
        guesses = _joined([made(*given).argmax(1).cpu() for given in self.inputs])
        _, accuracy, agreement = self.accuracy(guesses, everyone)
        costs = everyone.shares(_costs(made, self.inputs[0]) if self.inputs else None)
        events, state, macs = next(found for found in costs if found is not None)
        neurons = [module.neuron for module in made.snn.neurons().values()]
        return Outcome(
            made.recipe.name,
            made.T,
            made.latency,
            accuracy,
            agreement,
            events,
            max((neuron.wires for neuron in neurons), default=0),
            max((neuron.unit for neuron in neurons), key=UNITS.index, default="graded"),
            state,
            macs,
        )


def judging(state: ConversionState, data: Sequence[tuple[Any, Tensor]], where: str, none: bool = False) -> Judge:
    """Run the ANN on labelled data; there must be some, unless ``none`` is fine too.

    Raises:
        InputError: its answers are no classes of as many samples as there are labels.
    """
    labels = _joined([y.cpu() for _, y in data])
    ann, inputs, answers = to_module(state), list[tuple[Any, ...]](), list[Tensor]()

    def answer(number: int, given: dict[str, Any]) -> None:
        inputs.append(tuple(given[node["name"]] for node in state.graph.inputs))
        answers.append(_classes(ann, inputs[-1], where))

    Reader(where, state.graph, ann).each([x for x, _ in data], answer, none=none)
    found = _joined(answers)
    if found.shape != labels.shape:
        raise InputError(f"{where}: the model's classes are {tuple(found.shape)}, the labels {tuple(labels.shape)}")
    return Judge(tuple(inputs), labels, found)


def _classes(ann: nn.Module, given: tuple[Any, ...], where: str) -> Tensor:
    """The classes the ANN sees, (B,)."""
    output = ann(*given)
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{where}: the model must answer with scores of classes, (B, classes), got {got}")
    return output.argmax(1).cpu()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Classes of all samples, (N,); of none, too."""
    return torch.cat([torch.zeros(0, dtype=torch.int64), *parts])


def _costs(made: Converted, inputs: tuple[Any, ...]) -> tuple[float, float, float]:
    """The events per neuron, floats of state and multiplications, counted on a few samples of a batch."""
    costs = account(made.snn, *_first_samples(inputs), T=made.steps, schedule=made.recipe.schedule)
    return costs.per_neuron, sum(costs.state.values()), costs.mac


def _first_samples(inputs: tuple[Any, ...]) -> Any:
    count = next(leaf.shape[:1] for leaf in tensors(inputs))

    def few(leaf: Any) -> Any:
        return leaf[:SAMPLES] if isinstance(leaf, Tensor) and leaf.shape[:1] == count else leaf

    return zip_leaves(few, inputs)
