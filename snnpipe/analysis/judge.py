"""Labelled data that converted networks are held against: what they get right, and at what price.

Knows how samples are taken out of batches; which networks, and on how many samples, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.analysis.energy import account
from snnpipe.containers import packed, tensors
from snnpipe.errors import InputError, SnnpipeError, StageError
from snnpipe.frozen import leaves
from snnpipe.kernels.codebook import UNITS
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.recipe import Converted
from snnpipe.runtime.batches import Reader
from snnpipe.runtime.depth import depth
from snnpipe.runtime.inputs import TORCH_SAYS
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stage import HAS_VALUES
from snnpipe.stages.to_snn import to_module
from snnpipe.stages.together import ALONE, Together
from snnpipe.state import ConversionState
from snnpipe.waves import Wave

#: Samples the prices are counted on.
SAMPLES = 8
#: How much a score may change when samples are put into other batches, in parts of the largest: rounding, no more.
ROUNDING = 0.01


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


@attrs.frozen(eq=False)
class Judge:
    """Labelled data that networks are held against.

    Attributes:
        inputs: of each batch, in the order of the model's.
        sizes: how many samples each batch has.
        labels, answers: (N,), the right classes and those the ANN sees.
    """

    inputs: tuple[tuple[Any, ...], ...]
    sizes: tuple[int, ...]
    labels: Tensor
    answers: Tensor

    @property
    def ann(self) -> float:
        """The ANN's accuracy, percent."""
        return percent(self.answers, self.labels)

    def classes(self, made: Converted) -> Tensor:
        """The classes a network sees, (N,)."""
        return _all([made(*given).argmax(1).cpu() for given in self.inputs])

    def accuracy(self, guesses: Tensor, everyone: Together = ALONE) -> tuple[int, float, float]:
        """How many samples there are, and the shares of right answers and of the ANN's, percent, in all processes."""
        own = len(guesses), int((guesses == self.labels).sum()), int((guesses == self.answers).sum())
        samples, right, alike = map(sum, zip(*everyone.shares(own), strict=True))
        return samples, 100.0 * (right / samples), 100.0 * (alike / samples)

    def outcome(self, made: Converted, everyone: Together = ALONE) -> Outcome:
        """What the network of a recipe gets right, and at what price, with the data of all processes."""
        return self.ran(made.recipe.name, made.snn, made.T, made.recipe.schedule, made.run, everyone)

    def ran(
        self, name: str, snn: SpikingNetwork, T: int, wave: Wave, run: Mapping[str, Any], everyone: Together = ALONE
    ) -> Outcome:
        """The same of any network; ``run`` are the options it is called with."""
        classes = _all([snn(*given, **run).argmax(1).cpu() for given in self.inputs])
        _, accuracy, agreement = self.accuracy(classes, everyone)
        return attrs.evolve(self._price(name, snn, T, wave, run, everyone), accuracy=accuracy, agreement=agreement)

    def priced(self, made: Converted) -> Outcome:
        """At what price a network answers; what it gets right is not known."""
        return self._price(made.recipe.name, made.snn, made.T, made.recipe.schedule, made.run, ALONE)

    def _price(
        self, name: str, snn: SpikingNetwork, T: int, wave: Wave, run: Mapping[str, Any], everyone: Together
    ) -> Outcome:
        """Counted on a few samples of the first process that has any."""

        def costs() -> tuple[float, float, float]:
            found = account(snn, *_first_samples(self.inputs[0]), T=run["T"], schedule=wave)
            return found.per_neuron, sum(found.state.values()), found.mac

        counted = everyone.shares(costs() if self.inputs else None)
        events, state, macs = next(found for found in counted if found is not None)
        neurons = [module.neuron for module in snn.neurons().values()]
        return Outcome(
            name,
            T,
            wave.latency(run["T"], depth(snn.graph)),
            torch.nan,
            torch.nan,
            events,
            max((neuron.wires for neuron in neurons), default=0),
            max((neuron.unit for neuron in neurons), key=UNITS.index, default="graded"),
            state,
            macs,
        )

    def part(self, rows: Tensor) -> Judge:
        """The samples ``rows``, in ascending order, in one batch where they fit together.

        What has as many rows as there are labels has one for each sample; anything else goes with the whole batch.
        """
        taken, first = list[tuple[Any, Any]](), 0
        for given, size in zip(self.inputs, self.sizes, strict=True):
            mine = rows[(rows >= first) & (rows < first + size)] - first
            taken += [_taken(given, mine, size)] * bool(len(mine))
            first += size
        alike = [[inputs for _, inputs in group] for _, group in groupby(taken, key=lambda one: one[0])]
        inputs = tuple(zip_leaves(_joined, *group) for group in alike)
        return Judge(inputs, (len(rows),), self.labels[rows], self.answers[rows])

    def divisible(self, ann: nn.Module) -> bool:
        """Whether ``part`` is right: some samples of the first two batches are answered as in these batches."""
        inputs, sizes = self.inputs[:2], self.sizes[:2]
        rows = torch.arange(sum(sizes))[:: 2 if sum(sizes) > 2 else 1]
        whole = torch.cat([ann(*given).cpu() for given in inputs])[rows]
        try:
            found = torch.cat([ann(*given).cpu() for given in self.part(rows).inputs])
        except (SnnpipeError, *TORCH_SAYS):
            return False
        return found.shape == whole.shape and bool((found - whole).abs().max() <= ROUNDING * whole.abs().max())


def judging(state: ConversionState, data: Sequence[tuple[Any, Tensor]], where: str, none: bool = False) -> Judge:
    """Run the ANN on labelled data; there must be some, unless ``none`` is fine too.

    Raises:
        StageError: it is a part of a model, or its weights have no values.
        InputError: its answers are no classes of as many samples as there are labels.
    """
    if state.whole is not None:
        raise StageError(
            f"{where}: {state.whole.path} is a part and no classifier; convert it by each recipe and embed what they "
            "give"
        )
    has_values, sentence = HAS_VALUES
    if not has_values(state):
        raise StageError(f"{where}: {sentence}")
    labels = _all([y.cpu() for _, y in data])
    ann, inputs, answers = to_module(state), list[tuple[Any, ...]](), list[Tensor]()

    def answer(number: int, given: dict[str, Any]) -> None:
        inputs.append(tuple(given[node["name"]] for node in state.graph.inputs))
        answers.append(_classes(ann, inputs[-1], where))

    Reader(where, state.graph, ann).each([x for x, _ in data], answer, none=none)
    found = _all(answers)
    if found.shape != labels.shape:
        raise InputError(f"{where}: the model's classes are {tuple(found.shape)}, the labels {tuple(labels.shape)}")
    return Judge(tuple(inputs), tuple(len(y) for _, y in data), labels, found)


def scored(outcome: Outcome, classes: Tensor, labels: Tensor, answers: Tensor) -> Outcome:
    """A price with the classes that a network sees, held against the right ones and the ANN's."""
    return attrs.evolve(outcome, accuracy=percent(classes, labels), agreement=percent(classes, answers))


def percent(guesses: Tensor, truth: Tensor) -> float:
    """The share of equal ones."""
    return 100.0 * (guesses == truth).double().mean().item()


def _classes(ann: nn.Module, given: tuple[Any, ...], where: str) -> Tensor:
    """The classes the ANN sees, (B,)."""
    output = ann(*given)
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{where}: the model must answer with scores of classes, (B, classes), got {got}")
    return output.argmax(1).cpu()


def _all(parts: Sequence[Tensor]) -> Tensor:
    """Classes of all samples, (N,); of none, too."""
    return torch.cat([torch.zeros(0, dtype=torch.int64), *parts])


def _taken(given: tuple[Any, ...], rows: Tensor, size: int) -> tuple[Any, Any]:
    """Some samples of a batch, and what must be the same of others that can stand with them in one batch."""

    def of_samples(leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.shape[:1] == (size,)

    kinds = [(leaf.shape[1:], leaf.dtype) if of_samples(leaf) else id(leaf) for leaf in leaves(packed(given))]
    return kinds, zip_leaves(lambda leaf: leaf[rows.to(leaf.device)] if of_samples(leaf) else leaf, given)


def _joined(first: Any, *others: Any) -> Any:
    """Samples of several batches; what is the same object in all of them belongs to no sample."""
    return torch.cat((first, *others)) if others and any(first is not other for other in others) else first


def _first_samples(inputs: tuple[Any, ...]) -> Any:
    count = next(leaf.shape[:1] for leaf in tensors(inputs))

    def few(leaf: Any) -> Any:
        return leaf[:SAMPLES] if isinstance(leaf, Tensor) and leaf.shape[:1] == count else leaf

    return zip_leaves(few, inputs)
