"""How many spikes a value stands for, and what of it is floats.

Knows tensors and neurons; nothing of operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.kernels.neuron import Neuron, nonzero


def sends_numbers(neuron: Neuron) -> bool:
    """Whether an event must be multiplied with a weight: it is a number, or one of levels nobody counts spikes of."""
    return neuron.unit == "graded" or (neuron.unit == "multi-level" and neuron.spikes is nonzero)


def unit_spikes(x: Any) -> Any:
    """One spike for each event of a sample whose events are all -1, 0 or 1."""
    if not isinstance(x, Tensor) or x.ndim == 0:
        return no_spikes(x)
    units = ((x == 0) | (x.abs() == 1)).reshape(len(x), -1).all(1)
    return (x != 0).double() * units.view(-1, *[1] * (x.ndim - 1))


def no_spikes(value: Any) -> Any:
    """None for each element."""
    return torch.zeros_like(value, dtype=torch.float64) if isinstance(value, Tensor) else 0.0


def numbers(x: Any, spikes: Any) -> Tensor:
    """1 where an element is not zero and stands for no spikes.

    >>> numbers(torch.tensor([0.0, 2.0, -0.5]), torch.tensor([0, 1, 0]))
    tensor([0., 0., 1.], dtype=torch.float64)
    """
    return ((torch.as_tensor(x) != 0) & (torch.as_tensor(spikes) == 0)).double()


def elements(tree: Any) -> int:
    """The number of elements of all tensors."""
    return sum(tensor.numel() for tensor in tensors(tree))


def total(tree: Any) -> float:
    """The sum of all elements of all tensors."""
    return sum(float(tensor.sum()) for tensor in tensors(tree))
