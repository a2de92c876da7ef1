"""Neurons with more than one level, each a codebook of the one encoder.

Everything here is written in the smallest event, theta / parts; ``v_init`` too.
"""

from __future__ import annotations

import math

import attrs

from snnpipe.checks import takes
from snnpipe.codes import Code
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.levels import binary_digits, power_of_two, unary, whole
from snnpipe.kernels.neuron import Neuron, encoder
from snnpipe.options import COUNTABLE, FLAG, POTENTIAL, WHOLE, optional
from snnpipe.options import whole as whole_number
from snnpipe.text import remembered

#: The most wires of powers of two: their largest event is the last whole number that float32 counts to.
WIRES = whole_number(most=COUNTABLE.bit_length() - 1)


@takes(cap=WHOLE, two_sided=FLAG, v_init=POTENTIAL)
@remembered
def burst(*, cap: int = 5, two_sided: bool = False, v_init: float = 0.5) -> Neuron:
    """The burst neuron: ``s = theta clip(floor(m / theta), 0, cap)``, up to ``cap`` spikes in a step on one wire.

    Under RATE a constant current z decodes to ``theta / T clip(floor(z T / theta + v_init), 0, cap T)``.

    Args:
        cap: the most spikes in a step.
        two_sided: bursts of either sign; with a memory at ReLU sites, where no more is taken back than was sent.
        v_init: initial potential in units of theta.

    References: Li and Zeng 2022, "Efficient and accurate conversion of spiking neural network with burst spikes",
    IJCAI; with a cap for each layer, Wang et al. 2025, "Adaptive calibration" (AdaFire), AAAI.

    >>> print(burst(), burst().alphabet)
    burst(cap=5, v_init=0.5) {k theta: k = 0..5}
    """
    low, shown = (-cap, {"cap": cap, "two_sided": True}) if two_sided else (0, {"cap": cap})
    book = Codebook("burst", whole, "multi-level", low, cap, 1, 1, _multiples(low, cap, 1), unary, options=shown)
    return encoder(book, v_init=v_init)


@takes(m=WHOLE, v_init=POTENTIAL)
@remembered
def group(*, m: int = 4, v_init: float = 0.5) -> Neuron:
    """The group neuron: ``m`` members with the thresholds ``k theta / m``, k = 1..m, on ``m`` wires.

    All members see one potential and each says theta / m: the burst neuron of theta / m with cap m, in parallel.

    Args:
        m: members, and wires.
        v_init: initial potential in units of theta / m.

    Reference: Lv et al. 2024, "Optimal ANN-SNN conversion with group neurons", ICASSP.

    >>> print(group(), group().alphabet)
    group(m=4, v_init=0.5) {k theta/4: k = 0..4}
    """
    book = Codebook("group", whole, "multi-level", 0, m, m, m, _multiples(0, m, m), unary, options={"m": m})
    return encoder(book, v_init=v_init)


@takes(n=WIRES, v_init=POTENTIAL)
@remembered
def one_of_n(*, n: int = 4, v_init: float = 0.0) -> Neuron:
    """The multi-threshold neuron: one of ``n`` levels theta / 2^k of either sign in a step, the nearest to m.

    The level is the largest with ``|m| >= 0.75 level``; at ReLU sites a negative one is no larger than what was sent
    so far.  Under DIFFERENTIAL it is the neuron of DCGS, under RATE that of ECMT.

    Args:
        n: levels k = 0..n-1, and wires; one of them carries a spike.
        v_init: initial potential in units of theta / 2^(n-1).

    References: Huang et al. 2025, "Differential coding for training-free ANN-to-SNN conversion" (DCGS), ICML; Huang
    et al. 2024, "Towards high-performance spiking transformers from ANN to SNN conversion" (ECMT), ACM MM.

    >>> print(one_of_n(), one_of_n().alphabet)
    one_of_n(n=4, v_init=0.0) {0, +-theta/2^k: k = 0..3}
    """
    top = 2 ** (n - 1)
    alphabet = f"{{0, +-theta/2^k: k = 0..{n - 1}}}"
    book = Codebook("one_of_n", power_of_two, "multi-level", -top, top, top, n, alphabet, options={"n": n})
    return encoder(book, v_init=v_init)


@takes(n=WIRES, two_sided=FLAG, v_init=POTENTIAL)
@remembered
def cascade(*, n: int = 4, two_sided: bool = True, v_init: float = 0.5) -> Neuron:
    r"""The cascade neuron: the binary expansion of m by the levels theta, theta/2, ..., on ``n`` wires in one step.

    ``for i = 1..n: if m >= theta/2^(i-1): say it and subtract it``, which is a uniform quantiser of :math:`2^n - 1`
    levels of :math:`\lambda = \theta / 2^{n-1}`; negative events by sign and magnitude.  Under RATE a constant
    current decodes to ``lambda / T clip(floor(z T / lambda + v_init), 0, (2^n - 1) T)``; where the value has both
    signs, from ``-(2^n - 1) T``.

    Args:
        n: wires.
        two_sided: events of either sign; at ReLU sites they are held back until the sum of what was said covers them.
        v_init: initial potential in units of lambda.

    Reference: "Generalized threshold optimization with harmony multi-threshold neurons for accurate ANN to SNN
    conversion" (H-MT), AAAI 2026.

    >>> print(cascade(), cascade().alphabet)
    cascade(n=4, v_init=0.5) {k theta/8: k = -15..15}
    """
    high, parts = 2**n - 1, 2 ** (n - 1)
    low, shown = (-high, {"n": n}) if two_sided else (0, {"n": n, "two_sided": False})
    alphabet = _multiples(low, high, parts)
    book = Codebook("cascade", whole, "multi-level", low, high, parts, n, alphabet, binary_digits, options=shown)
    return encoder(book, v_init=v_init)


@takes(
    levels=WHOLE,
    low=optional(whole_number(-COUNTABLE, 0, "must be a whole number of at most 0")),
    parts=optional(WHOLE),
    v_init=POTENTIAL,
)
@remembered
def st_bif(*, levels: int = 15, low: int | None = None, parts: int | None = None, v_init: float = 0.5) -> Neuron:
    """The ST-BIF neuron: the signed neuron whose decoded output keeps within bounds; for TD.

    With s = theta / parts, after enough steps it has said exactly ``clamp(floor(x / s + 1/2), 0, levels) s`` of its
    input x: what an ANN with quantised activations of step s computes.

    Args:
        levels: the largest output in units of s.
        low: the smallest, where the value has both signs (0 elsewhere); ``-levels`` by default.
        parts: smallest events in theta, ``levels`` by default; 1 to give the quantiser's step as theta.
        v_init: initial potential in units of s; 1/2 rounds, 0 truncates.

    Reference: You et al. 2024, "SpikeZIP-TF: conversion is all you need for transformer-based SNN", ICML.

    >>> print(st_bif(levels=7), st_bif(levels=7).alphabet)
    st_bif(levels=7, v_init=0.5) {-theta/7, 0, theta/7}
    """
    parts = levels if parts is None else parts
    shown = {"levels": levels} | ({} if low is None else {"low": low}) | ({} if parts == levels else {"parts": parts})
    event = "theta" if parts == 1 else f"theta/{parts}"
    book = Codebook(
        "st_bif", whole, "signed", -1, 1, parts, alphabet=f"{{-{event}, 0, {event}}}",
        bounds=(-levels if low is None else low, levels), options=shown,
    )  # fmt: skip
    return attrs.evolve(encoder(book, v_init=v_init), objection=_too_small)


@takes(levels=optional(WHOLE), parts=WHOLE, v_init=POTENTIAL)
@remembered
def graded(*, levels: int | None = None, parts: int = 1, v_init: float = 0.5) -> Neuron:
    """The graded neuron: ``s = step clip(floor(m / step + v_init), -levels, levels)`` with step = theta / parts.

    An event carries a number.  Under TD or RATE it is the sigma-delta (SDNN) neuron that keeps its rounding error;
    under ``geometric(beta)`` the progressive one, whose error falls as beta^-t while ``levels >= 2 beta - 1``.

    Args:
        levels: the largest number, ``None`` for any.
        parts: steps in theta.
        v_init: initial potential in units of the step; 1/2 rounds half up.

    References: O'Connor and Welling 2017, "Sigma delta quantized networks", ICLR; Shrestha et al. 2024, "Efficient
    video and audio processing with Loihi 2", ICASSP.

    >>> print(graded(levels=7), graded(levels=7).alphabet, graded().alphabet)
    graded(levels=7, parts=1, v_init=0.5) {k theta: k = -7..7} {k theta: k whole}
    """
    high = math.inf if levels is None else levels
    shown = {"levels": levels, "parts": parts}
    alphabet = _multiples(-high, high, parts)
    return encoder(Codebook("graded", whole, "graded", -high, high, parts, 1, alphabet, options=shown), v_init=v_init)


def _multiples(low: float, high: float, parts: int) -> str:
    event = "theta" if parts == 1 else f"theta/{parts}"
    return f"{{k {event}: k {'whole' if math.isinf(high) else f'= {low}..{high}'}}}"


def _too_small(code: Code) -> str:
    """Single events of theta / levels reach theta only by adding up."""
    clocks = [code.clock(t) for t in range(1, 9)]
    if all(math.isclose(clock.a, clocks[0].a) and math.isclose(clock.gain, 1.0) for clock in clocks):
        return ""
    return (
        "it says one small event in a step, and under this code those do not add up to theta; use td_rewrite(code=TD), "
        "or here signed_memory(), cascade(n=4) or one_of_n(n=4)"
    )
