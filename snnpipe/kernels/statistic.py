r"""Statistics of activations as mergeable values.

A statistic summarises one batch, and two summaries merge into the summary of both; for all but moving averages
(``kernels.moving``) the merge is associative and commutative, so neither the order of the data nor how it was batched
can matter.

Knows tensors; sites, batches and thresholds are other files' business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import valid
from snnpipe.frozen import EMPTY, FrozenMap, as_map
from snnpipe.options import FLAG, MAPPING, TEXT, function, one_of, optional
from snnpipe.text import constructor

_SUMMARISE = function("x", "axis")


@attrs.frozen
class Statistic:
    """How to summarise a batch of values and how to merge two summaries.

    Args:
        name: what reports call it.
        summarise: ``summarise(x, axis) -> summary``; ``axis`` is the channel axis of ``x``, ``None`` for no channels.
            A summary has ``max``, the largest value per channel, (C,), and ``pooled()``.
        merge: ``merge(summary, summary, **options) -> summary``.
        options: keyword arguments of ``merge``.
        at: whether the value at a site's ``"output"`` is measured (what its neuron emits) or that at its ``"input"``
            (the neuron's current).
        signed: how to summarise at a site whose values have both signs; by default ``summarise`` of ``|x|``.
        ordered: whether the order of the data matters; then the summary serves the rule it was made for and no other.
    """

    name: str = attrs.field(validator=valid(TEXT))
    summarise: Callable[[Tensor, int | None], Any] = attrs.field(validator=valid(_SUMMARISE))
    merge: Callable[..., Any] = attrs.field(validator=valid(function("a", "b", options=True)))
    options: FrozenMap[str, Any] = attrs.field(default=EMPTY, converter=as_map, validator=valid(MAPPING))
    at: str = attrs.field(default="output", validator=valid(one_of("output", "input")))
    signed: Callable[[Tensor, int | None], Any] | None = attrs.field(
        default=None, validator=valid(optional(_SUMMARISE))
    )
    ordered: bool = attrs.field(default=False, validator=valid(FLAG))

    def __repr__(self) -> str:
        return constructor(self)

    def of(self, x: Tensor, axis: int | None, signed: bool) -> Any:
        """The summary of a batch at a site whose values have both signs, or one."""
        if not signed:
            return self.summarise(x, axis)
        return self.summarise(x.abs(), axis) if self.signed is None else self.signed(x, axis)


@attrs.frozen(eq=False)
class Extrema:
    """The largest value per channel, (C,), over ``count`` values in each."""

    count: int
    max: Tensor

    def pooled(self) -> Extrema:
        """All channels taken as one."""
        return Extrema(self.count * self.max.numel(), self.max.amax().reshape(1))


def summarise_extrema(x: Tensor, axis: int | None) -> Extrema:
    """Largest value per channel.

    >>> summarise_extrema(torch.tensor([[1.0, 5.0], [3.0, 2.0]]), axis=1)
    Extrema(count=2, max=tensor([3., 5.]))
    """
    top = channel_max(x, axis)
    return Extrema(x.numel() // top.numel(), top)


def merge_extrema(a: Extrema, b: Extrema) -> Extrema:
    """The summary of both batches; merging is associative and commutative, bit for bit."""
    return Extrema(a.count + b.count, torch.maximum(a.max, b.max))


EXTREMA = Statistic("extrema", summarise_extrema, merge_extrema)


def along(values: Tensor, ndim: int, axis: int | None) -> Tensor:
    """Shape per-channel ``values`` (C,) to broadcast along ``axis`` of a tensor with ``ndim`` axes.

    >>> along(torch.ones(3), 4, -3).shape
    torch.Size([3, 1, 1])
    """
    if axis is None or values.ndim != 1:
        return values
    trailing = -axis - 1 if axis < 0 else ndim - axis - 1
    return values.reshape(-1, *[1] * trailing)


def fitted(theta: Tensor, shape: torch.Size, axis: int | None) -> Tensor | None:
    """Shape the thresholds of a site to broadcast against its current.

    Args:
        theta: (1,), one for the layer; (C,), one per channel; or (C * H * W,), one per neuron.
        shape: of the current, (B, C, H, W) or any other with the batch first.
        axis: the channel axis.

    Returns:
        ``theta`` reshaped, ``None`` where it fits neither the channels nor the neurons. For a current without axes it
        has none: (1,) would add an axis to the current and, a number no longer, choose its dtype.

    >>> fitted(torch.ones(12), torch.Size([8, 3, 2, 2]), -3).shape
    torch.Size([3, 2, 2])
    >>> fitted(torch.ones(1), torch.Size([]), None)
    tensor(1.)
    """
    if not shape:
        return theta.reshape(()) if theta.numel() == 1 else None
    if theta.numel() in (1, 1 if axis is None else shape[axis]):
        return along(theta, len(shape), axis)
    return theta.reshape(shape[1:]) if theta.numel() == shape[1:].numel() else None


def channel_max(x: Tensor, axis: int | None) -> Tensor:
    """The largest value per channel, (C,), at least in float32; (1,) without channels."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    if axis is None:
        return wide.amax().reshape(1)
    others = other_axes(x, axis)
    return wide.amax(others) if others else wide


def unpadded(x: Tensor, mask: Tensor, axis: int | None) -> Tensor:
    """The values at positions that count, (N, ...); ``x`` itself where it is not plain which of its axes is theirs.

    Args:
        x: (B, L, ...) or, of attention heads, (B, H, L, D).
        mask: (B, L), not zero where a position counts.
        axis: the channel axis; features are the last.

    >>> unpadded(torch.tensor([[[1.0], [2.0]], [[3.0], [9.0]]]), torch.tensor([[1, 1], [1, 0]]), -1)
    tensor([[1.],
            [2.],
            [3.]])
    """
    if x.ndim < 3 or x.shape[0] != mask.shape[0] or axis not in (-1, x.ndim - 1, None):
        return x
    fits = [k for k in (1, 2) if k < x.ndim - 1 and x.shape[k] == mask.shape[1]]
    return x.movedim(fits[0], 1)[mask != 0] if len(fits) == 1 else x


def other_axes(x: Tensor, axis: int | None) -> list[int]:
    """All axes but the channel axis."""
    return [d for d in range(x.ndim) if axis is None or d != axis % x.ndim]
