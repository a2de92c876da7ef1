"""Putting neurons at the sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from torch import Tensor

from snnpipe.codes import Code
from snnpipe.errors import Problem, SiteWarning, StageError, ThresholdWarning, listing, warn
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Param, Ref
from snnpipe.kernels.encoder import TWO_SIDED
from snnpipe.kernels.neuron import NEURON, Neuron, integrate_and_fire
from snnpipe.kernels.threshold import Threshold, as_threshold, theta_percentile
from snnpipe.options import functions, optional
from snnpipe.rules.choices import THRESHOLD_RULE
from snnpipe.rules.selected import selected
from snnpipe.rules.selecting import SELECTOR, Selector, Use
from snnpipe.stage import stage
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.instrument import NO_NEURONS, instrumented
from snnpipe.stages.thresholds import ThresholdRule, site_threshold
from snnpipe.state import ConversionState, Event, Levels, Site


@stage(
    NOT_LIFTED, NO_NEURONS, neuron=NEURON, threshold=optional(THRESHOLD_RULE), rules=functions("site", "neuron"),
    keep=optional(SELECTOR),
)  # fmt: skip
def replace(
    state: ConversionState,
    *,
    neuron: Neuron = integrate_and_fire(),
    threshold: Threshold | ThresholdRule | str | float | None = None,
    rules: tuple[Callable[[Site, Neuron], Neuron | None] | Use, ...] = (),
    keep: Selector | str | None = None,
) -> ConversionState:
    """Let a neuron stand for the activation at every site; the input is unchanged.

    Args:
        neuron: ``integrate_and_fire()``, ``signed_memory()``, ``cascade(n=4)``, ``one_of_n(n=4)``, ``burst(cap=5)``,
            ``group(m=4)``, ``st_bif(levels=15)``, ``graded()``, ``leaky_integrate_and_fire(tau=...)`` or one's own.
        threshold: a rule for the statistics at hand (``percentile(99.5)`` needs no new data when a histogram was
            measured), or a function ``(site, summary) -> Tensor``; by default the rule calibration was made for.
            At capped sites (ReLU6) it is at most the cap, and the cap where nothing was measured; quantised ones (QCFS,
            fake quantisation) take the threshold they were trained with, unless a function says otherwise.
        rules: ``rule(site, neuron) -> Neuron | None`` chooses another neuron for some sites; the first answer counts.
            ``at("layer1.*").use(cascade(n=4))`` is such a rule, and ``of_op("clamp").use(maximum())`` one that chooses
            the threshold.
        keep: sites that stay the ANN's activations, on decoded values: ``at("head.*") | of_op("clamp")``; a string is
            a path.

    Raises:
        ThresholdError: a rule gave a threshold that is not positive and finite, or needs another statistic.
        StageError: nothing was measured at a site that needs it, or the value of a site has both signs and the events
            of its neuron have one; or a selector selects no site.

    Warns:
        SiteWarning: all sites are kept, so nothing will spike.
        ThresholdWarning: a channel never fired.  It takes the largest threshold of its site; where no channel of a
            site fired, the site's neurons stay silent.  Or there were too few values for a percentile; the threshold
            is their largest.
    """
    state = instrumented(state)
    kept = frozenset[str]() if keep is None else selected(keep, state.sites.values(), "replace: keep")  # type: ignore[arg-type]
    uses = [rule for rule in rules if isinstance(rule, Use)]
    for used in uses:
        selected(used.selector, state.sites.values(), "replace: rules")
    thetas = [used for used in uses if not isinstance(used.choice, Neuron)]
    others = [rule for rule in rules if not any(rule is used for used in thetas)]
    made: dict[str, Tensor] = {}
    nodes: dict[str, Node] = {}
    events: list[Event] = []
    counts: dict[str, int] = {}
    quiet: list[tuple[str, int, int]] = []
    few: list[tuple[str, int, Any]] = []
    misfits: list[Problem] = []
    for name, site in state.sites.items():
        if name in kept:
            events.append(Event("replace", site.name, "kept", f"{site.op or 'activation'} of the ANN"))
            continue
        answer = _first(others, site, neuron)
        unit = neuron if answer is None else NEURON.hold(
            answer, f"what the rules say at site {site.name}", "replace", StageError
        )  # fmt: skip
        said = _first(thetas, site, neuron)
        rule, chosen = _rule(threshold if said is None else said, state.threshold)
        found = site_threshold(site, state, rule, chosen)
        theta, silent = found.theta, found.silent
        quiet += [(site.name, silent, theta.numel())] * bool(silent)
        few += [(site.name, found.few, rule)] * bool(found.few)
        node = state.graph[name]
        reason = _misfit(site, unit, known=chosen is None)
        misfits += [Problem(node.name, site.name, node.where, reason)] * bool(reason)
        stem = f"{site.name}__{unit.name}"
        counts[stem] = counts.get(stem, -1) + 1
        key = _free_key(f"{stem}{counts[stem]}", state)
        made[f"{key}.threshold"] = theta
        facts, limits = _facts(site, unit, theta, key, state, known=chosen is None)
        made |= limits
        nodes[name] = attrs.evolve(
            node,
            op="encode",
            operands=FrozenMap(
                input=Ref(site.input),
                threshold=Param(f"{key}.threshold"),
                neuron=unit,
                axis=site.axis,
                origin=_origin(node),
                **facts,
            ),
        )
        events.append(Event("replace", key, f"{unit.unit} neuron", f"{unit}, theta from {found.source}"))
    if misfits:
        misfits[-1] = attrs.evolve(misfits[-1], fix=f"{TWO_SIDED}; for such sites alone: replace(rules=...)")
        raise StageError(listing("replace: these sites need neurons with events of both signs", misfits))
    if quiet:
        events += [Event("replace", site, "never fired", _fallback(silent, of)) for site, silent, of in quiet]
        warn(f"never fired in calibration: {_count(quiet)}; report(...) lists them", ThresholdWarning)
    events += [Event("replace", name, "little data", f"{rule} is that of {n} values") for name, n, rule in few]
    for line in dict.fromkeys(_little(rule, [few_of for few_of in few if few_of[2] == rule]) for _, _, rule in few):
        warn(line, ThresholdWarning)
    if kept and kept == state.sites.keys():
        warn(f"replace: all {len(kept)} sites are kept as the ANN's activations, so nothing will spike", SiteWarning)
    graph = Graph(tuple(nodes.get(node.name, node) for node in state.graph), state.graph.output)
    return state.evolve(*events, graph=graph, params=state.params | made, sites=FrozenMap())


def _first(rules: Iterable[Any], site: Site, neuron: Neuron) -> Any:
    """The first answer, ``None`` if there is none."""
    return next((answer for rule in rules if (answer := rule(site, neuron)) is not None), None)


def _rule(threshold: Any, measured: Threshold | None) -> tuple[Threshold | None, ThresholdRule | None]:
    """A threshold as a rule, by default the one that was measured for, or as a function of one's own."""
    if callable(threshold) and not isinstance(threshold, Threshold):
        return measured, threshold
    return (measured if threshold is None else as_threshold(threshold)), None


def settle(graph: Graph, params: Mapping[str, Tensor], code: Code) -> Graph:
    """Hold the neurons of a graph against the code it is to run under; the input is unchanged.

    A neuron at a capped or quantised site counts what it sent, so as not to decode to more than the cap.  It need not
    where the decoded output is an average of events that are no larger than the cap, or has no level above it.

    Raises:
        StageError: a code makes neurons meaningless; all of them are listed.
    """
    neurons = [node for node in graph if node.op == "encode"]
    objections = [(node, node["neuron"].objection(code)) for node in neurons]
    problems = [Problem(n.name, n.path, n.where, f"{n['neuron']}: {reason}") for n, reason in objections if reason]
    if problems:
        raise StageError(listing(f"these neurons cannot run under {code}", problems))
    average = all(code.clock(t).kappa >= 1.0 for t in range(1, 17))  # alpha + a <= 1
    needless = [n for n in neurons if "cap" in n.operands and _keeps_within_cap(n, params, average)]
    if not needless:
        return graph
    spared = {n.name: attrs.evolve(n, operands=n.operands.only(n.operands.keys() - {"cap"})) for n in needless}
    return Graph(tuple(spared.get(node.name, node) for node in graph), graph.output)


def _keeps_within_cap(node: Node, params: Mapping[str, Tensor], average: bool) -> bool:
    """Whether no output of a neuron made of a codebook exceeds its cap: an average of events, or of few levels."""
    codebook, theta, cap = node["neuron"].options.get("codebook"), params[node["threshold"].key], node["cap"]
    cap = params[cap.key] if isinstance(cap, Param) else theta.new_tensor(cap)
    if codebook is None or 1 < cap.numel() != theta.numel() > 1:
        return False
    largest = min(codebook.top if average else math.inf, codebook.bounds[1] / codebook.parts)
    return bool((theta * largest <= cap).all())


def _fallback(silent: int, of: int) -> str:
    if silent == of:
        return f"{of} of {of} channels; the site stays silent"
    return f"{silent} of {of} channels; they take the largest threshold of the site"


def _count(sites: list[tuple[str, int, int]]) -> str:
    """``"3 of 24 channels in 2 sites (1, 3)"``."""
    number, of = (sum(column) for column in list(zip(*sites, strict=True))[1:])
    return f"{number} of {of} channels in {_sites([name for name, _, _ in sites])}"


def _sites(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return f"{len(names)} site{'s' * (len(names) > 1)} ({shown})"


def _little(rule: Threshold, sites: list[tuple[str, int, Any]]) -> str:
    least, where = min(number for _, number, _ in sites), _sites([name for name, *_ in sites])
    better = ""
    if rule.theta is theta_percentile and rule.per != "layer":
        options = {name: value for name, value in rule.options.items() if name != "q"} | {"shared": True}
        options |= {"per": rule.per} if rule.per != "channel" else {}
        words = ", ".join(f"{name}={value!r}" for name, value in options.items())
        better = f", or write replace(threshold=percentile({rule.options['q']:g}, {words}))"
    said = f"{rule.name} of {least} values per {rule.per} in {where} clips new data"
    return f"{said}; calibrate on {rule.fewest} or more{better}"


def _misfit(site: Site, neuron: Neuron, *, known: bool) -> str:
    """Why a neuron cannot stand at a site whose value has both signs, "" if it can."""
    if not site.signed:
        return ""
    if not neuron.two_sided:
        return f"its value has both signs, {neuron} says nothing below zero"
    codebook = neuron.options.get("codebook")
    if isinstance(site.cap, Levels):
        low, high = (level / site.cap.top for level in (site.cap.low, site.cap.high))
        bounds = () if codebook is None else tuple(bound / codebook.parts for bound in codebook.bounds)
        if not known or bounds != (low, high):
            return f"it has the {site.cap}, {neuron} does not keep within them; write replace(rules=(matching_levels,))"
    return ""


def _facts(
    site: Site, neuron: Neuron, theta: Tensor, key: str, state: ConversionState, *, known: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a neuron is told of its site, and tensors that say it; ``known`` if theta is what the site says."""
    if site.signed:
        return {"signed": True}, {}
    if site.cap is None or not neuron.caps:
        return {}, {}
    if not isinstance(site.cap, Levels):
        return {"cap": site.cap}, {}
    if known:
        return {"cap": Param(f"{key}.threshold")}, {}
    return {"cap": Param(f"{key}.cap")}, {f"{key}.cap": site.cap.value(site.cap.high, state.params).to(theta)}


def _free_key(key: str, state: ConversionState) -> str:
    taken = [name for name in state.params if name == key or name.startswith(f"{key}.")]
    return _free_key(f"{key}_", state) if taken else key


def _origin(node: Node) -> str:
    return f"{node.op} at {node.where}" if node.where else node.op
