"""One pass over labelled data: the readouts of every batch, scored step by step."""

from __future__ import annotations

import time
from typing import Any

import attrs
from torch import nn

from snnpipe.analysis.activity import Counter
from snnpipe.analysis.evaluation import Evaluation
from snnpipe.analysis.interval import Interval, Sums
from snnpipe.analysis.readouts import Exit, Readout
from snnpipe.analysis.scores import Score, Scorer
from snnpipe.containers import tensors
from snnpipe.errors import CalibrationError
from snnpipe.runtime.batches import fitting
from snnpipe.runtime.depth import depth
from snnpipe.runtime.encoding import Encoding
from snnpipe.runtime.ledger import Ledger, begun, said
from snnpipe.runtime.meant import meant
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.runtime.until import Until
from snnpipe.waves import Wave


@attrs.define(eq=False)
class Pass:
    """What was found so far; ``batch`` goes on.

    Attributes:
        twin: the network, whose spikes are counted.
        counter: who counts them.
        wave, T, delay, encoding, until, ann, scorer: as ``evaluate`` takes them.
        scores: of each readout.
        events: of each readout the spikes up to it, over all samples.
        steps, stopped: how many samples the rule stopped after each step, and what they said.
        theirs: what the ANN got right.
        samples, neurons, seconds: how many, of one sample, and what running took.
    """

    twin: SpikingNetwork
    counter: Counter
    wave: Wave
    T: int
    delay: int
    encoding: Encoding
    until: Until | None
    ann: nn.Module | None
    scorer: Scorer
    scores: dict[int, Score] = attrs.field(factory=dict)
    events: dict[int, float] = attrs.field(factory=dict)
    steps: dict[int, int] = attrs.field(factory=dict)
    stopped: Score | None = None
    theirs: Sums | None = None
    samples: int = 0
    neurons: int = 0
    seconds: float = 0.0

    def batch(self, given: dict[str, Any], labels: Any, number: int) -> None:
        """Run the network on a batch, and score its readouts."""
        network, until = self.twin, self.until
        inputs = [given[node["name"]] for node in network.graph.inputs]
        values = meant(given, network, self.encoding, self.T, "evaluate")
        first = tensors(values)[0]
        count = first.shape[0] if first.ndim else 1
        theirs = None
        if self.ann is not None:
            with fitting("evaluate", number, values, self.ann):
                theirs = self.ann(*(values[node["name"]] for node in network.graph.inputs))
            if (right := self.scorer.right(theirs, labels, count)) is not None:
                self.theirs = right if self.theirs is None else self.theirs + right
        self.counter.sent()
        sent, ends = 0.0, [clock.t for clock in self.wave.clocks(network.code, self.T)]
        outputs = network.iterate(
            *inputs, T=self.T, encoding=self.encoding, schedule=self.wave, delay=self.delay
        )  # fmt: skip
        memory: Any = None
        ledger: Ledger | None = None
        for t in ends:
            start = time.perf_counter()
            with fitting("evaluate", number, given, network):
                output = next(outputs)
            if any(bool(x.isnan().any()) for x in tensors(output) if x.is_floating_point()):
                raise CalibrationError(f"evaluate: the output after step {t} of batch {number} is NaN")
            self.seconds += time.perf_counter() - start
            _add(self.scores, t, self.scorer.of(output, labels, theirs, count))
            sent += self.counter.sent()
            _add(self.events, t, sent)
            if until is not None:
                memory, done = until(memory, output)
                ledger = ledger or begun(output)
                ledger = ledger.read(output, said(done, ledger) | (t == ends[-1]), t)
        if ledger is not None:
            for t in ledger.steps.tolist():
                _add(self.steps, t, 1)
            score = self.scorer.of(ledger.output, labels, theirs, count)
            self.stopped = score if self.stopped is None else self.stopped + score
        self.samples += count
        self.neurons = sum(self.counter.sizes.values()) // max(count, 1)

    def evaluation(self, confidence: float) -> Evaluation:
        """All batches together."""
        scorer, network = self.scorer, self.twin
        layers = depth(network.graph)

        def found(sums: Sums | None, scale: float = 100.0) -> Interval | None:
            return None if sums is None else sums.interval(confidence, scale)

        readouts = [
            Readout(
                t, self.wave.latency(t, layers), found(s.right, scorer.scale), found(s.same), s.error,
                self.events[t] / self.samples,
            )
            for t, s in self.scores.items()
        ]  # fmt: skip
        stopped = None if self.stopped is None else Exit(
            tuple(self.steps.get(t, 0) for t in range(1, self.T + 1)),
            found(self.stopped.right, scorer.scale), found(self.stopped.same), self.stopped.error,
        )  # fmt: skip
        return Evaluation(
            self.T, str(network.code), self.encoding.name, str(self.wave), self.delay, scorer.name, confidence,
            self.samples, self.neurons, tuple(readouts), stopped, found(self.theirs, scorer.scale),
            self.seconds,
        )  # fmt: skip


def _add(totals: dict[int, Any], t: int, value: Any) -> None:
    totals[t] = totals[t] + value if t in totals else value
