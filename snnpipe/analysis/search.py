"""A search: candidates race one after another, the cheapest first, until the time is up.

Knows what candidates cost and what they answer; not what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.analysis.racing import Course, Run, race
from snnpipe.errors import StageError

#: The part of the time after which those put aside come back, where nothing has kept the accuracy until then.
FIRST = 0.8
#: Latency, wires and events of an answer, and whether events take multiplications.
Price = tuple[int, int, float, bool]


@attrs.frozen
class Job:
    """A candidate that is not made yet.

    Attributes:
        kind: what it is one of; of these more steps take more time, and no fewer events.
        steps: how many.
        latency, wires: of an answer.
        name: what it is called.
        graded: whether its events are numbers, which take multiplications.
    """

    kind: Any
    steps: int
    latency: int
    wires: int
    name: str
    graded: bool = False

    def price(self, events: float) -> Price:
        """What an answer of so many events costs."""
        return self.latency, self.wires, events, self.graded


@attrs.frozen(eq=False)
class Candidate:
    """One that was made.

    Attributes:
        events: of an answer.
        answer: ``answer(numbers of samples)``.
        about: whatever else is to be remembered of it.
    """

    events: float
    answer: Callable[[Tensor], Tensor]
    about: Any = None


@attrs.frozen(eq=False)
class Finisher:
    """One that answered all samples."""

    job: Job
    price: Price
    run: Run
    about: Any

    @property
    def count(self) -> int:
        """How many of its answers are right."""
        return int(self.run.right.sum())


@attrs.define(eq=False)
class Search:
    """What was found so far.

    Attributes:
        course: what is raced on.
        make: makes a candidate, or raises a ``StageError``.
        ann: which of the ANN's answers are right, in the order of the course.
        needed: how many right answers keep the accuracy.
        seconds, clock, begun: the time there is, what time it is, and what it was in the beginning.
        found: those that answered everything.
        aside: surely below the accuracy, with the share that was right.
        dropped, left, refused: by name, and why.
        events, pace: of each kind the events by steps, and the seconds that a step took.
    """

    course: Course
    make: Callable[[Job], Candidate]
    ann: Tensor
    needed: int
    seconds: float
    clock: Callable[[], float]
    begun: float
    found: list[Finisher] = attrs.field(factory=list)
    aside: list[tuple[float, Job]] = attrs.field(factory=list)
    dropped: dict[str, str] = attrs.field(factory=dict)
    left: dict[str, str] = attrs.field(factory=dict)
    refused: dict[str, str] = attrs.field(factory=dict)
    events: dict[Any, dict[int, float]] = attrs.field(factory=dict)
    pace: dict[Any, float] = attrs.field(factory=dict)

    def through(self, jobs: Iterable[Job]) -> None:
        """Try candidates in this order; if none keeps the accuracy, those put aside after all, the best first."""
        self.run(jobs, {"the accuracy asked for": self.bar()})
        if not self.enough:
            again = [job for _, job in sorted(self.aside, key=lambda one: -one[0])]
            for job in again:
                del self.dropped[job.name]
            self.run(again, {})

    @property
    def tried(self) -> int:
        """How many candidates were made."""
        return sum(map(len, self.events.values()))

    @property
    def enough(self) -> bool:
        """Whether one keeps the accuracy."""
        return any(one.count >= self.needed for one in self.found)

    def bar(self) -> Tensor:
        """A rival that is right just as often as needed: the ANN, some of its right answers taken for wrong ones.

        Which of them hangs on the numbers of the samples, not on the random order, as ``surely_fewer`` wants it.
        """
        order = self.course.order
        right = torch.zeros_like(self.ann)
        right[order] = self.ann
        return (right & (right.cumsum(0) <= self.needed))[order]

    def run(self, jobs: Iterable[Job], bar: dict[str, Tensor]) -> None:
        """Race candidates against those that were found, and against the bar."""
        for job in jobs:
            known = [events for steps, events in self.events.get(job.kind, {}).items() if steps <= job.steps]
            if self.needless(job, max(known, default=0.0)):
                continue
            begun = self.clock()
            if begun + self.pace.get(job.kind, 0.0) * job.steps > self.until(bar):
                self.left[job.name] = ""
                continue
            try:
                made = self.make(job)
            except StageError as error:
                self.refused[job.name] = str(error)
                continue
            self.events.setdefault(job.kind, {})[job.steps] = made.events
            if not self.needless(job, made.events):
                self.race(job, made, bar)
            self.pace[job.kind] = (self.clock() - begun) / job.steps

    def race(self, job: Job, made: Candidate, bar: dict[str, Tensor]) -> None:
        """One race, and what comes of it."""
        price = job.price(made.events)
        rivals = {one.job.name: one.run.right for one in self.found if no_more(one.price, price)}
        run = race(self.course, made.answer, bar | rivals, lambda: self.clock() > self.until(bar))
        share, seen = 100.0 * run.right.double().mean().item(), f"the first {len(run.right)} samples"
        if run.beaten:
            self.dropped[job.name] = f"worse than {run.beaten}: {share:.2f} % of {seen}"
            self.aside += [(share, job)] * (run.beaten in bar)
        elif len(run.right) < len(self.ann):
            self.left[job.name] = f"{share:.2f} % of {seen}" if len(run.right) else ""
        else:
            self.found.append(Finisher(job, price, run, made.about))

    def needless(self, job: Job, events: float) -> bool:
        """Whether one that was found has the ANN's accuracy and costs no more; a candidate costs these events or more.

        So there is nothing to gain.
        """
        price, ann = job.price(events), int(self.ann.sum())
        better = next((one for one in self.found if one.count >= ann and no_more(one.price, price)), None)
        if better is not None:
            self.dropped[job.name] = f"{better.job.name} has the ANN's accuracy and costs no more"
        return better is not None

    def until(self, bar: dict[str, Tensor]) -> float:
        """When to end; with a bar that none has passed, time is kept for those put aside."""
        return self.begun + self.seconds * (FIRST if bar and not self.enough else 1.0)

    def front(self) -> tuple[list[Finisher], dict[str, str]]:
        """Those that no other equals at no more cost, accuracy counted up to the ANN's; and who equals the rest."""
        ann, front, others = int(self.ann.sum()), list[Finisher](), dict[str, str]()

        def rank(one: Finisher) -> tuple[Price, int]:
            return one.price, -min(one.count, ann)

        def beats(a: Finisher, b: Finisher) -> bool:
            return no_more(a.price, b.price) and min(a.count, ann) >= min(b.count, ann)

        for one in sorted(self.found, key=lambda one: (*rank(one), -one.count)):
            better = next((other for other in front if beats(other, one)), None)
            if better is None:
                front.append(one)
            else:
                share = 100.0 * one.count / len(self.ann)
                others[one.job.name] = f"{share:.2f} % of all samples, and {better.job.name} is as good for less"
        return sorted(front, key=lambda one: (one.count < self.needed, one.price, -one.count)), others


def no_more(price: Price, than: Price) -> bool:
    """Whether nothing of one price is more than of another."""
    return all(a <= b for a, b in zip(price, than, strict=True))
