"""Measuring activations: a fold of mergeable statistics over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch
from toolz import take
from torch import Tensor, fx, nn
from tqdm import tqdm

from snnpipe.checks import takes
from snnpipe.emit import emit, module_tree, placeholder, reader
from snnpipe.errors import CalibrationError
from snnpipe.frozen import FrozenMap
from snnpipe.generated import compiled
from snnpipe.kernels.statistic import unpadded
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.kernels.threshold import Threshold
from snnpipe.options import FLAG, TEXT, function, optional
from snnpipe.stage import BoundStage, check_state
from snnpipe.stages.batches import BATCHES, DEVICE, MAX_BATCHES
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.instrument import NO_NEURONS, instrumented, warn_siteless
from snnpipe.state import ConversionState, Event, Levels, Site
from snnpipe.text import remembered

#: Keys under which a dictionary batch keeps its input, in order of preference.
INPUT_KEYS = ("input", "image", "images", "img", "x", "data", "pixel_values")


@takes(
    CalibrationError, batches=BATCHES, forward=optional(function("model", "batch")), mask=optional(TEXT),
    max_batches=MAX_BATCHES, progress=FLAG, device=optional(DEVICE),
)  # fmt: skip
@remembered
def calibrate(
    batches: Iterable[Any],
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
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
        batches: tensors, numpy arrays, ``(x, y)`` (the first item is taken) or dictionaries (``INPUT_KEYS``, or the
            only value); a model with dictionary or several inputs takes dictionaries with its own keys.
        forward: ``forward(model, batch)`` calls the model, for any other kind of batch.
        mask: the input that says which positions of a sequence count, (B, L), zero where it is padded:
            ``mask="attention_mask"``.  Values of other positions are left out.
        max_batches: stop after so many.
        progress: show a progress bar.
        device: where to run; by default where the parameters are.

    Raises:
        CalibrationError: no batch, an empty batch, or NaN or infinity at a site; names both.

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
    forward: Callable[[nn.Module, Any], Any] | None,
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
    where = torch.device(device) if device is not None else model.place
    model = model.to(where)
    totals: dict[str, Any] = dict(state.statistics)
    whole: dict[str, str] = {}
    count = 0
    limited = batches if max_batches is None else take(max_batches, batches)
    with torch.no_grad():
        for count, batch in enumerate(tqdm(limited, "calibrate", leave=False, disable=not progress), start=1):
            for name, summary in model.measure(batch, forward, where, count - 1).items():
                if isinstance(summary, str):
                    whole[name] = summary
                    continue
                _check_finite(summary, measured[name], count - 1)
                totals[name] = (
                    statistic.merge(totals[name], summary, **statistic.options) if name in totals else summary
                )
    if count == 0:
        raise CalibrationError(
            "calibrate: there was no batch. Is the loader empty, or a generator that was used up before? "
            "A generator can be read once: pass a list or a DataLoader"
        )
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
    """A throwaway copy of the ANN around the state's own tensors that also returns a summary per site."""

    def __init__(self, state: ConversionState, sites: Mapping[str, Site], mask: str | None) -> None:
        super().__init__()
        at_input = state.threshold.statistic.at == "input"
        graph = fx.Graph()
        env: dict[str, Any] = {}
        value = reader(graph, env)
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
        self.inputs = tuple(node["name"] for node in state.graph.inputs)
        self.by_key = any(node.op == "getitem" and isinstance(node["index"], str) for node in state.graph)
        self.home = next((tensor.device for tensor in state.params.values()), torch.device("cpu"))
        self.place = self.home
        self.found: dict[str, Any] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs, self.found = self.run(self.tree, *args, **kwargs)
        return outputs

    def measure(
        self, batch: Any, forward: Callable[[nn.Module, Any], Any] | None, device: torch.device, number: int
    ) -> dict[str, Any]:
        """Run one batch; the summaries by node name."""
        self.found = {}
        if forward is not None:
            forward(self, batch)
            if not self.found:
                raise CalibrationError(f"calibrate: forward(model, batch) did not call the model on batch {number}")
            return self.found
        args, kwargs = arguments(batch, self.inputs, by_key=self.by_key, number=number)
        args, kwargs = zip_leaves(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        self(*args, **kwargs)
        return self.found


def _summariser(site: Site, threshold: Threshold) -> Callable[..., Any]:
    """What summarises the values of one site, or says in words what they are if no floats."""
    statistic = threshold.statistic

    def summarise(x: Any, mask: Tensor | None = None) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return f"of type {x.dtype}" if isinstance(x, Tensor) else f"no tensor but a {type(x).__name__}"
        x = x if mask is None else unpadded(x, mask, site.axis)
        x, axis = (x.reshape(len(x), -1), 1) if threshold.per == "neuron" else (x, site.axis)
        try:
            return statistic.of(x, axis, site.signed)
        except CalibrationError as error:
            raise CalibrationError(f"calibrate: at site {site.name}, {error}") from error

    return summarise


def arguments(
    batch: Any, inputs: tuple[str, ...], *, by_key: bool = False, number: int = 0
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How batch ``number`` of a loader is handed to a model with these ``inputs``.

    ``by_key`` says that the model reads its one input like a dictionary.

    >>> arguments({"x": [1.0], "label": 3}, ("x",))
    ((tensor([1.]),), {})
    """
    if isinstance(batch, Mapping):
        if by_key:
            return (_tensor(batch, number),), {}
        if all(name in batch for name in inputs):
            return tuple(_tensor(batch[name], number) for name in inputs), {}
        key = next((key for key in (*INPUT_KEYS, *batch) if key in batch), None)
        if len(inputs) == 1 and (key in INPUT_KEYS or len(batch) == 1):
            return (_tensor(batch[key], number),), {}
        raise CalibrationError(
            f"calibrate: batch {number} is a dictionary with keys {list(batch)}, the model takes {list(inputs)}; "
            "say how to call it: calibrate(loader, forward=lambda model, batch: model(batch['...']))"
        )
    if isinstance(batch, tuple | list):
        if not batch:
            raise CalibrationError(f"calibrate: batch {number} is empty")
        return tuple(_tensor(item, number) for item in batch[: len(inputs)]), {}
    return (_tensor(batch, number),), {}


def _tensor(value: Any, number: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _tensor(item, number) for key, item in value.items()}
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CalibrationError(
            f"calibrate: batch {number} holds a {type(value).__name__}, which is no tensor; "
            "say how to call the model: calibrate(loader, forward=lambda model, batch: model(...))"
        ) from error
    if tensor.numel() == 0:
        raise CalibrationError(f"calibrate: batch {number} is empty: a tensor of shape {tuple(tensor.shape)}")
    return tensor


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
