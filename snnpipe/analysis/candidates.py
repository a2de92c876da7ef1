"""Recipes as candidates of a search: which are tried, what they share, how they are made and asked.

Knows recipes and labelled data; what becomes of candidates is the search's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.analysis.judge import Judge
from snnpipe.analysis.racing import Course, shuffled
from snnpipe.analysis.search import Candidate, Job
from snnpipe.recipe import Recipe, begun, finished
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
from snnpipe.runtime.depth import depth
from snnpipe.stage import pipe
from snnpipe.stages.calibrate import calibrate
from snnpipe.stages.to_snn import to_module
from snnpipe.state import ConversionState


def candidates(wires: int | None) -> list[Recipe]:
    """What is tried where nobody says it; binary and signed events on one wire, codes of levels on more."""
    one = [snm_calibrated(), snm(), fading(), calibration_light(), ltb(), offset(), opi(), wave(K=2), wave(K=4),
           fading_advanced(), calibration_advanced(), wave_advanced()]  # fmt: skip
    if wires == 1:
        return one
    n = min(wires or 4, 8)
    few = [cascade_calibrated(n=2), cascade_mmse(n=2)] if n > 2 else []
    return [cascade_calibrated(n=n), cascade_mmse(n=n), *few, hmt(n=n), ecmt(n=n), dcgs(n=n), *one]


@attrs.define(eq=False)
class Entries:
    """What candidates are made of and asked about.

    Attributes:
        recipes: by the kind of a job.
        state: the network, fused.
        batches: calibration data.
        judge: labelled data.
        measured: what was calibrated before, and after it.
    """

    recipes: tuple[Recipe, ...]
    state: ConversionState
    batches: Iterable[Any]
    judge: Judge
    measured: list[tuple[ConversionState, ConversionState]] = attrs.field(factory=list)

    def calibrated(self, recipe: Recipe, T: int) -> ConversionState:
        """How a recipe begins; what measures the same at the same sites is measured once."""
        marked = pipe(self.state, begun(recipe, T))
        state = next((after for before, after in self.measured if _alike(before, marked)), None)
        if state is None:
            state = pipe(marked, calibrate(self.batches))
            self.measured.append((marked, state))
        return attrs.evolve(state, threshold=marked.threshold)

    def jobs(self, kind: int, T: Iterable[int]) -> list[Job]:
        """A recipe for several numbers of steps, with what an answer costs as far as it is known before they are made.

        Raises:
            StageError: this network is none for it.
        """
        recipe, times = self.recipes[kind], list(T)
        state = self.calibrated(recipe, times[0])
        deep = depth(state.graph, state.sites)

        def job(steps: int) -> Job:
            latency = recipe.schedule.latency(steps, deep)
            name, neuron = f"{recipe!r} T={steps - recipe.pre}", recipe.neuron
            return Job(kind, steps, latency, neuron.wires, name, neuron.unit == "graded")

        return [job(recipe.pre + steps) for steps in times]

    def make(self, job: Job) -> Candidate:
        """A candidate, converted as its recipe converts."""
        recipe = self.recipes[job.kind]
        T = job.steps - recipe.pre
        made = finished(recipe, self.calibrated(recipe, T), self.batches, T)
        price = self.judge.priced(made)

        def answer(rows: Tensor) -> Tensor:
            return self.judge.part(rows).classes(made)

        return Candidate(float(f"{price.events:.2g}"), answer, price)

    def course(self, risk: float, seed: int) -> Course:
        """All samples in a random order; where they cannot be taken out of their batches, batch by batch, at one look.

        Args:
            risk: the chance that a candidate is beaten by chance, of all comparisons with a rival together.
            seed: of the order.
        """
        judge = self.judge
        looks = shuffled(len(judge.labels), max(judge.sizes), seed)
        if len(looks) == 1 or not judge.divisible(to_module(self.state)):
            looks = (torch.arange(len(judge.labels)).split(list(judge.sizes)),)
        return Course(looks, judge.labels, risk / len(looks))


def trains(recipe: Recipe) -> bool:
    """Whether a recipe trains weights, which takes long."""
    return recipe.name.endswith("_advanced")


def _alike(a: ConversionState, b: ConversionState) -> bool:
    """Whether what is measured for one state serves another."""
    rules = a.threshold, b.threshold
    same = rules[0] == rules[1] or (
        rules[0].statistic == rules[1].statistic
        and not rules[0].statistic.ordered
        and "neuron" not in (rules[0].per, rules[1].per)
    )
    return same and all(
        x == y
        for x, y in (
            (a.graph.nodes, b.graph.nodes), (a.graph.output, b.graph.output), (a.sites, b.sites),
            (a.statistics, b.statistics),
        )
    )  # fmt: skip
