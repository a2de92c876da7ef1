"""What is wrong with a converted network, from what was measured: rules, each a function of the facts.

Knows the figures of an explanation; how they were measured is other files' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median

import attrs

from snnpipe.analysis import remedies
from snnpipe.analysis.explanation import Cause, Finding, SiteError
from snnpipe.analysis.remedies import Situation
from snnpipe.kernels.neuron import Neuron

#: Clipping that makes a smaller share of the error is not worth a line: what thresholds gain there they lose elsewhere.
WORTH = 0.05
#: An error of the output below this share of the ANN's output is none to look into: 1 % in the norm.
TOLERABLE = 1e-4
#: What the fusing of batch norms and the layout of memory leave of an error, in float32.
ROUNDING = 1e-8
#: A percentile from 99 on clips a smaller share of the activations that are not 0.
CLIPPED = 0.05
#: Thresholds from data are within this factor of the largest activation; a percentile leaves out less.
FACTOR = 3.0
#: From here on too few levels alone are 10 % in the norm.
COARSE = 1e-2
#: A layer of a trained network sees statistics within this factor of those it was trained with.
DRIFT = 2.0


@attrs.frozen
class Facts:
    """What the rules read.

    Attributes:
        error: that of the output.
        causes, sites: as in an explanation.
        situation: how the network was made and is run, from which advice follows.
        neurons: by site.
        axes: the channel axis of each site, and the one its thresholds fit best.
        changed: the first layer that computes something else than the model's, and by how much; ``("", 0.0)`` if none.
        corrected: whether that is a correction at a site.
        drifts: how far what each batch norm sees is from its statistics, the factor of the variance or the shift in
            standard deviations, the median over channels; in the order of the graph.
        span: what an event of theta at every step decodes to, in theta: 1 under RATE.
    """

    error: float
    causes: tuple[Cause, ...]
    sites: tuple[SiteError, ...]
    situation: Situation
    neurons: Mapping[str, Neuron]
    axes: Mapping[str, tuple[int | None, int | None]]
    changed: tuple[str, float]
    corrected: bool
    drifts: tuple[tuple[str, float], ...]
    span: float

    def cause(self, name: str) -> float:
        """The error of a cause, 0 if there is none of that name."""
        return sum(cause.error for cause in self.causes if cause.name == name)

    def share(self, error: float) -> float:
        """A part of the error, as a share of it; no more than all of it, where later causes make up for some."""
        return min(error / self.error, 1.0) if self.error > 0 else 0.0

    def stands_out(self, site: SiteError) -> bool:
        """Whether a site alone does more than all others alone."""
        return 2 * site.isolated > sum(other.isolated for other in self.sites) and site.isolated > TOLERABLE

    def off(self, site: SiteError) -> float:
        """The log of how far the reach of a site is from what thresholds from data give; 0 within the factor."""
        if not 0 < site.reach < math.inf:
            return 0.0
        found = math.log(site.reach)
        high = math.log(FACTOR * max(1.0, self.span) * max(1.0, self._top(site)))
        return min(0.0, found + math.log(FACTOR)) + max(0.0, found - high)

    def _top(self, site: SiteError) -> float:
        """The largest event of a site, in theta."""
        book = self.neurons[site.site].options.get("codebook")
        top = 1.0 if book is None else float(book.top)
        return top if math.isfinite(top) else math.inf


#: A rule: findings, each with how much of the error it explains.
Rule = Callable[[Facts], Iterator[tuple[float, Finding]]]


def findings(facts: Facts, rules: Iterable[Rule] | None = None) -> tuple[Finding, ...]:
    """What the rules find, the gravest first; one finding for each site, and one of each kind for the whole."""
    found = [pair for rule in (RULES if rules is None else rules) for pair in rule(facts)]
    ranked = [finding for _, finding in sorted(found, key=lambda pair: -pair[0])]
    first: dict[str, Finding] = {}
    for finding in ranked:
        first.setdefault(finding.site or finding.cause, finding)
    return tuple(first.values())


def stale(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """A batch norm whose statistics are not those of the data; the ANN itself is wrong then."""
    far = [(place, drift) for place, drift in facts.drifts if drift > DRIFT]
    if not far or not sound(facts):
        return
    place, drift = far[0]
    what = f"what it sees differs from its statistics by a factor of {drift:.2g}, in the ANN too"
    first = place == facts.drifts[0][0]
    what += "; inputs that are not normalised as in training look the same" * first
    yield 0.9, Finding("statistics stale", place, what, remedies.STATISTICS)


def sound(facts: Facts) -> bool:
    """Whether thresholds fit the data, so that the network was calibrated on such data."""
    return len(low(facts)) < 2


def weights(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """The network computes something else than the model, even with the ANN's activations."""
    share = facts.share(facts.cause("weights"))
    place, by = facts.changed
    if facts.cause("weights") <= ROUNDING or not place:
        return
    what = f"the first layer that does not compute what the model does; its values are {100 * by:.3g} % off"
    if facts.corrected:
        yield (
            share,
            Finding("correction", place, f"a correction makes it {what}", remedies.uncorrected(facts.situation)),
        )
    else:
        meant = facts.situation.rounded
        what += ", by rounding" * meant
        yield share if meant else 0.93, Finding("weights", place, what, remedies.again(facts.situation))


def data(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """Thresholds of several sites are off in the same direction: they were measured on other data."""
    for far, word, cause in ((low(facts), "below", "clipping"), (high(facts), "above", "resolution")):
        if len(far) < 2 or facts.error <= TOLERABLE:
            continue
        what = f"thresholds are far {word} what these data need at {len(far)} of {len(facts.sites)} sites, here by a "
        what += f"factor of {max(far[0].reach, 1 / far[0].reach):.2g}: they were measured on other data"
        share = facts.share(max(facts.cause(cause), 0.0))
        yield 0.95 + 0.01 * share, Finding("calibration data", far[0].site, what, remedies.again(facts.situation))


def low(facts: Facts) -> list[SiteError]:
    """The sites that can say less than half of the largest activation and clip more than percentiles do."""
    return [site for site in facts.sites if site.reach < 0.5 and site.saturated > CLIPPED]


def high(facts: Facts) -> list[SiteError]:
    """The sites whose events are far larger than any activation."""
    return [site for site in facts.sites if facts.off(site) > 0]


def thresholds(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """The threshold of one site is off."""
    for site in facts.sites:
        off = facts.off(site)
        if off == 0.0 or not facts.stands_out(site):
            continue
        clipped, quiet = f"{100 * site.saturated:.3g} %", f"{100 * site.dead:.3g} %"
        if off < 0:
            cause = "saturated layer" if site.saturated > 0.9 else "threshold too low"
            what = f"it says no more than {site.reach:.2g} of the largest activation; {clipped} of them are clipped"
        else:
            cause = "dead layer" if site.dead > 0.9 else "threshold too high"
            what = f"an event is {site.reach:.3g} times the largest activation; {quiet} of the channels say nothing"
        yield 0.9, Finding(cause, site.site, what, remedies.again(facts.situation))


def dead(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """A site says nothing where the ANN does."""
    for site in facts.sites:
        if site.dead > 0.9 and facts.stands_out(site) and facts.off(site) == 0.0:
            what = f"{100 * site.dead:.3g} % of its channels never say anything in {facts.situation.T} steps"
            yield 0.85, Finding("dead layer", site.site, what, remedies.again(facts.situation))


def resets(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """A neuron that throws charge away: a hard reset, or a leak."""
    for site in facts.sites:
        options = facts.neurons[site.site].options
        hard = options.get("v_reset") is not None
        leaks = "tau" in options
        if not (hard or leaks) or site.isolated <= TOLERABLE:
            continue
        cause = "hard reset" if hard else "leak"
        what = f"the neuron loses charge ({cause}), so that it says too little; alone it makes {_off(site.isolated)}"
        share = site.isolated / (sum(other.isolated for other in facts.sites) or 1.0)
        yield 0.7 + 0.2 * share, Finding(cause, site.site, what, remedies.soft(facts.situation))


def axes(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """Thresholds lie along an axis that they do not fit, where another fits."""
    for site in facts.sites:
        own, best = facts.axes[site.site]
        if own != best and site.isolated > TOLERABLE:
            what = f"thresholds lie along axis {own} but fit axis {best}"
            yield 0.92, Finding("channel axis", site.site, what, remedies.again(facts.situation))


def one_site(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """A site that does more than all others, for a reason that no other rule knows."""
    if len(facts.sites) < 3:
        return
    usual = median(site.isolated for site in facts.sites)
    for site in facts.sites:
        if facts.stands_out(site) and site.isolated > 10 * usual:
            what = f"alone it makes {_off(site.isolated)}, other sites {_off(usual)}"
            yield 0.5, Finding("one site", site.site, what, remedies.finer(facts.situation))


def steps(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """Too few levels in T steps."""
    share = facts.share(facts.cause("resolution"))
    if facts.cause("resolution") > TOLERABLE:
        what = f"{facts.situation.T} steps have too few levels: {100 * share:.3g} % of the error"
        uneven = facts.cause("unevenness")
        if facts.cause("resolution") > max(COARSE, uneven / 2):  # waiting would leave it; more steps mend both
            share = facts.share(facts.cause("resolution") + max(uneven, 0.0))
        yield 0.4 * share, Finding("resolution", "", what, remedies.longer(facts.situation))


def early(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """Events came too early."""
    share = facts.share(facts.cause("unevenness"))
    if facts.cause("unevenness") > TOLERABLE:
        what = f"neurons answer events that later ones do not bear out: {100 * share:.3g} % of the error"
        yield 0.39 * share, Finding("unevenness", "", what, remedies.waiting(facts.situation))


def clipping(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """Activations beyond the thresholds, nowhere in particular."""
    share = facts.share(facts.cause("clipping"))
    if facts.cause("clipping") > TOLERABLE and share > WORTH:
        worst = max(facts.sites, key=lambda site: site.saturated)
        what = f"thresholds clip what is larger: {100 * share:.3g} % of the error, most at {worst.site}, "
        what += f"{100 * worst.saturated:.3g} % of the activations"
        yield 0.4 * share, Finding("clipping", "", what, remedies.higher(facts.situation))


def encoding(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """The input comes as events."""
    share = facts.share(facts.cause("encoding"))
    if facts.cause("encoding") > TOLERABLE:
        name = facts.situation.encoding.name
        what = f"the input as events ({name}), not as a constant current: {100 * share:.3g} % of the error"
        yield 0.4 * share, Finding("encoding", "", what, remedies.steady(facts.situation))


def late(facts: Facts) -> Iterator[tuple[float, Finding]]:
    """The readout leaves out too much."""
    share = facts.share(facts.cause("readout"))
    if facts.cause("readout") > TOLERABLE:
        what = f"the readout leaves out the first {facts.situation.delay} of {facts.situation.T} steps: "
        what += f"{100 * share:.3g} % of the error"
        yield 0.9 * share, Finding("readout delay", "", what, remedies.undelayed(facts.situation))


#: What ``explain`` looks for.
RULES: tuple[Rule, ...] = (
    stale, weights, data, axes, thresholds, dead, resets, one_site, steps, early, clipping, encoding, late,
)  # fmt: skip


def _off(error: float) -> str:
    return f"the output {100 * error:.3g} % off"
