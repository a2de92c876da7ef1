"""What was measured at each neuron beside its threshold: how large the activations were, and what lies above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from snnpipe.emit import neuron_path
from snnpipe.graph import Graph
from snnpipe.kernels.histogram import Histogram
from snnpipe.markup.columns import columns
from snnpipe.markup.tags import Markup, tag

#: Half octaves of ``x / theta`` that are drawn, from 2^-6 to 2^2; what lies beyond is in the first or the last.
_LOW, _HIGH = -12, 4


def spread(histogram: Histogram, theta: Tensor) -> tuple[list[float], float]:
    r"""Of all activations above 0 the share in each half octave of ``x / theta``, and the share of those above theta.

    The latter is within one bin of the histogram, 1/32 of the value.

    Args:
        theta: (C,), or one for all channels.
    """
    edges, counts = histogram.edges, histogram.counts.double()
    ratio = ((edges[1:] + edges[:-1]) / 2)[None, 1:] / theta.to(edges).reshape(-1, 1)
    weight = counts[:, 1:]  # what is not above 0 is in bin 0
    whole = float(weight.sum())
    if not whole:
        return [0.0] * (_HIGH - _LOW), 0.0
    bucket = (torch.floor(2 * torch.log2(ratio)).clamp(_LOW, _HIGH - 1) - _LOW).long().expand_as(weight)
    shares = torch.zeros(_HIGH - _LOW, dtype=torch.float64, device=weight.device)
    shares.index_add_(0, bucket.reshape(-1), weight.reshape(-1))
    return (shares / whole).tolist(), float((weight * (ratio > 1)).sum()) / whole


def clipped(graph: Graph, params: Mapping[str, Tensor], statistics: Mapping[str, Any]) -> list[Markup]:
    """A row for each layer of neurons of which there is a histogram; empty where there is none."""
    rows = []
    for node in graph:
        found = statistics.get(node.name)
        if node.op != "encode" or not isinstance(found, Histogram):
            continue
        theta = params[node["threshold"].key].detach()
        if theta.numel() in (1, found.max.numel()):
            shares, above = spread(found, theta)
            rows.append((neuron_path(node), shares, -_LOW, f"{100 * above:.2g} % above theta"))
    if not rows:
        return []
    words = "Activations above 0, from theta / 64 to 4 theta in half octaves; those above theta in another colour."
    return [columns(rows, label="activations in parts of the threshold"), tag("p", words, class_="note")]
