"""Neurons that say exactly the levels of a quantised activation."""

from __future__ import annotations

from snnpipe.checks import takes
from snnpipe.errors import StageError
from snnpipe.kernels.multilevel import st_bif
from snnpipe.kernels.neuron import NEURON, Neuron
from snnpipe.state import SITE, Levels, Site


@takes(StageError, site=SITE, neuron=NEURON)
def matching_levels(site: Site, neuron: Neuron) -> Neuron | None:
    """A rule for ``replace``: at quantised sites the ST-BIF neuron with the site's own levels, no opinion elsewhere.

    Under TD, after enough steps, such a neuron has said exactly ``clip(floor(x / s + 1/2), low, high) s`` of its input
    x, so the network computes what the quantised ANN does.  It says one level in a step; for a constant input depth
    times levels steps are enough.

    Reference: You et al. 2024, "SpikeZIP-TF: conversion is all you need for transformer-based SNN", ICML.

    >>> import torch, snnpipe
    >>> from torch import nn
    >>> from snnpipe.ops.quantisers import QCFS
    >>> model = nn.Sequential(nn.Linear(2, 3), QCFS(levels=4, theta=2.0), nn.Linear(3, 1))
    >>> state = snnpipe.pipe(model, snnpipe.trace, snnpipe.replace(rules=(matching_levels,)), snnpipe.td_rewrite)
    >>> x = torch.rand(5, 2)
    >>> torch.allclose(snnpipe.to_snn(state)(x, T=4), model(x))
    True
    """
    if not isinstance(site.cap, Levels):
        return None
    return st_bif(levels=site.cap.high, low=site.cap.low, parts=site.cap.top)
