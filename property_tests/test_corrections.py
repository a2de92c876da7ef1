"""Corrections: what they measure is what is lacking, and the corrected network lacks it no more."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from snnpipe import (
    DIFFERENTIAL,
    RATE,
    CalibrationError,
    StageError,
    calibrate,
    correct_bias,
    correct_potential,
    correct_threshold,
    digest,
    fixed,
    graded,
    integrate_and_fire,
    pipe,
    repaired,
    replace,
    restarted,
    scaled,
    td_rewrite,
    to_snn,
    trace,
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:.*never fired")  # random networks have dead channels
CORRECTIONS = [correct_bias, correct_potential, correct_threshold]


def mlp(seed: int, depth: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(16, 16), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(16, 4)).double().eval()


def inputs(seed: int, n: int = 64) -> torch.Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("correct", CORRECTIONS)
@pytest.mark.parametrize("code", [RATE, DIFFERENTIAL], ids=str)
def test_a_network_without_error_is_left_as_it_is(correct, code):
    """Graded neurons with a tiny threshold are the ANN up to that threshold."""
    theta = 2.0**-30
    state = pipe(mlp(0), trace, replace(neuron=graded(), threshold=fixed(theta)))
    corrected = correct([inputs(1)], T=4, code=code)(state)
    new = {key: value for key, value in corrected.params.items() if key not in state.params}
    assert new
    for key, value in new.items():
        neutral = 1.0 if key.endswith("scale") else 0.0
        largest = 64 * theta / min(code.worth(4))  # a few roundings to theta, magnified by the layers before
        assert (value - neutral).abs().max() <= (1e-6 if key.endswith("scale") else largest), key


@given(seed=st.integers(0, 999), T=st.integers(1, 8))
def test_the_bias_is_what_the_output_lacks_on_average(seed, T):
    """Of a neuron that truncates and does not clip: theta / (2 T)."""
    x = inputs(seed, 32).abs()
    x = x / x.max()
    state = pipe(nn.ReLU(), trace, replace(neuron=integrate_and_fire(v_init=0.0), threshold=fixed(1.0)))
    answer = lambda z: torch.floor(z * T).clamp(0, T) / T  # noqa: E731
    lacking = (x - answer(x)).mean()
    better = ((x - answer(x + lacking)) ** 2).sum() < ((x - answer(x)) ** 2).sum()
    lacking = lacking if better else 0.0
    corrected = correct_bias([x], T=T)(state)
    (shift,) = (value for key, value in corrected.params.items() if key.endswith("shift"))
    assert (shift - lacking).abs().max() <= 64 * torch.finfo(torch.float64).eps
    charged = correct_potential([x], T=T, per="channel")(state)
    (charge,) = (value for key, value in charged.params.items() if key.endswith("charge"))
    assert (charge - T * lacking).abs().max() <= 64 * T * torch.finfo(torch.float64).eps
    error = lambda state: (to_snn(state)(x, T=T) - x).square().sum()  # noqa: E731
    assert (error(corrected) < error(state)) == bool(better)


@given(seed=st.integers(0, 99))
def test_neither_order_nor_number_of_passes_changes_the_state(seed):
    x = inputs(seed)
    state = pipe(mlp(seed), trace, calibrate([x]), replace)
    before = digest(state)
    one, other = (correct_bias(batches, T=4)(state) for batches in ([x[:32], x[32:]], [x[32:], x[:32]]))
    assert digest(state) == before
    for key in one.params.keys() - state.params.keys():
        assert (one.params[key] - other.params[key]).abs().max() <= 1e-12  # a mean of two, in two orders


@pytest.mark.parametrize("correct", CORRECTIONS)
def test_it_helps_behind_a_spiking_prefix(correct):
    """A neuron that truncates lacks theta / (2 T) on average in every layer; on data it has not seen, less so."""
    for seed in range(4):
        model, x, fresh = mlp(seed, depth=5), inputs(seed, 512), inputs(seed + 50, 256)
        state = pipe(model, trace, calibrate([x]), replace(neuron=integrate_and_fire(v_init=0.0)))
        corrected = correct([x], T=8)(state)
        error = [(to_snn(s)(fresh, T=8) - model(fresh)).norm() for s in (state, corrected)]
        assert error[1] < error[0]


@given(seed=st.integers(0, 99), T=st.integers(1, 6))
def test_layers_that_wait_are_corrected_as_they_run(seed, T):
    """By hand: each neuron is the quantiser of its whole current, behind layers that are corrected already."""
    model, x = mlp(seed), inputs(seed, 32)
    stages = calibrate([x]), replace(neuron=integrate_and_fire(v_init=0.0), threshold=scaled(0.77))
    state = pipe(model, trace, *stages)  # no current at a step of the staircase, where rounding decides
    corrected = correct_bias([x], T=T, schedule="layer")(state)
    ann = sent = x
    for k in (0, 2, 4):
        theta = state.params[f"{k + 1}__if0.threshold"]
        ann, z = model[k](ann).clamp(min=0), model[k](sent)
        lacking = ann - _quantised(z, theta, T)
        others = (lacking.sum(0) - lacking) / (len(lacking) - 1)
        evident = ((lacking - others) ** 2).sum(0) < (lacking**2).sum(0)
        better = ((ann - _quantised(z + lacking.mean(0), theta, T)) ** 2).sum(0) < (lacking**2).sum(0)
        shift = torch.where(evident & better, lacking.mean(0), 0.0)
        sent = _quantised(z + shift, theta, T)
        bound = 1e-9 * (1 + ann.abs().max())
        assert (shift - corrected.params[f"{k + 1}__if0.shift"]).abs().max() <= bound
    found = to_snn(corrected)(x, T=T, schedule="layer")
    assert (found - model[6](sent)).abs().max() <= 1e-9 * (1 + ann.abs().max())


def _quantised(z, theta, T):
    return theta / T * torch.floor(z * T / theta).clamp(0, T)


@pytest.mark.parametrize("how", ["carry", "mask"])
def test_the_second_pass_begins_afresh(how):
    model, x = mlp(3, depth=5), inputs(3, 256)
    state = pipe(model, trace, calibrate([x]))
    plain = pipe(state, replace, to_snn)
    two = pipe(state, replace(neuron=repaired(integrate_and_fire(), how=how)), td_rewrite(code=restarted(8)), to_snn)
    assert torch.equal(two(x, T=8), plain(x, T=8))  # the first pass is an ordinary run
    only_again = pipe(state, replace, td_rewrite(code=restarted(8)), to_snn)
    assert (only_again(x, T=16) - plain(x, T=8)).abs().max() <= 1e-12  # nothing of it is kept


CURRENTS = {  # theta = 1, v_0 = 1/2; both passes have the same current
    "sent two too many": ((1.0, 0.5, -1.5), (1.0, 1.0, 0.0), {"carry": (0.0, 0.0, 0.0), "mask": (0.0, 0.0, 0.0)}),
    "nothing to repair": ((0.25, 0.25, 0.5), (0.0, 1.0, 0.0), {"carry": (0.0, 1.0, 0.0), "mask": (0.0, 1.0, 0.0)}),
    "owes one more": ((0.0, 0.0, 2.0), (0.0, 0.0, 1.0), {"carry": (1.0, 0.0, 1.0), "mask": (0.0, 0.0, 1.0)}),
}  # fmt: skip


@pytest.mark.parametrize("case", CURRENTS)
@pytest.mark.parametrize("how", ["carry", "mask"])
def test_what_the_first_pass_teaches(case, how):
    currents, first, second = CURRENTS[case]
    neuron, theta, code = repaired(integrate_and_fire(), how=how), torch.ones(1), restarted(3)
    state, events = neuron.init(theta, **neuron.options), []
    for t, z in enumerate(2 * currents, 1):
        state, now = neuron.step(state, torch.full((1,), z), theta, code.clock(t), **neuron.options)
        events.append(now.item())
    assert tuple(events) == first + second[how]


def test_what_is_owed_is_limited():
    neuron, theta, code = repaired(integrate_and_fire(), clip=1.0), torch.ones(1), restarted(1)
    state = neuron.init(theta, **neuron.options)
    for t, z in enumerate((-9.0, 1.5), 1):
        state, events = neuron.step(state, torch.tensor([z]), theta, code.clock(t), **neuron.options)
    assert events.item() == 1.0  # it begins at 1/2 - 1, not at 1/2 - 9


BAD = {
    "no neurons": (lambda s: correct_bias([inputs(0)], T=4)(pipe(mlp(0), trace)), StageError, "replace"),
    "a tensor": (lambda s: correct_bias(inputs(0), T=4), CalibrationError, r"correct_bias\(\[x\], T=...\)"),
    "no batch": (lambda s: correct_bias([], T=4)(s), CalibrationError, "no batch"),
    "per layer": (lambda s: correct_bias([inputs(0)], T=4, per="layer"), StageError, '"neuron"'),
    "carried": (lambda s: correct_bias([inputs(0)], T=4)(td_rewrite(code=RATE)(s)), StageError, "before td_rewrite"),
    "twice": (lambda s: pipe(s, correct_bias([inputs(0)], T=4), correct_bias([inputs(0)], T=4)), StageError, "already"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_use_says_what_to_do(bad):
    call, error, words = BAD[bad]
    state = pipe(mlp(0), trace, calibrate([inputs(0)]), replace)
    with pytest.raises(error, match=words):
        call(state)


def test_an_adjusted_network_can_be_saved_and_edited():
    state = pipe(mlp(0), trace, calibrate([inputs(0)]), replace)
    corrected = correct_potential([inputs(1)], T=4)(correct_bias([inputs(0)], T=4)(state))
    snn = to_snn(corrected)
    again = to_snn(corrected.edit(lambda module: None))
    assert torch.equal(again(inputs(2), T=4), snn(inputs(2), T=4))
    again.load_state_dict(snn.state_dict())
    assert torch.equal(again(inputs(2), T=4), snn(inputs(2), T=4))
