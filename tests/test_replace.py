"""Neurons, thresholds and where they go."""

import math

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    Neuron,
    StageError,
    ThresholdError,
    ThresholdWarning,
    calibrate,
    fixed,
    fuse,
    instrument,
    integrate_and_fire,
    leaky_integrate_and_fire,
    maximum,
    percentile,
    pipe,
    replace,
    scaled,
    signed_memory,
    to_module,
    to_snn,
    trace,
)  # fmt: skip
from tests.catalogue import C
from tests.helpers import assert_close, assert_converges, assert_same, images, mlp, settled, spiking, vectors
from tests.models import PoolAndSkip, PoolThenHead


def one_neuron(neuron, theta=1.0):
    """The network that is a single ReLU, made spiking."""
    return pipe(nn.Sequential(nn.ReLU()), trace, replace(neuron=neuron, threshold=fixed(theta)), to_snn)


CURRENTS = torch.arange(-4, 13).double()[None] / 8  # dyadic, from below zero to above saturation


@pytest.mark.parametrize("T", [1, 2, 7, 32])
@pytest.mark.parametrize("theta", [1.0, 0.5])
@pytest.mark.parametrize("v_init", [0.0, 0.5])
def test_if_fires_as_often_as_the_closed_form_says(T, theta, v_init):
    snn = one_neuron(integrate_and_fire(v_init=v_init), theta).double()
    count = (torch.floor(CURRENTS * T / theta + v_init)).clamp(0, T)
    assert_close(snn(CURRENTS, T=T), theta * count / T)


@pytest.mark.parametrize(
    ("neuron", "events"), [(integrate_and_fire(), {0.0, 0.5}), (signed_memory(), {-0.5, 0.0, 0.5})], ids=str
)
def test_events_are_what_the_unit_says(neuron, events):
    snn, seen = one_neuron(neuron, 0.5).double(), []
    (unit,) = snn.neurons().values()
    unit.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    snn.sequence(torch.cat([CURRENTS.expand(9, 1, -1), -CURRENTS.expand(9, 1, -1)]))
    assert set(torch.stack(seen).unique().tolist()) == events


def test_hard_reset_forgets_what_exceeds_the_threshold():
    """z = 0.75: fires in steps 2, 4, ..., since 0, 0.75, 1.5 -> 0; the soft reset keeps the surplus."""
    z = torch.full((1, 1), 0.75)
    hard, soft = (one_neuron(integrate_and_fire(v_init=0.0, v_reset=v)) for v in (0.0, None))
    assert hard(z, T=8).item() == 4 / 8
    assert soft(z, T=8).item() == 6 / 8
    lifted = one_neuron(integrate_and_fire(v_init=0.0, v_reset=0.5))
    assert lifted.sequence(z.expand(4, 1, 1)).flatten().tolist() == [0.0, 1.0, 1.0, 1.0]


def test_leaky_neuron_loses_charge():
    z = torch.full((1, 1), 0.25)
    snn = one_neuron(leaky_integrate_and_fire(tau=2.0, v_init=0.0))
    assert snn(z, T=64).item() == 0.0  # the potential tends to 2 z = 0.5
    assert one_neuron(leaky_integrate_and_fire(tau=1e9, v_init=0.0))(z, T=64).item() == pytest.approx(0.25, abs=1 / 64)
    with pytest.raises(ValueError, match=r"tau must be greater than 1 step, got 1"):
        leaky_integrate_and_fire(tau=1)


def test_signed_neuron_takes_spikes_back():
    snn = one_neuron(signed_memory(v_init=0.0))
    z = torch.tensor([1.0, 1.0, -1.5, -1.5, -1.0, 0.0]).reshape(6, 1, 1)
    assert snn.sequence(z).flatten().tolist() == [1.0, 1.0, -1.0, -1.0, 0.0, 0.0]
    model, x = mlp(), vectors()
    state = pipe(model, trace, instrument(statistic=maximum()), calibrate([x]))
    signed = to_snn(replace(neuron=signed_memory())(state))
    assert_converges(signed, (x,), model(x))
    assert "signed" in repr(signed)


@pytest.mark.parametrize("per", ["channel", "layer"])
@pytest.mark.parametrize("rule", [maximum, lambda **k: percentile(99.9, **k)], ids=["maximum", "percentile"])
def test_thresholds_per_layer_and_per_channel(per, rule):
    model, x = settled(nn.Sequential(C(2, 5), nn.ReLU(), C(5, 3))), images()
    snn = spiking(model, x, statistic=rule(per=per))
    (neuron,) = snn.neurons().values()
    assert neuron.threshold.shape == ((5,) if per == "channel" else (1,))
    assert torch.all(neuron.threshold <= model[:2](x).amax())
    assert_converges(snn, (x,), model(x), limit=0.2)


@attrs.frozen
class Graded:
    """A user's neuron that is no spiking neuron at all: it passes the decoded ReLU on."""

    def init(self, theta, *, gain):
        return (torch.zeros_like(theta), torch.zeros_like(theta))

    def step(self, state, z, theta, clock, *, gain):
        total, sent = state
        total = total + z
        out = gain * F.relu(total) - sent
        return (total, sent + out), out


def test_a_neuron_of_ones_own():
    graded = Graded()
    neuron = Neuron("mine", graded.init, graded.step, unit="graded", options={"gain": 1.0})
    model, x = mlp(), vectors()
    snn = pipe(model, trace, replace(neuron=neuron, threshold=fixed(1.0)), to_snn)
    assert list(snn.neurons()) == ["1__mine0", "3__mine0"]
    for T in (1, 5):
        assert_close(snn(x, T=T), model(x))
    with pytest.raises(ValueError, match="float"):
        Neuron("mine", graded.init, graded.step, unit="float")


def test_rules_choose_other_neurons_for_some_sites():
    def last_is_signed(site, neuron):
        return signed_memory() if site.name == "3" else None

    snn = pipe(mlp(), trace, replace(threshold=fixed(1.0), rules=(last_is_signed,)), to_snn)
    assert [neuron.neuron.name for neuron in snn.neurons().values()] == ["if", "snm"]


def test_a_threshold_of_ones_own_sees_site_and_summary():
    seen = []

    def rule(site, summary):
        seen.append((site.name, summary.max.shape))
        return 2 * summary.max

    x, model = vectors(), mlp()
    state = pipe(model, trace, instrument(statistic=maximum()), calibrate([x]))
    snn = to_snn(replace(threshold=rule)(state))
    assert seen == [("1", (12,)), ("3", (10,))]
    for got, summary in zip(snn.neurons().values(), state.statistics.values(), strict=True):
        assert_same(got.threshold, 2 * summary.max)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, [1.0, -2.0], []])
def test_unusable_thresholds_of_a_rule_are_refused(value):
    with pytest.raises(ThresholdError, match=r"site 1.*positive and finite"):
        pipe(mlp(), trace, replace(threshold=lambda site, summary: torch.tensor(value)))


def test_thresholds_that_do_not_fit_the_channels_are_refused():
    state = pipe(mlp(), trace, calibrate([vectors()]))
    with pytest.raises(ThresholdError, match="site 1"):
        to_snn(replace(threshold=lambda site, summary: torch.ones(5))(state))(vectors(), T=1)


def dead(bias):
    model = mlp()
    with torch.no_grad():
        model[0].bias.copy_(torch.as_tensor(bias))
    return model


@pytest.mark.parametrize("statistic", [maximum(), percentile(99.9), percentile(99.9, per="layer")], ids=str)
def test_a_dead_layer_stays_silent(statistic):
    model, x = dead(-100.0), vectors()
    with pytest.warns(ThresholdWarning, match=r"never fired.*\b1\b"):
        snn = spiking(model, x, statistic=statistic)
    y = snn(x, T=8)
    assert y.isfinite().all()
    assert snn.neurons()["1__if0"].threshold.isfinite().all()
    assert_converges(snn, (x,), model(x), limit=0.05 if "99.9" in str(statistic) else 0.02)


def test_a_dead_unit_takes_the_largest_threshold():
    model, x = dead([-100.0] + [0.5] * 11), vectors()
    with pytest.warns(ThresholdWarning, match=r"1 of 12 channels"):
        snn = spiking(model, x)
    theta = snn.neurons()["1__if0"].threshold
    assert theta[0] == theta[1:].max()
    assert_converges(snn, (x,), model(x))


def test_a_saturating_layer_is_clipped_and_recovers_with_the_threshold():
    model, x = mlp(), vectors()
    state = pipe(model, trace, instrument(statistic=maximum()), calibrate([x / 4]))
    clipped = to_snn(state)
    assert_same(clipped.neurons()["1__if0"].threshold, model[:2](x / 4).amax(0).detach())
    assert (clipped(x, T=256) - model(x)).norm() > 0.05 * model(x).norm()
    assert_converges(to_snn(replace(threshold=scaled(4.0))(state)), (x,), model(x))


POOLS = {
    "2": nn.MaxPool2d(2),
    "3, 2, 1": nn.MaxPool2d(3, 2, 1),
    "ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "dilated": nn.MaxPool2d(2, dilation=2),
    "adaptive": nn.AdaptiveMaxPool2d(3),
    "function": lambda t: F.max_pool2d(t, 2, stride=1),
    "twice": nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2)),
    "padded 5": nn.MaxPool2d(5, 1, 2),
}


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6()], ids=str)
@pytest.mark.parametrize("pool", POOLS)
def test_max_pool_moves_before_the_neuron(pool, act):
    class Pooled(PoolThenHead):
        def forward(self, x):
            return self.pool(self.act(self.c(x)))

    model, x = settled(Pooled(c=C(2, 4), pool=POOLS[pool], act=act)), images(size=7)
    state = pipe(model, trace, instrument)
    order = [node.op for node in state.graph if node.op != "conv2d"]
    assert "max_pool" in order[1]
    assert order[-1] in ("relu", "clamp")
    assert_same(to_module(state)(x), model(x))
    assert_converges(spiking(model, x), (x,), model(x))


def test_max_pool_of_a_relu_that_also_feeds_a_skip():
    model, x = settled(PoolAndSkip(c=C(2, 4), pool=nn.MaxPool2d(2), d=C(4, 2, 1), r=nn.ReLU())), images()
    state = pipe(model, trace, instrument)
    assert len(state.sites) == 2
    assert_same(to_module(state)(x), model(x))
    assert_converges(spiking(model, x), (x,), model(x))


def test_missing_thresholds_name_the_stage_to_add():
    with pytest.raises(StageError, match=r"site 1.*calibrate\(loader\)"):
        pipe(mlp(), trace, fuse, to_snn)
    with pytest.raises(ThresholdError, match=r"'99\.9'"):
        pipe(mlp(), trace, replace(threshold="99.9"))


def test_neuron_names_are_the_module_paths():
    block = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    snn = pipe(nn.Sequential(block, block), trace, replace(threshold=fixed(1.0)), to_snn)
    assert list(snn.neurons()) == ["0.1__if0", "0.1__if1"]
