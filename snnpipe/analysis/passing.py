"""One pass over labelled data: the readouts of every batch, scored step by step."""

from __future__ import annotations

import time
from collections import Counter as Counts
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
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.runtime.batches import fitting
from snnpipe.runtime.depth import depth
from snnpipe.runtime.encoding import Encoding
from snnpipe.runtime.ledger import Ledger, begun, said
from snnpipe.runtime.meant import meant
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.runtime.until import Until
from snnpipe.waves import Wave


@attrs.frozen(eq=False)
class Totals:
    """What was found on some data; of parts it adds up.

    Attributes:
        scores: of each readout.
        events: of each readout the spikes up to it, over all samples.
        steps, stopped: how many samples the rule stopped after each step, and what they said.
        theirs: what the ANN got right.
        samples, neurons, seconds: how many, of one sample, and what running took.
    """

    scores: FrozenMap[int, Score] = EMPTY
    events: FrozenMap[int, float] = EMPTY
    steps: FrozenMap[int, int] = EMPTY
    stopped: Score | None = None
    theirs: Sums | None = None
    samples: int = 0
    neurons: int = 0
    seconds: float = 0.0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            _each(self.scores, other.scores), _each(self.events, other.events), _each(self.steps, other.steps),
            _both(self.stopped, other.stopped), _both(self.theirs, other.theirs), self.samples + other.samples,
            other.neurons or self.neurons, self.seconds + other.seconds,
        )  # fmt: skip


def _both(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


def _each(a: FrozenMap[int, Any], b: FrozenMap[int, Any]) -> FrozenMap[int, Any]:
    return a | {t: _both(a.get(t), value) for t, value in b.items()}


@attrs.frozen(eq=False)
class Pass:
    """What runs over the data.

    Attributes:
        twin: the network, whose spikes are counted.
        counter: who counts them.
        wave, T, delay, encoding, until, ann, scorer: as ``evaluate`` takes them.
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

    def batch(self, given: dict[str, Any], labels: Any, number: int) -> Totals:
        """Run the network on a batch, and score its readouts."""
        network, until = self.twin, self.until
        inputs = [given[node["name"]] for node in network.graph.inputs]
        values = meant(given, network, self.encoding, self.T, "evaluate")
        first = tensors(values)[0]
        count = first.shape[0] if first.ndim else 1
        theirs, right = None, None
        if self.ann is not None:
            with fitting("evaluate", number, values, self.ann):
                theirs = self.ann(*(values[node["name"]] for node in network.graph.inputs))
            right = self.scorer.right(theirs, labels, count)
        self.counter.sent()
        sent, seconds, ends = 0.0, 0.0, [clock.t for clock in self.wave.clocks(network.code, self.T)]
        outputs = network.iterate(
            *inputs, T=self.T, encoding=self.encoding, schedule=self.wave, delay=self.delay
        )  # fmt: skip
        scores, events, memory = dict[int, Score](), dict[int, float](), None
        ledger: Ledger | None = None
        for t in ends:
            start = time.perf_counter()
            with fitting("evaluate", number, given, network):
                output = next(outputs)
            if any(bool(x.isnan().any()) for x in tensors(output) if x.is_floating_point()):
                raise CalibrationError(f"evaluate: the output after step {t} of batch {number} is NaN")
            seconds += time.perf_counter() - start
            scores[t] = self.scorer.of(output, labels, theirs, count)
            sent += self.counter.sent()
            events[t] = sent
            if until is not None:
                memory, done = until(memory, output)
                ledger = ledger or begun(output)
                ledger = ledger.read(output, said(done, ledger) | (t == ends[-1]), t)
        steps = FrozenMap[int, int]() if ledger is None else FrozenMap(Counts(ledger.steps.tolist()))
        stopped = None if ledger is None else self.scorer.of(ledger.output, labels, theirs, count)
        neurons = sum(self.counter.sizes.values()) // max(count, 1)
        return Totals(FrozenMap(scores), FrozenMap(events), steps, stopped, right, count, neurons, seconds)

    def evaluation(self, all_: Totals, confidence: float) -> Evaluation:
        """What was found on all the data, in its final form."""
        scorer, network = self.scorer, self.twin
        layers = depth(network.graph)

        def found(sums: Sums | None, scale: float = 100.0) -> Interval | None:
            return None if sums is None else sums.interval(confidence, scale)

        readouts = [
            Readout(
                t, self.wave.latency(t, layers), found(s.right, scorer.scale), found(s.same), s.error,
                all_.events[t] / all_.samples,
            )
            for t, s in all_.scores.items()
        ]  # fmt: skip
        stopped = None if all_.stopped is None else Exit(
            tuple(all_.steps.get(t, 0) for t in range(1, self.T + 1)),
            found(all_.stopped.right, scorer.scale), found(all_.stopped.same), all_.stopped.error,
        )  # fmt: skip
        return Evaluation(
            self.T, str(network.code), self.encoding.name, str(self.wave), self.delay, scorer.name, confidence,
            all_.samples, all_.neurons, tuple(readouts), stopped, found(all_.theirs, scorer.scale), all_.seconds,
        )  # fmt: skip
