"""What an explanation says, as data and as a table: causes, sites, findings.

Knows numbers and words; how they are measured is ``analysis.explain``'s business.
"""

from __future__ import annotations

import math

import attrs

from snnpipe.analysis.joint import Joint
from snnpipe.analysis.page.why import GRADED, why
from snnpipe.analysis.tables import aligned
from snnpipe.markup.style import piece


@attrs.frozen
class Cause:
    """What one step from the ANN to the spiking network changes; the steps add up to the whole.

    Attributes:
        name: ``weights``, ``clipping``, ``resolution``, ``unevenness``, ``encoding`` or ``readout``.
        error: by how much the squared error of the output rises, in parts of the ANN's squared output.
        accuracy: by how many points the share of right answers rises, ``None`` without labels.
        agreement: by how many points the share of the ANN's answers rises, ``None`` where outputs are no classes.
    """

    name: str
    error: float
    accuracy: float | None = None
    agreement: float | None = None


@attrs.frozen
class SiteError:
    """What one site of neurons does to the network; shares are between 0 and 1.

    Attributes:
        site: the neuron's name, as in ``snn.neurons()``.
        path: the name of the activation's node in the graph.
        op: the ANN operator it stands for; of a value that is made events, which: ``input x``, ``value of linear``.
        isolated: squared error of the output, in parts of the ANN's, with this site alone spiking, all others the ANN.
        accumulated: squared error of what the site decodes to while all sites spike, in parts of the ANN's activation.
        correlation: between that and the ANN's activation.
        dead: share of the channels that never say anything, of those where the ANN's activation is not always 0.
        silent: share of the channels where the ANN's activation is always 0.
        saturated: share of the ANN's activations, those that are 0 left out, beyond what the neuron can say in T steps.
        reach: the most its thresholds let the neuron say over the largest activation, the median over channels.
        rate: spikes per neuron and step.
        neuron: the neuron.
        joint: how often what it decodes to goes with which activation of the ANN; left out of all texts.
    """

    site: str
    path: str
    op: str
    isolated: float
    accumulated: float
    correlation: float
    dead: float
    silent: float
    saturated: float
    reach: float
    rate: float
    neuron: str
    joint: Joint | None = attrs.field(default=None, repr=False, metadata={"drawn": True})


@attrs.frozen
class GradedOperator:
    """An operator between neurons that is not linear; it is run on what its operands decode to, and sends floats.

    By the law it computes what the ANN does of what it is given: it adds no error of its own.

    Attributes:
        path: the name of its node in the graph.
        op: the operator.
        isolated: squared error of what it computes through all steps with no site spiking, in parts of the ANN's.
        accumulated: the same while all sites spike: what it makes of their errors.
    """

    path: str
    op: str
    isolated: float
    accumulated: float


@attrs.frozen
class Finding:
    """One thing that is wrong, where, and what mends it.

    Attributes:
        cause: in two or three words.
        site: the neuron or layer, ``""`` for the whole network.
        what: in a sentence, with the figures.
        advice: what to write: stages for ``parse``, or an option of the run such as ``T=16``; "" if nobody can say.
        brought: the error after the advice was taken, in parts of the error before; ``None`` where it was not tried.
    """

    cause: str
    site: str
    what: str
    advice: str
    brought: float | None = None

    def __str__(self) -> str:
        return f"{self.cause}{f' at {self.site}' * bool(self.site)}: {self.what}"


@attrs.frozen
class Explanation:
    """The answer of ``explain``: data, a page of text when printed.

    Attributes:
        T: steps.
        schedule: as text, which ``snn(x, T=, schedule=)`` takes.
        error: squared error of the output, in parts of the ANN's squared output; the sum of the causes'.
        accuracy_ann, accuracy_snn: percent, ``None`` without labels.
        agreement: share of the ANN's answers, percent, ``None`` where outputs are no classes.
        causes: in the order of the networks between the ANN and the spiking one.
        sites: in the order of the graph.
        findings: what is wrong, the gravest first.
        graded: operators between neurons that are not linear, in the order of the graph.
        samples: how many samples were looked at.
        encoding: of the input, by name.
    """

    T: int
    schedule: str
    error: float
    accuracy_ann: float | None
    accuracy_snn: float | None
    agreement: float | None
    causes: tuple[Cause, ...]
    sites: tuple[SiteError, ...]
    findings: tuple[Finding, ...] = ()
    graded: tuple[GradedOperator, ...] = ()
    samples: int = 0
    encoding: str = "constant"

    def __str__(self) -> str:
        blocks = [self._head(), _causes(self), _sites(self.sites), _graded(self.graded), _findings(self.findings)]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def _repr_html_(self) -> str:
        return piece(*why(self))

    def _head(self) -> list[str]:
        shown = f", {self.encoding} input" * (self.encoding != "constant")
        how = f"T = {self.T}, schedule {self.schedule}{shown}, {self.samples} samples"
        said = []
        if self.accuracy_ann is not None and self.accuracy_snn is not None:
            said.append(f"accuracy {self.accuracy_ann:.2f} % (ANN), {self.accuracy_snn:.2f} % (SNN)")
        if self.agreement is not None:
            said.append(f"the ANN's answer for {self.agreement:.2f} %")
        off = f"the output is {_percent(math.sqrt(self.error))} off, {_percent(self.error)} in squares, which add up"
        return [f"{how}: {off}", *["; ".join(said)] * bool(said)]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _points(change: float | None) -> str:
    return "" if change is None else f"{change:+.2f}"


_MEANS = {
    "weights": "corrections, rounded or other weights",
    "clipping": "activations beyond what a neuron can say",
    "resolution": "too few levels in T steps",
    "unevenness": "events that came too early or too late",
    "encoding": "the input as events, not as a constant current",
    "readout": "steps left out of the readout",
}


def _causes(found: Explanation) -> list[str]:
    rows = [("cause", "error", "accuracy", "agreement", "what it is")]
    rows += [(c.name, f"{100 * c.error:+.3g} %", _points(c.accuracy), _points(c.agreement), _MEANS.get(c.name, ""))
             for c in found.causes]  # fmt: skip
    change = None
    if found.accuracy_ann is not None and found.accuracy_snn is not None:
        change = found.accuracy_snn - found.accuracy_ann
    lost = None if found.agreement is None else found.agreement - 100.0
    rows.append(("together", f"{100 * found.error:+.3g} %", _points(change), _points(lost), ""))
    return aligned(rows, left=1, right=1)


def _sites(sites: tuple[SiteError, ...]) -> list[str]:
    if not sites:
        return []
    rows = [("site", "for", "alone", "here", "correlation", "dead", "clipped", "reach", "rate", "neuron")]
    rows += [
        (s.site, s.op, _percent(s.isolated), _percent(s.accumulated), f"{s.correlation:.3f}", _percent(s.dead),
         _percent(s.saturated), f"{s.reach:.2g}", f"{s.rate:.3g}", s.neuron)
        for s in sites
    ]  # fmt: skip
    return aligned(rows, left=2, right=1)


def _graded(operators: tuple[GradedOperator, ...]) -> list[str]:
    if not operators:
        return []
    rows = [("graded operator", "for", "alone", "here")]
    rows += [(one.path, one.op, _percent(one.isolated), _percent(one.accumulated)) for one in operators]
    return [*aligned(rows, left=2), GRADED]


def _findings(findings: tuple[Finding, ...]) -> list[str]:
    lines = []
    for number, found in enumerate(findings, start=1):
        lines.append(f"{number}. {found}")
        tried = "" if found.brought is None else f"  (leaves {_percent(found.brought)} of the error)"
        lines += [f"   -> {found.advice}{tried}"] * bool(found.advice)
    return lines
