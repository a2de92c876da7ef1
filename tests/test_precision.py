"""Networks in bfloat16 and float16: what is added up is kept in float32, so errors do not grow with T."""

import copy
import warnings

import pytest
import torch
from torch import nn

from property_tests.strategies import decode
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    ThresholdWarning,
    calibrate,
    cascade,
    events,
    instrument,
    integrate_and_fire,
    low_pass,
    maximum,
    pipe,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.kernels import temporal
from snnpipe.kernels.following import followed
from snnpipe.kernels.neuron import lif_step
from tests.test_dtypes import moved

LOW = (torch.bfloat16, torch.float16)
CODES = (RATE, TD, DIFFERENTIAL, low_pass(8.0))
EPS32 = torch.finfo(torch.float32).eps
STEPS = 1024


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.norm, self.c = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.c(self.b(self.norm(self.a(x).relu())).relu())


def converted(neuron, code=RATE, seed=0):
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ThresholdWarning)
        torch.manual_seed(seed)
        model = Normed().double().eval()
        x = drawn(16, 8)
        put = replace(neuron=neuron)
        return model, x, pipe(model, trace, instrument(statistic=maximum()), calibrate([x]), put,
                              td_rewrite(code=code), to_snn)  # fmt: skip


@pytest.mark.parametrize("code", CODES, ids=str)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_what_is_decoded_is_rounded_once(dtype, code):
    """To the dtype in the end: eps / 2; and to float32 twice a step, in terms no larger than what they add up to."""
    x_seq, total = drawn(STEPS, 50).to(dtype), None
    for t, (x, exact) in enumerate(zip(x_seq, decode(x_seq.double(), code), strict=True), 1):
        X, total = temporal.accumulate(total, x, code.clock(t))
        assert (X.dtype, total.dtype) == (dtype, torch.float32)
        assert ((X.double() - exact).abs() <= (torch.finfo(dtype).eps / 2 + 4 * t * EPS32) * exact).all()


@pytest.mark.parametrize("code", CODES, ids=str)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("encode", [followed, None], ids=["followed", "difference"])
def test_rounded_events_decode_to_what_was_meant_but_for_the_last(dtype, code, encode):
    """Each event makes up for the rounding of those before it: eps / 2 of the newest event is left."""
    Y_seq, sent, made = drawn(STEPS, 50).to(dtype), None, []
    for t, Y in enumerate(Y_seq, 1):
        clock = code.clock(t)
        y = temporal.difference(sent, Y, clock) if encode is None else encode(sent, Y, clock)[0]
        sent = temporal.after(sent, Y, y, clock)
        assert (y.dtype, sent.dtype) == (dtype, torch.float32)
        made.append(y.double())
    for t, (found, Y, y) in enumerate(zip(decode(torch.stack(made), code), Y_seq.double(), made, strict=True), 1):
        newest = code.clock(t).a * torch.finfo(dtype).eps / 2 * y.abs()
        assert ((found - Y).abs() <= newest + 8 * t * EPS32 * 2).all()


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_a_spike_count_is_exact(dtype):
    """clip(floor(z T / theta + 1/2), 0, T), for numbers that the dtype has."""
    z = torch.arange(1, 65, dtype=dtype)[:, None] / 64
    neuron, theta, state, count = integrate_and_fire(), torch.ones(1), None, torch.zeros(64, 1)
    state = neuron.init(theta, **neuron.options)
    for t in range(1, 4 * STEPS + 1):
        state, s = neuron.step(state, z, theta, RATE.clock(t), **neuron.options)
        assert s.dtype == dtype
        count += s.float()
    assert torch.equal(count, (z.float() * 4 * STEPS + 0.5).floor().clamp(0, 4 * STEPS))


def test_a_leaky_neuron_leaks_in_full_precision():
    theta = torch.ones(1)
    neuron = integrate_and_fire()
    state, s = lif_step(neuron.init(theta, **neuron.options), torch.ones(3, dtype=torch.bfloat16), theta,
                        RATE.clock(1), tau=4.0, **neuron.options)  # fmt: skip
    assert (state.dtype, s.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("neuron", [integrate_and_fire(), signed_memory(), cascade(n=4)], ids=str)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_the_error_of_a_network_does_not_grow_with_t(dtype, neuron):
    """It is that of the network in float64, and what the ANN itself moves when its operations round (twice: once on
    the way through the network, once for weights and input, which are rounded too)."""
    model, x, snn = converted(neuron)
    low, r = copy.deepcopy(snn).to(dtype), moved(model, x, torch.finfo(dtype).eps)
    with torch.no_grad():
        want = model(x)
        for T in (64, STEPS):
            y = low(x.to(dtype), T=T)
            assert y.dtype == dtype
            assert (y.double() - want).abs().max() <= 2 * (snn(x, T=T) - want).abs().max() + 2 * r
            y = low(x.to(dtype), T=T, schedule="layer")
            assert y.dtype == dtype
            assert (y.double() - want).abs().max() <= 2 * (snn(x, T=T, schedule="layer") - want).abs().max() + 2 * r


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_a_late_readout_is_as_precise(dtype):
    """The last four of 1024 events: what comes before weighs 256 times as much, and is subtracted."""
    snn = pipe(nn.Identity(), trace, to_snn)
    x_seq = drawn(STEPS, 50).to(dtype)
    y = snn(x_seq, T=STEPS, encoding=events(), delay=STEPS - 4)
    want = x_seq[-4:].double().mean(0)
    assert y.dtype == dtype
    assert ((y.double() - want).abs() <= torch.finfo(dtype).eps / 2 * want + 256 * 4 * STEPS * EPS32).all()


def test_an_event_too_large_for_the_dtype_is_sent_in_parts():
    """100 more after 1024 steps are an event of 102,400; float16 ends at 65,504."""
    sent, Y = torch.zeros(3), torch.full((3,), 100.0, dtype=torch.float16)
    for t in (STEPS, STEPS + 1):
        y, sent = followed(sent, Y, RATE.clock(t))
        assert y.isfinite().all()
    assert (sent - 100.0).abs().max() <= torch.finfo(torch.float16).eps * 100


@pytest.mark.parametrize("code", CODES, ids=str)
def test_steps_and_sequences_give_the_same_bits(code):
    snn = converted(cascade(n=4), code)[-1]
    low = snn.bfloat16()
    x_seq = torch.stack([drawn(16, 8, seed=t) for t in range(20)]).bfloat16()  # more than a window
    state, steps = low.init(), []
    for now in x_seq:
        state, y = low.step(state, now)
        steps.append(y)
    assert state.decoded.dtype == torch.bfloat16
    assert torch.equal(low.sequence(x_seq), torch.stack(steps))


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_gradients_flow(dtype):
    _, x, snn = converted(signed_memory())
    low = copy.deepcopy(snn).to(dtype).requires_grad_()
    low(x.to(dtype), T=8).square().sum().backward()
    for name, p in low.named_parameters():
        assert p.grad is not None, name
        assert p.grad.dtype == dtype
        assert p.grad.isfinite().all()
        assert p.grad.any()
