"""Stages: plain functions on a frozen record, in an order that is checked."""

import pytest
from torch import nn

from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    SpikingNetwork,
    StageError,
    calibrate,
    digest,
    fixed,
    fuse,
    instrument,
    maximum,
    percentile,
    pipe,
    replace,
    state_equal,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.rules.fusion import FUSE_RULES
from snnpipe.rules.sites import SITE_RULES
from tests.helpers import assert_close, assert_same, cnn, images, mlp, vectors

STAGES = {
    "fuse": fuse,
    "instrument": instrument,
    "calibrate": calibrate([images()]),
    "replace": replace,
    "td_rewrite": td_rewrite,
    "to_snn": to_snn,
    "to_module": to_module,
}
READY = replace(threshold=fixed(1.0))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_without_trace_says_so(name):
    stage = STAGES[name]
    with pytest.raises(StageError, match=rf"{name}: got a Sequential.*pipe\(model, trace, {name}"):
        stage(cnn())
    with pytest.raises(StageError, match=rf"{name}: expected a ConversionState, got int"):
        stage(3)


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ((trace, trace), "traced already"),
        ((trace, to_snn), r"put calibrate\(loader\) before replace"),
        ((trace, replace), r"put calibrate\(loader\) before replace"),
        ((trace, READY, instrument), "put this stage before replace"),
        ((trace, READY, calibrate([images()])), "put this stage before replace"),
        ((trace, READY, READY), "put this stage before replace"),
        ((trace, READY, to_module), "use to_snn, or put to_module before replace"),
        ((trace, td_rewrite, fuse), "put this stage before td_rewrite"),
        ((trace, td_rewrite, instrument), "put this stage before td_rewrite"),
        ((trace, td_rewrite, calibrate([images()])), "put this stage before td_rewrite"),
        ((trace, td_rewrite, READY), "put this stage before td_rewrite"),
        ((trace, td_rewrite, to_module), "use to_snn"),
        ((trace, td_rewrite, td_rewrite(code=RATE)), "carried to TD already"),
        ((trace, to_module, fuse), r"got a GraphModule"),
    ],
)
def test_a_wrong_order_names_the_way_out(stages, text):
    with pytest.raises(StageError, match=text):
        pipe(cnn(), *stages)


def test_trace_wants_a_model():
    with pytest.raises(StageError, match=r"must be a torch\.nn\.Module, got the class Linear"):
        trace(nn.Linear)
    with pytest.raises(StageError, match="got the function"):
        trace(lambda x: x)


@pytest.mark.parametrize("stage", [fuse, instrument, replace, td_rewrite], ids=lambda s: s.__name__)
def test_options_are_keywords_and_known(stage):
    with pytest.raises(StageError, match=rf"{stage.__name__}: has no option speed; it has \w+"):
        stage(speed=3)
    with pytest.raises(StageError, match="options are keywords"):
        stage(trace(cnn()), 3)


def test_a_stage_is_bare_or_configured():
    state = trace(cnn())
    same = (fuse(state), fuse()(state), fuse(rules=FUSE_RULES)(state), fuse(state, rules=FUSE_RULES))
    assert all(state_equal(same[0], other) for other in same)
    assert not state_equal(fuse(rules=())(state), same[0])
    twice = instrument(rules=SITE_RULES)(statistic=maximum())
    assert twice(state).threshold == maximum()
    assert "maximum" in repr(twice)


def test_pipe_is_nested_calls():
    model, x = cnn(), images()
    measure = calibrate([x])
    piped = pipe(model, trace, fuse, instrument, measure, replace)
    nested = replace(measure(instrument(fuse(trace(model)))))
    assert state_equal(piped, nested)
    assert piped.history == nested.history
    assert_same(to_snn(piped)(x, T=3), pipe(model, trace, fuse, measure, to_snn)(x, T=3))


def test_missing_stages_are_run_for_the_user():
    model, x = cnn(), images()
    state = pipe(model, trace, calibrate([x]))
    assert len(state.sites) == 2
    assert state.threshold == percentile(99.9)
    short, long = to_snn(state), pipe(state, replace, td_rewrite(code=RATE), to_snn)
    assert isinstance(short, SpikingNetwork)
    assert_same(short(x, T=4), long(x, T=4))


@pytest.mark.parametrize("code", [RATE, TD, DIFFERENTIAL], ids=str)
def test_every_code_is_exact_without_neurons(code):
    model, x = mlp(), vectors()
    net = pipe(model, trace, td_rewrite(code=code), to_snn)
    for T in (1, 2, 5):
        assert_close(net(x, T=T), model(x))


def test_nothing_to_do_returns_the_same_state():
    state = pipe(cnn(), trace, fuse, instrument)
    assert fuse(state) is state
    assert instrument(state) is state
    plain = trace(nn.Sequential(nn.Linear(3, 3)))
    assert fuse(plain) is plain
    assert pipe(plain) is plain
    lifted = td_rewrite(plain)
    assert td_rewrite(lifted) is lifted


def test_a_stage_twice_is_the_stage_once():
    for stage in (fuse, instrument, td_rewrite):
        once = stage(trace(cnn()))
        assert state_equal(stage(once), once)
        assert stage(once).history == once.history


def test_forks_are_independent():
    model, x = cnn(), images()
    shared = pipe(model, trace, fuse)
    before = digest(shared)
    a = pipe(shared, instrument(statistic=maximum()), calibrate([x]), to_snn)
    b = pipe(shared, td_rewrite, to_snn)
    assert digest(shared) == before
    assert_same(a(x, T=3), pipe(model, trace, fuse, instrument(statistic=maximum()), calibrate([x]), to_snn)(x, T=3))
    assert_same(b(x, T=3), pipe(model, trace, fuse, td_rewrite, to_snn)(x, T=3))
