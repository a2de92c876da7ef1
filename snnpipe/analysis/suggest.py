"""Looking for the cheapest pipelines that keep an accuracy, within a latency, a number of wires and a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from tqdm import tqdm

from snnpipe.analysis.sweep import DATA, RECIPES_ASKED, TIMES, Judge, Outcome, judging
from snnpipe.analysis.tables import aligned
from snnpipe.checks import takes
from snnpipe.errors import InputError, StageError
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.markup.tags import tag
from snnpipe.options import FLAG, POSITIVE, WHOLE, number, optional
from snnpipe.recipe import MODEL_OR_STATE, Converted, Recipe
from snnpipe.recipes import (
    calibration_advanced,
    calibration_light,
    cascade_calibrated,
    cascade_mmse,
    dcgs,
    ecmt,
    fading,
    fading_advanced,
    hmt,
    ltb,
    offset,
    opi,
    snm,
    snm_calibrated,
    wave,
    wave_advanced,
)
from snnpipe.runtime.batches import Forward
from snnpipe.runtime.depth import depth
from snnpipe.stage import pipe
from snnpipe.stages.batches import BATCHES
from snnpipe.stages.fuse import fuse
from snnpipe.stages.trace import trace
from snnpipe.state import ConversionState

_SHARE = number("is a share of the ANN's accuracy, 0 < share <= 1", lambda value: 0 < value <= 1)
#: Samples that a candidate is first looked at on, batches it is first calibrated on, and the part of the time for that.
FEW, BATCHES_FIRST, FIRST = 256, 2, 0.6
#: A candidate, its steps, and what it brought on a few samples.
Seen = tuple[Recipe, int, Outcome]


@attrs.frozen
class Suggestion:
    """One pipeline.

    Attributes:
        text: the recipe, which ``parse`` reads.
        outcome: what it brought on all the data, as in a ``Sweep``.
        enough: whether it keeps the accuracy that was asked for.
    """

    text: str
    outcome: Outcome
    enough: bool

    @property
    def call(self) -> str:
        """What to write; the answer is called like the ANN."""
        return f"{self.text}(model, batches, T={self.outcome.T})"


@attrs.frozen
class Suggestions:
    """The answer of ``suggest``: data, a table when printed.

    Attributes:
        found: the Pareto front of latency, wires, events and accuracy; first what keeps the accuracy, cheapest first.
        ann: the ANN's accuracy, percent.
        wanted: the accuracy asked for, percent.
        samples: how many samples were classified.
        tried: how many candidates were looked at.
        left: those there was no time for, as text.
        refused: recipe -> why this network is none for it.
    """

    found: tuple[Suggestion, ...]
    ann: float
    wanted: float
    samples: int
    tried: int
    left: tuple[str, ...] = ()
    refused: FrozenMap[str, str] = EMPTY

    def __str__(self) -> str:
        lines = [self._head(), *aligned(self._rows(), left=1, right=1), *self._notes()]
        lines += [f"left out (see refused): {', '.join(self.refused)}"] * bool(self.refused)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        notes = [tag("p", note, class_="note") for note in (*self._notes(), *map(": ".join, self.refused.items()))]
        enough = [k for k, one in enumerate(self.found) if one.enough]
        return piece(tag("p", self._head()), table(self._rows(), label="pipelines", words=1, strong=enough), *notes)

    def _head(self) -> str:
        return (
            f"ANN: {self.ann:.2f} % of {self.samples} samples; wanted {self.wanted:.2f} %; {self.tried} pipelines tried"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("", "latency", "wires", "events", "accuracy %", "write")]
        rows += [
            ("+" if one.enough else "-", str(one.outcome.latency), str(one.outcome.wires), f"{one.outcome.events:.2f}",
             f"{one.outcome.accuracy:.2f}", one.call)
            for one in self.found
        ]  # fmt: skip
        return rows

    def _notes(self) -> list[str]:
        more = f"no time for {len(self.left)} more; give it seconds=..., or recipes=... and T=... to choose among"
        return [more] * bool(self.left)


@takes(InputError, model=MODEL_OR_STATE, batches=BATCHES, data=DATA, accuracy=_SHARE, latency=optional(WHOLE),
       wires=optional(WHOLE), seconds=POSITIVE, recipes=optional(RECIPES_ASKED), T=TIMES, progress=FLAG)  # fmt: skip
def suggest(
    model: nn.Module | ConversionState, *, batches: Iterable[Any], data: Sequence[tuple[Any, Tensor]],
    accuracy: float = 0.99, latency: int | None = None, wires: int | None = None, seconds: float = 600.0,
    recipes: Iterable[Recipe | str] | None = None, T: Sequence[int] = (1, 2, 4, 8, 16, 32),
    forward: Forward | None = None, progress: bool = False,
) -> Suggestions:  # fmt: skip
    """Search recipes and numbers of steps for the cheapest that keep the ANN's accuracy; the model is unchanged.

    Every candidate is calibrated on two batches and looked at on a few samples; those that nothing beats clearly (by
    two standard errors, at no more latency and wires) are then calibrated on and held against all the data.  Candidates
    come in the order of what they cost to try, recipes that train weights last, until the time is up.

    Args:
        model: the network, or the state it was traced to.
        batches: calibration data as ``calibrate`` takes it; read more than once.
        data: batches ``(x, labels)`` as ``sweep`` takes them.
        accuracy: the share of the ANN's accuracy to keep.
        latency: the most steps until the answer, ``None`` for any.
        wires: the most wires of a neuron, ``None`` for up to four.
        seconds: how long to search; what was begun is ended.
        recipes: what to try, values or names; by default those that did best in the benchmarks, for so many wires.
        T: for which numbers of steps.
        forward: how ``batches`` are read, as for ``calibrate``.
        progress: show a progress bar.

    >>> _ = torch.manual_seed(1)
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(128, 4)
    >>> found = suggest(model, batches=[x], data=[(x, model(x).argmax(1))], wires=4, recipes=["opi", "cascade_mmse"],
    ...                 T=(1, 2, 32))
    >>> found.found[0].call
    'recipes.opi()(model, batches, T=32)'
    """
    state = pipe(model if isinstance(model, ConversionState) else trace(model), fuse)
    chosen: Any = candidates(wires) if recipes is None else recipes
    jobs = sorted(((recipe, steps) for recipe in chosen for steps in T), key=_price)
    begun, left = time.monotonic(), list[str]()
    with torch.no_grad():
        judge = judging(state, data, "suggest")
        search = Search(latency, wires, judge.few(FEW))
        for recipe, steps in tqdm(jobs, "suggest", leave=False, disable=not progress):
            if search.tried and time.monotonic() - begun > FIRST * seconds:
                left.append(f"{recipe!r} T={steps}")
            elif search.fits(recipe, steps):
                few = list(islice(batches, BATCHES_FIRST))
                search.look(recipe, steps, partial(recipe, state, few, T=steps, forward=forward))
        found = list[Suggestion]()
        for recipe, steps, _ in sorted(search.contenders(), key=lambda one: -one[2].accuracy):
            if found and time.monotonic() - begun > seconds:
                left.append(f"{recipe!r} T={steps}")
                continue
            outcome = judge.outcome(recipe(state, batches, T=steps, forward=forward))
            found.append(Suggestion(repr(recipe), outcome, outcome.accuracy >= accuracy * judge.ann))
    front = [
        one
        for k, one in enumerate(found)
        if not any(_beats(other.outcome, one.outcome) for other in found)
        and not any(_same(other.outcome, one.outcome) for other in found[:k])
    ]
    front.sort(key=lambda one: (not one.enough, *_cost(one.outcome), -one.outcome.accuracy))
    return Suggestions(tuple(front), judge.ann, accuracy * judge.ann, len(judge.labels), search.tried, tuple(left),
                       FrozenMap(search.refused))  # fmt: skip


def candidates(wires: int | None) -> list[Recipe]:
    """What is tried where nobody says it; binary and signed events on one wire, codes of levels on more."""
    one = [snm_calibrated(), snm(), fading(), calibration_light(), ltb(), offset(), opi(), wave(K=2), wave(K=4),
           fading_advanced(), calibration_advanced(), wave_advanced()]  # fmt: skip
    if wires == 1:
        return one
    n = min(wires or 4, 8)
    few = [cascade_calibrated(n=2), cascade_mmse(n=2)] if n > 2 else []
    return [cascade_calibrated(n=n), cascade_mmse(n=n), *few, hmt(n=n), ecmt(n=n), dcgs(n=n), *one]


def _price(job: tuple[Recipe, int]) -> tuple[bool, int, int]:
    """What a candidate costs to try: training, steps, corrections."""
    recipe, steps = job
    trains = recipe.name.endswith("_advanced")
    return trains, recipe.pre + steps, len(recipe.corrections)


class Search:
    """The first round: what was looked at, and what is still in question.

    Args:
        latency, wires: the bounds.
        few: the samples that candidates are looked at on.
    """

    def __init__(self, latency: int | None, wires: int | None, few: Judge) -> None:
        self.latency, self.wires, self.few = latency, wires, few
        self.seen: list[Seen] = []
        self.refused: dict[str, str] = {}
        self.tried, self.deep = 0, 1

    def fits(self, recipe: Recipe, steps: int) -> bool:
        """Whether a candidate is within the bounds, as far as can be told before it is made, and may be of use.

        With more steps a recipe that has the ANN's accuracy already has nothing to gain.
        """
        if recipe.name in self.refused or (self.wires is not None and recipe.neuron.wires > self.wires):
            return False
        if any(one == recipe and outcome.accuracy >= self.few.ann for one, _, outcome in self.seen):
            return False
        return self.latency is None or recipe.schedule.latency(recipe.pre + steps, self.deep) <= self.latency

    def look(self, recipe: Recipe, steps: int, make: Callable[[], Converted]) -> None:
        """Make a candidate and look at it."""
        try:
            made = make()
        except StageError as error:
            self.refused[recipe.name] = str(error)
            return
        self.tried, self.deep = self.tried + 1, max(self.deep, depth(made.snn.graph))
        outcome = self.few.outcome(made)
        within = self.latency is None or outcome.latency <= self.latency
        if within and (self.wires is None or outcome.wires <= self.wires):
            self.seen.append((recipe, steps, outcome))

    def contenders(self) -> Iterator[Seen]:
        """Those that nothing beats clearly."""
        for recipe, steps, outcome in self.seen:
            share = min(max(outcome.accuracy / 100, 0.01), 0.99)
            margin = 200 * (share * (1 - share) / max(len(self.few.labels), 1)) ** 0.5
            if not any(_beats(other, outcome, margin) for _, _, other in self.seen):
                yield recipe, steps, outcome


def _cost(outcome: Outcome) -> tuple[int, int, float]:
    return outcome.latency, outcome.wires, outcome.events


def _same(other: Outcome, outcome: Outcome) -> bool:
    """Whether two are equally good at the same price."""
    return (*_cost(other), other.accuracy) == (*_cost(outcome), outcome.accuracy)


def _beats(other: Outcome, outcome: Outcome, margin: float | None = None) -> bool:
    """Whether another costs no more and is better; with a margin, by more than that, whatever the events."""
    if margin is not None:
        return (
            other.latency <= outcome.latency
            and other.wires <= outcome.wires
            and other.accuracy > outcome.accuracy + margin
        )
    no_more = all(a <= b for a, b in zip(_cost(other), _cost(outcome), strict=True))
    better = _cost(other) != _cost(outcome) or other.accuracy > outcome.accuracy
    return no_more and other.accuracy >= outcome.accuracy and better
