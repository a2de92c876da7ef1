"""Neurons whose steps are one kernel, made by ``torch.compile``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.codes import Clock
from snnpipe.errors import CompileWarning, StageError
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.encoder import encode_scan, in_place
from snnpipe.kernels.levels import reaches
from snnpipe.kernels.neuron import NEURON, Neuron
from snnpipe.text import remembered


@takes(StageError, neuron=NEURON)
@remembered
def compiled(neuron: Neuron) -> Neuron:
    """The same neuron, its steps in a window one kernel of ``torch.compile``: ``replace(neuron=compiled(...))``.

    Compiled is what runs in place otherwise: the single steps of neurons whose events depend on the potential alone,
    under codes that leave it as it is, without gradients.  The first runs wait for the compiler; where there is none,
    a ``CompileWarning`` says so and the neuron runs as it did.  The events are the same.

    Args:
        neuron: of soft reset, without a leak.

    Raises:
        StageError: a neuron that takes its steps in another way.

    >>> from snnpipe.kernels.neuron import integrate_and_fire
    >>> compiled(integrate_and_fire())
    compiled(integrate_and_fire())
    """
    if neuron.scan is not encode_scan:
        raise StageError(
            f"compiled: {neuron} takes its steps in a way of its own; those of integrate_and_fire(), signed_memory() "
            "and encoder(codebook) can be compiled"
        )
    return attrs.evolve(neuron, scan=fused_scan)


def fused_scan(
    state: Any, zs: Sequence[Tensor], theta: Tensor, clocks: Sequence[Clock], *, codebook: Codebook, **options: Any
) -> tuple[Any, Tensor] | None:
    """``encode_scan`` in one pass over memory; what cannot be done so is done as there."""
    given = {key: value for key, value in options.items() if key in ("signed", "cap")}
    single = len(clocks) > 1 and not any(clock.parts for clock in clocks)
    if not single or options.get("v_reset") is not None or not in_place(zs, theta, clocks, codebook=codebook, **given):
        return encode_scan(state, zs, theta, clocks, codebook=codebook, **options)
    z, smallest = zs[0], codebook.smallest(theta)
    order = sorted(range(z.ndim), key=z.stride, reverse=True)  # as they lie in memory
    back = [order.index(axis) for axis in range(z.ndim)]
    v, least, *currents = (x.expand(z.shape).permute(order) for x in (torch.as_tensor(state), smallest, *zs))
    binary = codebook.quantise is reaches
    made = KERNEL(v, least, currents, None if binary else codebook.low, None if binary else codebook.high)
    if made is None:
        return encode_scan(state, zs, theta, clocks, codebook=codebook, **options)
    return made[0].permute(back), made[1].permute(0, *(1 + axis for axis in back))


def steps(
    v: Tensor, smallest: Tensor, currents: Sequence[Tensor], low: float | None, high: float | None
) -> tuple[Tensor, Tensor]:
    """The steps of ``encode``: binary without bounds, else whole levels between them."""
    events = []
    for z in currents:
        v = v + z
        if low is None:
            s = torch.where(v >= smallest, smallest, 0.0)
        else:
            s = (v / smallest).floor().clamp(low, high) * smallest
        v = v - s
        events.append(s)
    return v, torch.stack(events)


class Kernel:
    """The steps, compiled when first called; ``None`` if there is no compiler."""

    def __init__(self) -> None:
        self.run: Callable[..., Any] | None = self._first

    def _first(self, *given: Any) -> Any:
        self.run = torch.compile(steps, dynamic=True)  # not before: it imports the compiler, more than a second
        return self.run(*given)

    def __call__(self, *given: Any) -> Any:
        if self.run is None:
            return None
        try:
            return self.run(*given)
        except Exception as error:  # compilers fail in their own ways
            self.run = None
            said = str(error).strip().splitlines() or [type(error).__name__]
            warnings.warn(
                f"neurons run uncompiled, the compiler failed: {said[0]}; torch.compile needs a C++ compiler (g++, "
                "clang), or Triton on a GPU",
                CompileWarning,
                stacklevel=2,
            )
            return None


KERNEL = Kernel()
