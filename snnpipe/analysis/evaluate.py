"""Accuracy, agreement, events and time of a network at every step, in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import attrs
import torch
from torch import nn

from snnpipe.analysis.activity import Counter
from snnpipe.analysis.evaluation import Evaluation
from snnpipe.analysis.interval import CONFIDENCE
from snnpipe.analysis.labels import Labels, labels_of
from snnpipe.analysis.passing import Pass, Totals
from snnpipe.analysis.scores import Metric, Scorer
from snnpipe.checks import Check, RefusalError, takes
from snnpipe.errors import CalibrationError, InputError
from snnpipe.options import FLAG, RUN, WHOLE, function, optional
from snnpipe.runtime.batches import Forward, Reader
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.inputs import DELAY, check_delay
from snnpipe.runtime.network import NETWORK, SpikingNetwork
from snnpipe.runtime.until import UNTIL, Until, check_alone
from snnpipe.stages.batches import BATCHES_AND_T, MAX_BATCHES
from snnpipe.stages.fingerprint import fingerprint
from snnpipe.stages.to_snn import to_module
from snnpipe.stages.together import GROUP, Together
from snnpipe.state import ConversionState
from snnpipe.waves import SCHEDULE, STEP, Wave


def _ann(value: Any) -> Any:
    if isinstance(value, ConversionState):
        return to_module(value)
    if not isinstance(value, nn.Module) or isinstance(value, SpikingNetwork):
        raise TypeError
    if any(module.training for module in value.modules()):
        raise RefusalError("it is in training mode; write ann=model.eval()")
    return value


_ANN = optional(Check("must be the ANN, a module or the state it was traced to", _ann, "write ann=model"))


@takes(
    InputError, snn=NETWORK, loader=attrs.evolve(BATCHES_AND_T, wanted="must be an iterable of batches (x, labels)"),
    T=RUN, ann=_ANN, top=WHOLE, metric=optional(function("output", "labels")), labels=optional(function("batch")),
    forward=optional(function("model", "batch")), encoding=ENCODING, schedule=SCHEDULE, delay=DELAY, until=UNTIL,
    confidence=CONFIDENCE, max_batches=MAX_BATCHES, progress=FLAG, group=GROUP,
)  # fmt: skip
def evaluate(
    snn: SpikingNetwork,
    loader: Iterable[Any],
    *,
    T: int,
    ann: nn.Module | ConversionState | None = None,
    top: int = 1,
    metric: Metric | None = None,
    labels: Labels | None = None,
    forward: Forward | None = None,
    encoding: Encoding = constant(),
    schedule: Wave | str = STEP,
    delay: int = 0,
    until: Until | None = None,
    confidence: float = 0.95,
    max_batches: int | None = None,
    progress: bool = False,
    group: Any = ...,
) -> Evaluation:
    """Run a network over labelled data once and score what it says after every step; the network is unchanged.

    Args:
        snn: a converted network.
        loader: batches as ``calibrate`` takes them, with the labels behind the inputs: ``(x, labels)``, or a dictionary
            with ``"labels"``, ``"label"``, ``"targets"``, ``"target"`` or ``"y"``.  Labels are indices of classes,
            (B, ...), for scores (B, classes, ...); a sample with several places counts with the share that is right.
        T: number of steps.
        ann: the network it was made of, in evaluation mode, called with the same inputs; or the state between two
            stages.  With it, data need no labels.
        top: an answer is right if the label is among so many best scores.
        metric: ``metric(output, labels)`` says instead how good the outputs are, a number for each sample, (B,).
        labels: ``labels(batch)``, where the labels are elsewhere.
        forward: ``forward(model, batch)`` calls the model once, as for ``calibrate``; it needs ``labels`` too.
        encoding, schedule, delay: as the network takes them.  Of a wave there is a readout after each chunk.  Of
            ``events()`` the batches are sequences (T, B, ...), and the ANN is given what they decode to.
        until: also what samples say that stop by this rule, ``confident(0.9)``; all run to the end, for the readouts.
        confidence: of the intervals.
        max_batches: stop after so many.
        progress: show a progress bar.
        group: processes that evaluate the same network, each on its own batches, as for ``calibrate``; all of them get
            what one process counts on all the data.  ``seconds`` are those of all processes.

    Raises:
        CalibrationError: a batch that does not fit the network, or has no labels.  Of a group: as ``calibrate``.
        InputError: labels that do not fit the output, a metric that gives no numbers, outputs that are not finite.

    >>> from torch import nn
    >>> from snnpipe import calibrate, pipe, to_snn, trace
    >>> _ = torch.manual_seed(0)
    >>> model, x = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), torch.randn(600, 4)
    >>> snn = pipe(model, trace, calibrate([x]), to_snn)
    >>> found = evaluate(snn, [(x, model(x).argmax(1))], T=16, ann=model)
    >>> [(r.t, round(r.accuracy.mean, 1)) for r in found.readouts if r.t in (1, 4, 16)]
    [(1, 52.2), (4, 85.2), (16, 97.5)]
    """
    wave: Any = schedule
    check_delay(delay, T, snn.code, wave)
    if forward is not None and labels is None:
        raise InputError(
            "evaluate: forward says where the inputs are, so say where the labels are: labels=lambda batch: ..."
        )
    if until is not None:
        check_alone("last", delay)
    counter = Counter()
    run = Pass(counter.twin(snn), counter, wave, T, delay, encoding, until, ann, Scorer(top, metric))  # type: ignore[arg-type]
    mine = Totals()
    reader = Reader("evaluate", snn.graph, snn.weights, forward, timed=encoding.is_events)
    once = encoding if encoding.is_events else constant()

    def read(number: int, batch: Any) -> None:
        nonlocal mine
        found: list[dict[str, Any]] = []

        def one(given: dict[str, Any]) -> Any:
            found.append(given)
            return None if forward is None else snn(
                *(given[node["name"]] for node in snn.graph.inputs), T=1, encoding=once
            )  # fmt: skip

        reader.hand(batch, number, one)
        if len(found) > 1:
            raise CalibrationError(
                f"evaluate: forward(model, batch) called the model {len(found)} times on batch {number}"
            )
        said = labels_of(batch, snn.graph, labels, number)
        if said is None and (ann is None or metric is not None):
            raise CalibrationError(
                f"evaluate: batch {number} has no labels behind the inputs; write evaluate(snn, [(x, labels)], T=...), "
                "labels=lambda batch: ..., or ann=model to compare with the ANN alone"
            )
        mine += run.batch(found[0], said, number)

    def same() -> str:
        asked = (T, snn.code, wave, delay, encoding.name, until, run.scorer.name)
        theirs = {} if run.ann is None else {f"ann: {key}": held for key, held in run.ann.state_dict().items()}
        return fingerprint((str(snn.graph), *map(str, asked)), snn.state_dict() | theirs)

    with Together(group, "evaluate", same) as everyone, torch.no_grad():
        everyone.read(reader.walk(loader, read, max_batches, progress, none=everyone.several))
        return run.evaluation(reduce(Totals.__add__, everyone.shares(mine)), confidence)
