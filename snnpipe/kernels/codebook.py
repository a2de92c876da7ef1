r"""Codebooks: what one event of a neuron can be, and which one the neuron chooses.

A codebook counts in its *smallest event*, :math:`\lambda = \theta` / ``parts``.  An event is :math:`q \lambda`, and q
is the codebook's choice for a potential m among its levels between two bounds.  What was sent so far is counted in
the same unit, in whole numbers where the code has gain 1, so that a neuron never loses count of it.

Knows levels and bounds; nothing of neurons, codes or graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import Check, valid
from snnpipe.frozen import EMPTY, FrozenMap, as_map
from snnpipe.kernels.levels import Bound, clip, one_spike, reaches, whole
from snnpipe.options import MAPPING, TEXT, WHOLE, function, number, one_of
from snnpipe.text import constructor

#: What one event of a unit can be: {0, theta}; {-theta, 0, theta}; one of finitely many levels; any float.
UNITS = ("binary", "signed", "multi-level", "graded")
#: For arguments that are units.
UNIT = one_of(*UNITS)


def _pair(value: Any) -> Any:
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError
    return _LOW.accept(value[0]), _HIGH.accept(value[1])


_LOW = number("must be a number of at most 0", lambda value: value <= 0)
_HIGH = number("must be a positive number", lambda value: value > 0)
_BOUNDS = Check("must be two numbers, the lowest <= 0 < the highest", _pair)


@attrs.frozen
class Codebook:
    r"""What the events of a neuron can be, as data; ``kernels.neuron.encoder`` makes a neuron of it.

    Args:
        name: short tag.
        quantise: ``quantise(m, smallest, low, high) -> q``, the level chosen for the potential ``m`` among those
            between ``low`` and ``high``, in units of ``smallest`` = theta / parts; a bound is a number, or a tensor
            where what was sent before limits what may be taken back.  ``whole``, ``power_of_two``, ``reaches`` or
            one's own; it is never differentiated.
        unit: one of ``neuron.UNITS``, what a report calls the events.
        low: the lowest level, 0 where events have one sign.
        high: the highest level.
        parts: how many smallest events are worth theta.
        wires: the lines an event travels on in parallel, each with a weight of its own; a line carries a spike or
            none in a step (but a burst's carries several one after the other, and a graded one a number).
        alphabet: the events in words, in terms of theta.
        spikes: ``spikes(q) -> counts``, how many spikes travel for each level; whole numbers.
        bounds: lowest and highest decoded output, in smallest events; where the neuron stands for a ReLU, the lowest
            is 0 whatever stands here.
        options: what a report shows: the arguments of the function that made the codebook.

    >>> book = Codebook("levels", whole, "multi-level", 0, 5, alphabet="{k theta: k = 0..5}", options={"cap": 5})
    >>> print(book)
    levels(cap=5)
    >>> book
    Codebook('levels', whole, 'multi-level', 0, 5, alphabet='{k theta: k = 0..5}', options={'cap': 5})
    """

    name: str = attrs.field(validator=valid(TEXT))
    quantise: Callable[[Tensor, Tensor, Bound, Bound], Tensor] = attrs.field(
        validator=valid(function("m", "smallest", "low", "high"))
    )
    unit: str = attrs.field(validator=valid(UNIT))
    low: float = attrs.field(validator=valid(_LOW))
    high: float = attrs.field(validator=valid(_HIGH))
    parts: int = attrs.field(default=1, validator=valid(WHOLE))
    wires: int = attrs.field(default=1, validator=valid(WHOLE))
    alphabet: str = attrs.field(default="", validator=valid(TEXT))
    spikes: Callable[[Tensor], Tensor] = attrs.field(default=one_spike, validator=valid(function("q")))
    bounds: tuple[float, float] = attrs.field(default=(-math.inf, math.inf), validator=valid(_BOUNDS))
    options: FrozenMap[str, Any] = attrs.field(default=EMPTY, converter=as_map, validator=valid(MAPPING))

    def __repr__(self) -> str:
        return constructor(self)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in self.options.items())})"

    @property
    def two_sided(self) -> bool:
        """Whether there are events of either sign."""
        return self.low < 0

    def times(self, steps: int) -> Codebook | None:
        """What the neuron can say in so many steps if its events are all worth the same; ``None`` where levels have
        gaps, so that it hangs on the order in which they are sent."""
        if self.quantise not in (whole, reaches):
            return None
        return attrs.evolve(self, quantise=whole, low=steps * self.low, high=steps * self.high)

    def smallest(self, theta: Tensor) -> Tensor:
        """The smallest event, ``theta / parts``."""
        return theta if self.parts == 1 else theta / self.parts

    @property
    def top(self) -> float:
        """The largest event, in units of theta."""
        return self.high / self.parts

    def remembers(self, signed: bool, capped: bool = False) -> bool:
        """Whether the choice depends on what was sent before."""
        return (self.two_sided and (not signed or self.bounds[0] > -math.inf)) or self.bounds[1] < math.inf or capped

    def choose(self, m: Tensor, smallest: Tensor, low: Bound, high: Bound) -> Tensor:
        r"""The level q for the potential ``m``, with a gradient where ``m`` has one.

        The gradient is straight through: that of ``clip(m / smallest, low, high + 1)``, which is 1 / smallest where
        the codebook reaches and 0 where it saturates; so an IF neuron under RATE learns as the ReLU clipped at theta
        does, and the threshold as in LSQ, :math:`\partial s / \partial \lambda = q - m / \lambda`.

        References: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons"; Bu et al.
        2022, "Optimal ANN-SNN conversion" (QCFS), ICLR; Esser et al. 2020, "Learned step size quantization", ICLR.
        """
        if not m.requires_grad:
            return self.quantise(m, smallest, low, high)
        q = self.quantise(m.detach(), smallest.detach(), low, high)
        u = clip(m / smallest, low, high + 1)
        return q + (u - u.detach())  # q to the bit

    def room(
        self, sent: Tensor, smallest: Tensor, *, a: float, signed: bool, cap: Bound | None = None
    ) -> tuple[Bound, Bound]:
        """The lowest and highest level that keep the decoded output within its bounds.

        Args:
            sent: the sum of the levels sent so far, as the code weighs them: Y / a.
            smallest: the smallest event.
            a: what an event of this step is worth.
            signed: whether the output may be negative.
            cap: the largest value it may take.
        """
        sent, low, high = sent.detach(), self.low, self.high
        floor = self.bounds[0] / a if signed else 0.0
        ceiling: Bound = self.bounds[1] / a
        if cap is not None:
            ceiling = (cap / (a * smallest.detach())).clamp(max=ceiling)
        least = (floor - sent).clamp(low, 0) if self.two_sided and floor > -math.inf else low
        if cap is None and math.isinf(self.bounds[1]):
            return least, high
        full = 1 + 4 * torch.finfo(sent.dtype).eps  # a bound that is met exactly is met in spite of rounding
        return least, (full * ceiling - sent).clamp(0, high)


#: Events {0, theta}.
BINARY = Codebook("if", reaches, "binary", 0, 1, alphabet="{0, theta}")
#: Events {-theta, 0, theta}.
SIGNED = Codebook("snm", whole, "signed", -1, 1, alphabet="{-theta, 0, theta}")
