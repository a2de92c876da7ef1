r"""Threshold rules that minimise an error over a histogram: no new data is needed for another number of steps.

Within a bin, values are taken to be spread evenly, and every integral over a bin is exact; so steps finer than a bin
are right, and what is not known is where in its bin (at most 1/32 of its value wide) a value lies.  Values in bin 0,
below ``2**-15`` of the site's largest, count as zero.  Knows histograms; sites and neurons are other files' business.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.errors import ThresholdError
from snnpipe.frozen import FrozenMap
from snnpipe.kernels.histogram import HISTOGRAM, OCTAVES, Histogram
from snnpipe.kernels.threshold import GRANULARITY, Threshold
from snnpipe.options import POSITIVE, STEPS, WHOLE, countable, number
from snnpipe.text import remembered

_COARSE = 16  # candidates per octave, for all channels alike
_FINE = 16  # candidates between the neighbours of a channel's best
_PIECE = 2**22  # numbers worked on at a time, so that temporary tensors stay small


@takes(
    ThresholdError, T=STEPS, levels=WHOLE, top=POSITIVE, per=GRANULARITY,
    rounding=number("must lie in 0 <= rounding < 1", lambda value: 0 <= value < 1),
)  # fmt: skip
@remembered
def mmse(T: int, *, levels: int = 1, rounding: float = 0.5, top: float = 1.0, per: str = "channel") -> Threshold:
    r"""The threshold that quantises the activations best in T steps.

    .. math::
        \theta = \arg\min E[(x - q(x))^2], \qquad
        q(x) = \frac{R}{n} clip(\lfloor n x / R + r \rfloor, 0, n), \quad R = top \cdot \theta, \; n = levels \cdot T

    Small T gives a small theta: clipping a few values costs less than coarse steps for all.  Found on a grid of
    candidates 1/16 octave apart, up to the channel's maximum, and then 1/128 octave around the best.

    Args:
        T: number of time steps the threshold is for.
        levels: smallest steps of one event, counted up to the largest: an event of at most theta in steps of
            ``theta / levels``.
        rounding: r; the neuron's initial potential in units of its smallest step, 1/2 rounds and 0 rounds down.
        top: the largest event in units of theta, where that is not theta: of a cascade theta, theta/2, ...,
            ``theta / 2**(k-1)``, which may all be sent in one step, ``2 - 2**(1 - k)``, with ``levels = 2**k - 1``.
        per: ``"channel"``, ``"layer"`` or ``"neuron"``.

    Reference: Li et al. 2021, "A free lunch from ANN: towards efficient, accurate spiking neural networks
    calibration", ICML, which averages the minimisers of single batches.
    """
    countable("mmse", ThresholdError, levels=levels, T=T)
    further = ({"rounding": rounding} if rounding != 0.5 else {}) | ({"top": top} if top != 1 else {})
    return Threshold("mmse", HISTOGRAM, theta_mmse, FrozenMap(T=T, levels=levels, **further), per)


def theta_mmse(summary: Histogram, *, T: int, levels: int = 1, rounding: float = 0.5, top: float = 1.0) -> Tensor:
    """The theta of ``mmse``, (C,) float64."""
    n, largest = levels * T, summary.max.double()
    edges, weights = _edges_and_weights(summary)
    spaced = torch.arange(OCTAVES * _COARSE + 1, dtype=torch.float64, device=edges.device)
    coarse = largest.amax() * torch.exp2(-spaced / _COARSE)
    errors = weights @ error_integral(edges, coarse[:, None], n, rounding).T  # (C, candidates)
    errors = errors.masked_fill(coarse > largest[:, None] * 2.0 ** (1 / _COARSE), torch.inf)
    best = coarse[errors.argmin(1)]
    steps = torch.linspace(-1.0, 1.0, _FINE + 1, dtype=torch.float64, device=edges.device)
    found = torch.empty_like(best)
    for some in torch.arange(len(best), device=edges.device).split(max(1, _PIECE // (len(steps) * len(edges)))):
        fine = torch.minimum(best[some, None] * torch.exp2(steps / _COARSE), largest[some, None])
        integral = error_integral(edges, fine[..., None], n, rounding)  # (some, candidates, edges)
        index = torch.einsum("cke,ce->ck", integral, weights[some]).argmin(1)
        found[some] = fine.gather(1, index[:, None]).squeeze(1)
    return torch.where(_in_bins(summary), found, largest.clamp(min=0.0)) / top


def error_integral(x: Tensor, top: Tensor, n: int, rounding: float) -> Tensor:
    r"""``int_0^x (u - q(u))^2 du`` for the quantiser q with n steps up to ``top``, of which rounding r goes up.

    With s = top / n and k = q(x) / s it is :math:`(k s^3 ((1-r)^3 + r^3) + (x - k s)^3) / 3`: each whole step adds the
    same.

    >>> error_integral(torch.tensor(1.0), torch.tensor(1.0), 1, 0.5)  # of u^2 up to 1/2 and (1 - u)^2 from there
    tensor(0.0833)
    """
    step = top / n
    k = torch.floor(x / step + rounding).clamp_(0, n)
    whole = ((1.0 - rounding) ** 3 + rounding**3) * step**3
    return ((x - k * step).pow_(3) + k * whole) / 3.0


@takes(ThresholdError, iterations=WHOLE, lr=POSITIVE, per=GRANULARITY)
@remembered
def local_threshold_balancing(*, iterations: int = 1000, lr: float = 1.0, per: str = "channel") -> Threshold:
    r"""Raise the threshold by what exceeds it, again and again: descent on the squared clipping error.

    .. math:: \theta \leftarrow \theta + 2 \eta \, E[(x - \theta) 1(x > \theta)], \qquad \theta_0 = 0

    This is the rule's deterministic form: the expectation is that of the histogram.  The original takes a new batch
    for each iteration, and clips the activations of the layers before at *their* present thresholds while it runs;
    here all layers see what the ANN computes.  Theta never exceeds the largest value, which it approaches as
    ``iterations`` grow: that they are few is what clips outliers.

    Args:
        iterations: how often.
        lr: eta, > 0.
        per: ``"channel"``, ``"layer"`` or ``"neuron"``.

    Reference: Bu et al. 2025, "Inference-scale complexity in ANN-SNN conversion for high-performance and low-power
    applications", CVPR.
    """
    options: FrozenMap[str, Any] = FrozenMap(iterations=iterations, lr=lr)
    return Threshold("local_threshold_balancing", HISTOGRAM, theta_balanced, options, per)


def theta_balanced(summary: Histogram, *, iterations: int = 1000, lr: float = 1.0) -> Tensor:
    """The theta of ``local_threshold_balancing``, (C,) float64."""
    largest = summary.max.double().clamp(min=0.0)
    edges = summary.edges
    p = summary.counts.double() / summary.count
    p[:, 0] = 0.0
    above = p.flip(1).cumsum(1).flip(1) - p  # P[x in a later bin]
    mass = p * (edges[1:] + edges[:-1]) / 2
    beyond = mass.flip(1).cumsum(1).flip(1) - mass  # E[x; x in a later bin]
    theta = torch.zeros_like(largest)
    for _ in range(iterations):
        at = (torch.bucketize(theta, edges, right=True) - 1).clamp(0, p.shape[1] - 1)[:, None]
        bin_p, bin_above, bin_beyond = (table.gather(1, at).squeeze(1) for table in (p, above, beyond))
        low, high = edges[at.squeeze(1)], edges[at.squeeze(1) + 1]
        inside = bin_p * (high - theta).clamp(min=0.0).square() / (2.0 * (high - low))
        excess = inside + bin_beyond - theta * bin_above
        theta = torch.minimum(theta + 2.0 * lr * excess.clamp(min=0.0), largest)
    return torch.where(_in_bins(summary), theta, largest)


def _edges_and_weights(summary: Histogram) -> tuple[Tensor, Tensor]:
    """Edges (E,) and weights (C, E) with ``E[g(x)] = weights @ G(edges)`` for any g with antiderivative G, g(0) = 0."""
    edges = summary.edges[1:]
    density = summary.counts[:, 1:].double() / (summary.count * edges.diff())
    none = torch.zeros_like(density[:, :1])
    return edges, torch.cat([none, density], 1) - torch.cat([density, none], 1)


def _in_bins(summary: Histogram) -> Tensor:
    """Whether a channel has a value above bin 0."""
    return summary.counts[:, 0] < summary.count
