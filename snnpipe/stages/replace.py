"""Putting neurons at the sites."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.errors import StageError, ThresholdError, ThresholdWarning
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Param, Ref
from snnpipe.kernels.neuron import Neuron, integrate_and_fire
from snnpipe.kernels.threshold import Threshold, as_threshold
from snnpipe.stage import stage
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.instrument import NO_NEURONS, instrument
from snnpipe.state import ConversionState, Event, Site

#: A threshold of one's own: ``rule(site, summary) -> Tensor``, (C,) or (1,); ``summary`` is ``None`` without data.
ThresholdRule = Callable[[Site, Any], Tensor]


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
        theta, silent = _theta(site, state, rule, chosen)
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
        source = _rule_name(rule, chosen, site)
        events.append(Event("replace", key, f"{unit.unit} neuron", f"{unit}, theta from {source}"))
    if quiet:
        warnings.warn(
            f"never fired during calibration: {', '.join(quiet)}. Such a channel takes the largest threshold of its "
            "site; a site that never fired at all stays silent. If the layers are not dead, calibrate on more data",
            ThresholdWarning, stacklevel=2,
        )  # fmt: skip
    graph = Graph(tuple(nodes.get(node.name, node) for node in state.graph), state.graph.output)
    return state.evolve(*events, graph=graph, params=state.params | made, sites=FrozenMap())


def fixed(theta: float) -> ThresholdRule:
    """The same threshold at every site, without data (for trying things out).

    >>> fixed(2.0)(None, None)
    tensor([2.])
    """

    return _Fixed(float(theta))


@attrs.frozen
class _Fixed:
    theta: float

    def __call__(self, site: Any, summary: Any) -> Tensor:
        return torch.tensor([self.theta])

    def __repr__(self) -> str:
        return f"fixed({self.theta:g})"


def _theta(
    site: Site, state: ConversionState, rule: Threshold | None, chosen: ThresholdRule | None
) -> tuple[Tensor, int]:
    """The site's threshold, and the number of channels that never fired."""
    summary = state.statistics.get(site.node)
    if chosen is not None:
        theta = torch.as_tensor(chosen(site, summary)).detach().reshape(-1)
        if theta.numel() == 0 or not bool(_usable(theta).all()):
            raise ThresholdError(
                f"replace: the threshold rule gave {_short(theta)} for site {site.name}; "
                "a threshold must be positive and finite"
            )
        if summary is not None and theta.numel() not in (1, summary.max.numel()):
            raise ThresholdError(
                f"replace: the threshold rule gave {theta.numel()} values for site {site.name}, which has "
                f"{summary.max.numel()} channels; give one per channel, or a single one"
            )
        return _like_network(theta, state), 0
    if site.cap is not None:
        return _like_network(torch.tensor([site.cap], dtype=torch.float64), state), 0
    if summary is None or rule is None:
        raise StageError(
            f"replace: nothing was measured at site {site.name}; put calibrate(loader) before replace, "
            "or give thresholds: replace(threshold=fixed(1.0))"
        )
    try:
        theta = rule(summary)
    except AttributeError as error:
        raise ThresholdError(
            f"replace: {rule.name} cannot be computed from {type(summary).__name__} at site {site.name}; "
            f"calibrate for it: pipe(..., instrument(statistic={rule.name}(...)), calibrate(loader))"
        ) from error
    return _like_network(_filled(theta), state), int((~_usable(theta)).sum())


def _filled(theta: Tensor) -> Tensor:
    """The documented fallback for channels that never fired: the site's largest threshold, or one never reached."""
    usable = _usable(theta)
    largest = theta[usable].max() if bool(usable.any()) else theta.new_tensor(torch.finfo(theta.dtype).max)
    return theta.where(usable, largest)


def _usable(theta: Tensor) -> Tensor:
    return torch.isfinite(theta) & (theta > 0)


def _like_network(theta: Tensor, state: ConversionState) -> Tensor:
    """In the dtype and on the device of the weights; finite there."""
    model = next((tensor for tensor in state.params.values() if tensor.is_floating_point()), theta)
    limit = torch.finfo(model.dtype).max / 4
    return theta.to(device=model.device, dtype=torch.float64).clamp(max=limit).to(dtype=model.dtype)


def _free_key(key: str, state: ConversionState) -> str:
    taken = [name for name in state.params if name == key or name.startswith(f"{key}.")]
    return _free_key(f"{key}_", state) if taken else key


def _origin(node: Node) -> str:
    return f"{node.op} at {node.where}" if node.where else node.op


def _rule_name(rule: Threshold | None, chosen: ThresholdRule | None, site: Site) -> str:
    if chosen is not None:
        return getattr(chosen, "__name__", repr(chosen))
    return f"cap {site.cap:g}" if site.cap is not None else str(rule)


def _short(theta: Tensor) -> str:
    bad = theta[~_usable(theta)]
    if theta.numel() == 0:
        return "an empty tensor"
    return f"{bad[0].item():g} ({bad.numel()} of {theta.numel()} values)"
