"""A report as one page that needs nothing else: its sections, and what leads to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from snnpipe.analysis import bill, costs, evaluation
from snnpipe.analysis.check import check
from snnpipe.analysis.check import shown as verdict_shown
from snnpipe.analysis.page.clipped import clipped
from snnpipe.analysis.page.sites import rates, thresholds
from snnpipe.analysis.page.tree import tree
from snnpipe.analysis.page.why import errors, why
from snnpipe.emit import neuron_path
from snnpipe.markup import told
from snnpipe.markup.style import page
from snnpipe.markup.tags import Markup, more, tag
from snnpipe.ops.lift import graded_units, unlift
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.state import ConversionState


@attrs.frozen(eq=False)
class Extras:
    """What a report holds beside its subject; each may be ``None``."""

    evaluation: evaluation.Evaluation | None
    explanation: Any
    account: costs.Account | None

    def texts(self) -> list[str]:
        """As text."""
        said = [str(x) for x in (self.evaluation, self.explanation, self.account) if x is not None]
        return said if self.account is None else [*said, str(bill.energy(self.account))]


def document(subject: ConversionState | SpikingNetwork, units: Sequence[str], extras: Extras) -> str:
    """The page."""
    sections = [(name, title, parts) for name, title, parts in _sections(subject, extras) if parts]
    links = [tag("a", title, href=f"#{name}") for name, title, _ in sections]
    title = repr(subject).partition("\n")[0]
    top = [tag("h1", title), *told.pipeline(subject.made), *(tag("p", tag("b", line)) for line in units)]
    made = [tag("section", more(tag("h2", heading), *parts, open_=True), id=name) for name, heading, parts in sections]
    return page(title, *top, tag("nav", *links, aria_label="sections"), *made)


def _sections(subject: ConversionState | SpikingNetwork, extras: Extras) -> list[tuple[str, str, list[Markup]]]:
    graph, account = unlift(subject.graph), extras.account
    params = dict(subject.params) if isinstance(subject, ConversionState) else subject.state_dict()
    costed = [] if account is None else costs.shown(account)
    billed = [] if account is None else bill.shown(bill.energy(account))
    return [
        ("accuracy", "Accuracy", [] if extras.evaluation is None else evaluation.drawn(extras.evaluation)),
        ("why", "Why it is not the ANN's", [] if extras.explanation is None else why(extras.explanation)),
        ("graph", "The graph", [_graph(subject, params, extras.explanation)]),
        ("thresholds", "Thresholds", thresholds(graph, params)),
        ("clipped", "What was measured", clipped(graph, params, getattr(subject, "statistics", {}))),
        ("rates", "Spike rates", [] if account is None else rates(account)),
        ("operations", "Operations", costed),
        ("energy", "Energy", billed),
        ("check", "What the check says", verdict_shown(check(subject))),
        ("history", "What each stage did", told.history(subject.history)),
    ]


def _graph(subject: ConversionState | SpikingNetwork, params: Any, explanation: Any) -> Markup:
    graph = unlift(subject.graph)
    found = {} if explanation is None else errors(explanation)
    neurons = [node for node in graph if node.op == "encode"]
    off = {node.name: found[neuron_path(node)] for node in neurons if neuron_path(node) in found}
    units = {node.name: node["neuron"].unit for node in neurons}
    if neurons:
        units |= {node.name: "graded" for node in graded_units(graph, temporal_inputs=False)}
    return tree(graph, params, off, units)
