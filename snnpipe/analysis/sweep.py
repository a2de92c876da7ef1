"""Several recipes on the same data: what accuracy at what latency, and at what price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from tqdm import tqdm

from snnpipe.analysis.energy import account
from snnpipe.analysis.plots import plot_recipes
from snnpipe.checks import Check, RefusalError, takes
from snnpipe.containers import packed, tensors
from snnpipe.errors import InputError, StageError
from snnpipe.frozen import EMPTY, FrozenMap, leaves
from snnpipe.kernels.codebook import UNITS
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.markup.tags import more, tag
from snnpipe.options import FLAG, MAPPING, PATH, STEPS, several
from snnpipe.recipe import MODEL_OR_STATE, Converted, Recipe
from snnpipe.recipes import named
from snnpipe.runtime.batches import Forward, Reader
from snnpipe.runtime.depth import depth
from snnpipe.runtime.network import NETWORK, SpikingNetwork
from snnpipe.stage import pipe
from snnpipe.stages.batches import BATCHES
from snnpipe.stages.fuse import fuse
from snnpipe.stages.to_snn import to_module
from snnpipe.stages.trace import trace
from snnpipe.state import ConversionState
from snnpipe.waves import STEP, Wave

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


@attrs.frozen
class Sweep:
    """The answer of ``sweep``: data, a table when printed, a figure with ``plot(path)``.

    Attributes:
        outcomes: one for each recipe and T.
        ann: the ANN's accuracy, percent.
        samples: how many samples were classified.
        refused: recipe -> why this network is none for it.
    """

    outcomes: tuple[Outcome, ...]
    ann: float
    samples: int
    refused: FrozenMap[str, str] = EMPTY

    def __str__(self) -> str:
        width = max((len(o.recipe) for o in self.outcomes), default=6)
        head = f"{'recipe':{width}}    T  latency  accuracy %  as ANN %  events  wires  unit         state      MACs"
        lines = [f"ANN: {self.ann:.2f} % of {self.samples} samples", head]
        lines += [
            f"{o.recipe:{width}} {o.T:4} {o.latency:8} {o.accuracy:11.2f} {o.agreement:9.2f} {o.events:7.2f}"
            f" {o.wires:6}  {o.unit:11}{o.state:8.0f}  {o.macs:8.3g}"
            for o in self.outcomes
        ]
        lines += [f"left out (see refused): {', '.join(self.refused)}"] * bool(self.refused)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [("recipe", "T", "latency", "accuracy %", "as ANN %", "events", "wires", "unit", "state", "MACs")]
        rows += [
            (o.recipe, f"{o.T}", f"{o.latency}", f"{o.accuracy:.2f}", f"{o.agreement:.2f}", f"{o.events:.2f}",
             f"{o.wires}", o.unit, f"{o.state:.0f}", f"{o.macs:.3g}")
            for o in self.outcomes
        ]  # fmt: skip
        refused = [tag("p", f"{name}: {why}", class_="note") for name, why in self.refused.items()]
        head = tag("p", f"ANN: {self.ann:.2f} % of {self.samples} samples")
        left = [more(f"left out: {', '.join(self.refused)}", *refused)] * bool(refused)
        return piece(head, table(rows, label="recipes"), *left)

    @takes(path=PATH)
    def plot(self, path: str | PathLike[str]) -> None:
        """Draw accuracy against latency, a line for each recipe, into a file."""
        lines: dict[str, list[tuple[int, float]]] = {}
        for o in self.outcomes:
            lines.setdefault(o.recipe, []).append((o.latency, o.accuracy))
        plot_recipes(lines, self.ann, path)


def _recipes(value: Any) -> list[Recipe]:
    if isinstance(value, str | Recipe):
        raise RefusalError(f"write [{value!r}]")
    if not isinstance(value, Iterable):
        raise TypeError
    return [named(recipe) for recipe in value]


def _labelled(value: Any) -> Any:
    if not isinstance(value, Sequence) or not value or not all(_is_pair(pair) for pair in value):
        raise TypeError
    return value


def _is_pair(pair: Any) -> bool:
    """Inputs and labels, of as many samples."""
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[1], Tensor):
        return False
    sizes = [len(x) for x in leaves(packed(pair[0])) if hasattr(x, "__array__") and getattr(x, "ndim", False)]
    return pair[1].ndim == 1 and bool(sizes) and 0 < len(pair[1]) == sizes[0]


#: For arguments that are labelled data, recipes, numbers of steps.
DATA = Check("is a list of batches (x, labels)", _labelled, "write [(images, labels)] or list(loader)")
RECIPES_ASKED = Check("must be a list of recipes or their names", _recipes, 'write ["opi", recipes.snm()]')
TIMES = several(STEPS, "numbers of steps")


@takes(InputError, model=MODEL_OR_STATE, recipes=RECIPES_ASKED, batches=BATCHES, data=DATA, T=TIMES, networks=MAPPING,
       progress=FLAG)  # fmt: skip
def sweep(
    model: nn.Module | ConversionState,
    recipes: Iterable[Recipe | str] = (),
    *,
    batches: Iterable[Any],
    data: Sequence[tuple[Any, Tensor]],
    T: Sequence[int] = (1, 2, 4, 8),
    networks: Mapping[str, SpikingNetwork] = EMPTY,
    forward: Forward | None = None,
    progress: bool = False,
) -> Sweep:
    """Convert a classifier by several recipes and classify the same data with each; the model is unchanged.

    A recipe that cannot convert this network is left out and its reason kept in ``Sweep.refused``.

    Args:
        model: the network, or the state it was traced to.
        recipes: values or names of ``snnpipe.recipes``.
        batches: calibration data as ``calibrate`` takes it; read more than once.
        data: batches ``(x, labels)``, labels (B,) of class indices; the prices are counted on the first few samples.  x
            is a batch as ``calibrate`` takes it: of several inputs, a tuple or a dictionary.
        T: for which numbers of steps; each gets a network of its own, for thresholds may depend on it.
        networks: converted ones by name, run for each T on the schedule ``"step"`` beside those of the recipes.
        forward: how ``batches`` are read, as for ``calibrate``.
        progress: show a progress bar.

    >>> from torch import nn
    >>> _ = torch.manual_seed(1)
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(64, 4)
    >>> found = sweep(model, ["opi", "snm"], batches=[x], data=[(x, model(x).argmax(1))], T=(1, 32))
    >>> [(outcome.recipe, outcome.T, outcome.accuracy) for outcome in found.outcomes][-1]
    ('snm', 32, 100.0)
    """
    recipes = list(recipes)
    if not recipes and not networks:
        raise InputError('sweep: there is nothing to compare; write sweep(model, ["opi", "snm"], ...), networks={...}')
    state = pipe(model if isinstance(model, ConversionState) else trace(model), fuse)
    if state.whole is not None:
        raise StageError(
            f"sweep: {state.whole.path} is a part and no classifier; convert it by each recipe and embed what they give"
        )
    with torch.no_grad():
        judge = judging(state, data, "sweep")
        jobs = [(recipe, steps) for recipe in recipes for steps in T]
        outcomes: list[Outcome] = []
        refused: dict[str, str] = {}
        for name, snn in networks.items():
            held: SpikingNetwork = NETWORK.hold(snn, f"networks[{name!r}]", "sweep", InputError)
            outcomes += [judge.ran(name, held, steps, STEP, FrozenMap(T=steps)) for steps in T]
        for recipe, steps in tqdm(jobs, "sweep", leave=False, disable=not progress):
            try:
                outcomes.append(judge.outcome(recipe(state, batches, T=steps, forward=forward)))
            except StageError as error:
                refused[recipe.name] = str(error)
    return Sweep(tuple(outcomes), judge.ann, len(judge.labels), FrozenMap(refused))


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
        return _percent(self.answers, self.labels)

    def few(self, samples: int) -> Judge:
        """The first batches that hold so many samples, all of them if these are fewer."""
        count, batches = 0, list[tuple[Any, ...]]()
        for given in self.inputs:
            if count >= samples:
                break
            batches.append(given)
            count += int(next(leaf.shape[0] for leaf in tensors(given)))
        return Judge(tuple(batches), self.labels[:count], self.answers[:count])

    def outcome(self, made: Converted) -> Outcome:
        """What the network of a recipe gets right, and at what price."""
        return self.ran(made.recipe.name, made.snn, made.T, made.recipe.schedule, made.run)

    def ran(self, name: str, snn: SpikingNetwork, T: int, wave: Wave, run: Mapping[str, Any]) -> Outcome:
        """The same of any network; ``run`` are the options it is called with."""
        guesses = torch.cat([snn(*given, **run).argmax(1).cpu() for given in self.inputs])
        costs = account(snn, *_first_samples(self.inputs[0]), T=run["T"], schedule=wave)
        neurons = [module.neuron for module in snn.neurons().values()]
        return Outcome(
            name,
            T,
            wave.latency(run["T"], depth(snn.graph)),
            _percent(guesses, self.labels),
            _percent(guesses, self.answers),
            costs.per_neuron,
            max((neuron.wires for neuron in neurons), default=0),
            max((neuron.unit for neuron in neurons), key=UNITS.index, default="graded"),
            sum(costs.state.values()),
            costs.mac,
        )


def judging(state: ConversionState, data: Sequence[tuple[Any, Tensor]], where: str) -> Judge:
    """Run the ANN on labelled data.

    Raises:
        InputError: its answers are no classes of as many samples as there are labels.
    """
    labels = torch.cat([y for _, y in data]).cpu()
    ann, inputs, answers = to_module(state), list[tuple[Any, ...]](), list[Tensor]()

    def answer(number: int, given: dict[str, Any]) -> None:
        inputs.append(tuple(given[node["name"]] for node in state.graph.inputs))
        answers.append(_classes(ann, inputs[-1], where))

    Reader(where, state.graph, ann).each([x for x, _ in data], answer)
    found = torch.cat(answers)
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


def _first_samples(inputs: tuple[Any, ...]) -> Any:
    count = next(leaf.shape[:1] for leaf in tensors(inputs))

    def few(leaf: Any) -> Any:
        return leaf[:SAMPLES] if isinstance(leaf, Tensor) and leaf.shape[:1] == count else leaf

    return zip_leaves(few, inputs)


def _percent(guesses: Tensor, truth: Tensor) -> float:
    return 100.0 * (guesses == truth).double().mean().item()
