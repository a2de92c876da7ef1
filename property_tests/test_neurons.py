"""Neurons: the closed form of IF, conservation of charge under every code, and neurons of the user's own."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests import tolerances
from property_tests.strategies import codes, decode, few, neurons, run, soft
from snnpipe import (
    RATE,
    Neuron,
    calibrate,
    events,
    fixed,
    instrument,
    integrate_and_fire,
    leaky_integrate_and_fire,
    low_pass,
    maximum,
    pipe,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)

GRID = st.integers(-64, 64).map(lambda k: k / 8)
STARTS = st.sampled_from([0.0, 0.25, 0.5])
LEVELS = st.sampled_from([0.125, 0.5, 1.0, 2.0])


@given(z=st.lists(GRID, min_size=1, max_size=6), theta=LEVELS, v_init=STARTS, steps=st.integers(1, 24))
def test_spike_count_of_if_in_closed_form(z, theta, v_init, steps):
    """Constant current, soft reset: ``clip(floor((z T + v0) / theta), 0, T)``, exactly."""
    current = torch.tensor(z, dtype=torch.float64)
    found, _ = run(integrate_and_fire(v_init=v_init), current.expand(steps, -1), torch.tensor([theta]).double(), RATE)
    expected = [min(max(math.floor((c * steps + v_init * theta) / theta), 0), steps) for c in z]
    assert (found.sum(0) / theta).tolist() == expected


def test_the_closed_form_is_not_that_of_a_hard_reset():
    found, _ = run(integrate_and_fire(v_init=0.0, v_reset=0.0), torch.full((8, 1), 0.75), torch.ones(1), RATE)
    assert found.sum().item() == 4
    assert math.floor(0.75 * 8) == 6


@given(
    z=st.lists(st.lists(GRID, min_size=3, max_size=3), min_size=1, max_size=16), theta=LEVELS, neuron=soft()
)  # fmt: skip
def test_conservation_under_rate(z, theta, neuron):
    """decoded output x T + residual potential = input + initial potential, exactly on the grid."""
    currents = torch.tensor(z, dtype=torch.float64)
    out, potentials = run(neuron, currents, torch.tensor([theta]).double(), RATE)
    assert torch.equal(out.sum(0) + potentials[-1], currents.sum(0) + at_start(neuron, theta))


def at_start(neuron, theta):
    return neuron.options["v_init"] * theta / neuron.options["codebook"].parts


@given(
    seed=st.integers(0, 999), steps=st.integers(1, 12), theta=LEVELS, neuron=soft(), code=codes(), data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_the_potential_is_what_was_not_said_yet(seed, steps, theta, neuron, code, data, dtype):
    """``v_t = v_0 + (Z_t - Y_t) / a_t``, under every code, at every kind of site: the initial potential is an offset
    and does not decay."""
    facts = data.draw(st.sampled_from([{}, {"cap": 1.5}, *[{"signed": True}] * neuron.two_sided]))
    g = torch.Generator().manual_seed(seed)
    currents = torch.randn(steps, 5, generator=g).to(dtype)
    out, potentials = run(neuron, currents, torch.tensor([theta]).to(dtype), code, **facts)
    Z, Y = decode(currents, code), decode(out, code)
    for t in range(1, steps + 1):
        scale = max((Z[:t].abs().max() + Y[:t].abs().max()).item() * t / min(code.a(k) for k in range(1, t + 1)),
                    potentials[:t].abs().max().item(), theta + 4)  # fmt: skip
        expected = at_start(neuron, theta) + (Z[t - 1] - Y[t - 1]) / code.clock(t).a
        assert (potentials[t - 1] - expected).abs().max() <= tolerances.membrane(code, t, scale, dtype)


@given(seed=st.integers(0, 999), steps=st.integers(1, 30), theta=LEVELS, v_init=st.sampled_from([0.0, 0.5]))
def test_signed_memory_never_takes_back_more_than_it_gave(seed, steps, theta, v_init):
    currents = 2 * torch.randn(steps, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out, _ = run(signed_memory(v_init=v_init), currents, torch.tensor([theta]).double(), RATE)
    assert (out.cumsum(0) >= 0).all()


@given(seed=st.integers(0, 999), steps=st.integers(1, 12), code=codes())
def test_signed_memory_decodes_to_nothing_negative_under_any_code(seed, steps, code):
    """It stands for a ReLU: what it has said so far is never below zero."""
    currents = 2 * torch.randn(steps, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out, _ = run(signed_memory(), currents, torch.ones(1).double(), code)
    Y = decode(out, code)
    slack = tolerances.summed(torch.float64, steps, 1.0 + Y.abs().max().item())
    assert Y.min() >= -slack


def test_signed_memory_does_take_back():
    currents = torch.tensor([[2.0], [-3.0], [-1.0]])
    out, _ = run(signed_memory(v_init=0.0), currents, torch.ones(1), RATE)
    assert out.flatten().tolist() == [1.0, -1.0, 0.0]


@given(z=st.floats(0.05, 0.95), tau=st.sampled_from([2.0, 4.0, 16.0]), steps=st.integers(1, 30))
def test_a_leak_never_adds_charge(z, tau, steps):
    currents, theta = torch.full((steps, 1), z).double(), torch.ones(1).double()
    leaky, _ = run(leaky_integrate_and_fire(tau=tau), currents, theta, RATE)
    perfect, _ = run(integrate_and_fire(), currents, theta, RATE)
    assert leaky.sum() <= perfect.sum()


def levels_step(state: Any, z: Tensor, theta: Tensor, clock: Any, *, n: int) -> tuple[Tensor, Tensor]:
    m = clock.gain * state + z
    s = torch.floor(m / theta).clamp(0, n) * theta
    return m - s, s


def levels(n: int) -> Neuron:
    """A user's neuron: up to ``n`` spikes in one step."""
    return Neuron("levels", lambda theta, *, n: 0.5 * theta, levels_step, "multi-level", {"n": n})


@few(0.6)
@given(n=st.integers(1, 4), seed=st.integers(0, 99), steps=st.integers(1, 6))
def test_a_neuron_of_the_users_own(n, seed, steps):
    """In a network it does what its equations say, with one state per site and per-channel thresholds."""
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Identity()).double()
    x = torch.randn(4, 3, generator=g, dtype=torch.float64)
    theta = torch.tensor([0.25, 0.5, 1.0])
    snn = pipe(model, trace, replace(neuron=levels(n), threshold=lambda site, summary: theta), to_snn)
    with torch.no_grad():
        out, _ = run(levels(n), model[0](x).expand(steps, -1, -1), theta.double(), RATE)
        assert torch.equal(snn(x, T=steps), decode(out, RATE)[-1])
    ((name, made),) = snn.neurons().items()
    assert "levels" in name
    assert made.neuron.unit == "multi-level"


@pytest.mark.parametrize("ending", [(), (nn.Linear(3, 2),)], ids=["neuron last", "linear last"])
@few(0.6)
@given(neuron=neurons(), code=codes(), seed=st.integers(0, 99), steps=st.integers(1, 5))
def test_in_a_network_a_neuron_sees_the_current_of_its_layer(ending, neuron, code, seed, steps):
    """Scan of ``step`` = ``sequence`` = ``snn(..., events())`` = the equations by hand, under every code."""
    assume(not neuron.objection(code))
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), *ending).double()
    x_seq = torch.randn(steps, 2, 3, generator=g, dtype=torch.float64)
    snn = pipe(model, trace, replace(neuron=neuron, threshold=fixed(0.5)), td_rewrite(code=code), to_snn)
    with torch.no_grad():
        kappa = torch.tensor([code.clock(t).kappa for t in range(1, steps + 1)]).double()
        z = nn.functional.linear(x_seq, model[0].weight) + kappa[:, None, None] * model[0].bias
        said = decode(run(neuron, z, torch.tensor([0.5]).double(), code)[0], code)
        expected = model[2](said) if ending else said
        y_seq = snn.sequence(x_seq)
        # a potential that comes to lie exactly at the threshold may fall either way; the drawn currents never do
        bound = tolerances.temporal(lambda Y: model[2](Y) if ending else Y * 1.0, code, said)
        assert (decode(y_seq, code) - expected).abs().max() <= bound
        assert (snn(x_seq, T=steps, encoding=events()) - expected[-1]).abs().max() <= bound


def test_calibrated_by_nothing_a_threshold_is_asked_for():
    with pytest.raises(ValueError, match="calibrate"):
        pipe(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), trace, replace)
    pipe(nn.Sequential(nn.Linear(2, 2), nn.ReLU6()), trace, replace)  # its cap


def test_a_capped_activation_is_measured_where_there_is_data():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU6()).double()
    model[0].weight.data = torch.diag(torch.tensor([0.5, -1.0, 9.0])).double()
    for stages, expected in (((calibrate([torch.ones(4, 3).double()]),), [0.5, 6.0, 6.0]), ((), [6.0])):
        snn = pipe(model, trace, instrument(statistic=maximum()), *stages, to_snn)
        (neuron,) = snn.neurons().values()
        assert neuron.threshold.tolist() == expected  # never above the cap; the cap where nothing fired


@given(z=st.lists(GRID, min_size=1, max_size=24), theta=LEVELS, tau=st.sampled_from([1.25, 2.0, 4.0]))
def test_the_leaky_neuron_is_the_encoder_of_the_code_that_fades(z, theta, tau):
    """Event for event (dyadic currents, a dyadic leak or rounding far from the threshold)."""
    currents, one = torch.tensor(z).double().reshape(-1, 1), torch.full((1,), theta).double()
    leaky, _ = run(leaky_integrate_and_fire(tau=tau, v_init=0.0), currents, one, RATE)
    faded, potential = run(integrate_and_fire(v_init=0.0), currents, one, low_pass(tau))
    near = (potential.abs() < 1e-9) | ((potential - theta).abs() < 1e-9)
    assert torch.equal(leaky, faded) or bool(near.any())
    keep, missing = 1 - 1 / tau, torch.zeros(1).double()
    for t in range(len(currents)):  # what the decoded output lacks, by the definition of the code
        weights = torch.tensor([keep ** (t - s) for s in range(t + 1)], dtype=torch.float64)
        missing = (weights @ (currents - faded)[: t + 1]) / weights.sum()
        lacking = potential[t] * low_pass(tau).clock(t + 1).a
        assert (missing - lacking).abs() <= 1e-12 * (1 + currents.abs().max())
