r"""What data say of a correction, and whether they say enough: least squares with a witness.

A correction c of an error e by a regressor r minimises :math:`\sum (e - c\,r)^2`; so :math:`c = \sum e r / \sum r^2`.
It is kept where it also helps the samples it was not measured on: with :math:`c_{-b}` the estimate without sample b,

.. math:: \sum_b \sum_{i \in b} (e_i - c_{-b} r_i)^2 < \sum_i e_i^2 .

All of it follows from two sums for each sample, so it does not matter how the data are batched.

Knows tensors; nothing of neurons or networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, TypeVar

import torch
from torch import Tensor

Total = TypeVar("Total")
#: ``in_turn(go_on, begin)``: what all who hold samples make of a sum, each going on where the one before it ended.
InTurn = Callable[[Callable[[Any], Any], Any], Any]


def per_sample(x: Tensor, axis: int | None, *, each: bool = False) -> Tensor:
    """Sums over the positions of each channel of each sample, (B, C), in float64; ``each``: of each neuron, (B, ...).

    Args:
        x: (B, ...).
        axis: the channel axis, ``None`` for one channel.
        each: a neuron is a channel of its own.

    >>> per_sample(torch.ones(2, 3, 4, 4), axis=1).shape
    torch.Size([2, 3])
    """
    x = (x if x.ndim else x.reshape(1)).double()
    if each:
        return x.flatten(1) if x.ndim > 1 else x[:, None]
    if axis is None:
        return x.flatten(1).sum(1, keepdim=True) if x.ndim > 1 else x[:, None]
    x = x.movedim(axis, -1)
    return x.flatten(1, -2).sum(1) if x.ndim > 2 else x.reshape(-1, x.shape[-1])


def added(total: Tensor, rows: Tensor) -> Tensor:
    """A sum and that of further samples (B, C), one after the other: to the bit, whatever batches these came in.

    >>> added(added(torch.zeros(()), torch.ones(2, 3)), torch.ones(1, 3))
    tensor([3., 3., 3.])
    """
    return reduce(torch.add, rows, total)


def alone(go_on: Callable[[Total], Total], begin: Total) -> Total:
    """What one process makes of its data is what is made of all."""
    return go_on(begin)


def estimate(
    sums: Iterable[tuple[Tensor, Tensor]], one: Tensor | float, in_turn: InTurn = alone
) -> tuple[Tensor, Tensor]:
    """The correction of each channel, and whether there is evidence for it, (C,).

    Args:
        sums: of some samples each ``sum e r`` and ``sum r^2``, (B, C); gone through twice, so no generator.
        one: the least power of a regressor that is not 0, that of one smallest event; what is below half of it is none.
        in_turn: how those who hold other samples go on with a sum.

    >>> one_event = torch.tensor([[0.0], [0.5], [0.0]])
    >>> estimate([(20 * one_event, one_event)], 0.1)
    (tensor([20.]), tensor([False]))
    >>> estimate([(2 * torch.ones(3, 1), torch.ones(3, 1))], 0.1)
    (tensor([2.]), tensor([True]))
    """
    zero = torch.zeros(())

    def add(totals: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        crossed, whole = totals
        for cross, power in sums:
            crossed, whole = added(crossed, cross), added(whole, power)
        return crossed, whole

    crossed, whole = in_turn(add, (zero, zero))

    def weigh(totals: tuple[Tensor, Tensor, int]) -> tuple[Tensor, Tensor, int]:
        helped, harmed, count = totals
        for cross, power in sums:
            rest = whole - power
            without = torch.where(rest >= 0.5 * one, (crossed - cross) / rest, 0.0)
            helped, harmed = added(helped, 2 * without * cross), added(harmed, without.square() * power)
            count += len(power)
        return helped, harmed, count

    helped, harmed, count = in_turn(weigh, (zero, zero, 0))
    return torch.where(whole >= 0.5 * one, crossed / whole, 0.0), below(harmed, helped, count)


def below(after: Tensor, before: Tensor, terms: int) -> Tensor:
    """Whether a sum is smaller than another by more than the rounding of either: of ties, none is.

    >>> below(torch.tensor(0.1 + 0.2), torch.tensor(0.3), 2)
    tensor(False)
    """
    return before - after > terms * torch.finfo(before.dtype).eps * (before.abs() + after.abs())


def decoded(events: Tensor, worth: Sequence[float]) -> Tensor:
    """What events (T, ...) decode to, ``sum_t w_t x_t``, and 0 where no more than rounding is left of them.

    Each event is off by its own rounding, and a sum of T products, made in float32 at least, by T of its own.

    >>> decoded(torch.tensor([0.1, 0.2, -0.3]), (1 / 3,) * 3)
    tensor(0.)
    """
    wide = events.to(torch.promote_types(events.dtype, torch.float32))
    weights = torch.tensor(worth, dtype=wide.dtype, device=wide.device)
    found: Tensor = torch.tensordot(weights, wide, 1)
    sizes: Tensor = torch.tensordot(weights, wide.abs(), 1)
    rounding = torch.finfo(events.dtype).eps + len(worth) * torch.finfo(wide.dtype).eps
    stands = torch.gt(found.abs(), sizes.mul_(rounding), out=torch.empty_like(found))  # 1 or 0; faster than a mask
    return stands.mul_(found)
