"""What goes into a neuron of a decoded value: only its finite differences.

An operator may not be finite where a network begins, before anything has fired (``h / h.sum()``), and a membrane that
NaN or infinity has entered never forgets it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnpipe.codes import Clock
from snnpipe.kernels.precision import narrowed, wide
from snnpipe.kernels.temporal import after, check_shape, sendable


def followed(sent: Tensor | None, decoded: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
    """The events for a neuron that is to follow a decoded value, and what they decode to.

    Where ``decoded`` is no finite number, what was sent stays; as soon as it is one, the difference to what was sent
    is finite too.

    >>> from snnpipe.codes import TD
    >>> events, sent = followed(None, torch.tensor([1.0, torch.nan]), TD.clock(1))
    >>> events, followed(sent, torch.tensor([1.0, 3.0]), TD.clock(2))[0]
    (tensor([1., 0.]), tensor([0., 3.]))
    """
    Y = held(sent, decoded)
    y = sendable((wide(Y) if sent is None else wide(Y) - clock.alpha * sent) / clock.a, Y)
    return y, after(sent, Y, y, clock)


def held(sent: Tensor | None, decoded: Tensor) -> Tensor:
    """The decoded value where it is a finite number, and what was sent (0 before the first step) where it is not."""
    Y = decoded if decoded.is_floating_point() or decoded.is_complex() else decoded.to(torch.get_default_dtype())
    check_shape(sent, Y)
    return torch.where(Y - Y == 0, Y, 0.0 if sent is None else narrowed(sent, Y))
