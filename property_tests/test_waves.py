"""Waves: a chunk is a step of a coarser code, a neuron loses nothing in one, and the ends are the two old orders."""

import itertools

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from property_tests.strategies import codes, decode
from property_tests.test_layers import dyadic, network, qcfs
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    InputError,
    account,
    burst,
    cascade,
    constant,
    events,
    fixed,
    geometric,
    graded,
    group,
    integrate_and_fire,
    latency,
    leaky_integrate_and_fire,
    low_pass,
    one_of_n,
    pipe,
    readout_delay,
    repaired,
    replace,
    restarted,
    signed_memory,
    spike_counts,
    st_bif,
    td_rewrite,
    to_snn,
    trace,
    wave,
)  # fmt: skip
from snnpipe.codes import worths
from snnpipe.kernels.neuron import in_turn

EPS = torch.finfo(torch.float64).eps
NEURONS = (
    integrate_and_fire(), integrate_and_fire(v_init=0.0), signed_memory(), cascade(n=3), cascade(n=2, two_sided=False),
    group(m=3), burst(), st_bif(levels=7), one_of_n(n=3), graded(levels=2), graded(),
)  # fmt: skip
SHAPES = [(1, 1), (2, 1), (4, 3), (5, 2), (7, 3), (8, 8), (3, 9)]


@given(code=codes(), T=st.integers(1, 7), K=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_chunk_is_a_step_of_a_coarser_code(code, T, K, seed):
    """Its event decodes to what those of its steps do, and its constant to the constant."""
    clocks = list(wave(K).clocks(code, T))
    single = [part for clock in clocks for part in clock.parts or (clock,)]
    assert [clock.t for clock in single] == list(range(1, T + 1))
    coarse = torch.randn(len(clocks), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fine = [share * x for x, clock in zip(coarse, clocks, strict=True) for share in clock.shares]
    want = decode(torch.stack(fine), code)[-1]
    found = torch.tensor(worths(clocks), dtype=torch.float64) @ coarse
    size = torch.tensor(worths(single), dtype=torch.float64).abs() @ torch.stack(fine).abs()
    assert (found - want).abs() <= 16 * T * EPS * size
    held = sum(w * clock.kappa for w, clock in zip(worths(clocks), clocks, strict=True))
    assert abs(held - 1.0) <= 64 * T * EPS * sum(abs(w * c.kappa) for w, c in zip(worths(clocks), clocks, strict=True))


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@given(seed=st.integers(0, 999), K=st.integers(2, 6), code=st.sampled_from([RATE, TD]), signed=st.booleans())
def test_the_closed_form_is_the_steps_in_turn(neuron, seed, K, code, signed):
    """Over several chunks: the same events, and the same potential, where sums are exact."""
    g = torch.Generator().manual_seed(seed)
    options = {**neuron.options, **({"signed": True} if signed and neuron.two_sided else {})}
    theta = torch.tensor(float(neuron.options["codebook"].parts), dtype=torch.float64)  # the smallest event is 1
    closed = turned = neuron.init(theta, **options)
    for clock in wave(K).clocks(code, 3 * K):
        z = torch.randint(-16, 32, (64,), generator=g).double() / 8
        alone = neuron.chunk(closed, z, theta, clock, **options)
        if alone is None:
            assert neuron.options["codebook"].times(K) is None
            return
        (closed, a), (turned, b) = alone, in_turn(neuron, turned, z, theta, clock, options)
        pairs = zip(*(state if isinstance(state, tuple) else (state,) for state in (closed, turned)), strict=True)
        assert (a - b).abs().max() <= 64 * EPS * (1 + a.abs().max())
        for one, other in pairs:
            assert (one - other).abs().max() <= 64 * K * EPS * (1 + one.abs().max())


@pytest.mark.parametrize("neuron", [n for n in NEURONS if not n.two_sided], ids=str)
@pytest.mark.parametrize(("T", "K"), SHAPES)
@given(seed=st.integers(0, 999), code=codes())
def test_nothing_is_lost(neuron, T, K, seed, code):
    """Decoded output + residual = decoded input, for every chunk, whatever comes."""
    g = torch.Generator().manual_seed(seed)
    theta, options = torch.tensor(1.0, dtype=torch.float64), neuron.options
    begin = state = neuron.init(theta, **options)
    Z = Y = torch.zeros(64, dtype=torch.float64)
    size = 0.0
    for clock in wave(K).clocks(code, T):
        z = torch.randn(64, generator=g, dtype=torch.float64)
        if clock.parts:
            made = neuron.chunk(state, z, theta, clock, **options)
            state, y = in_turn(neuron, state, z, theta, clock, options) if made is None else made
        else:
            state, y = neuron.step(state, z, theta, clock, **options)
        Z, Y = clock.alpha * Z + clock.a * z, clock.alpha * Y + clock.a * y
        last = (clock.parts or (clock,))[-1]
        v, v_0 = (s[0] if isinstance(s, tuple) else s for s in (state, begin))
        size = max(size, float(Z.abs().max() + Y.abs().max() + last.a * v.abs().max()))
        growth = max(1.0, *(abs(part.gain) for part in clock.parts or (clock,))) ** T
        assert (last.a * (v - v_0) - (Z - Y)).abs().max() <= 256 * T * growth * EPS * (1 + size)


@pytest.mark.parametrize("T", [1, 4, 6])
@given(seed=st.integers(0, 999), layers=st.integers(2, 4), code=codes())
def test_the_ends_are_the_step_and_the_layer_schedule(T, seed, layers, code):
    model = network(seed, layers)
    snn = pipe(model, trace, replace(neuron=signed_memory(), threshold=fixed(1.0)), td_rewrite(code=code), to_snn)
    x = dyadic(3, 4, seed=seed + 99)
    with torch.no_grad():
        assert torch.equal(snn(x, T=T, schedule=wave(1)), snn(x, T=T))
        assert torch.equal(snn(x, T=T, schedule=wave(T)), snn(x, T=T, schedule="layer" if T > 1 else "step"))
        assert torch.equal(snn(x, T=T, schedule=wave(T + 3)), snn(x, T=T, schedule="layer"))


@given(seed=st.integers(0, 9999), layers=st.integers(2, 4), T=st.sampled_from([1, 2, 4, 8]))
def test_a_wave_of_all_steps_is_the_quantiser(seed, layers, T):
    model = network(seed, layers)
    snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    x = expected = dyadic(3, 4, seed=seed + 99)
    with torch.no_grad():
        for module in model:
            expected = qcfs(expected, 1.0, T) if isinstance(module, nn.ReLU) else module(expected)
        assert torch.equal(snn(x, T=T, schedule=wave(T)), expected)


@pytest.mark.parametrize("K", [1, 2, 4, 32])
@given(seed=st.integers(0, 999))
def test_the_error_of_integrate_and_fire_falls_as_one_over_t(K, seed):
    """The first layer is off by at most theta / T, whatever the chunk; the second reads events whose sum is that."""
    model = network(seed, 2)
    snn = pipe(model, trace, replace(threshold=fixed(16.0)), to_snn)  # above every activation
    x = dyadic(3, 4, seed=seed + 99)
    weight = model[2].weight.abs().sum(1).max()
    with torch.no_grad():
        for T in (32, 256):
            assert (snn(x, T=T, schedule=wave(K)) - model(x)).abs().max() <= weight * 16.0 / T * (1 + 1e-9)


@pytest.mark.parametrize("code", [RATE, TD, DIFFERENTIAL, low_pass(3.0), geometric(1.3)], ids=str)
@pytest.mark.parametrize(("T", "K"), SHAPES)
def test_graded_operators_are_exact_without_neurons(T, K, code):
    """Only neurons make errors: softmax, products and normalisation see the decoded values at the end of a chunk."""

    class Net(nn.Module):
        def forward(self, x):
            return torch.softmax(x, -1) * x + nn.functional.layer_norm(x, (4,))

    snn = pipe(Net(), trace, td_rewrite(code=code), to_snn)
    x = dyadic(3, 4, seed=1)
    torch.testing.assert_close(snn(x, T=T, schedule=wave(K)), Net()(x), rtol=1e-12, atol=1e-12)


LOSING = (leaky_integrate_and_fire(tau=4.0), integrate_and_fire(v_reset=0.0))


@pytest.mark.parametrize("neuron", [*NEURONS, *LOSING], ids=str)
def test_events_are_counted_in_a_wave(neuron):
    """By counters in the network's own run, and by a run of its own that is tallied operator by operator."""
    g = torch.Generator().manual_seed(0)
    model = network(3, 3)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)  # no current lies on a threshold
    code = TD if neuron.name == "st_bif" else RATE
    neurons = replace(neuron=neuron, threshold=fixed(0.5))
    snn = pipe(model, trace, neurons, td_rewrite(code=code), to_snn)
    x = torch.randn(5, 4, generator=g, dtype=torch.float64)
    for schedule in ("step", wave(2), wave(3), "layer"):
        counted = spike_counts(snn, x, T=6, schedule=schedule)
        costs = account(snn, x, T=6, schedule=schedule)
        sums = [float(count.per_step.sum()) for count in counted.values()]
        assert sums == [5 * layer.events for layer in costs.layers]
        assert all(len(count.per_step) == 6 for count in counted.values())
        assert costs.schedule == str(schedule)


def test_what_a_neuron_sends_step_by_step_is_what_its_chunk_says():
    snn = pipe(network(4, 3), trace, replace(threshold=fixed(0.5)), to_snn)
    in_steps = [attrs.evolve(n.neuron, chunk=None) for n in snn.neurons().values()]
    assert all(neuron.at_once for neuron in in_steps)
    slow = pipe(network(4, 3), trace, replace(neuron=in_steps[0], threshold=fixed(0.5)), to_snn)
    x = dyadic(5, 4, seed=2)
    torch.testing.assert_close(slow(x, T=6, schedule=wave(3)), snn(x, T=6, schedule=wave(3)), rtol=1e-14, atol=1e-14)


def test_latency_grows_by_a_chunk_with_each_layer():
    snn = pipe(network(0, 4), trace, replace(threshold=fixed(1.0)), to_snn)  # three neurons in a row
    found = [latency(snn, 16, schedule) for schedule in ("step", wave(2), wave(4), wave(16), "layer", wave(99))]
    assert found == [16, 20, 24, 48, 48, 48]


def test_readouts_come_at_the_ends_of_chunks():
    snn = pipe(network(0, 3), trace, replace(threshold=fixed(1.0)), to_snn)
    x = dyadic(3, 4, seed=2)
    each = snn(x, T=7, schedule=wave(3), readout="every")
    assert each.shape == (3, 3, 4)
    for out, T in zip(each, (3, 6, 7), strict=True):
        torch.testing.assert_close(out, snn(x, T=T, schedule=wave(3)), rtol=8 * EPS, atol=8 * EPS)
    for out, again in itertools.zip_longest(snn.iterate(x, T=7, schedule=wave(3)), each):
        assert torch.equal(out, again)


def test_a_delay_leaves_out_whole_chunks():
    snn = pipe(network(0, 3), trace, replace(threshold=fixed(1.0)), to_snn)
    x = dyadic(3, 4, seed=2)
    at_2, at_6 = snn(x, T=2, schedule=wave(2)), snn(x, T=6, schedule=wave(2))
    late = snn(x, T=6, schedule=wave(2), delay=2)
    torch.testing.assert_close(late, (6 * at_6 - 2 * at_2) / 4, rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match=r"whole chunks, so delay is 0, 2, 4; got 3"):
        snn(x, T=6, schedule=wave(2), delay=3)


@pytest.mark.parametrize(("schedule", "wanted"), [("step", 5), (wave(1), 5), (wave(2), 4), (wave(4), 4), ("layer", 0)])
def test_a_delay_is_estimated_in_whole_chunks(schedule, wanted):
    """Half a threshold to go, a tenth of one a step."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double()
    model[0].weight.data.fill_(0.1)
    model[0].bias.data.zero_()
    snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    x = torch.ones(1, 1, dtype=torch.float64)
    delay = readout_delay(snn, x, T=16, schedule=schedule)
    assert delay == wanted
    snn(x, T=16, schedule=schedule, delay=delay)


def test_a_second_pass_begins_with_a_chunk_of_its_own():
    clocks = list(wave(4).clocks(restarted(3), 9))
    assert [clock.t for clock in clocks] == [3, 7, 9]
    neurons = replace(neuron=repaired(integrate_and_fire()), threshold=fixed(0.5))
    snn = pipe(network(5, 3), trace, neurons, td_rewrite(code=restarted(3)), to_snn)
    x = dyadic(3, 4, seed=2)
    assert torch.isfinite(snn(x, T=9, schedule=wave(4))).all()


def test_events_as_input_reach_a_chunk_as_their_mean():
    snn = pipe(network(0, 2), trace, replace(threshold=fixed(1.0)), to_snn)
    g = torch.Generator().manual_seed(0)
    x_seq = torch.randint(0, 2, (6, 3, 4), generator=g).double()
    steady = x_seq.reshape(2, 3, 3, 4).mean(1, keepdim=True).expand(2, 3, 3, 4).reshape(6, 3, 4)
    a, b = (snn(given, T=6, encoding=events(), schedule=wave(3)) for given in (x_seq, steady))
    torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-14)
    x = x_seq[0]
    assert torch.equal(snn(x, T=6, schedule=wave(3), encoding=constant()), snn(x, T=6, schedule=wave(3)))


@pytest.mark.parametrize("bad", [0, -1, 2.5, "4", None, True])
def test_a_wave_has_a_whole_number_of_steps(bad):
    with pytest.raises(InputError, match="K must be a whole number of at least 1"):
        wave(bad)
