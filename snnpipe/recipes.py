r"""Published conversion methods, each one line of composition.

A method is a choice of *threshold rule, neuron, code, schedule and corrections*; each choice is a value of this
library, so a recipe is a record of them, and a new one is one more function.  All are training-free; the number of
steps T may decide any of them.

    snn = recipes.snm()(model, [images], T=4)
    y = snn(x)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from snnpipe.checks import takes
from snnpipe.codes import CODE, DIFFERENTIAL, RATE, TD, Code, geometric, restarted
from snnpipe.errors import InputError
from snnpipe.kernels.gaussian import threshold_iteration
from snnpipe.kernels.multilevel import WIRES, burst, cascade, graded, group, one_of_n, st_bif
from snnpipe.kernels.neuron import NEURON, Neuron, integrate_and_fire, signed_memory
from snnpipe.kernels.optimal import local_threshold_balancing
from snnpipe.kernels.repair import repaired
from snnpipe.kernels.threshold import maximum, percentile
from snnpipe.options import POSITIVE, WHOLE, number, optional
from snnpipe.recipe import RECIPE, Recipe, always, correcting, estimated, fades, fitted, part
from snnpipe.stages.balance import balance
from snnpipe.stages.correct import correct_bias, correct_threshold
from snnpipe.stages.tune import correct_weights
from snnpipe.text import remembered, shown
from snnpipe.waves import Wave

# binary events, rate coded


@remembered
def diehl() -> Recipe:
    r"""``theta = max a`` per layer, ``v_0 = 0``: one layer decodes ``theta / T clip(floor(z T / theta), 0, T)``.

    Diehl et al. 2015, "Fast-classifying, high-accuracy spiking deep networks through weight and threshold balancing",
    IJCNN.
    """
    return Recipe("diehl", always(maximum(per="layer")), integrate_and_fire(v_init=0.0))


@remembered
def rueckauer() -> Recipe:
    r"""As ``diehl`` with the 99.9th percentile of the nonzero activations of the layer.

    Rueckauer et al. 2017, "Conversion of continuous-valued deep networks to efficient event-driven networks for image
    classification", Frontiers in Neuroscience.
    """
    return Recipe("rueckauer", always(percentile(99.9, nonzero=True, per="layer")), integrate_and_fire(v_init=0.0))


@remembered
def opi() -> Recipe:
    r"""The 99.9th percentile of each channel and ``v_0 = theta / 2``, which rounds where ``diehl`` truncates.

    Bu et al. 2022, "Optimized potential initialization for low-latency spiking neural networks", AAAI; the shift of
    theta/(2T) per step of Deng and Gu 2021, ICLR, is the same.
    """
    return Recipe("opi", always(percentile(99.9)), integrate_and_fire())


@remembered
def sengupta() -> Recipe:
    r"""``theta = max z_t`` per layer, the largest current of a step while the layers before spike already; ``v_0 = 0``.

    Sengupta et al. 2019, "Going deeper in spiking neural networks: VGG and residual architectures", Frontiers in
    Neuroscience.
    """
    neuron = integrate_and_fire(v_init=0.0)
    return Recipe("sengupta", always(maximum(per="layer")), neuron, corrections=(_balanced,))


@takes(iterations=WHOLE)
@remembered
def ltb(*, iterations: int = 1000) -> Recipe:
    r"""``theta_c <- theta_c + 2 mean[(a - theta_c) [a > theta_c]]``, ``v_0 = theta / 2``, delayed readout.

    Bu et al. 2025, "Inference-scale complexity in ANN-SNN conversion for high-performance and low-power
    applications", CVPR.
    """
    rule = local_threshold_balancing(iterations=iterations)
    return Recipe("ltb", always(rule), integrate_and_fire(), delay=estimated)


@remembered
def calibration_light() -> Recipe:
    r"""The threshold of least squared error after T steps, ``v_0 = theta / 2``, and ``b_c += mean(a - a_T)``.

    Li et al. 2021, "A free lunch from ANN: towards efficient, accurate spiking neural networks calibration", ICML.
    """
    return Recipe("calibration_light", fitted(integrate_and_fire()), integrate_and_fire(), corrections=(correct_bias,))


@takes(epochs=WHOLE)
@remembered
def calibration_advanced(*, epochs: int = 2) -> Recipe:
    r"""As ``calibration_light`` with weights trained layer by layer instead, ``min_W |q_T(f(X; W)) - a|^2``.

    Li et al. 2021, as ``calibration_light``; the weights see what spikes at each step, not its mean.
    """
    trained, neuron = correcting(correct_weights, epochs=epochs), integrate_and_fire()
    return Recipe("calibration_advanced", fitted(neuron), neuron, corrections=(trained,))


_SHARE = number("is a share of the steps, 0 < share <= 1", lambda value: 0 < value <= 1)


@takes(share=_SHARE)
@remembered
def fading(*, share: float = 0.7) -> Recipe:
    r"""``calibration_light`` under ``low_pass(share * T)``, and the first quarter of the steps not read out.

    What a binary neuron sent too early fades instead of being remembered to the end; with no first pass (``offset``)
    and no waiting (``parallel``).  In deep networks that is the largest part of the error at small T; in one of a few
    layers little is too early, and the resolution lost weighs more.
    """
    neuron = integrate_and_fire()
    return Recipe("fading", fitted(neuron), neuron, fades(share),
                  corrections=(correct_bias,), delay=part(0.25))  # fmt: skip


@takes(share=_SHARE, epochs=WHOLE)
@remembered
def fading_advanced(*, share: float = 0.7, epochs: int = 2) -> Recipe:
    r"""``fading`` with the trained weights of ``calibration_advanced`` (Li et al. 2021) instead of its biases."""
    trained = correcting(correct_weights, epochs=epochs)
    return attrs.evolve(fading(share=share), name="fading_advanced", corrections=(trained,))


@takes(tau=WHOLE)
@remembered
def srp(*, tau: int = 4) -> Recipe:
    r"""A first pass of ``tau`` steps; a neuron with v < 0 after it is silent in the T steps that count.

    Hao et al. 2023, "Reducing ANN-SNN conversion error through residual membrane potential", AAAI.
    """
    neuron = repaired(integrate_and_fire(), how="mask")
    return Recipe("srp", fitted(neuron), neuron, always(restarted(tau)), pre=tau)


@takes(tau=WHOLE)
@remembered
def offset(*, tau: int = 8) -> Recipe:
    r"""A first pass of ``tau`` steps; what it sent too much or too little is charged to the potential the T steps that
    count begin with, and ``b_c += mean(a - a_T)``.

    After Hao et al. 2023, "Bridging the gap between ANNs and SNNs by calibrating offset spikes" (COS), ICLR, who
    repeat the first pass for every layer.
    """
    neuron = repaired(integrate_and_fire())
    return Recipe("offset", fitted(neuron), neuron, always(restarted(tau)), pre=tau, corrections=(correct_bias,))


@remembered
def parallel() -> Recipe:
    r"""Layer after layer: ``theta / T clip(floor(z T / theta + 1/2), 0, T)`` exactly, so the QCFS quantiser.

    Hao et al. 2025, "Faster and stronger: when ANN-SNN conversion meets parallel spiking calculation", ICML.
    """
    neuron = integrate_and_fire()
    return Recipe("parallel", fitted(neuron), neuron, schedule="layer")


@takes(K=WHOLE, neuron=NEURON, share=optional(POSITIVE))
@remembered
def wave(*, K: int = 4, neuron: Neuron = integrate_and_fire(), share: float | None = None) -> Recipe:
    r"""Layers pass on chunks of K steps, ``n = clip(floor((v + K z) / theta), 0, K)``; then ``b_c += mean(a - a_T)``.

    Between ``calibration_light`` (K = 1) and ``parallel`` (K = T): the larger a chunk, the fewer of its events are too
    early, and the longer layers wait for each other, T + (depth - 1) K steps.  To simulate it takes T / K ANN runs.
    Of the first quarter of the steps whole chunks are not read out.

    Args:
        K: steps of a chunk.
        neuron: what fires in it; ``signed_memory()`` for events of either sign.
        share: under ``low_pass(share * T)``, in which what a binary neuron sent too early fades; RATE by default.
    """
    code = always(RATE) if share is None else fades(share)
    return Recipe("wave", fitted(neuron), neuron, code, Wave(K), corrections=(correct_bias,), delay=part(0.25, K))


@takes(K=WHOLE, neuron=NEURON, epochs=WHOLE)
@remembered
def wave_advanced(*, K: int = 4, neuron: Neuron = integrate_and_fire(), epochs: int = 2) -> Recipe:
    r"""``wave`` with the trained weights of ``calibration_advanced`` (Li et al. 2021) instead of its biases."""
    trained = correcting(correct_weights, epochs=epochs)
    return attrs.evolve(wave(K=K, neuron=neuron), name="wave_advanced", corrections=(trained,))


@remembered
def bit_plane() -> Recipe:
    r"""Layer after layer, the event of step t worth ``2^-t``: T bits of the activation, truncated.

    Rueckauer et al. 2017 ("temporal pattern" of snn_toolbox); successive approximation as in Stoeckl and Maass 2021,
    "Optimized spiking neurons can classify images with high accuracy", Nature Machine Intelligence.
    """
    neuron = integrate_and_fire(v_init=0.0)
    return Recipe("bit_plane", always(maximum()), neuron, always(geometric(2.0)), schedule="layer")


# ternary events


@remembered
def snm() -> Recipe:
    r"""Events in {-theta, 0, theta}: a spike too many is taken back, never more than were sent.

    Wang et al. 2022, "Signed neuron with memory: towards simple, accurate and high-efficient ANN-SNN conversion",
    IJCAI.
    """
    return Recipe("snm", always(percentile(99.9)), signed_memory())


@remembered
def snm_calibrated() -> Recipe:
    r"""``snm`` with the thresholds and the correction of ``calibration_light``."""
    return Recipe("snm_calibrated", fitted(signed_memory()), signed_memory(), corrections=(correct_bias,))


@takes(levels=WHOLE)
@remembered
def spikezip(*, levels: int = 15) -> Recipe:
    r"""ST-BIF under TD: after enough steps ``s clip(floor(z / s + 1/2), 0, levels)``, s = theta / levels, exactly.

    You et al. 2024, "SpikeZIP-TF: conversion is all you need for transformer-based SNN", ICML.
    """
    return Recipe("spikezip", always(percentile(99.9)), st_bif(levels=levels), always(TD))


# events of several levels


@takes(cap=WHOLE)
@remembered
def burst_spikes(*, cap: int = 5) -> Recipe:
    r"""``s = theta clip(floor(m / theta), 0, cap)``, with the threshold of least error.

    Li and Zeng 2022, "Efficient and accurate conversion of spiking neural network with burst spikes", IJCAI.
    """
    return Recipe("burst", fitted(burst(cap=cap)), burst(cap=cap))


@takes(m=WHOLE)
@remembered
def group_neuron(*, m: int = 4) -> Recipe:
    r"""``m`` members with the thresholds ``k theta / m`` on one potential, ``v_0 = theta / (2 m)``.

    Lv et al. 2024, "Optimal ANN-SNN conversion with group neurons", ICASSP.
    """
    return Recipe("group", fitted(group(m=m)), group(m=m))


@takes(n=WIRES)
@remembered
def ecmt(*, n: int = 4) -> Recipe:
    r"""One of the levels ``+-theta / 2^k`` in a step, rate coded.

    Huang et al. 2024, "Towards high-performance spiking transformers from ANN to SNN conversion", ACM MM.
    """
    return Recipe("ecmt", always(percentile(99.9)), one_of_n(n=n))


@takes(n=WIRES)
@remembered
def dcgs(*, n: int = 4) -> Recipe:
    r"""``ecmt``'s neuron under ``a_t = 1/t``, the threshold from mean and variance of the current.

    Huang et al. 2025, "Differential coding for training-free ANN-to-SNN conversion", ICML.
    """
    return Recipe("dcgs", fitted(one_of_n(n=n), threshold_iteration), one_of_n(n=n), always(DIFFERENTIAL))


@takes(n=WIRES)
@remembered
def hmt(*, n: int = 4) -> Recipe:
    r"""The binary expansion of the potential on ``n`` wires, the threshold from mean and variance of the current.

    One layer decodes ``lambda / T clip(floor(z T / lambda + 1/2), 0, (2^n - 1) T)``, lambda = theta / 2^(n-1).

    "Generalized threshold optimization with harmony multi-threshold neurons for accurate ANN to SNN conversion",
    AAAI 2026.
    """
    return Recipe("hmt", fitted(cascade(n=n), threshold_iteration), cascade(n=n))


@takes(n=WIRES, code=CODE)
@remembered
def cascade_mmse(*, n: int = 4, code: Code = RATE) -> Recipe:
    r"""``hmt`` with the threshold of least error on the data instead of on a Gaussian."""
    return Recipe("cascade_mmse", fitted(cascade(n=n)), cascade(n=n), always(code))


@takes(n=WIRES)
@remembered
def cascade_calibrated(*, n: int = 4) -> Recipe:
    r"""``cascade_mmse``, each neuron's mean current and the size of its events corrected behind its spiking prefix."""
    return attrs.evolve(cascade_mmse(n=n), name="cascade_calibrated", corrections=(correct_threshold,))


@takes(levels=WHOLE)
@remembered
def sigma_delta(*, levels: int = 15) -> Recipe:
    r"""Graded events of whole numbers of theta / levels under TD: the rounded activations, as they change.

    O'Connor and Welling 2017, "Sigma delta quantized networks", ICLR; the SDNN of Loihi 2.
    """
    return Recipe("sigma_delta", always(percentile(99.9)), graded(parts=levels), always(TD))


@takes(levels=WHOLE, beta=POSITIVE)
@remembered
def progressive(*, levels: int = 7, beta: float = 4.0) -> Recipe:
    r"""Graded events ``k theta``, k = -levels .. levels, worth ``beta^-t``: each step ``beta`` times finer.

    ``levels >= 2 beta - 1`` lets later steps mend what earlier ones got wrong, so the error falls as ``beta^-T``.
    """
    return Recipe("progressive", always(maximum()), graded(levels=levels), always(geometric(beta)))


#: Every recipe by name, with its default options.
RECIPES: dict[str, Callable[[], Recipe]] = {
    make.__name__: make
    for make in (
        diehl, rueckauer, sengupta, opi, ltb, calibration_light, calibration_advanced, fading, fading_advanced, srp,
        offset, parallel, wave, wave_advanced, bit_plane, snm, snm_calibrated, spikezip, burst_spikes, group_neuron,
        ecmt, dcgs, hmt, cascade_mmse, cascade_calibrated, sigma_delta, progressive,
    )
}  # fmt: skip


def _balanced(batches: Any, *, T: int, code: Code, schedule: Wave) -> Any:
    return balance(batches, T=T, code=code)


def named(recipe: Recipe | str) -> Recipe:
    """A recipe as it is, or the one of that name."""
    if not isinstance(recipe, str):
        found: Recipe = RECIPE.hold(recipe, "a recipe", "recipes", InputError)
        return found
    if recipe not in RECIPES:
        raise InputError(f"no recipe is called {shown(recipe)}; there are {', '.join(RECIPES)}")
    return RECIPES[recipe]()
