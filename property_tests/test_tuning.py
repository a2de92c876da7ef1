"""Stages that go through the network from the input on: trained weights, balanced thresholds, readouts that wait."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from property_tests.test_corrections import inputs, mlp
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    CalibrationError,
    InputError,
    Neuron,
    StageError,
    balance,
    calibrate,
    cascade,
    correct_bias,
    correct_potential,
    correct_weights,
    digest,
    events,
    fixed,
    integrate_and_fire,
    low_pass,
    one_of_n,
    pipe,
    readout_delay,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*never fired")  # random networks have dead channels


def answered(state, code, x, T, **options):
    return pipe(state, td_rewrite(code=code), to_snn)(x, T=T, **options)


# trained weights


@pytest.mark.parametrize(
    ("neuron", "code", "T", "schedule"),
    [
        (integrate_and_fire(v_init=0.0), RATE, 4, "step"), (integrate_and_fire(v_init=0.0), low_pass(4.0), 6, "step"),
        (integrate_and_fire(v_init=0.0), RATE, 3, "layer"), (signed_memory(v_init=0.0), RATE, 4, "step"),
        (cascade(n=2, v_init=0.0), RATE, 1, "step"), (one_of_n(n=2), DIFFERENTIAL, 2, "step"),
    ],
    ids=str,
)  # fmt: skip
def test_trained_weights_are_nearer_to_the_ann_on_data_they_have_not_seen(neuron, code, T, schedule):
    """Of neurons that truncate, so that there is something to gain: each layer lacks theta / (2 T) on average."""
    for seed in range(2):
        model, x, fresh = mlp(seed, depth=4), inputs(seed, 512), inputs(seed + 50, 256)
        state = pipe(model, trace, calibrate([x]), replace(neuron=neuron))
        before = digest(state)
        trained = correct_weights([x], T=T, code=code, schedule=schedule, epochs=4)(state)
        assert digest(state) == before
        error = [(answered(s, code, fresh, T, schedule=schedule) - model(fresh)).norm() for s in (state, trained)]
        assert error[1] < 0.9 * error[0]
        again = correct_weights([x], T=T, code=code, schedule=schedule, epochs=4)(state)
        assert digest(again) == digest(trained)


def test_what_a_layer_loses_is_measured_where_it_is_lost():
    """The history names each layer with its error before and after; what did not get better stays."""
    state = pipe(mlp(0, depth=4), trace, calibrate([inputs(0, 512)]), replace)
    trained = correct_weights([inputs(0, 512)], T=4, epochs=2, lr=0.03)(state)
    found = [event for event in trained.history if event.stage == "correct_weights"]
    assert [event.subject for event in found] == ["0", "2", "4", "6"]
    for event in found:
        before, after = (float(word) for word in event.detail.split() if word[0].isdigit() and "__" not in word)
        assert (after < before) == (event.action == "trained") == (f"{event.subject}__trained.weight" in trained.params)
    assert {event.action for event in found} == {"trained", "left as it was"}


class Shared(nn.Module):
    """One layer at two call sites, one weight in two layers, a sum of two neurons, a layer nobody reads as a neuron."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        h = self.a(x).relu()
        g = (self.a(h) + h).relu()
        return self.head((self.b(g) + h).relu())


def test_every_call_of_a_layer_gets_weights_of_its_own():
    torch.manual_seed(0)
    model, x = Shared().double().eval(), inputs(0, 256)
    state = pipe(model, trace, calibrate([x]), replace(neuron=integrate_and_fire(v_init=0.0)))
    trained = correct_weights([x], T=4, epochs=4)(state)
    used = [node["weight"].key for node in trained.graph if node.op == "linear"]
    assert used == ["a__trained.weight", "a__trained.weight_1", "b__trained.weight", "head.weight"]
    error = [(to_snn(s)(x, T=4) - model(x)).norm() for s in (state, trained)]
    assert error[1] < error[0]
    snn, again = to_snn(trained), to_snn(trained)
    again.load_state_dict(snn.state_dict())
    assert torch.equal(again(x, T=4), snn(x, T=4))
    assert torch.equal(snn.state_dict()["head.weight"], model.head.weight)


def test_other_corrections_are_part_of_what_is_trained_for():
    state = pipe(mlp(2), trace, calibrate([inputs(2)]), replace)
    both = pipe(state, correct_bias([inputs(2)], T=4), correct_potential([inputs(2)], T=4),
                correct_weights(inputs(2).split(16), T=4, epochs=1))  # fmt: skip
    assert {key.rpartition(".")[2] for key in both.params} >= {"shift", "charge"}
    assert bool(torch.isfinite(to_snn(both)(inputs(3), T=4)).all())


# balanced thresholds


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("code", [RATE, low_pass(3.0)], ids=str)
@given(seed=st.integers(0, 99), T=st.integers(1, 6))
def test_balanced_thresholds_are_the_largest_currents_of_the_network_they_make(per, code, seed, T):
    """Watched from outside while the finished network runs."""
    x = inputs(seed, 24)
    state = pipe(mlp(seed), trace, calibrate([x]), replace(neuron=integrate_and_fire(v_init=0.0)))
    balanced = balance([x[:8], x[8:]], T=T, per=per, code=code)(state)
    assert digest(balanced) == digest(balance([x[8:], x[:8]], T=T, per=per, code=code)(state))
    snn = pipe(balanced, td_rewrite(code=code), to_snn)
    largest = {name: [] for name in snn.neurons()}
    for name, module in snn.neurons().items():
        module.register_forward_hook(lambda _, given, out, name=name: largest[name].append(given[0]))
    snn(x, T=T)
    for name, module in snn.neurons().items():
        z = torch.stack(largest[name]).reshape(-1, 16)
        found = z.amax(0) if per == "channel" else z.amax().reshape(1)
        expected = torch.where(found > 0, found, found.max())
        rounding = 64 * T * torch.finfo(torch.float64).eps * z.abs().max()
        assert (module.threshold - expected).abs().max() <= rounding


def test_trained_levels_stay_and_caps_hold():
    from snnpipe import QCFS

    model = nn.Sequential(nn.Linear(16, 4), QCFS(4, 0.25), nn.Linear(4, 4), nn.ReLU6()).double().eval()
    model[2].weight.data.fill_(100.0)
    state = pipe(model, trace, replace)
    snn = to_snn(balance([inputs(0)], T=4)(state))
    assert [neuron.threshold.tolist() for neuron in snn.neurons().values()] == [[0.25], [6.0]]


# readouts that leave out the first steps


@given(seed=st.integers(0, 99), T=st.integers(2, 8), data=st.data())
@pytest.mark.parametrize("code", [RATE, low_pass(2.5)], ids=str)
def test_a_delayed_readout_decodes_the_events_since(code, seed, T, data):
    """What the last neurons send from step d + 1 on, averaged with the code's weights; then the head."""
    delay = data.draw(st.integers(0, T - 1))
    model, x = mlp(seed), inputs(seed, 5)
    state = pipe(model, trace, calibrate([x]), replace)
    snn = pipe(state, td_rewrite(code=code), to_snn)
    sent = []
    *_, last = snn.neurons().values()
    last.register_forward_hook(lambda _, given, out: sent.append(out[0].clone()))
    found = snn(x, T=T, delay=delay)
    worth = torch.tensor(code.worth(T), dtype=torch.float64)[delay:]
    decoded = (worth.reshape(-1, 1, 1) * torch.stack(sent)[delay:]).sum(0) / worth.sum()
    bound = 256 * torch.finfo(torch.float64).eps * (1 + decoded.abs().max()) / worth.sum()
    assert (found - model[-1](decoded)).abs().max() <= bound
    every = snn(x, T=T, delay=delay, readout="every")
    assert torch.equal(every[-1], found)
    plain = snn(x, T=T, readout="every")
    assert torch.equal(every[:delay], plain[:delay])
    given_events = x.expand(T, *x.shape)
    assert (snn(given_events, T=T, delay=delay, encoding=events()) - found).abs().max() <= 1e-9


def test_a_network_without_neurons_does_not_mind():
    model, x = mlp(0), inputs(0)
    snn = pipe(model, trace, td_rewrite(code=RATE), to_snn)
    assert (snn(x, T=4, delay=3) - model(x)).abs().max() <= 1e-12


def test_the_delay_is_the_time_of_the_first_spikes():
    """A chain of positive weights w: layer l begins after (theta / 2) / (w^l x) steps more."""
    chain = [layer for _ in range(3) for layer in (nn.Linear(1, 1, bias=False), nn.ReLU())]
    model = nn.Sequential(*chain).double().eval()
    for layer in model[::2]:
        layer.weight.data.fill_(0.5)
    snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    x = torch.ones(3, 1).double()
    assert readout_delay(snn, x, T=64) == 1 + 2 + 4  # 0.5 / 0.5 + 0.5 / 0.25 + 0.5 / 0.125
    assert readout_delay(snn, x, T=8) == 4  # at least four steps are read
    assert readout_delay(snn, x, T=3) == 0
    assert readout_delay(snn, 0 * x, T=64) == 60  # nobody ever speaks


# bad use


def _no_gradient(v, z, theta, clock):
    return v, (z.detach() >= theta) * theta


BAD = {
    "no neurons": (lambda s: correct_weights([inputs(0)], T=4)(pipe(mlp(0), trace)), StageError, "replace"),
    "no neurons to balance": (lambda s: balance([inputs(0)], T=4)(pipe(mlp(0), trace)), StageError, "replace"),
    "a tensor": (lambda s: correct_weights(inputs(0), T=4), CalibrationError, r"correct_weights\(\[x\], T=...\)"),
    "no batch": (lambda s: correct_weights([], T=4)(s), CalibrationError, "no batch"),
    "nothing to balance on": (lambda s: balance([], T=4)(s), CalibrationError, "no batch"),
    "schedule": (lambda s: correct_weights([inputs(0)], T=4, schedule="both"), InputError, '"layer"'),
    "epochs": (lambda s: correct_weights([inputs(0)], T=4, epochs=0), StageError, "epochs"),
    "batch size": (lambda s: correct_weights([inputs(0)], T=4, batch_size=0), StageError, "batch_size"),
    "lr": (lambda s: correct_weights([inputs(0)], T=4, lr=0.0), StageError, "lr"),
    "per": (lambda s: balance([inputs(0)], T=4, per="neuron"), StageError, '"channel"'),
    "delay of a sum": (lambda s: answered(s, TD, inputs(0), 4, delay=1), InputError, "code=RATE"),
    "delay of everything": (lambda s: answered(s, RATE, inputs(0), 4, delay=4), InputError, "delay < T = 4"),
    "delay of layers": (
        lambda s: answered(s, RATE, inputs(0), 4, delay=1, schedule="layer"), InputError, "whole chunks",
    ),
    "no gradient": (
        lambda s: correct_weights([inputs(0)], T=4)(
            pipe(mlp(0), trace, replace(neuron=Neuron("dull", lambda theta: theta, _no_gradient), threshold=fixed(1.0)))
        ),
        StageError, "surrogate gradient",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_bad_use_says_what_to_do(bad):
    call, error, words = BAD[bad]
    state = pipe(mlp(0), trace, calibrate([inputs(0)]), replace)
    with pytest.raises(error, match=words):
        call(state)
