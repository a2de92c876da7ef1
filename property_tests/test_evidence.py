"""Corrections need evidence: sums over all the data, one solve, no larger an error, nothing made of nothing."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from property_tests.test_corrections import CORRECTIONS, inputs, mlp
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    CalibrationError,
    Neuron,
    StageError,
    balance,
    burst,
    calibrate,
    cascade,
    correct_bias,
    correct_potential,
    correct_threshold,
    fixed,
    integrate_and_fire,
    low_pass,
    pipe,
    recipes,
    replace,
    report,
    restarted,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.kernels.evidence import decoded, estimate, per_sample

pytestmark = pytest.mark.filterwarnings("ignore:.*never fired")
NEURONS = [integrate_and_fire(), signed_memory(), cascade(n=3), burst(cap=3)]


def new(state, corrected):
    return {key: value for key, value in corrected.params.items() if key not in state.params}


# the network on which gains used to reach a million


def depthwise(seed: int, channels: int = 24, blocks: int = 6) -> nn.Sequential:
    """Depthwise and pointwise layers by turns, of which many channels seldom fire."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()]
    for _ in range(blocks):
        layers += [nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.ReLU(),
                   nn.Conv2d(channels, channels, 1), nn.ReLU()]  # fmt: skip
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).eval()
    h = torch.randn(64, 3, 4, 4)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                y = layer(h)
                spread, mean = y.std((0, 2, 3)).clamp(min=1e-2), y.mean((0, 2, 3))
                layer.weight /= spread[:, None, None, None]
                layer.bias.copy_((layer.bias - mean) / spread + torch.randn(len(mean)) * 0.8 - 0.8)
            h = layer(h)
    return model


def images(seed: int, n: int) -> torch.Tensor:
    return torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(1000 + seed))


@pytest.mark.parametrize("seed", [2, 3, 5])
def test_events_that_cancel_make_no_gains(seed):
    """In batches of four a gain was -2e6 here, and the output 40,000 times too large."""
    model, x = depthwise(seed), images(seed, 96)
    x, fresh = x[:32], x[32:]
    y = model(fresh).detach()
    plain = recipes.cascade_mmse()(model, [x], T=4)
    made, *others = (recipes.cascade_calibrated()(model, x.split(n), T=4) for n in (4, 16, 32))
    error = [(each(fresh) - y).norm() for each in (plain, made, *others)]
    assert max(error[1:]) <= 1.05 * error[0]
    gains = torch.cat([value.flatten() for key, value in made.snn.state_dict().items() if key.endswith("scale")])
    assert gains.min() >= 0
    assert gains.max() <= 8  # 2 T


@pytest.mark.parametrize(
    ("correct", "schedule"), [*itertools.product(CORRECTIONS, ["step", "layer"]), (balance, None)]
)
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@settings(max_examples=max(3, settings().max_examples // 4))  # each fits twice
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(1, 47), max_size=6, unique=True))
def test_it_does_not_matter_how_the_data_are_batched(correct, neuron, schedule, seed, cuts):
    x = inputs(seed, 48)
    state = pipe(mlp(seed, depth=4), trace, calibrate([x]), replace(neuron=neuron))
    options = {} if schedule is None else {"schedule": schedule}
    whole = correct([x], T=3, **options)(state)
    parts = correct(x.tensor_split(sorted(cuts)), T=3, **options)(state)
    assert parts.params.keys() == whole.params.keys()
    for key, value in whole.params.items():
        bound = 1e-9 * (1 + value.abs().max())  # sums in another order, float64
        assert (parts.params[key] - value).abs().max() <= bound, key


@pytest.mark.parametrize("correct", CORRECTIONS)
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("schedule", ["step", "layer"])
@pytest.mark.parametrize("code", [RATE, TD, DIFFERENTIAL, low_pass(2.0)], ids=str)
@given(seed=st.integers(0, 99), T=st.integers(1, 5), scale=st.sampled_from([0.1, 0.6, 1.0, 4.0]))
def test_no_channel_is_further_from_the_ann_than_before(correct, neuron, schedule, code, seed, T, scale):
    """On the data it is corrected for, which it decodes to itself; thresholds too small and too large among them."""
    torch.manual_seed(seed)
    model, x = nn.Sequential(nn.Linear(16, 16), nn.ReLU()).double().eval(), inputs(seed, 24)
    with torch.no_grad():
        model[0].bias -= 0.5
    rule = lambda site, summary: scale * summary.max.clamp(min=1e-3)  # noqa: E731
    state = pipe(model, trace, calibrate([x]), replace(neuron=neuron, threshold=rule))
    corrected = correct([x], T=T, code=code, schedule=schedule)(state)
    a = model(x).detach()
    error = [(pipe(s, td_rewrite(code=code), to_snn)(x, T=T, schedule=schedule) - a).square().sum(0)
             for s in (state, corrected)]  # fmt: skip
    rounding = 64 * T * torch.finfo(torch.float64).eps * (error[0] + a.square().sum(0))
    assert bool((error[1] <= error[0] + rounding).all())


# neurons that say too little


def _once(state, z, theta, clock):
    """One event, theta, where the current is at its largest in the first step; else it cancels what it sends."""
    if clock.t == 1:
        return z, torch.where(z >= 5, theta, 3 * theta * (z > 0))
    return state, torch.where(state >= 5, 0 * theta, -theta * (state > 0))


ONCE = Neuron("once", lambda theta: theta, _once, unit="signed")


def once(z):
    """Channel 0 sends one event in all the data, channel 1 sends some that cancel, channel 2 as many as it should."""
    state = pipe(nn.ReLU(), trace, replace(neuron=ONCE, threshold=fixed(0.1)))
    return state, correct_threshold([z], T=4)(state)


def test_one_event_is_no_evidence_and_events_that_cancel_are_none():
    z = torch.full((32, 1), 1.0)
    _, corrected = once(z)  # 3 theta - theta - theta - theta, which rounds to 2e-9
    (scale,) = (value for key, value in corrected.params.items() if key.endswith("scale"))
    assert scale.tolist() == [1.0]
    z[0] = 6.0
    _, corrected = once(z)  # and one of them sends theta / 4, once
    (scale,) = (value for key, value in corrected.params.items() if key.endswith("scale"))
    assert scale.tolist() == [1.0]
    assert "size of the events of 0 channels corrected" in report(corrected)
    assert "1 left (1 no evidence)" in report(corrected)


def test_what_is_corrected_is_said():
    model, x = mlp(0), inputs(0, 128)
    state = pipe(model, trace, calibrate([x]), replace(neuron=integrate_and_fire(v_init=0.0)))
    corrected = pipe(state, correct_bias([x], T=4), correct_potential([x], T=4))
    found = [event for event in corrected.history if event.stage.startswith("correct")]
    assert [event.subject for event in found] == 2 * ["1__if0", "3__if0", "5__if0"]
    for event in found[:3]:
        count = int((corrected.params[f"{event.subject}.shift"] != 0).sum())
        assert event.action == f"bias of {count} channels corrected"
        assert (f"{16 - count} left" in event.detail) == (count < 16)
        assert event.detail.endswith("for T = 4 under RATE")
    assert found[3].action.startswith("potential of ")
    assert "neurons corrected" in found[3].action


@pytest.mark.parametrize("T", [1, 4, 32])
def test_a_gain_is_at_most_what_lateness_explains(T):
    """A neuron that says 1/100 of what it should is broken, not late."""

    def step(state, z, theta, clock):
        return state, 0.01 * z.clamp(min=0)

    state = pipe(nn.ReLU(), trace, replace(neuron=Neuron("faint", lambda theta: theta, step), threshold=fixed(1e-3)))
    (scale,) = (v for k, v in correct_threshold([inputs(0)], T=T)(state).params.items() if k.endswith("scale"))
    assert (scale - (1.0 if 2 * T < 100 else 100.0)).abs().max() <= 1e-9
    assert T < 50  # the last one is left as it is, too


def test_a_potential_that_is_forgotten_is_not_corrected():
    with pytest.raises(StageError, match="correct_bias"):
        correct_potential([inputs(0)], T=4, code=restarted(2))


def test_a_charge_is_no_more_than_can_be_sent():
    """The first of 64 events is worth 1e-30 here, so a mean error of 0.1 would ask for a charge of 1e29."""
    model, x = mlp(0), inputs(0)
    state = pipe(model, trace, calibrate([x]), replace(neuron=integrate_and_fire(v_init=0.0)))
    corrected = correct_potential([x], T=64, code=low_pass(1.5))(state)
    assert all(float(value.abs().max()) == 0.0 for value in new(state, corrected).values())


def test_neurons_of_different_sizes_have_nothing_in_common():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()
    batches = [torch.rand(2, 1, 6, 6), torch.rand(2, 1, 8, 8)]
    state = pipe(model, trace, calibrate(batches), replace)
    correct_potential(batches, T=2, per="channel")(state)
    with pytest.raises(CalibrationError, match=r'correct_potential: at 1__if0, .*per="channel"'):
        correct_potential(batches, T=2)(state)


# the kernel


@given(seed=st.integers(0, 999), n=st.integers(1, 7))
def test_the_estimate_is_least_squares_and_its_witness_leaves_each_sample_out(seed, n):
    g = torch.Generator().manual_seed(seed)
    e, r = (torch.randint(-3, 4, (n, 5, 2), generator=g).double() for _ in range(2))
    found, evident = estimate([((e * r).sum(1), (r * r).sum(1))], 0.5)
    for c in range(2):
        power = (r[..., c] ** 2).sum()
        expected = (e[..., c] * r[..., c]).sum() / power if power > 0 else power
        assert found[c] == pytest.approx(expected.item(), abs=1e-12)
        error = torch.zeros(())
        for b in range(n):
            rest = torch.arange(n) != b
            power = (r[rest, :, c] ** 2).sum()
            without = (e[rest, :, c] * r[rest, :, c]).sum() / power if power > 0 else power
            error = error + ((e[b, :, c] - without * r[b, :, c]) ** 2).sum()
        whole = (e[..., c] ** 2).sum()
        if (error - whole).abs() > 1e-9:
            assert bool(evident[c]) == bool(error < whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@given(seed=st.integers(0, 999), T=st.integers(1, 9))
def test_events_that_cancel_decode_to_nothing(dtype, seed, T):
    """Whole numbers q of a smallest event that is no round number: where the q cancel, no rounding is left."""
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(-7, 8, (T, 40), generator=g).double()
    events = (q * 0.1234567).to(dtype)
    found = decoded(events, RATE.worth(T))
    assert bool(((q.sum(0) == 0) == (found == 0)).all())
    assert torch.allclose(found.double(), q.mean(0) * 0.1234567, atol=8 * torch.finfo(dtype).eps * 7)


@pytest.mark.parametrize("axis", [None, 1, -3])
def test_sums_are_those_of_each_sample(axis):
    x = torch.randn(4, 3, 2, 5)
    found = per_sample(x, axis)
    expected = x.double().sum((1, 2, 3))[:, None] if axis is None else x.double().sum((2, 3))
    assert torch.allclose(found, expected)
    assert torch.equal(per_sample(x, axis, each=True), x.double().flatten(1))
    assert per_sample(torch.ones(()), None).shape == per_sample(torch.ones(1), None).shape == (1, 1)
    assert per_sample(torch.ones(3, 2), -1).tolist() == [[1, 1]] * 3
