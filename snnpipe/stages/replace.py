"""Putting neurons at the sites."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import attrs
from torch import Tensor

from snnpipe.errors import ThresholdWarning
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Param, Ref
from snnpipe.kernels.neuron import Neuron, integrate_and_fire
from snnpipe.kernels.threshold import Threshold, as_threshold
from snnpipe.stage import stage
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.instrument import NO_NEURONS, instrument
from snnpipe.stages.thresholds import ThresholdRule, site_threshold
from snnpipe.state import ConversionState, Event, Site


@stage(NOT_LIFTED, NO_NEURONS)
def replace(
    state: ConversionState,
    *,
    neuron: Neuron = integrate_and_fire(),
    threshold: Threshold | ThresholdRule | str | float | None = None,
    rules: tuple[Callable[[Site, Neuron], Neuron | None], ...] = (),
) -> ConversionState:
    """Let a neuron stand for the activation at every site; the input is unchanged.

    Args:
        neuron: ``integrate_and_fire()``, ``signed_memory()``, ``leaky_integrate_and_fire(tau=...)`` or one's own.
        threshold: a rule for the statistics at hand (``percentile(99.5)`` needs no new data when a histogram was
            measured), or a function ``(site, summary) -> Tensor``; by default the rule calibration was made for.
            Capped sites (ReLU6) take their cap unless a function says otherwise.
        rules: ``rule(site, neuron) -> Neuron | None`` chooses another neuron for some sites; the first answer counts.

    Raises:
        ThresholdError: a rule gave a threshold that is not positive and finite, or needs another statistic.
        StageError: nothing was measured at a site that needs it.

    Warns:
        ThresholdWarning: a channel never fired.  It takes the largest threshold of its site; where no channel of a
            site fired, the site's neurons stay silent.
    """
    state = state if state.sites else instrument(state)
    chosen = threshold if callable(threshold) and not isinstance(threshold, Threshold) else None
    rule = state.threshold if threshold is None or chosen is not None else as_threshold(threshold)  # type: ignore[arg-type]
    made: dict[str, Tensor] = {}
    nodes: dict[str, Node] = {}
    events: list[Event] = []
    counts: dict[str, int] = {}
    quiet: list[str] = []
    for name, site in state.sites.items():
        found = site_threshold(site, state, rule, chosen)
        theta, silent = found.theta, found.silent
        quiet += [f"{site.name} ({silent} of {theta.numel()} channels)"] * bool(silent)
        unit = next((n for n in (r(site, neuron) for r in rules) if n is not None), neuron)
        node = state.graph[name]
        stem = f"{site.name}__{unit.name}"
        counts[stem] = counts.get(stem, -1) + 1
        key = _free_key(f"{stem}{counts[stem]}", state)
        made[f"{key}.threshold"] = theta
        axis = site.axis if theta.numel() > 1 else None
        nodes[name] = attrs.evolve(
            node,
            op="encode",
            operands=FrozenMap(
                input=Ref(site.input), threshold=Param(f"{key}.threshold"), neuron=unit, axis=axis, origin=_origin(node)
            ),
        )
        events.append(Event("replace", key, f"{unit.unit} neuron", f"{unit}, theta from {found.source}"))
    if quiet:
        warnings.warn(
            f"never fired during calibration: {', '.join(quiet)}. Such a channel takes the largest threshold of its "
            "site; a site that never fired at all stays silent. If the layers are not dead, calibrate on more data",
            ThresholdWarning, stacklevel=2,
        )  # fmt: skip
    graph = Graph(tuple(nodes.get(node.name, node) for node in state.graph), state.graph.output)
    return state.evolve(*events, graph=graph, params=state.params | made, sites=FrozenMap())


def _free_key(key: str, state: ConversionState) -> str:
    taken = [name for name in state.params if name == key or name.startswith(f"{key}.")]
    return _free_key(f"{key}_", state) if taken else key


def _origin(node: Node) -> str:
    return f"{node.op} at {node.where}" if node.where else node.op
