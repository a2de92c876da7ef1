"""What the stages did and what the units are, in words.

Knows the history and the law's placement of operators; changes nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from os import PathLike
from typing import Any

from snnpipe.analysis.costs import ACCOUNT, Account
from snnpipe.analysis.evaluation import Evaluation
from snnpipe.analysis.page.document import Extras, document
from snnpipe.checks import Check, takes
from snnpipe.emit import neuron_path
from snnpipe.errors import StageError
from snnpipe.exchange.atomic import write_atomically
from snnpipe.graph import Graph, Node
from snnpipe.kernels.codebook import UNITS
from snnpipe.ops.lift import graded_units, unlift
from snnpipe.options import PATH, instance, optional
from snnpipe.rules.selected import as_site, selected
from snnpipe.rules.selecting import SELECTOR, Selector
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.state import ConversionState, Event

_SUBJECT = instance(
    (ConversionState, SpikingNetwork), "must be a ConversionState or a SpikingNetwork",
    "write report(pipe(model, trace, ...)); of a recipe's answer take .snn",
)  # fmt: skip


def _explained(value: Any) -> Any:
    if not all(hasattr(value, name) for name in ("causes", "sites", "error", "T", "schedule")):
        raise TypeError
    return value


_EXPLANATION = optional(Check("must be an Explanation", _explained, "write explain(model, snn, batches, T=...)"))
_EVALUATION = optional(instance(Evaluation, "must be an Evaluation", "write evaluate(snn, loader, T=...)"))


@takes(
    StageError, subject=_SUBJECT, html=optional(PATH), evaluation=_EVALUATION, explanation=_EXPLANATION,
    account=optional(ACCOUNT), only=optional(SELECTOR),
)  # fmt: skip
def report(
    subject: ConversionState | SpikingNetwork,
    *,
    html: str | PathLike[str] | None = None,
    evaluation: Evaluation | None = None,
    explanation: Any = None,
    account: Account | None = None,
    only: Selector | str | None = None,
) -> str:
    """Render the pipeline, the history grouped by stage, then the kinds of unit and whether the network spikes.

    Args:
        subject: a state between any two stages, or the network.
        html: where to write the same as a page, one file that needs nothing else: with the graph, the thresholds and
            what ``check`` says, for light and dark, wide and narrow, mouse and keyboard.
        evaluation: what ``evaluate`` found: accuracy against T.
        explanation: what ``explain`` found: causes and sites.
        account: what ``account`` counted: spike rates, operations, and ``energy`` made of them.
        only: the history of these sites and their neurons alone: ``at("layer1.*")``; a string is a path.

    The page of a state behind ``calibrate`` and ``replace`` shows what was measured, too, and what lies above theta.

    Raises:
        OSError: the page cannot be written.

    >>> from torch import nn
    >>> from snnpipe import fixed, pipe, replace, to_snn, trace
    >>> print(report(pipe(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), trace, replace(threshold=fixed(1.0)), to_snn)))
    pipeline: trace | replace(threshold=fixed(1)) | to_snn
    trace
      Sequential  traced symbolically  taken in evaluation mode
    instrument
      1           site                 channel axis -1
    replace
      1__if0      binary neuron        if(v_init=0.5, v_reset=None), theta from ...
    td_rewrite
      RATE        lifted               1 source, 1 linear, 1 neuron
    <BLANKLINE>
    units: 1 binary neuron layer
    fully spiking
    """
    history = subject.history if only is None else _about(subject, only)  # type: ignore[arg-type]
    lines = [*_table(history), "", *unit_lines(subject)]
    text = [f"pipeline: {' | '.join(subject.made)}"] * bool(subject.made)
    extras = Extras(evaluation, explanation, account)
    if html is not None:
        made = document(subject, unit_lines(subject), extras).encode()
        write_atomically(os.fspath(html), lambda file: file.write(made))
    return "\n".join(text + (lines if history else lines[1:]) + [f"\n{said}" for said in extras.texts()])


def _about(subject: ConversionState | SpikingNetwork, only: Selector) -> tuple[Event, ...]:
    """The events of the sites that are selected, and of the neurons that stand there."""
    sites = dict(subject.sites) if isinstance(subject, ConversionState) else {}
    keys = {node.name: neuron_path(node) for node in subject.graph if node.op == "encode"}
    sites |= {node.name: as_site(node) for node in subject.graph if node.op == "encode"}
    chosen = selected(only, sites.values(), "report: only")
    names = {name for node in chosen for name in (sites[node].name, keys.get(node))}
    return tuple(event for event in subject.history if event.subject in names)


def unit_lines(subject: ConversionState | SpikingNetwork) -> list[str]:
    """The last lines of a report: how many units of which kind, and whether the network is fully spiking.

    A unit is a neuron, or an operator between neurons that is not linear: its output is a float at every step, so it
    is graded.  A network with a graded unit is never called fully spiking.
    """
    graph = unlift(subject.graph)
    neurons = [node for node in graph if node.op == "encode"]
    if not neurons:
        return [_without_neurons(subject)]
    streamed = _graded(graph, neurons, temporal_inputs=True)
    graded = _graded(graph, neurons, temporal_inputs=False)
    return [f"units: {_kinds(neurons, graded)}", _verdict(graded, [node for node in streamed if node not in graded])]


def _graded(graph: Graph, neurons: list[Node], *, temporal_inputs: bool) -> list[Node]:
    own = [node for node in neurons if node["neuron"].unit == "graded"]
    return own + list(graded_units(graph, temporal_inputs=temporal_inputs))


def _kinds(neurons: list[Node], graded: list[Node]) -> str:
    count = Counter(node["neuron"].unit for node in neurons)
    operators = sum(node.op != "encode" for node in graded)
    kinds = [f"{count[unit]} {unit} neuron layer{'s' * (count[unit] > 1)}" for unit in UNITS if count[unit]]
    return ", ".join(kinds + [f"{operators} graded (float) operator{'s' * (operators > 1)}"] * bool(operators))


def _verdict(graded: list[Node], only_streamed: list[Node]) -> str:
    if graded:
        return f"not fully spiking: graded units {_names(graded)}"
    if only_streamed:
        return f"fully spiking for a constant input; graded units when the input is events: {_names(only_streamed)}"
    return "fully spiking"


def _without_neurons(subject: ConversionState | SpikingNetwork) -> str:
    if subject.code is not None:
        return f"not spiking: there are no neurons; every value is graded (float), carried by {subject.code}"
    sites = len(subject.sites)
    return f"not spiking yet: no neurons, {sites} site{'s' * (sites != 1)}; replace puts neurons at the sites"


def _names(nodes: Iterable[Node]) -> str:
    return ", ".join(f"{node.path or node.name} ({_operator(node)})" for node in nodes)


def _operator(node: Node) -> str:
    return str(node["neuron"]) if node.op == "encode" else node.op


def _table(history: tuple[Event, ...]) -> list[str]:
    subject = max((len(event.subject) for event in history), default=0)
    action = max((len(event.action) for event in history), default=0)
    lines: list[str] = []
    for stage, events in groupby(history, lambda event: event.stage):
        lines.append(stage)
        lines += [f"  {e.subject:<{subject}}  {e.action:<{action}}  {e.detail}".rstrip() for e in events]
    return lines
