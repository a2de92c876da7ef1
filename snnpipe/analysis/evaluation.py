"""What an evaluation found, as data, as a table and as a figure."""

from __future__ import annotations

from os import PathLike

import attrs

from snnpipe.analysis.curves import plot_evaluation
from snnpipe.analysis.interval import Interval
from snnpipe.analysis.readouts import Exit, Readout
from snnpipe.analysis.tables import aligned, short
from snnpipe.checks import takes
from snnpipe.markup.lines import Line, lines
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.markup.tags import Markup, tag
from snnpipe.options import PATH


@attrs.frozen
class Evaluation:
    """The answer of ``evaluate``: data, a table when printed, a figure with ``plot(path)``.

    Attributes:
        T, code, encoding, schedule, delay: what was run.
        measure: what ``accuracy`` is: ``"top-1"``, ``"top-5"``, ``"metric"``.
        confidence: of the intervals.
        samples, neurons: how many, the latter in one sample's network.
        readouts: one for each step, of a wave for each chunk.
        stopped: what the rule ``until`` made of it, ``None`` without.
        ann: the ANN's own accuracy, ``None`` without ANN or labels.
        seconds: what running the network took, its spikes being counted on the way.
    """

    T: int
    code: str
    encoding: str
    schedule: str
    delay: int
    measure: str
    confidence: float
    samples: int
    neurons: int
    readouts: tuple[Readout, ...]
    stopped: Exit | None
    ann: Interval | None
    seconds: float

    @property
    def last(self) -> Readout:
        """After all steps."""
        return self.readouts[-1]

    @property
    def percent(self) -> bool:
        """Whether accuracies are in per cent."""
        return self.measure != "metric"

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        return piece(*drawn(self))

    @takes(path=PATH)
    def plot(self, path: str | PathLike[str]) -> None:
        """Draw accuracy and agreement with their intervals, and events, against t, into a file."""
        plot_evaluation(
            self.readouts, path, measure=self.measure, neurons=self.neurons, ann=self.ann, stopped=self.stopped
        )


def shown(evaluation: Evaluation) -> tuple[Readout, ...]:
    """The readouts of a table: after 1, 2, 4, ... of them, and the last."""
    count = len(evaluation.readouts)
    wanted = {2**k for k in range(count.bit_length())} & set(range(count + 1)) | {count}
    return tuple(evaluation.readouts[number - 1] for number in sorted(wanted))


def head(evaluation: Evaluation) -> str:
    """What was run, in words."""
    e = evaluation
    parts = [f"{e.T} step{'s' * (e.T != 1)} under {e.code}", f"{e.encoding} input"]
    parts += [f"schedule {e.schedule}"] * (e.schedule != "step") + [f"delay {e.delay}"] * bool(e.delay)
    return f"{', '.join(parts)}; {e.samples} sample{'s' * (e.samples != 1)} in {e.seconds:.3g} s"


def columns(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """The table, cell by cell, its head first."""
    e, unit = evaluation, " %" * evaluation.percent
    has = {"accuracy": e.last.accuracy, "agreement": e.last.agreement, "error": e.last.error}
    bounds = f"{100 * e.confidence:g} % interval"
    titles = ["t", "latency"]
    titles += [f"{e.measure}{unit}", bounds] * (has["accuracy"] is not None)
    titles += ["as ANN %", bounds] * (has["agreement"] is not None) + ["error %"] * (has["error"] is not None)
    rows = [(*titles, "events", "per neuron")]
    for r in shown(e):
        cells = [str(r.t), str(r.latency), *_cells(r.accuracy), *_cells(r.agreement)]
        cells += [f"{100 * r.error:.3g}"] if r.error is not None else []
        rows.append((*cells, short(r.events), f"{r.events / max(e.neurons, 1):.3g}"))
    return rows


def notes(evaluation: Evaluation) -> list[str]:
    """What stands below the table."""
    e, unit = evaluation, " %" * evaluation.percent
    lines = [f"ANN: {e.measure} {words(e.ann)}{unit}"] if e.ann is not None else []
    if e.stopped is not None:
        lines.append(f"stopped by the rule: after {e.stopped.mean:.2f} steps on average")
        said = {e.measure: (e.stopped.accuracy, unit), "as ANN": (e.stopped.agreement, " %")}
        lines[-1] += "".join(f", {name} {words(x)}{u}" for name, (x, u) in said.items() if x is not None)
    return lines + ["no labels in the data: what is right is not known"] * (e.last.accuracy is None)


def drawn(evaluation: Evaluation) -> list[Markup]:
    """The curve and the table as parts of a page."""
    e = evaluation
    found = []
    for name, colour, title in (("accuracy", "a", e.measure), ("agreement", "b", "as the ANN")):
        shares = [(r.t, getattr(r, name)) for r in e.readouts if getattr(r, name) is not None]
        points = tuple((float(t), share.low, share.mean, share.high) for t, share in shares)
        found += [Line(title, points, colour)] * bool(points)
    level = None if e.ann is None else (f"ANN {e.ann.mean:.2f}", e.ann.mean)
    up = "per cent of the samples" if e.percent else "metric, and agreement in per cent"
    chart = [lines(found, label="accuracy and agreement against time steps", across="time steps t", up=up, level=level)]
    parts = [tag("p", head(e)), *chart * bool(found), table(columns(e), label="readouts", left=0)]
    return parts + [tag("p", note, class_="note") for note in notes(e)]


def words(interval: Interval) -> str:
    """A mean and its bounds."""
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _cells(interval: Interval | None) -> list[str]:
    return [] if interval is None else [f"{interval.mean:.2f}", f"{interval.low:.2f}..{interval.high:.2f}"]


def _lines(evaluation: Evaluation) -> list[str]:
    return [head(evaluation), *aligned(columns(evaluation), left=0), *notes(evaluation)]
