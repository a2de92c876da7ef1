"""Reading several time steps at once.

What is read off a network is a function of decoded values alone, the same at every step; so steps may be read together
instead of one after the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch

from snnpipe.frozen import map_leaves
from snnpipe.kernels.temporal import zip_leaves

#: How many steps are read together; bounds the memory a long sequence takes.
CHUNK = 16


def read_steps(read: Callable[..., Any], steps: Sequence[tuple[Any, ...]]) -> list[Any]:
    """``[read(*step) for step in steps]``, in one call where possible.

    ``torch.vmap`` gives "the same operator at each step, unchanged" its exact meaning for any operator: shapes,
    ``dim`` arguments and tensors without a batch axis mean what they mean in one step.  What it cannot carry (a result
    that is no tensor, an operator with data-dependent shapes) is read step by step.
    """
    if len(steps) == 1:
        return [read(*steps[0])]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vmap warns of operators it runs one by one
            together = torch.vmap(read)(*(zip_leaves(_stack, *argument) for argument in zip(*steps, strict=True)))
    except Exception:  # whatever the reason: the loop decides, and raises what is the user's error
        return [read(*step) for step in steps]
    return [map_leaves(itemgetter(t), together) for t in range(len(steps))]


def _stack(*leaves: Any) -> torch.Tensor:
    return torch.stack(leaves)
