"""Threshold rules against their definitions: brute force over samples, and numerical integration.

A histogram knows a value up to its bin.  Data that fills bins evenly (``filling``) makes what is computed from it
comparable to the last bits; for any other data the bins' width bounds the difference.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from property_tests.strategies import few
from snnpipe.errors import ThresholdError
from snnpipe.kernels.gaussian import threshold_iteration
from snnpipe.kernels.histogram import BINS, BINS_PER_OCTAVE, HISTOGRAM, OCTAVES, Histogram
from snnpipe.kernels.moments import MOMENTS, Moments
from snnpipe.kernels.optimal import _edges_and_weights, error_integral, local_threshold_balancing, mmse
from snnpipe.kernels.threshold import PER, percentile, scaled

WIDTH = 1 / BINS_PER_OCTAVE  # of a bin, at most, relative to its lower edge
PIECES = 64

steps = st.sampled_from([1, 2, 3, 8, 50, 1000])
roundings = st.sampled_from([0.0, 0.25, 0.5, 0.75])


def quantised(x: Tensor, top: float, n: int, rounding: float = 0.5) -> Tensor:
    return top / n * torch.floor(x * n / top + rounding).clamp(0, n)


def squared(x: Tensor, top: float, n: int, rounding: float = 0.5) -> Tensor:
    return (x - quantised(x, top, n, rounding)).square()


def filling(seed: int, bins: int = 12) -> tuple[Tensor, Tensor]:
    """Values (N, 1) at the middles of ``PIECES`` equal parts of some bins, and the widths of these parts."""
    g = torch.Generator().manual_seed(seed)
    octave = torch.exp2(torch.randint(-6, 3, (bins,), generator=g).double())
    low = octave * (1 + torch.randint(0, BINS_PER_OCTAVE, (bins,), generator=g) / BINS_PER_OCTAVE)
    part = octave / BINS_PER_OCTAVE / PIECES
    x = low[:, None] + part[:, None] * (torch.arange(PIECES) + 0.5)
    return x.reshape(-1, 1), part[:, None].expand_as(x).reshape(-1)


def unknown(x: Tensor, part: Tensor, top: float, n: int, rounding: float) -> float:
    """How far the mean squared error of values may move if each moves within ``part`` of itself.

    The squared error changes by at most 2 |x - q| part + part^2 where q stays the same, and by no more than its
    largest value below saturation, which is that of a step rounded the longer way, where q jumps.
    """
    off = (x - quantised(x, top, n, rounding)).abs()
    jumps = quantised(x - part, top, n, rounding) != quantised(x + part, top, n, rounding)
    most = (max(rounding, 1 - rounding) * top / n) ** 2
    moved = 2 * off * part + part.square()
    return moved.where(~jumps, torch.maximum(moved, torch.tensor(most).double())).mean().item()


def rounding_of(x: Tensor) -> float:
    """Of the sum over edges of cubes times densities: each term is at most BINS_PER_OCTAVE x^2, twice."""
    return 64 * BINS * BINS_PER_OCTAVE * x.abs().max().item() ** 2 * torch.finfo(torch.float64).eps


def expected_error(h: Histogram, top: float, n: int, rounding: float) -> float:
    edges, weights = _edges_and_weights(h)
    return (weights @ error_integral(edges, torch.tensor(top).double(), n, rounding)).item()


@given(seed=st.integers(0, 999), n=steps, rounding=roundings, share=st.floats(0.05, 1.5))
def test_the_expected_error_of_a_histogram_is_that_of_its_values(seed, n, rounding, share):
    x, part = filling(seed)
    top = share * x.max().item()
    exact = squared(x, top, n, rounding).mean().item()
    found = expected_error(HISTOGRAM.summarise(x, 1), top, n, rounding)
    # each value stands for what lies half a part around it
    assert abs(found - exact) <= unknown(x.flatten(), part / 2, top, n, rounding) + rounding_of(x)


def test_an_expected_error_that_ignored_steps_finer_than_a_bin_would_be_seen():
    x, part = filling(0)
    top, n = x.max().item(), 50
    middles = x.reshape(-1, PIECES).mean(1, keepdim=True).expand(-1, PIECES).reshape(-1)  # one sample per bin
    wrong = squared(middles, top, n).mean().item() - squared(x, top, n).mean().item()
    assert abs(wrong) > unknown(x.flatten(), part / 2, top, n, 0.5) + rounding_of(x)


def samples(seed: int, shape: str, count: int = 400) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, generator=g).double()
    return {"relu": x.relu(), "abs": x.abs(), "heavy": (2 * x).exp(), "few": x.relu() * (x > 1.5)}[shape]


SHAPES = st.sampled_from(["relu", "abs", "heavy", "few"])


def bin_of(x: Tensor) -> Tensor:
    """The width of the bin a value lies in; all of bin 0."""
    width = torch.exp2(torch.floor(torch.log2(x.clamp(min=1e-300)))) / BINS_PER_OCTAVE
    return torch.maximum(width, x.max() * 2.0 ** (1 - OCTAVES))


@few(2.0)
@given(seed=st.integers(0, 999), shape=SHAPES, T=steps, levels=st.integers(1, 5), rounding=roundings)
def test_mmse_is_the_best_candidate_as_far_as_bins_tell(seed, shape, T, levels, rounding):
    x = samples(seed, shape)
    n = T * levels
    theta = mmse(T, levels=levels, rounding=rounding)(HISTOGRAM.summarise(x, 1)).item()
    largest = x.max().item()
    assert 0 < theta <= largest

    def between(top: float) -> tuple[float, float]:
        error = squared(x, top, n, rounding).mean().item()
        slack = unknown(x.flatten(), bin_of(x.flatten()), top, n, rounding) + rounding_of(x)
        return error - slack, error + slack

    candidates = largest * 2.0 ** (-np.arange(0, 96) / 16)
    best = min(between(float(top))[1] for top in candidates)
    assert between(theta)[0] <= best


@pytest.mark.parametrize("T", [1, 2, 4, 8, 16])
def test_mmse_of_many_values_is_the_minimum(T):
    """At a smooth minimum the error grows with the square of the distance: half a fine candidate, 1/256 octave."""
    x = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0)).double().relu()
    theta = mmse(T)(HISTOGRAM.summarise(x, 1)).item()
    tops = np.linspace(0.5, 1.2, 351) * theta
    errors = np.array([squared(x, top, T).mean().item() for top in tops])
    best, at_best = errors.min(), tops[errors.argmin()]
    wide = max(squared(x, at_best * factor, T).mean().item() for factor in (0.95, 1.05)) - best
    spacing = (2 ** (1 / 256) - 1) / 0.05
    # values are spread over bins: they move by a quarter of a bin on average, to both sides, as independent errors do
    moved = unknown(x.flatten(), bin_of(x.flatten()), theta, T, 0.5) / math.sqrt((x > 0).sum().item() / BINS)
    assert squared(x, theta, T).mean().item() <= best + spacing**2 * wide + moved
    assert squared(x, 1.1 * theta, T).mean().item() > best + spacing**2 * wide + moved  # so the test can fail


def test_mmse_needs_no_new_data_for_another_T():
    h = HISTOGRAM.summarise(torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)).relu(), 1)
    thetas = torch.stack([mmse(T)(h) for T in (1, 2, 4, 8, 16, 32)])
    assert (thetas.diff(dim=0) > 0).all()  # of a tail that thins out: the finer the steps, the more of it is worth
    assert (thetas[-1] <= h.max).all()
    assert torch.equal(mmse(2, levels=4)(h), mmse(8)(h))
    cascade = mmse(2, levels=7, top=2 - 2**-2)(h)
    assert torch.allclose(cascade * 1.75, mmse(14)(h), rtol=1e-12, atol=0)  # one more rounding
    assert mmse(4, per="layer")(h).shape == (1,)


@pytest.mark.parametrize(
    "rule", [mmse(1), mmse(8), local_threshold_balancing(), local_threshold_balancing(lr=5.0)], ids=str
)
def test_degenerate_channels(rule):
    x = torch.tensor([[0.0, 3.0, -1.0, 1e-9], [0.0, 3.0, -2.0, 0.0]])
    theta = rule(HISTOGRAM.summarise(x, 1))
    assert theta[0] == theta[2] == 0.0  # never fired
    assert theta[1] == 3.0 or rule.name == "mmse"
    assert 3.0 / (1 + WIDTH) <= theta[1] <= 3.0
    assert theta[3] == x[:, 3].max()  # below the site's histogram: its maximum


# the Gaussian rule


means = st.sampled_from([-5.0, -2.0, -0.5, 0.0, 0.3, 1.0, 3.0, 10.0])
deviations = st.sampled_from([1.0, 0.01, 30.0])
NODES = 100_001


def moments(mean: float, std: float) -> Moments:
    one = torch.ones(1, dtype=torch.float64)
    return Moments(1, mean * std * one, std**2 * one, (abs(mean) + 9) * std * one)


def gaussian_error(top: float, mean: float, n: int, two_sided: bool) -> tuple[float, float]:
    """The expected squared error for a deviation of 1, by the midpoint rule, and how far that may be off.

    The midpoint rule is off by at most h^2 / 8 times the variation of the integrand's slope; the tails are beyond
    ten standard deviations.
    """
    z, h = np.linspace(mean - 10, mean + 10, NODES, retstep=True)
    x = z if two_sided else np.maximum(z, 0)
    q = np.sign(x) * top / n * np.clip(np.floor(np.abs(x) * n / top + 0.5), 0, n)
    f = (x - q) ** 2 * np.exp(-((z - mean) ** 2) / 2) / math.sqrt(2 * math.pi)
    variation = np.abs(np.diff(f, 2)).sum() / h
    return f.sum() * h, h**2 / 8 * variation + 1e-20


@given(mean=means, std=deviations, n=st.sampled_from([1, 2, 4, 16, 64, 256]), two_sided=st.booleans())
def test_threshold_iteration_minimises_the_error_of_a_gaussian(mean, std, n, two_sided):
    theta = threshold_iteration(n, two_sided=two_sided)(moments(mean, std)).item() / std
    found, off = gaussian_error(theta, mean, n, two_sided)
    for factor in (0.97, 1.03):
        other, unsure = gaussian_error(factor * theta, mean, n, two_sided)
        assert other - unsure > found + off, factor  # a minimum, and three per cent beside it would be seen
    for top in np.geomspace(0.05, abs(mean) + 8, 60):
        other, unsure = gaussian_error(float(top), mean, n, two_sided)
        assert found - off <= other + unsure + 1e-3 * found  # of minima as deep to a thousandth, it takes the first


@given(mean=means, std=deviations, n=st.sampled_from([1, 2, 4, 8]), two_sided=st.booleans())
def test_threshold_iteration_is_where_the_published_substitution_ends(mean, std, n, two_sided):
    """From theta = 1 after enough substitutions, where the data's scale lets it (a deviation of 1)."""
    solved = threshold_iteration(n, two_sided=two_sided)(moments(mean, 1.0)).item()
    scaled_up = threshold_iteration(n, two_sided=two_sided)(moments(mean, std)).item()
    assert scaled_up == pytest.approx(std * solved, rel=1e-9)
    if mean <= 1.0:
        often, once = (threshold_iteration(n, two_sided=two_sided, iterations=k) for k in (2000, 1))
        assert often(moments(mean, 1.0)).item() == pytest.approx(solved, rel=1e-9)
        assert once(moments(mean, 1.0)).item() != pytest.approx(solved, rel=1e-3)


def test_a_hundred_substitutions_are_not_enough_for_many_steps():
    """Why the equation is solved: what is published stops where the number of iterations says."""
    for n, short in ((64, 0.9), (256, 0.8), (1024, 0.7)):
        published = threshold_iteration(n, iterations=100)(moments(0.0, 1.0)).item()
        assert published < short * threshold_iteration(n)(moments(0.0, 1.0)).item()


def test_mmse_and_threshold_iteration_agree_on_gaussian_currents():
    """Two ways to the same minimum; the data's own optimum is off by its sampling error."""
    z = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(1)).double()
    for T in (1, 2, 4, 8):
        by_moments = threshold_iteration(T)(MOMENTS.summarise(z, 1)).item()
        by_histogram = mmse(T)(HISTOGRAM.summarise(z.relu(), 1)).item()
        least = squared(z.relu(), by_histogram, T)
        other = squared(z.relu(), by_moments, T)
        spread = (other - least).std().item() / math.sqrt(len(z))
        bins = unknown(z.relu().flatten(), bin_of(z.relu().flatten()), by_histogram, T, 0.5) / math.sqrt(len(z) / BINS)
        assert abs((other - least).mean().item()) <= 4 * spread + bins


def test_degenerate_currents():
    z = torch.tensor([[-1.0, 2.0, -3.0, 0.0], [-1.0, 2.0, -2.0, 0.0]])
    theta = threshold_iteration(4)(MOMENTS.summarise(z, 1))
    assert theta.tolist() == [0.0, 2.0, 0.0, 0.0]
    both = MOMENTS.signed(z, 1)
    theta = threshold_iteration(4)(both, signed=True)
    assert theta[:2].tolist() == [1.0, 2.0]
    assert 2.0 < theta[2] < 4.0
    rare = Moments(10, torch.tensor([-20.0]).double(), torch.tensor([10.0]).double(), torch.tensor([0.25]))
    assert threshold_iteration(4)(rare).item() == 0.25


# percentiles


@given(seed=st.integers(0, 999), q=st.sampled_from([10.0, 50.0, 99.0, 100.0]), zeros=st.floats(0.0, 0.99),
       scale=st.sampled_from([1.0, 0.5, 4.0]))  # fmt: skip
def test_the_nonzero_percentile_is_that_of_what_fired(seed, q, zeros, scale):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(2000, 1, generator=g).exp().double() * (torch.rand(2000, 1, generator=g) >= zeros)
    rule = percentile(q, nonzero=True, scale=scale)
    fired = x[x > 0].numpy()
    if len(fired) == 0:
        assert rule(HISTOGRAM.summarise(x, 1)).item() == 0.0
        return
    low, high = (np.quantile(fired, q / 100, method=m) for m in ("lower", "higher"))
    before = np.sort(fired)[max(0, math.ceil(q / 100 * len(fired)) - 1)]
    theta = rule(HISTOGRAM.summarise(x, 1)).item() / scale
    assert min(low, before) * (1 - 2 * WIDTH) <= theta <= high * (1 + 2 * WIDTH)


def test_zeros_make_the_difference():
    x = torch.cat([torch.zeros(900, 1), torch.rand(100, 1, generator=torch.Generator().manual_seed(0)) + 1])
    h = HISTOGRAM.summarise(x, 1)
    assert percentile(50.0)(h).item() == x.max().item()  # the median is 0, so the maximum
    assert percentile(50.0, nonzero=True)(h).item() == pytest.approx(1.5, abs=0.1 + WIDTH * 2)
    assert str(percentile(50.0, nonzero=True, scale=2.0)) == "percentile(q=50, nonzero=True, scale=2) per channel"


# local threshold balancing


@given(seed=st.integers(0, 999), shape=SHAPES, lr=st.sampled_from([0.1, 1.0, 3.0]))
def test_balancing_climbs_to_the_maximum_and_never_beyond(seed, shape, lr):
    x = samples(seed, shape)
    h = HISTOGRAM.summarise(x, 1)
    thetas = [local_threshold_balancing(iterations=k, lr=lr)(h).item() for k in (1, 2, 5, 20, 100, 1000)]
    assert thetas == sorted(thetas)
    assert 0 < thetas[0] <= thetas[-1] <= x.max().item()


@given(seed=st.integers(0, 999), iterations=st.integers(1, 30), lr=st.sampled_from([0.1, 0.5]))
def test_balancing_is_the_loop_over_the_data(seed, iterations, lr):
    """With eta <= 1/2 an iteration brings two thetas no further apart, and each is off by the one part theta is in:
    (x - theta)+ at a part's middle instead of its mean over the part, at most an eighth of the part."""
    x, part = filling(seed)
    theta = 0.0
    for _ in range(iterations):
        theta = min(theta + 2 * lr * (x - theta).clamp(min=0).mean().item(), x.max().item())
    found = local_threshold_balancing(iterations=iterations, lr=lr)(HISTOGRAM.summarise(x, 1)).item()
    slack = iterations * 2 * lr * part.max().item() / 8 + 1e-12 * x.max().item()
    assert abs(found - theta) <= slack
    one_more = theta + 2 * lr * (x - theta).clamp(min=0).mean().item()
    assert iterations > 5 or abs(one_more - theta) > slack  # so a miscounted loop would be seen


# values


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: mmse(0), r"mmse: T .*at least 1, got 0"),
        (lambda: mmse(2.0), r"mmse: T .*whole number.*2\.0"),
        (lambda: mmse(True), "whole number"),
        (lambda: mmse(4, levels=0), r"mmse: levels "),
        (lambda: mmse(4, rounding=1.0), "0 <= rounding < 1, got 1.0"),
        (lambda: mmse(4, top=0.0), r"mmse: top "),
        (lambda: threshold_iteration(0), r"threshold_iteration: T "),
        (lambda: threshold_iteration(4, top=-1.0), r"threshold_iteration: top "),
        (lambda: threshold_iteration(4, iterations=0), r"threshold_iteration: iterations "),
        (lambda: local_threshold_balancing(iterations=0), r"local_threshold_balancing: iterations "),
        (lambda: local_threshold_balancing(lr=math.nan), r"local_threshold_balancing: lr "),
        (lambda: percentile(99.0, scale=0), r"percentile: scale "),
        (lambda: scaled(0.8, per="pixel"), r"scaled: per .*got 'pixel'"),
    ],
)
def test_bad_options_are_named(make, text):
    with pytest.raises(ThresholdError, match=text):
        make()


@pytest.mark.parametrize("per", PER)
def test_rules_are_values(per):
    for make in (mmse, threshold_iteration):
        assert make(4, per=per) == make(4, per=per) != make(8, per=per)
        assert hash(make(4, per=per)) == hash(make(4, per=per))
        assert str(make(4, levels=2, per=per)).endswith(f"(T=4, levels=2) per {per}")
