"""The ANN with a summary of each site beside its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn

from snnpipe.emit import emit, module_tree, placeholder
from snnpipe.emit import reader as values_of
from snnpipe.errors import CalibrationError
from snnpipe.generated import compiled
from snnpipe.kernels.statistic import unpadded
from snnpipe.kernels.threshold import Threshold
from snnpipe.state import ConversionState, Site


class Measuring(nn.Module):
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


def check_finite(summary: Any, site: Site, number: int) -> None:
    """Complain of NaN or infinity at a site in batch ``number``."""
    fields = (getattr(summary, field.name) for field in attrs.fields(type(summary)))
    numbers = [field for field in fields if isinstance(field, Tensor) and field.is_floating_point()]
    if not all(bool(torch.isfinite(number).all()) for number in numbers):
        raise CalibrationError(
            f"calibrate: NaN or infinity at site {site.name} in batch {number}; look for it in the data, "
            "or in the weights of the layers before this site"
        )


def on_device(summary: Any, device: torch.device) -> Any:
    """A summary with its tensors on a device."""
    moved = {
        field.name: value.to(device) if isinstance(value := getattr(summary, field.name), Tensor) else value
        for field in attrs.fields(type(summary))
    }
    return type(summary)(**moved)
