"""Explanations: causes add up to the whole, and the networks between are what they are said to be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies import codes, few, inputs, nets, relu_nets
from property_tests.tolerances import floats
from snnpipe import (
    RATE,
    cascade,
    events,
    explain,
    first_fault,
    integrate_and_fire,
    low_pass,
    maximum,
    pipe,
    poisson,
    replace,
    sensitivity,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.analysis.between import Between, Place
from snnpipe.errors import SnnpipeError
from snnpipe.runtime.meant import Shown
from snnpipe.stages.calibrate import calibrate
from snnpipe.stages.fuse import fuse
from snnpipe.waves import Wave
from tests.helpers import bound

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning", "ignore::snnpipe.SiteWarning")

NEURONS = st.sampled_from([integrate_and_fire(), integrate_and_fire(v_init=0.0), signed_memory(), cascade(n=2)])


def network(net, x, neuron, code, factor=1.0):
    """Thresholds are those of the data, or a part of them."""
    state = replace(neuron=neuron)(pipe(net, trace, fuse, calibrate([x])))
    params = {key: factor * value if key.endswith(".threshold") else value for key, value in state.params.items()}
    return pipe(state.evolve(params=params), td_rewrite(code=code), to_snn)


def off(net, x, found):
    """The squared error of outputs, in parts of the ANN's."""
    pairs = list(zip(floats(found), floats(net.eval()(x)), strict=True))
    return float(sum((a.double() - b.double()).square().sum() for a, b in pairs)) / (
        float(sum(b.double().square().sum() for _, b in pairs)) or 1.0
    )


@few(0.2)
@given(data=st.data(), T=st.integers(1, 6), K=st.sampled_from([1, 2, None]), seed=st.integers(0, 99))
def test_the_causes_are_the_whole_error(data, T, K, seed):
    net, neuron, code = data.draw(relu_nets()), data.draw(NEURONS), data.draw(st.sampled_from([RATE, low_pass(3.0)]))
    x = inputs(net, seed, batch=4)
    snn = network(net, x, neuron, code, data.draw(st.sampled_from([0.3, 1.0])))
    found = explain(net, snn, batches=[x[:1], x[1:]], T=T, schedule=Wave(K))
    with torch.no_grad():
        parts = [floats(snn(part, T=T, schedule=Wave(K))) for part in (x[:1], x[1:])]
        whole = off(net, x, [torch.cat(pair) for pair in zip(*parts, strict=True)])
    # e = |d|^2 / |y|^2: where d is rounded by a share r of y, e moves by 2 r sqrt(e) + r^2
    rounding = bound(torch.float32)
    assert found.error == pytest.approx(whole, abs=2 * rounding * math.sqrt(whole) + rounding**2)
    assert sum(cause.error for cause in found.causes) == pytest.approx(found.error, rel=1e-6, abs=1e-12)
    assert [cause.name for cause in found.causes] == ["weights", "clipping", "resolution", "unevenness"]
    if K is None:
        assert found.causes[-1].error == 0.0
    if found.agreement is not None:
        assert sum(cause.agreement for cause in found.causes) == pytest.approx(found.agreement - 100, abs=1e-9)


@few(0.2)
@given(data=st.data(), T=st.integers(1, 6), K=st.sampled_from([1, 2, None]), seed=st.integers(0, 99))
def test_an_encoding_is_a_cause_of_its_own(data, T, K, seed):
    """The whole is the error of the run itself, and a generator is where one such run leaves it."""
    net, neuron = data.draw(relu_nets()), data.draw(NEURONS)
    x = inputs(net, seed, batch=4)
    x = x / x.abs().max().clamp(min=1.0)
    snn, delay = network(net, x, neuron, RATE), data.draw(st.sampled_from([0, T // 2 if K == 1 else 0]))
    how, source = {"T": T, "schedule": Wave(K), "delay": delay}, torch.Generator().manual_seed(seed)
    found = explain(net, snn, batches=[x[:1], x[1:]], encoding=poisson(source), **how)
    again = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        parts = [floats(snn(part, encoding=poisson(again), **how)) for part in (x[:1], x[1:])]
        whole = off(net, x, [torch.cat(pair) for pair in zip(*parts, strict=True)])
    rounding = bound(torch.float32)
    assert found.error == pytest.approx(whole, abs=2 * rounding * math.sqrt(whole) + rounding**2)
    assert sum(cause.error for cause in found.causes) == pytest.approx(found.error, rel=1e-6, abs=1e-12)
    assert [cause.name for cause in found.causes][4:] == ["encoding"] + ["readout"] * bool(delay)
    steady = explain(net, snn, batches=[x[:1], x[1:]], T=T, schedule=Wave(K))
    assert found.causes[:4] == steady.causes
    assert torch.equal(source.get_state(), again.get_state())


@few(0.2)
@given(net=relu_nets(), code=codes(), T=st.integers(1, 5), seed=st.integers(0, 99))
def test_events_are_held_against_the_ann_on_what_they_decode_to(net, code, T, seed):
    """Events of a constant are a constant current: the encoding adds nothing."""
    x = inputs(net, seed, batch=3, dtype=torch.float64)
    snn = network(net.double(), x, integrate_and_fire(), code, factor=0.97)  # no potential is a threshold to the bit
    sent = torch.stack([code.clock(t).kappa * x for t in range(1, T + 1)])
    found, steady = (explain(net, snn, batches=[one], T=T, **how) for one, how in
                     ((sent, {"encoding": events()}), (x, {})))  # fmt: skip
    assert found.samples == steady.samples == len(x)
    gain = max(abs(code.clock(t).gain) for t in range(1, T + 1)) ** T
    rounding = 1e4 * torch.finfo(torch.float64).eps * gain
    for a, b in zip(found.causes, steady.causes, strict=False):
        assert a.error == pytest.approx(b.error, abs=rounding * (1 + math.sqrt(steady.error)) ** 2)
    assert found.causes[4].error == pytest.approx(0, abs=rounding * (1 + math.sqrt(steady.error)) ** 2)


@few(0.2)
@given(data=st.data(), T=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_site_kept_as_the_ann_is_the_ann(data, T, seed):
    """With all kept the network is the ANN; with all but one it is the ANN with that one spiking."""
    net, code = data.draw(relu_nets()), data.draw(codes())
    x = inputs(net, seed, dtype=torch.float64)
    between = Between(network(net.double(), x, cascade(n=2), code), T, data.draw(st.sampled_from([Wave(1), Wave(2)])))
    names = list(between.places)
    if not names:
        return
    given_ = {node["name"]: x for node in between.snn.graph.inputs}
    with torch.no_grad():
        ann = between.standing(given_, Place.ann)[0]
        size = sum(float(y.abs().max()) for y in floats(ann)) + 1.0
        gain = max(abs(between.snn.code.clock(t).gain) for t in range(1, T + 1)) ** T
        close = 1e4 * torch.finfo(torch.float64).eps * size * gain
        alone = between.alone(between.ann(given_), names[0])
        kept, others = (between.kept(some).run(Shown(given_)) for some in (names, names[1:]))
        for found, want in (kept, ann), (others, alone):
            assert all(torch.allclose(a, b, rtol=0, atol=close) for a, b in
                       zip(floats(found), floats(want), strict=True))  # fmt: skip


@few(0.2)
@given(net=relu_nets(), neuron=st.sampled_from([integrate_and_fire(), signed_memory()]), seed=st.integers(0, 99))
def test_thresholds_above_all_activations_clip_nothing(net, neuron, seed):
    x = inputs(net, seed, batch=3)
    state = replace(neuron=neuron, threshold=maximum())(pipe(net, trace, fuse, calibrate([x])))
    found = explain(net, pipe(state, td_rewrite(code=RATE), to_snn), batches=[x], T=4)
    assert abs(found.causes[1].error) <= 1e-9 * max(1.0, found.error)
    assert all(site.saturated == 0.0 for site in found.sites)


@few(0.2)
@given(net=nets(), seed=st.integers(0, 99))
def test_any_network_is_explained_or_refused_by_name(net, seed):
    x = inputs(net, seed)
    try:
        said = str(explain(net, batches=[x], T=2))
    except SnnpipeError as error:
        said = str(error)
    assert said


@few(0.2)
@given(net=relu_nets(), seed=st.integers(0, 99), factor=st.sampled_from([0.05, 1.0]))
def test_the_bisection_takes_few_runs_and_ends_at_a_rise(net, seed, factor):
    x = inputs(net, seed, batch=4)
    snn = network(net, x, integrate_and_fire(), RATE, factor)
    sites = len(snn.neurons())
    fault = first_fault(net, snn, batches=[x], T=4, tolerance=0.01)
    whole = sensitivity(net, snn, batches=[x], T=4)
    assert len(whole.sites) == sites
    if fault is None:
        assert whole.error <= 0.01
    else:
        assert fault.before <= 0.01 < fault.error
        assert fault.runs <= max(sites - 1, 0).bit_length() + 2
