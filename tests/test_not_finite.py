"""Operators that are not finite at 0, where every network begins: as soon as they are, the network follows."""

import pytest
import torch
from torch import nn

from property_tests.strategies import decode, with_wires
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    calibrate,
    cascade,
    instrument,
    integrate_and_fire,
    low_pass,
    one_of_n,
    pipe,
    replace,
    scaled,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.frozen import FrozenMap
from snnpipe.kernels.following import followed

OPERATORS = {
    "share": lambda h: h / h.sum(-1, keepdim=True),
    "rsqrt": lambda h: h * h.square().sum(-1, keepdim=True).rsqrt(),
    "log": lambda h: -h.sum(-1, keepdim=True).log(),
    "lgamma": lambda h: h.sum(-1, keepdim=True).lgamma(),
    "reciprocal": lambda h: 0.1 * h.sum(-1, keepdim=True).reciprocal(),
}


class Behind(nn.Module):
    """An operator between two layers of ReLUs; its input is never 0 in the end."""

    def __init__(self, f):
        super().__init__()
        self.f, self.a, self.b = (f,), nn.Linear(6, 8), nn.LazyLinear(4)

    def forward(self, x):
        return self.b(self.f[0](self.a(x).relu())).relu() * 2


def model_and_data(name, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, model = torch.rand(6, 6), Behind(OPERATORS[name])
        model(x)
        return model.eval().to(dtype), x.to(dtype)


def converted(model, x, neuron, code=RATE):
    put = replace(neuron=neuron)
    return pipe(model, trace, instrument(statistic=scaled(1.25)), calibrate([x]), put, td_rewrite(code=code), to_snn)


@pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
@pytest.mark.parametrize("neuron", [integrate_and_fire(), signed_memory(), cascade(n=4), one_of_n(n=4)], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_the_error_falls_as_one_over_t(name, neuron):
    """At t = 1 nothing may have fired.  Half a threshold per T is left at each neuron, times what follows it."""
    model, x = model_and_data(name)
    snn = converted(model, x, neuron)
    with torch.no_grad():
        want = model(x)
        error = {T: (snn(x, T=T) - want).abs().max() for T in (64, 1024)}
        waits = {T: (snn(x, T=T, schedule="layer") - want).abs().max() for T in (64, 1024)}
    quantum = max(n.threshold.max() for n in snn.neurons().values())
    for found in (error, waits):
        assert found[64].isfinite()
        assert found[1024] <= 0.25 * found[64] + 4 * quantum / 1024


@pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
@pytest.mark.parametrize("code", [RATE, TD, DIFFERENTIAL, low_pass(16.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_steps_are_the_sequence_and_finite(code, dtype):
    model, x = model_and_data("share")
    snn = converted(model, x, signed_memory(), code).to(dtype)
    x_seq = torch.stack([code.clock(t).kappa * x for t in range(1, 21)]).to(dtype)
    state, steps = snn.init(), []
    for now in x_seq:
        state, y = snn.step(state, now)
        steps.append(y)
    found, single = decode(snn.sequence(x_seq).double(), code), decode(torch.stack(steps).double(), code)
    assert found.isfinite().all()
    assert single.isfinite().all()
    assert all(cell.isfinite().all() for cell in state.cells.values() if isinstance(cell, torch.Tensor))


@pytest.mark.parametrize("code", [RATE, TD, DIFFERENTIAL, low_pass(4.0)], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_followed_is_the_last_finite_value(code, bad):
    meant = torch.tensor([[bad, 1.0], [2.0, bad], [bad, bad], [3.0, 0.5], [3.0, bad]]).double()
    sent, made = None, []
    for t, now in enumerate(meant, 1):
        y, sent = followed(sent, now, code.clock(t))
        made.append(y)
    want = torch.tensor([[0.0, 1.0], [2.0, 1.0], [2.0, 1.0], [3.0, 0.5], [3.0, 0.5]]).double()
    assert (decode(torch.stack(made), code) - want).abs().max() <= 64 * torch.finfo(torch.float64).eps


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def test_where_no_neuron_follows_the_law_holds_to_the_letter():
    """What the ANN gives is what is decoded, infinities and all; a sum cannot take back an infinity."""
    td = pipe(Log(), trace, td_rewrite, to_snn)
    x_seq = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert td.sequence(x_seq).cumsum(0).tolist() == Log()(x_seq.cumsum(0)).tolist()
    state, _ = td.step(td.init(), x_seq[0])
    state, _ = td.step(state, torch.ones(2))
    assert state.decoded.tolist() == Log()(torch.tensor([1.0, 2.0])).tolist()  # read, not summed up


class Positive(nn.Module):
    def forward(self, x):
        return x > 0


@pytest.mark.parametrize("code", [RATE, TD], ids=str)
def test_truth_values_are_followed_as_numbers(code):
    state = trace(Positive())
    graph, params = with_wires(state.graph, state.params, None)
    snn = to_snn(td_rewrite(code=code)(state.evolve(graph=graph, params=FrozenMap(params))))
    x_seq = torch.tensor([[1.0, -1.0], [-3.0, 5.0]])
    want = (decode(x_seq, code) > 0).float()
    assert torch.equal(decode(snn.sequence(x_seq), code), want)


