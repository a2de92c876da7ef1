"""Histograms: quantiles as numpy's within one bin, and a merge that no order can disturb."""

import numpy as np
import pytest
import torch

from snnpipe.kernels.histogram import BINS, BINS_PER_OCTAVE, OCTAVES, merge_histogram, summarise_histogram
from tests.helpers import assert_same

BIN = 2 ** (1 / BINS_PER_OCTAVE) - 1 + 1 / BINS_PER_OCTAVE  # neighbouring bins: at most this much apart, relatively


@pytest.mark.parametrize("q", [1.0, 25.0, 50.0, 90.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("draw", [torch.rand, lambda n: torch.randn(n).abs(), lambda n: torch.randn(n).exp()])
def test_quantiles_are_numpys_within_one_bin(q, draw):
    values = draw(20000).double()
    parts = [summarise_histogram(part, None) for part in values.split([1, 5000, 14999])]
    got = merge_histogram(parts[2], merge_histogram(parts[0], parts[1])).quantile(q / 100).item()
    below, above = (np.quantile(values.numpy(), q / 100, method=method) for method in ("lower", "higher"))
    smallest = values.max().item() * 2.0**-OCTAVES
    assert below * (1 - BIN) - smallest <= got <= above * (1 + BIN)
    assert got <= values.max().item()


def test_quantiles_can_be_wrong():
    """The test above would notice a neighbouring bin but one."""
    values = torch.rand(20000).double()
    exact_value = np.quantile(values.numpy(), 0.9)
    assert exact_value * (1 + 3 / BINS_PER_OCTAVE) > exact_value * (1 + BIN)


def test_zeros_count_in_a_percentile():
    values = torch.cat([torch.zeros(900), torch.ones(100)])
    histogram = summarise_histogram(values, None)
    assert histogram.quantile(0.5).item() == 0.0
    assert histogram.quantile(0.95).item() == pytest.approx(1.0, rel=BIN)


def test_merging_is_associative_and_commutative():
    parts = [summarise_histogram(scale * torch.randn(50, 3).abs(), 1) for scale in (1e-6, 1.0, 3e5, 0.0)]
    a, b, c, d = parts
    results = [
        merge_histogram(merge_histogram(a, b), merge_histogram(c, d)),
        merge_histogram(d, merge_histogram(c, merge_histogram(b, a))),
        merge_histogram(merge_histogram(merge_histogram(b, d), a), c),
    ]
    for other in results[1:]:
        assert (other.count, other.top) == (results[0].count, results[0].top) == (200, results[0].top)
        assert_same((other.counts, other.max), (results[0].counts, results[0].max))
    assert results[0].counts.sum().item() == 200 * 3
    assert results[0].counts.shape == (3, BINS)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (4, 5, 2, 3, 2), (3, 5, 7), (9, 5)])
def test_counts_do_not_depend_on_how_values_lie_in_memory(shape):
    x = torch.randn(shape).relu()
    elsewhere = x.transpose(0, -1).contiguous().transpose(0, -1)
    for axis in (1, 1 - x.ndim):
        one, other = summarise_histogram(x, axis), summarise_histogram(elsewhere, axis)
        assert (one.count, one.top) == (other.count, other.top) == (x[:, 0].numel(), one.top)
        assert_same((other.counts, other.max), (one.counts, one.max))
        for c in range(5):
            alone = summarise_histogram(x[:, c].reshape(-1), None)
            top = summarise_histogram(one.max.amax().reshape(1), None)  # counts from the same largest value
            assert_same(merge_histogram(alone, top).counts[0] - top.counts[0], one.counts[c])
