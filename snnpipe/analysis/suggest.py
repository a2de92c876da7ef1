"""Looking for the cheapest pipelines that keep an accuracy, within a latency, a number of wires and a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from tqdm import tqdm

from snnpipe.analysis.candidates import Entries, candidates, trains
from snnpipe.analysis.interval import CONFIDENCE, Interval, Sums
from snnpipe.analysis.judge import Outcome, judging, scored
from snnpipe.analysis.search import Finisher, Job, Search
from snnpipe.analysis.sweep import DATA, RECIPES_ASKED, TIMES
from snnpipe.analysis.tables import aligned
from snnpipe.checks import takes
from snnpipe.errors import InputError, StageError
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.markup.tags import tag
from snnpipe.options import FLAG, POSITIVE, WHOLE, number, optional, whole
from snnpipe.recipe import MODEL_OR_STATE, Recipe
from snnpipe.runtime.batches import Forward
from snnpipe.stage import pipe
from snnpipe.stages.batches import BATCHES
from snnpipe.stages.fuse import fuse
from snnpipe.stages.prefix import read_by_name
from snnpipe.stages.trace import trace
from snnpipe.state import ConversionState

_SHARE = number("is a share of the ANN's accuracy, 0 < share <= 1", lambda value: 0 < value <= 1)


@attrs.frozen
class Suggestion:
    """One pipeline.

    Attributes:
        text: the recipe, which ``parse`` reads.
        outcome: what it brought on all the data, as in a ``Sweep``.
        accuracy: its accuracy there, percent, and between which bounds that of all samples of this kind lies.
        enough: whether it keeps the accuracy that was asked for.
    """

    text: str
    outcome: Outcome
    accuracy: Interval
    enough: bool

    @property
    def call(self) -> str:
        """What to write; the answer is called like the ANN."""
        return f"{self.text}(model, batches, T={self.outcome.T})"


@attrs.frozen
class Suggestions:
    """The answer of ``suggest``: data, a table when printed.

    Attributes:
        found: the Pareto front of latency, wires, events and accuracy up to the ANN's, all of it measured on all the
            data; first what keeps the accuracy, cheapest first, then what narrowly does not.
        ann: the ANN's accuracy, percent.
        wanted: the accuracy asked for, percent.
        samples: how many samples were classified.
        confidence: of the intervals.
        tried: how many candidates were made.
        dropped: candidate -> why it is not on that front.
        left: candidate -> what was seen of those there was no time for, "" for nothing.
        refused: recipe or candidate -> why this network is none for it.
    """

    found: tuple[Suggestion, ...]
    ann: float
    wanted: float
    samples: int
    confidence: float
    tried: int
    dropped: FrozenMap[str, str] = EMPTY
    left: FrozenMap[str, str] = EMPTY
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
        head = f"{100 * self.confidence:g} % interval"
        rows: list[tuple[str, ...]] = [("", "latency", "wires", "events", "accuracy %", head, "write")]
        rows += [
            ("+" if one.enough else "-", str(one.outcome.latency), str(one.outcome.wires), f"{one.outcome.events:.2f}",
             f"{one.accuracy.mean:.2f}", f"{one.accuracy.low:.2f}..{one.accuracy.high:.2f}", one.call)
            for one in self.found
        ]  # fmt: skip
        return rows

    def _notes(self) -> list[str]:
        kept = [f"{len(self.dropped)} more could not be on this list (see dropped)"] * bool(self.dropped)
        more = f"no time for {len(self.left)} more; give it seconds=..., or recipes=... and T=... to choose among"
        return [*kept, *[more] * bool(self.left)]


@takes(InputError, model=MODEL_OR_STATE, batches=BATCHES, data=DATA, accuracy=_SHARE, latency=optional(WHOLE),
       wires=optional(WHOLE), seconds=POSITIVE, recipes=optional(RECIPES_ASKED), T=TIMES, confidence=CONFIDENCE,
       seed=whole(0), progress=FLAG)  # fmt: skip
def suggest(
    model: nn.Module | ConversionState, *, batches: Iterable[Any], data: Iterable[tuple[Any, Tensor]],
    accuracy: float = 0.99, latency: int | None = None, wires: int | None = None, seconds: float = 600.0,
    recipes: Iterable[Recipe | str] | None = None, T: Sequence[int] = (1, 2, 4, 8, 16, 32),
    forward: Forward | None = None, confidence: float = 0.95, seed: int = 0, progress: bool = False,
) -> Suggestions:  # fmt: skip
    """Search recipes and numbers of steps for the cheapest that keep the ANN's accuracy; the model is unchanged.

    Candidates come in the order of their latency, those that train weights last.  Each is made as ``Suggestion.call``
    makes it and answers a random part of the data, twice as much, and so on.  It is dropped as soon as it is surely
    right less often than the ANN's accuracy asks for, or than one found before that costs no more, on the same samples;
    and where one found before has the ANN's accuracy and costs no more.  One that keeps the accuracy and belongs to the
    front is dropped with a probability of at most ``1 - confidence``; what is within noise is measured on all the data.
    If nothing keeps the accuracy, those dropped for it are measured after all, the best first.

    Costs are latency, wires, events, and multiplications if events are graded.  Events are counted on a few samples, to
    two digits; more steps are taken to send no fewer.

    Args:
        model: the network, or the state it was traced to.
        batches: calibration data as ``calibrate`` takes it; read more than once.
        data: batches ``(x, labels)`` as ``sweep`` takes them.
        accuracy: the share of the ANN's accuracy to keep.
        latency: the most steps until the answer, ``None`` for any.
        wires: the most wires of a neuron, ``None`` for up to four.
        seconds: how long to search; a conversion or a batch that was begun is ended.
        recipes: what to try, values or names; by default those that did best in the benchmarks, for so many wires.
        T: for which numbers of steps.
        forward: how ``batches`` are read, as for ``calibrate``.
        confidence: of the intervals, and that a candidate is not dropped by chance.
        seed: of the random order; with time enough, the answer hangs on nothing else.
        progress: show a progress bar.

    >>> _ = torch.manual_seed(1)
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(128, 4)
    >>> found = suggest(model, batches=[x], data=[(x, model(x).argmax(1))], wires=4, recipes=["opi", "cascade_mmse"],
    ...                 T=(1, 2, 32))
    >>> found.found[0].call
    'recipes.opi()(model, batches, T=32)'
    """
    start, state = time.monotonic(), pipe(model if isinstance(model, ConversionState) else trace(model), fuse)
    chosen: Any = candidates(wires) if recipes is None else recipes
    with torch.no_grad():
        judge = judging(state, list(data), "suggest")
        if forward is not None:
            batches = read_by_name(state, batches, "suggest", forward)
        entries = Entries(tuple(chosen), state, batches, judge)
        jobs, refused = _jobs(entries, T, latency, wires)
        course, right = entries.course((1 - confidence) / (len(jobs) + 1), seed), judge.answers == judge.labels
        needed = math.ceil(round(accuracy * int(right.sum()), 6))
        search = Search(course, entries.make, right[course.order], needed, seconds, time.monotonic, start)
        search.through(tqdm(jobs, "suggest", leave=False, disable=not progress))

    def suggestion(one: Finisher) -> Suggestion:
        text, order = repr(entries.recipes[one.job.kind]), course.order
        outcome = scored(one.about, one.run.answers, judge.labels[order], judge.answers[order])
        interval = Sums.of(one.run.right).interval(confidence, 100.0)
        return Suggestion(text, outcome, interval, one.count >= needed)

    front, others = search.front()
    return Suggestions(
        tuple(map(suggestion, front)), judge.ann, accuracy * judge.ann, len(judge.labels), confidence, search.tried,
        FrozenMap(search.dropped | others), FrozenMap(search.left), FrozenMap(refused | search.refused),
    )  # fmt: skip


def _jobs(
    entries: Entries, T: Sequence[int], latency: int | None, wires: int | None
) -> tuple[list[Job], dict[str, str]]:
    """The candidates within the bounds in the order they are tried in, and why others are none."""
    jobs, refused = list[Job](), dict[str, str]()
    for kind, recipe in enumerate(entries.recipes if T else ()):
        try:
            found = entries.jobs(kind, T)
        except StageError as error:
            refused[repr(recipe)] = str(error)
            continue
        jobs += [
            job
            for job in found
            if (latency is None or job.latency <= latency) and (wires is None or job.wires <= wires)
        ]
    return sorted(jobs, key=lambda job: (trains(entries.recipes[job.kind]), job.latency)), refused
