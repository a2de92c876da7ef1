"""Activations to train a network with so that it converts without loss; modules around ``kernels.quantiser``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snnpipe.checks import Check, takes
from snnpipe.errors import ThresholdError
from snnpipe.kernels.quantiser import qcfs
from snnpipe.options import COUNTABLE, POSITIVE, WHOLE, optional, whole


def _positive(theta: Any) -> Any:
    """A number, or a tensor of them."""
    if not isinstance(theta, Tensor):
        return POSITIVE.accept(theta)
    if theta.is_complex() or theta.numel() == 0 or not bool(((theta > 0) & theta.isfinite()).all()):
        raise ValueError
    return theta


_AXIS = whole(-COUNTABLE, -1, "is counted from the end, a whole number below 0")


class QCFS(nn.Module):
    r"""A trainable activation whose spiking twin is exact: use it in place of ``nn.ReLU`` and train as usual.

    .. math:: h(x) = \theta\,\mathrm{clip}\left(\lfloor L x / \theta + 1/2 \rfloor, 0, L\right) / L

    After conversion it is an IF neuron with the trained threshold theta and the initial potential theta / 2; no data
    is needed for it.  With T = L steps and ``schedule="layer"`` the spiking network computes what the trained one
    does.  The gradients are those of the paper, see ``kernels.quantiser.qcfs``.

    Args:
        levels: L, the number of steps the spiking network is meant for; there are L + 1 values.
        theta: the first threshold, positive: a number, or one for each channel, (C,).  It is trained.
        axis: the channel axis, counted from the end: -3 behind a ``Conv2d``, -1 behind a ``Linear``.

    Raises:
        ThresholdError: no level, a threshold that is not positive, or thresholds without an axis.

    Reference: Bu et al. 2022, "Optimal ANN-SNN conversion for high-accuracy and ultra-low-latency spiking neural
    networks", ICLR.

    >>> import snnpipe
    >>> model = nn.Sequential(nn.Linear(2, 3), QCFS(levels=4, theta=2.0), nn.Linear(3, 1))
    >>> snn = snnpipe.pipe(model, snnpipe.trace, snnpipe.to_snn)
    >>> x = torch.rand(5, 2)
    >>> torch.allclose(snn(x, T=4, schedule="layer"), model(x))
    True
    """

    theta: nn.Parameter

    @takes(ThresholdError, levels=WHOLE, theta=Check("must be positive", _positive), axis=optional(_AXIS))
    def __init__(self, levels: int = 8, theta: float | Tensor = 8.0, axis: int | None = None) -> None:
        super().__init__()
        first = theta if isinstance(theta, Tensor) else torch.tensor(theta)
        first = first if first.is_floating_point() else first.to(torch.get_default_dtype())
        if (first.numel() > 1 and axis is None) or first.ndim > 1:
            raise ThresholdError(
                f"QCFS: thresholds of channels, here of shape {tuple(first.shape)}, are (C,) along an axis counted "
                f"from the end, got axis={axis!r}; write QCFS(levels=8, theta=torch.full((C,), 8.0), axis=-3)"
            )
        self.levels, self.axis = levels, axis
        self.theta = nn.Parameter(first.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = qcfs(x, self.theta, self.levels, self.axis)
        return y

    def extra_repr(self) -> str:
        low, high = self.theta.min().item(), self.theta.max().item()
        theta = f"{low:.3g}" if self.theta.numel() == 1 else f"{low:.3g}..{high:.3g}, axis={self.axis}"
        return f"levels={self.levels}, theta={theta}"
