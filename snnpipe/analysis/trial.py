"""Taking advice, and measuring what it leaves of the error."""

from __future__ import annotations

from typing import Any

import attrs

from snnpipe.analysis.explanation import Explanation, Finding
from snnpipe.analysis.outputs import Outputs
from snnpipe.analysis.remedies import STATISTICS
from snnpipe.analysis.study import Sample, Study
from snnpipe.errors import SnnpipeError
from snnpipe.exchange.expressions import parse
from snnpipe.ops.lift import has_neurons
from snnpipe.recipe import Recipe
from snnpipe.stages.prefix import read_by_name
from snnpipe.waves import SCHEDULE

#: The options of a run that advice may name.
_OPTIONS = ("T", "schedule", "delay", "encoding")


def tried(study: Study, found: Explanation) -> Explanation:
    """The explanation, with what each advice leaves of the error where it can be tried."""
    errors: dict[str, float | None] = {}
    for finding in found.findings:
        if finding.advice not in errors:
            errors[finding.advice] = _error(study, finding)

    def with_it(finding: Finding) -> Finding:
        error = errors[finding.advice]
        return finding if error is None or not found.error else attrs.evolve(finding, brought=error / found.error)

    return attrs.evolve(found, findings=tuple(map(with_it, found.findings)))


def _error(study: Study, finding: Finding) -> float | None:
    """The error with the advice taken; ``None`` where it cannot be."""
    try:
        changed = None if finding.advice in ("", STATISTICS) else advised(study, finding.advice)
        return None if changed is None else output_error(changed)
    except SnnpipeError:  # a neuron that cannot stand there, a schedule that does not go with the delay
        return None


def output_error(study: Study) -> float:
    """The squared error of the network's output, in parts of the ANN's: one run of both."""
    sums = Outputs()

    def add(sample: Sample) -> None:
        y, _ = study.answer(sample.model)
        sums.add(study.between.run(sample.shown, delay=study.delay), y, None, sample.number)

    study.each(add)
    return sums.score.error


def advised(study: Study, advice: str) -> Study | None:
    """The same with the advice taken, ``None`` where stages are to run on a state that has passed them."""
    name, _, value = advice.partition("=")
    between = study.between
    if name in _OPTIONS:
        given: Any = parse(value)
        if name == "delay":
            return attrs.evolve(study, delay=given)
        if name == "encoding":
            return attrs.evolve(study, encoding=given, back=given.bookmark())
        T, wave = (given, between.wave) if name == "T" else (between.T, SCHEDULE.accept(given))
        return attrs.evolve(study, between=attrs.evolve(between, T=T, wave=wave))
    if has_neurons(study.state.graph) or study.state.code is not None:
        return None
    batches = study.batches
    if study.forward is not None:
        batches = read_by_name(study.state, batches, study.where, study.forward)
    stages = parse(advice.removeprefix("trace | "), data=batches)
    if isinstance(stages, Recipe):
        return _recipe_taken(study, stages, batches)
    return attrs.evolve(study, between=attrs.evolve(between, snn=stages(study.state)))


def _recipe_taken(study: Study, recipe: Recipe, batches: Any) -> Study:
    made = recipe(study.state, batches, T=study.between.T - recipe.pre)
    delay = recipe.pre + made.delay if made.delay else 0
    return attrs.evolve(
        study, between=attrs.evolve(study.between, snn=made.snn, T=made.steps, wave=recipe.schedule), delay=delay
    )
