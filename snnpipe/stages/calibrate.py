"""Measuring activations: a fold of mergeable statistics over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn

from snnpipe.checks import takes
from snnpipe.emit import emit, module_tree, placeholder
from snnpipe.emit import reader as values_of
from snnpipe.errors import CalibrationError
from snnpipe.frozen import FrozenMap
from snnpipe.generated import compiled
from snnpipe.kernels.statistic import unpadded
from snnpipe.kernels.threshold import Threshold
from snnpipe.options import FLAG, TEXT, function, optional
from snnpipe.runtime.batches import Forward, Reader
from snnpipe.stage import BoundStage, check_state
from snnpipe.stages.batches import BATCHES, DEVICE, MAX_BATCHES
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.instrument import NO_NEURONS, instrumented, warn_siteless
from snnpipe.state import ConversionState, Event, Levels, Site
from snnpipe.text import remembered


@takes(
    CalibrationError, batches=BATCHES, forward=optional(function("model", "batch")), mask=optional(TEXT),
    max_batches=MAX_BATCHES, progress=FLAG, device=optional(DEVICE),
)  # fmt: skip
@remembered
def calibrate(
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    mask: str | None = None,
    max_batches: int | None = None,
    progress: bool = False,
    device: torch.device | str | None = None,
) -> BoundStage:
    """A stage that measures every site over ``batches``; marks the default sites first if nobody did.

    The state is unchanged; statistics of an earlier ``calibrate`` are merged with the new ones.  Neither the order of
    the batches nor their size matters (but for ``ema``).

    A site whose values turn out to be whole numbers is none, and is dropped.

    Args:
        batches: tensors, numpy arrays, ``(x, y)`` (as many of the first items as the model has inputs) or dictionaries
            (the inputs by name, or one under ``"image"``, ``"x"``, ``"pixel_values"``, ..., or the only value); a model
            that reads its input by keys takes dictionaries with these.  Values that it never reads are left alone.
        forward: ``forward(model, batch)`` calls the model, for any other kind of batch:
            ``forward=lambda model, batch: model(batch[1])`` for ``(label, image)``.  Of a part of a model,
            ``trace(part=...)``, it calls the whole one, by default ``model(batch)``.
        mask: the input that says which positions of a sequence count, (B, L), zero where it is padded:
            ``mask="attention_mask"``.  Values of other positions are left out.
        max_batches: stop after so many.
        progress: show a progress bar.
        device: where to run; by default where the parameters are.

    Raises:
        CalibrationError: no batch, an empty batch, one of another dtype, shape or kind than the network takes, or NaN
            or infinity at a site; names the batch.

    >>> import torch, snnpipe
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> state = snnpipe.pipe(model, snnpipe.trace, calibrate([torch.ones(8, 4)]))
    >>> state.statistics["_1"].count
    8
    """
    config: FrozenMap[str, Any] = FrozenMap(
        batches=batches, forward=forward, mask=mask, max_batches=max_batches, progress=progress, device=device
    )
    return BoundStage(_calibrate, (NOT_LIFTED, NO_NEURONS), config)


def _calibrate(
    state: ConversionState,
    *,
    batches: Iterable[Any],
    forward: Forward | None,
    mask: str | None,
    max_batches: int | None,
    progress: bool,
    device: torch.device | str | None,
) -> ConversionState:
    state = instrumented(state)
    check_state("calibrate", state)
    if mask is not None:
        _check_mask(mask, state)
    measured = {name: site for name, site in state.sites.items() if not isinstance(site.cap, Levels)}
    if not measured:
        return state.evolve(Event("calibrate", "", "nothing to measure", "no site needs data"))
    statistic = state.threshold.statistic
    model = _Measuring(state, measured, mask)
    if device is not None and state.whole is not None:
        raise CalibrationError("calibrate: device= would move a part and not the rest; move the model before trace")
    root = model.to(device) if device is not None else model
    reader = Reader("calibrate", state.graph, root, forward, device, state.whole)
    totals: dict[str, Any] = dict(state.statistics)
    whole: dict[str, str] = {}

    def measure(number: int, given: dict[str, Any]) -> Any:
        outputs, found = model(*(given[node["name"]] for node in state.graph.inputs))
        for name, summary in found.items():
            if isinstance(summary, str):
                whole[name] = summary
                continue
            _check_finite(summary, measured[name], number)
            merged = statistic.merge(totals[name], summary, **statistic.options) if name in totals else summary
            totals[name] = merged
        return outputs

    with torch.no_grad():
        count = reader.each(batches, measure, max_batches, progress)
    floats = {name: site for name, site in measured.items() if name not in whole}
    silent = [site.name for name, site in floats.items() if not bool((totals[name].max > 0).any())]
    events = [Event("calibrate", name, "never fired", "its neurons will stay silent") for name in silent]
    events += [Event("calibrate", measured[name].name, "no site", f"its value is {is_}") for name, is_ in whole.items()]
    if whole.keys() == state.sites.keys():
        warn_siteless(state.graph, state.params)
    home = {name: _on(summary, model.home) for name, summary in totals.items()}
    return state.evolve(
        Event("calibrate", statistic.name, f"measured {len(floats)} sites", f"{count} batches"),
        *events,
        sites=state.sites.only(state.sites.keys() - whole.keys()),
        statistics=FrozenMap(home),
    )


class _Measuring(nn.Module):
    """A throwaway copy of the ANN around the state's own tensors that returns a summary per site too."""

    def __init__(self, state: ConversionState, sites: Mapping[str, Site], mask: str | None) -> None:
        super().__init__()
        at_input = state.threshold.statistic.at == "input"
        graph = fx.Graph()
        env: dict[str, Any] = {}
        value = values_of(graph, env)
        masks = [node.name for node in state.graph.inputs if node["name"] == mask]
        summaries: dict[str, Any] = {}
        for node in state.graph:
            env[node.name] = placeholder(graph, node) if node.op == "input" else emit(graph, node, value)
            if node.name in sites:
                measured = env[sites[node.name].input if at_input else node.name]
                given = (measured, *(env[name] for name in masks))
                summaries[node.name] = graph.call_function(_summariser(sites[node.name], state.threshold), given)
        graph.output((value(state.graph.output), summaries))
        self.tree = module_tree(state.graph, {key: tensor.detach() for key, tensor in state.params.items()})
        self.run = compiled(graph)
        self.home = next((tensor.device for tensor in state.params.values()), torch.device("cpu"))

    def forward(self, *given: Any) -> Any:
        return self.run(self.tree, *given)


def _summariser(site: Site, threshold: Threshold) -> Callable[..., Any]:
    """What summarises the values of one site, or says in words what they are if no floats."""
    statistic = threshold.statistic

    def summarise(x: Any, mask: Tensor | None = None) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return f"of type {x.dtype}" if isinstance(x, Tensor) else f"no tensor but a {type(x).__name__}"
        x = x if mask is None else unpadded(x, mask, site.axis)
        if x.ndim == 0:  # one number for the whole batch
            x, axis = x.reshape(1), None
        else:
            x, axis = (x.reshape(len(x), -1), 1) if threshold.per == "neuron" else (x, site.axis)
        try:
            return statistic.of(x, axis, site.signed)
        except CalibrationError as error:
            raise CalibrationError(f"calibrate: at site {site.name}, {error}") from error

    return summarise


def _check_mask(mask: str, state: ConversionState) -> None:
    names = [node["name"] for node in state.graph.inputs]
    if mask not in names:
        raise CalibrationError(f"calibrate: mask: the model has no input {mask!r}; it has {', '.join(names)}")
    if state.threshold.per == "neuron":
        raise CalibrationError(
            'calibrate: mask: thresholds per="neuron" belong to positions, which a mask leaves out; use per="channel"'
        )


def _check_finite(summary: Any, site: Site, number: int) -> None:
    fields = (getattr(summary, field.name) for field in attrs.fields(type(summary)))
    numbers = [field for field in fields if isinstance(field, Tensor) and field.is_floating_point()]
    if not all(bool(torch.isfinite(number).all()) for number in numbers):
        raise CalibrationError(
            f"calibrate: NaN or infinity at site {site.name} in batch {number}; look for it in the data, "
            "or in the weights of the layers before this site"
        )


def _on(summary: Any, device: torch.device) -> Any:
    moved = {
        field.name: value.to(device) if isinstance(value := getattr(summary, field.name), Tensor) else value
        for field in attrs.fields(type(summary))
    }
    return type(summary)(**moved)
