"""Calibration is a fold with a merge law: order and re-batching of the data change nothing."""

from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.strategies import few, inputs, relu_nets
from snnpipe import (
    CalibrationError,
    calibrate,
    digest,
    ema,
    instrument,
    maximum,
    mmse,
    percentile,
    pipe,
    scaled,
    state_equal,
    threshold_iteration,
    trace,
)  # fmt: skip
from snnpipe.kernels.histogram import BINS_PER_OCTAVE, HISTOGRAM, OCTAVES
from snnpipe.kernels.moments import MOMENTS, Moments
from snnpipe.kernels.statistic import EXTREMA, Statistic

MONOIDS = (EXTREMA, HISTOGRAM)


@st.composite
def batches(draw: Any, count: int, channels: int = 3) -> list[Tensor]:
    """Activations (B, C) of wildly different scales: 2**-40 to 2**40, silent batches and channels among them."""
    found = []
    for _ in range(count):
        g = torch.Generator().manual_seed(draw(st.integers(0, 999)))
        x = torch.randn(draw(st.integers(1, 6)), channels, generator=g)
        scale = draw(st.sampled_from([0.0, 1e-30, 2.0**-40, 2.0**-9, 1.0, 3.7, 2.0**15, 2.0**40, 1e30]))
        silent = draw(st.sets(st.integers(0, channels - 1)))
        x = (x * scale).to(draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16])))
        x[:, sorted(silent)] = 0
        found.append(x.relu() if draw(st.booleans()) else x)
    return found


def same(a: Any, b: Any) -> bool:
    pairs = [(getattr(a, field.name), getattr(b, field.name)) for field in attrs.fields(type(a))]
    return all(torch.equal(u, v) if isinstance(u, Tensor) else u == v for u, v in pairs)


def summaries(statistic: Statistic, xs: list[Tensor]) -> list[Any]:
    return [statistic.summarise(x, 1) for x in xs]


@pytest.mark.parametrize("statistic", MONOIDS, ids=lambda s: s.name)
@given(data=st.data())
def test_merge_is_associative_and_commutative_bit_for_bit(statistic, data):
    a, b, c = summaries(statistic, data.draw(batches(3)))
    merge = statistic.merge
    assert same(merge(a, b), merge(b, a))
    assert same(merge(merge(a, b), c), merge(a, merge(b, c)))


@pytest.mark.parametrize("statistic", MONOIDS, ids=lambda s: s.name)
@given(data=st.data())
def test_pooling_channels_commutes_with_merging(statistic, data):
    a, b = summaries(statistic, data.draw(batches(2)))
    assert same(statistic.merge(a, b).pooled(), statistic.merge(a.pooled(), b.pooled()))


@pytest.mark.parametrize("statistic", MONOIDS, ids=lambda s: s.name)
@given(data=st.data())
def test_merging_neither_loses_nor_invents_values(statistic, data):
    xs = data.draw(batches(3))
    a, b, c = summaries(statistic, xs)
    total, whole = statistic.merge(statistic.merge(a, b), c), torch.cat([x.float() for x in xs])
    assert total.count == len(whole)
    assert torch.equal(total.max, whole.amax(0))
    if statistic is HISTOGRAM:
        assert total.counts.sum(1).tolist() == [len(whole)] * 3


# moments: merging commutes bit for bit, and is associative up to float64


def off(count: int, largest: float) -> tuple[float, float]:
    """How far a mean and an m2 of ``count`` values up to ``largest`` may be from exact, however they were merged.

    A sum of n terms up to X rounds n times, by at most n X eps each; a merge of means thrice more.  m2 is a sum of n
    squares up to (2 X)^2; a merge adds a difference of means, squared and times n / 4, that is 2 (2 X) (2 e) n / 4
    off for means e off.
    """
    mean = (count + 8) * largest * EPS
    return mean, 4 * count * (count + 8) * largest**2 * EPS + 2 * count * largest * mean


EPS = torch.finfo(torch.float64).eps


def near(a: Moments, b: Moments, largest: float) -> bool:
    mean, m2 = off(a.count, largest)
    close = ((a.mean - b.mean).abs() <= 2 * mean).all() and ((a.m2 - b.m2).abs() <= 2 * m2).all()
    return bool(close) and a.count == b.count and torch.equal(a.max, b.max)


@given(data=st.data())
def test_moments_merge_in_any_order(data):
    xs = data.draw(batches(3))
    largest = max(x.abs().max().item() for x in xs)
    for summarise in (MOMENTS.summarise, MOMENTS.signed):
        a, b, c = (summarise(x, 1) for x in xs)
        merge = MOMENTS.merge
        assert same(merge(a, b), merge(b, a))
        assert near(merge(merge(a, b), c), merge(a, merge(b, c)), largest)
        assert near(merge(a, b).pooled(), merge(a.pooled(), b.pooled()), largest)


@given(data=st.data())
def test_moments_are_numpys_however_the_data_was_batched(data):
    xs = data.draw(batches(3))
    largest = max(x.abs().max().item() for x in xs)
    whole = torch.cat([x.double() for x in xs]).numpy()
    exact = Moments(
        len(whole), torch.from_numpy(whole.mean(0)), torch.from_numpy(whole.var(0) * len(whole)),
        torch.cat([x.float() for x in xs]).amax(0),
    )  # fmt: skip
    a, b, c = summaries(MOMENTS, xs)
    assert near(MOMENTS.merge(MOMENTS.merge(a, b), c), exact, largest)
    pooled = MOMENTS.merge(MOMENTS.merge(a, b), c).pooled()
    flat = MOMENTS.summarise(torch.from_numpy(whole), None)
    assert near(pooled, attrs.evolve(flat, max=pooled.max), 3 * largest)  # three times as many values
    assert torch.equal(MOMENTS.signed(xs[0], 1).max, xs[0].float().abs().amax(0))


def test_a_merge_that_forgot_the_distance_of_the_means_would_be_seen():
    a, b = summaries(MOMENTS, [torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [2.5]])])
    whole = MOMENTS.merge(a, b)
    assert not near(attrs.evolve(whole, m2=a.m2 + b.m2), whole, 2.5)
    assert not near(attrs.evolve(whole, mean=a.mean), whole, 2.5)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("pieces", [1, 2**6, 2**20])
def test_large_batches_are_summed_in_pieces(axis, pieces, monkeypatch):
    monkeypatch.setattr("snnpipe.kernels.moments._PIECE", pieces)
    x = torch.randn(50, 7, 3, generator=torch.Generator().manual_seed(0)) + 3
    others = [d for d in range(3) if axis is None or d != axis % 3]
    found = MOMENTS.summarise(x, axis)
    exact = Moments(x.numel() // found.max.numel(), x.double().mean(others).reshape(-1),
                    (x.double() - x.double().mean(others, keepdim=True)).square().sum(others).reshape(-1),
                    x.amax(others).reshape(-1))  # fmt: skip
    assert near(found, exact, x.abs().max().item())


@given(net=relu_nets(), seed=st.integers(0, 99), pieces=st.integers(2, 6))
@few(0.6)
def test_rebatching_changes_moments_by_rounding_only(net, seed, pieces):
    """In float64 on the dyadic grid the currents are equal, so all that differs is how they are summed."""
    net = net.double()
    x = inputs(net, seed, batch=6, grid=True)
    a, b = (measured(net, data, threshold_iteration(4)).statistics for data in ([x], list(x.chunk(pieces))))
    for site in a:
        largest = max((a[site].mean.abs() + a[site].m2.sqrt()).max().item(), 1.0)  # no value is further from zero
        slack = off(a[site].count, largest + 256 * EPS * largest)
        assert a[site].count == b[site].count
        assert ((a[site].mean - b[site].mean).abs() <= 256 * EPS * largest + 2 * slack[0]).all()
        assert ((a[site].m2 - b[site].m2).abs() <= 1024 * EPS * a[site].count * largest**2 + 2 * slack[1]).all()


def test_a_merge_that_prefers_its_first_argument_would_be_seen():
    a, b = summaries(EXTREMA, [torch.tensor([[1.0]]), torch.tensor([[2.0]])])
    assert not same(a, b)
    h = summaries(HISTOGRAM, [torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [1.1]])])
    assert not same(*h)


def test_the_moving_average_is_not_commutative():
    statistic = ema(0.1).statistic
    a, b = summaries(statistic, [torch.tensor([[v]]) for v in (1.0, 2.0)])
    assert not same(statistic.merge(a, b, momentum=0.1), statistic.merge(b, a, momentum=0.1))


@pytest.mark.parametrize("per", ["channel", "layer", "neuron"])
@pytest.mark.parametrize("of", [maximum(), scaled(0.5), percentile(90.0), mmse(4), threshold_iteration(3)], ids=str)
@given(data=st.data())
def test_a_moving_average_is_the_loop_over_the_batches(per, of, data):
    xs = [x.float().relu() for x in data.draw(batches(data.draw(st.integers(1, 4))))]
    rule = ema(0.3, of=of, per=per)
    thetas = [attrs.evolve(of, per=per)(of.statistic.summarise(x, 1)) for x in xs]
    expected = thetas[0]
    for theta in thetas[1:]:
        expected = 0.7 * expected + 0.3 * theta
    found = summaries(rule.statistic, xs)
    total = found[0]
    for summary in found[1:]:
        total = rule.statistic.merge(total, summary, **rule.statistic.options)
    assert torch.equal(rule(total), expected)
    assert torch.equal(total.max, torch.stack([x.amax(0) for x in xs]).amax(0))


#: Values are rounded to bfloat16 (1/256 relative) and then fall into bins 1/32 of an octave's start wide.
BIN = 1 / BINS_PER_OCTAVE + 2 / 256


@given(
    seed=st.integers(0, 999), n=st.integers(1, 3000), q=st.sampled_from([1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 100.0]),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 7.3, 1e20]), pieces=st.integers(1, 4), zeros=st.booleans(),
)  # fmt: skip
def test_the_quantile_is_numpys_within_a_bin(seed, n, q, scale, pieces, zeros):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, generator=g).exp().mul(scale)  # within two octaves, so none is below the histogram
    if zeros:
        x = x.where(torch.rand(n, 1, generator=g) < 0.3, torch.zeros(()))
    total = None
    for piece in x.chunk(pieces):
        summary = HISTOGRAM.summarise(piece, 1)
        total = summary if total is None else HISTOGRAM.merge(total, summary)
    found = total.quantile(q / 100).item()
    data = x.flatten().double().numpy()
    low, high = (np.quantile(data, q / 100, method=m) for m in ("lower", "higher"))
    before = np.sort(data)[max(0, int(np.ceil(q / 100 * n)) - 1)]  # the other convention of what a rank is
    assert min(low, before) * (1 - BIN) <= found <= high * (1 + BIN)


def test_a_quantile_off_by_two_bins_would_be_seen():
    x = torch.rand(3000, 1, generator=torch.Generator().manual_seed(0)).exp()
    found = HISTOGRAM.summarise(x, 1).quantile(0.9).item() * (1 + 2 / BINS_PER_OCTAVE)
    assert found > np.quantile(x.numpy(), 0.9, method="higher") * (1 + BIN)


@given(seed=st.integers(0, 999))
def test_values_below_the_histogram_are_zero_to_it(seed):
    x = torch.rand(100, 1, generator=torch.Generator().manual_seed(seed)).mul(2.0 ** -(OCTAVES + 2))
    x[0] = 1.0
    assert HISTOGRAM.summarise(x, 1).quantile(0.5).item() == 0.0


def measured(net: nn.Module, loader: list[Tensor], threshold: Any) -> Any:
    return pipe(net.eval(), trace, instrument(statistic=threshold), calibrate(loader))


@given(net=relu_nets(), seed=st.integers(0, 99), order=st.permutations(range(4)))
@few(0.6)
def test_the_order_of_the_batches_changes_nothing(net, seed, order):
    loader = [inputs(net, seed + k, batch=1 + k) for k in range(4)]
    for threshold in (maximum(), percentile(99.0)):
        a, b = (measured(net, data, threshold) for data in (loader, [loader[k] for k in order]))
        assert digest(a) == digest(b)
        c = calibrate([loader[k] for k in order[2:]])(measured(net, [loader[k] for k in order[:2]], threshold))
        assert state_equal(a, c)  # two shards


@given(net=relu_nets(), seed=st.integers(0, 99), pieces=st.integers(2, 6))
@few(0.6)
def test_rebatching_changes_nothing(net, seed, pieces):
    """In float64 on the dyadic grid no batch size rounds differently, so the maximum is bit-equal."""
    net = net.double()
    x = inputs(net, seed, batch=6, grid=True)
    for threshold in (maximum(), percentile(99.0)):
        a, b = (measured(net, data, threshold).statistics for data in ([x], list(x.chunk(pieces))))
        for site in a:
            rounding = 256 * torch.finfo(torch.float64).eps
            assert a[site].count == b[site].count
            assert ((a[site].max - b[site].max).abs() <= rounding * (1 + a[site].max.abs())).all()
            u, v = threshold(a[site]), threshold(b[site])
            assert ((u - v).abs() <= (BIN if threshold.statistic is HISTOGRAM else rounding) * u.abs() + rounding).all()


def test_ema_depends_on_the_order():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    loader = [torch.ones(1, 2), 5 * torch.ones(1, 2)]
    net[0].weight.data.fill_(1.0)
    a, b = (measured(net, data, ema(0.1)) for data in (loader, loader[::-1]))
    assert not state_equal(a, b)


@given(net=relu_nets().filter(lambda n: any("relu" in b for b in n.recipe[1])), at=st.integers(0, 2),
       bad=st.sampled_from([float("nan"), float("inf")]))  # fmt: skip
@few(0.4)
def test_a_bad_batch_is_named(net, at, bad):
    loader = [inputs(net, k) for k in range(3)]
    loader[at] = loader[at] + bad
    with pytest.raises(CalibrationError, match=rf"site .* in batch {at}"):
        measured(net, loader, maximum())
