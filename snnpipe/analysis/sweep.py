"""Several recipes on the same data: what accuracy at what latency, and at what price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from tqdm import tqdm

from snnpipe.analysis.judge import Outcome, judging
from snnpipe.analysis.plots import plot_recipes
from snnpipe.checks import Check, RefusalError, takes
from snnpipe.containers import packed
from snnpipe.errors import InputError, StageError
from snnpipe.frozen import EMPTY, FrozenMap, leaves
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.markup.tags import more, tag
from snnpipe.options import FLAG, MAPPING, PATH, STEPS, several
from snnpipe.recipe import MODEL_OR_STATE, Recipe
from snnpipe.recipes import named
from snnpipe.runtime.batches import Forward
from snnpipe.runtime.network import NETWORK, SpikingNetwork
from snnpipe.stage import pipe
from snnpipe.stages.batches import BATCHES
from snnpipe.stages.fingerprint import fingerprint, of_state
from snnpipe.stages.fuse import fuse
from snnpipe.stages.together import GROUP, Together
from snnpipe.stages.trace import trace
from snnpipe.state import ConversionState
from snnpipe.waves import STEP


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


def _shard(value: Any) -> Any:
    pairs = list(BATCHES.accept(value))
    if not all(map(_is_pair, pairs)):
        raise TypeError
    return pairs


def _labelled(value: Any) -> Any:
    pairs = _shard(value)
    if not pairs:
        raise TypeError
    return pairs


def _is_pair(pair: Any) -> bool:
    """Inputs and labels, of as many samples."""
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[1], Tensor):
        return False
    sizes = [len(x) for x in leaves(packed(pair[0])) if hasattr(x, "__array__") and getattr(x, "ndim", False)]
    return pair[1].ndim == 1 and bool(sizes) and 0 < len(pair[1]) == sizes[0]


#: For arguments that are labelled data, data that may be none, recipes, numbers of steps.
DATA = Check("is a list or a loader of batches (x, labels)", _labelled, "write [(images, labels)]")
SHARD = attrs.evolve(DATA, accept=_shard)
RECIPES_ASKED = Check("must be a list of recipes or their names", _recipes, 'write ["opi", recipes.snm()]')
TIMES = several(STEPS, "numbers of steps")


@takes(
    InputError, model=MODEL_OR_STATE, recipes=RECIPES_ASKED, batches=BATCHES, data=SHARD, T=TIMES, networks=MAPPING,
    progress=FLAG, group=GROUP,
)  # fmt: skip
def sweep(
    model: nn.Module | ConversionState,
    recipes: Iterable[Recipe | str] = (),
    *,
    batches: Iterable[Any] = (),
    data: Iterable[tuple[Any, Tensor]],
    T: Sequence[int] = (1, 2, 4, 8),
    networks: Mapping[str, SpikingNetwork] = EMPTY,
    forward: Forward | None = None,
    progress: bool = False,
    group: Any = ...,
) -> Sweep:
    """Convert a classifier by several recipes and classify the same data with each; the model is unchanged.

    A recipe that cannot convert this network is left out and its reason kept in ``Sweep.refused``.

    Args:
        model: the network, or the state it was traced to.
        recipes: values or names of ``snnpipe.recipes``.
        batches: calibration data as ``calibrate`` takes it; read more than once.  ``networks`` need none.
        data: batches ``(x, labels)``, labels (B,) of class indices, a list or a loader; kept in memory.  The prices are
            counted on the first few samples.  x is a batch as ``calibrate`` takes it: of several inputs, a tuple or a
            dictionary.
        T: for which numbers of steps; each gets a network of its own, for thresholds may depend on it.
        networks: converted ones by name, run for each T on the schedule ``"step"`` beside those of the recipes.
        forward: how ``batches`` are read, as for ``calibrate``.
        progress: show a progress bar.
        group: processes that sweep the same network, as for ``calibrate``, each with its own ``batches`` and ``data``,
            either of which may be empty; all of them get what one finds with the data of all, in order of rank.

    >>> from torch import nn
    >>> _ = torch.manual_seed(1)
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(64, 4)
    >>> found = sweep(model, ["opi", "snm"], batches=[x], data=[(x, model(x).argmax(1))], T=(1, 32))
    >>> [(outcome.recipe, outcome.T, outcome.accuracy) for outcome in found.outcomes][-1]
    ('snm', 32, 100.0)
    """
    recipes, data = list(recipes), list(data)
    if not recipes and not networks:
        raise InputError('sweep: there is nothing to compare; write sweep(model, ["opi", "snm"], ...), networks={...}')
    for name in networks.keys() & {recipe.name for recipe in recipes if isinstance(recipe, Recipe)}:
        raise InputError(f"sweep: networks: a recipe is called {name!r}, too; call the network otherwise")
    state = pipe(model if isinstance(model, ConversionState) else trace(model), fuse)
    if group is ...:
        DATA.hold(data, "data", "sweep", InputError)
    with torch.no_grad():
        with Together(group, "sweep", partial(of_state, state, recipes, T)) as everyone:
            judge = judging(state, data, "sweep", none=everyone.several)
            everyone.read(len(judge.inputs))
            samples, ann, _ = judge.accuracy(judge.answers, everyone)
        jobs = [(recipe, steps) for recipe in recipes for steps in T]
        outcomes: list[Outcome] = []
        refused: dict[str, str] = {}
        for name, given in networks.items():
            snn: SpikingNetwork = NETWORK.hold(given, f"networks[{name!r}]", "sweep", InputError)
            for steps in T:
                run: FrozenMap[str, Any] = FrozenMap(T=steps)
                with Together(group, "sweep", partial(_same, snn, run)) as everyone:
                    outcomes.append(judge.ran(name, snn, steps, STEP, run, everyone))
        for recipe, steps in tqdm(jobs, "sweep", leave=False, disable=not progress):
            try:
                made = recipe(state, batches, T=steps, forward=forward, group=group)
                with Together(group, "sweep", partial(_same, made.snn, made.run)) as everyone:
                    outcomes.append(judge.outcome(made, everyone))
            except StageError as error:
                refused[recipe.name] = str(error)
    return Sweep(tuple(outcomes), ann, samples, FrozenMap(refused))


def _same(snn: SpikingNetwork, run: Mapping[str, Any]) -> str:
    """What must be equal in all processes: the network and how it runs."""
    return fingerprint(f"{snn.graph};{run}", snn.state_dict())
