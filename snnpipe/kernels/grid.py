r"""Rounding weights to the grid of whole multiples of a step, symmetric around 0.

Knows tensors; which weights are rounded is a stage's business.
"""

from __future__ import annotations

import torch
from torch import Tensor


def steps(rows: Tensor, bits: int, *, shared: bool) -> Tensor:
    r"""The step of the grid, in float64: one for each row, (O, 1), or one for all, (1, 1).

    .. math:: \Delta_o = \max_i |w_{oi}| / (2^{b-1} - 1)

    and 1 where all weights are 0.

    Args:
        rows: (O, N), the weights of each output channel.
        bits: of a signed weight; the grid has the whole numbers from -(2^(b-1) - 1) to 2^(b-1) - 1.
        shared: whether all rows have one step.
    """
    largest = rows.double().abs().amax(dim=(0, 1) if shared else 1, keepdim=True)
    return torch.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1.0)


def rounded(rows: Tensor, bits: int, *, shared: bool) -> Tensor:
    r"""The nearest points of the grid, :math:`q_{oi} = \Delta_o \, \mathrm{round}(w_{oi} / \Delta_o)`, as floats.

    Ties go to the even multiple.  The largest weight of a row is on the grid and stays what it is to the bit, so that
    the step of what comes out is the step that went in, and rounding it again changes nothing.

    >>> rounded(torch.tensor([[0.1, -0.9, 1.27]]), 8, shared=False)
    tensor([[ 0.1000, -0.9000,  1.2700]])
    >>> rounded(torch.tensor([[0.1, -0.9, 1.27]]), 2, shared=False)
    tensor([[ 0.0000, -1.2700,  1.2700]])
    """
    step, top = steps(rows, bits, shared=shared), 2 ** (bits - 1) - 1
    q = (rows.double() / step).round()
    largest = rows.abs().amax(dim=(0, 1) if shared else 1, keepdim=True).double()
    return torch.where(q.abs() < top, q * step, q.sign() * largest).to(rows.dtype)


def is_on_grid(rows: Tensor, bits: int, *, shared: bool) -> bool:
    """Whether weights are points of their grid, but for the rounding of their dtype."""
    return torch.equal(rounded(rows, bits, shared=shared), rows)
