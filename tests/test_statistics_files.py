"""Statistics outlive the run that measured them: saved, loaded, merged from shards."""

import pytest
from torch import nn

from snnpipe import (
    CalibrationError,
    calibrate,
    instrument,
    load_statistics,
    maximum,
    merge_statistics,
    percentile,
    pipe,
    replace,
    save_statistics,
    state_equal,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.kernels.gaussian import threshold_iteration
from snnpipe.kernels.optimal import local_threshold_balancing, mmse
from tests.helpers import assert_same, mlp, vectors


def wider():
    """As ``mlp``, with more channels at each site."""
    return nn.Sequential(nn.Linear(6, 13), nn.ReLU(), nn.Linear(13, 11), nn.ReLU(), nn.Linear(11, 4)).double()


RULES = [
    maximum(),
    maximum(per="neuron"),
    percentile(99.0),
    percentile(99.0, per="layer"),
    mmse(4),
    threshold_iteration(4),
    local_threshold_balancing(),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_saved_statistics_stand_for_the_data(tmp_path, rule):
    model, x = mlp(), vectors()
    state = pipe(model, trace, instrument(statistic=rule), calibrate([x]))
    save_statistics(state, tmp_path / "statistics.pt")
    loaded = pipe(model, trace, instrument(statistic=rule), load_statistics(tmp_path / "statistics.pt"))
    assert state_equal(loaded, state)
    assert_same(pipe(loaded, replace, to_snn)(x, T=4), to_snn(state)(x, T=4))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.name != "threshold_iteration"], ids=str)
def test_shards_merge_in_any_order(rule):
    x = vectors(30)
    base = pipe(mlp(), trace, instrument(statistic=rule))
    a, b, c = (calibrate([part])(base) for part in x.split(10))
    whole = calibrate(list(x.split(10)))(base)
    nested = merge_statistics(a)(merge_statistics(b)(c))
    for merged in (merge_statistics(b, c)(a), nested, merge_statistics(a, b, c)(base)):
        assert state_equal(merged, whole)
    assert state_equal(merge_statistics()(a), a)


def test_states_that_measured_something_else_are_not_merged():
    x = vectors()
    model = mlp()
    mine = pipe(model, trace, calibrate([x]))
    others = [
        pipe(model, trace, instrument(statistic=maximum()), calibrate([x])),
        pipe(nn.Sequential(nn.Linear(6, 3), nn.ReLU()).double(), trace, calibrate([x])),
        pipe(model, trace, instrument(statistic=percentile(99.9, per="neuron")), calibrate([x])),
        pipe(model, trace, instrument(statistic=threshold_iteration(4)), calibrate([x])),
        pipe(wider(), trace, calibrate([x])),
        trace(model),
    ]
    for other in others:
        for ours, theirs in ((mine, other), (other, mine)):
            with pytest.raises(CalibrationError, match="merge_statistics"):
                merge_statistics(theirs)(ours)
    with pytest.raises(CalibrationError, match="merge_statistics"):
        merge_statistics(trace(model))(trace(model))
