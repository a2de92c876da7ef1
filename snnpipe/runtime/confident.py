"""When a readout is sure: a rule for runs in which samples stop."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.errors import InputError
from snnpipe.options import WHOLE, number


class Confident(NamedTuple):
    """The rule of ``confident``."""

    probability: float
    steady: int

    def __call__(self, memory: Any, output: Any) -> tuple[Any, Tensor]:
        if not isinstance(output, Tensor) or output.ndim != 2 or not output.is_floating_point():
            shown = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise InputError(
                f"confident: reads the scores of classes, one tensor (B, classes), and the network gives {shown}; "
                "write a rule of your own: until=lambda memory, output: (memory, done), done (B,) booleans"
            )
        likely, chosen = output.softmax(-1).max(-1)
        before, count = (chosen, torch.zeros_like(chosen)) if memory is None else memory
        count = torch.where(chosen == before, count + 1, 1)
        return (chosen, count), (likely >= self.probability) & (count >= self.steady)


@takes(InputError, probability=number("must be a probability, from 0 to 1", lambda p: 0 <= p <= 1), steady=WHOLE)
def confident(probability: float = 0.9, *, steady: int = 1) -> Confident:
    r"""Stop a sample when its readout is sure: for ``snn(x, T=..., until=confident(0.9))``.

    .. math:: \max_c \mathrm{softmax}(Y_t)_c \ge p, \qquad \arg\max_c Y_t \text{ the same at the last } n
        \text{ readouts}

    Args:
        probability: p; with 0 a readout need only be steady.
        steady: n.

    Reference: Li et al. 2023, "SEENN: towards temporal spiking early-exit neural networks", NeurIPS.

    >>> rule = confident(0.8, steady=2)
    >>> memory, done = rule(None, torch.tensor([[0.0, 2.0], [0.0, 1.0]]))
    >>> rule(memory, torch.tensor([[0.0, 3.0], [0.0, 3.0]]))[1], done
    (tensor([True, True]), tensor([False, False]))
    """
    return Confident(probability, steady)
