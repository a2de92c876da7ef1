"""The derived bounds hold for right kernels and are exceeded by every wrong one we know."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from property_tests import tolerances
from property_tests.strategies import codes, decode, event_sequences, few, inputs, nets
from snnpipe import DIFFERENTIAL, RATE, TD, Code, geometric, low_pass
from snnpipe.kernels.conv_bn import fold_batch_norm
from snnpipe.kernels.temporal import accumulate, constant, difference

NOT_CONSTANT = [TD, DIFFERENTIAL, geometric(2.0), geometric(1.3)]  # codes whose kappa is not 1 at every step


def scan(step: Any, code: Code, *events: torch.Tensor) -> torch.Tensor:
    """Events out of a step function ``step(state, clock, *x_t) -> (state, y_t)``."""
    state, out = None, []
    for t in range(1, len(events[0]) + 1):
        state, y = step(state, code.clock(t), *(x[t - 1] for x in events))
        out.append(y)
    return torch.stack(out)


def error(step: Any, fn: Any, code: Code, *events: torch.Tensor) -> tuple[float, float]:
    """How far a kernel is from ``fn`` of the decoded inputs at worst, and how far it may be."""
    decoded = [decode(x, code) for x in events]
    found = decode(scan(step, code, *events), code)
    expected = torch.stack([fn(*X) for X in zip(*decoded, strict=True)])
    return (found - expected).abs().max().item(), tolerances.temporal(fn, code, *decoded)


def drawn(*shape: int, seed: int = 0, steps: int = 4) -> torch.Tensor:
    return torch.randn(steps, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


W, B = drawn(3, 4, steps=1)[0], drawn(3, seed=1, steps=1)[0]


def affine(x):
    return nn.functional.linear(x, W, B)


def bias_by_the_law(state, clock, x):
    return None, nn.functional.linear(x, W) + constant(B, clock)


def bias_every_step(state, clock, x):
    return None, affine(x)


def general(fn, *, drop_first=False):
    def step(state, clock, x):
        X_before, Y_before = state or (None, None)
        X, _ = accumulate(X_before, x, clock)
        Y = fn(X)
        if Y_before is None and drop_first:  # as if f(X_0) were f(0) instead of 0
            Y_before = fn(torch.zeros_like(X))
            return (X, Y), (Y - Y_before) / clock.a
        return (X, Y), difference(Y_before, Y, clock)

    return step


def product_by_the_law(state, clock, a, b):
    A, B = (accumulate(None if state is None else state[k], x, clock)[0] for k, x in enumerate((a, b)))
    return (A, B, A * B), difference(None if state is None else state[2], A * B, clock)


def product_passed_through(state, clock, a, b):
    return None, a * b


@pytest.mark.parametrize("code", [*NOT_CONSTANT, RATE], ids=str)
def test_right_kernels_are_within_the_bound(code):
    for step, fn, events in [
        (bias_by_the_law, affine, [drawn(2, 4)]),
        (general(torch.sigmoid), torch.sigmoid, [drawn(2, 4)]),
        (product_by_the_law, torch.mul, [drawn(2, 4), drawn(2, 4, seed=5)]),
    ]:
        found, allowed = error(step, fn, code, *events)
        assert found <= allowed


@pytest.mark.parametrize("code", NOT_CONSTANT, ids=str)
def test_a_bias_at_every_step_exceeds_the_bound(code):
    found, allowed = error(bias_every_step, affine, code, drawn(2, 4))
    assert found > 100 * allowed


@pytest.mark.parametrize("code", [*NOT_CONSTANT, RATE], ids=str)
def test_a_product_passed_through_exceeds_the_bound(code):
    found, allowed = error(product_passed_through, torch.mul, code, drawn(2, 4), drawn(2, 4, seed=5))
    assert found > 100 * allowed


@pytest.mark.parametrize("code", NOT_CONSTANT, ids=str)
def test_f_of_zero_dropped_exceeds_the_bound(code):
    found, allowed = error(general(torch.sigmoid, drop_first=True), torch.sigmoid, code, drawn(2, 4))
    assert found > 100 * allowed


def test_a_nonlinear_op_on_bare_events_exceeds_the_bound():
    found, allowed = error(lambda state, clock, x: (None, x.relu()), torch.relu, TD, drawn(2, 4))
    assert found > 100 * allowed


def folded_network(times: int) -> tuple[nn.Module, nn.Module]:
    conv, bn = nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3).eval()
    for k, tensor in enumerate((conv.weight, conv.bias, bn.weight, bn.bias, bn.running_mean)):
        tensor.data.normal_(generator=torch.Generator().manual_seed(k))
    bn.running_var.fill_(0.3)
    other = nn.Conv1d(2, 3, 1)
    weight, bias = conv.weight.data, conv.bias.data
    norm = bn.running_mean, bn.running_var, bn.weight.data, bn.bias.data, bn.eps
    for _ in range(times):
        weight, bias = fold_batch_norm(weight, bias, *norm)
    other.weight.data, other.bias.data = weight, bias
    return nn.Sequential(conv, bn).eval(), other


@pytest.mark.parametrize(("times", "right"), [(1, True), (2, False), (0, False)])
def test_only_one_fold_is_within_the_bound(times, right):
    x = drawn(2, 5)
    model, folded = folded_network(times)
    with torch.no_grad():
        found = (model(x) - folded(x)).abs().max().item()
    assert (found <= tolerances.folding(model, x)) == right


@pytest.mark.parametrize("code", [RATE, TD, DIFFERENTIAL, geometric(2.0), low_pass(3.0)], ids=str)
@pytest.mark.parametrize("off", [0.0, 0.01])
def test_a_threshold_off_by_a_percent_exceeds_the_membrane_bound(code, off):
    """Conservation ``a_t v_t = Z_t - Y_t``, for an integrator that subtracts ``(1 + off) theta``."""
    steps, theta, v, Z, Y = 6, 1.0, torch.zeros(1), torch.zeros(1), torch.zeros(1)
    for t in range(1, steps + 1):
        clock = code.clock(t)
        z = torch.tensor([1.7]) / clock.a
        m = clock.gain * v + z
        s = theta * (m >= theta)
        v, Z, Y = m - (1 + off) * s, clock.alpha * Z + clock.a * z, clock.alpha * Y + clock.a * s
        error = abs(v - (Z - Y) / clock.a).item()
    bound = tolerances.membrane(code, steps, 2 * steps * (1.7 / code.a(steps) + theta), torch.float32)
    assert (error <= bound) == (off == 0.0)


@few(0.6)
@given(data=st.data(), net=nets(heads=("classes",)), code=codes())
def test_the_bound_is_small_beside_the_value(data, net, code):
    """A bound as large as the output itself could not be exceeded by anything."""
    net = net.double().eval()
    X = decode(data.draw(event_sequences(inputs(net, 0), code)), code)
    assert tolerances.temporal(net, code, X) <= 1e-9 * (1 + net(X[-1].clone()).abs().max().item())


def test_rounding_scales_with_the_precision_and_the_condition():
    x = torch.full((3,), 2.0)
    single, double = tolerances.rounding(torch.exp, x), tolerances.rounding(torch.exp, x.double())
    assert 1e8 < single / double < 1e10
    ill = tolerances.rounding(lambda v: (v * 1e4 + 1) - v * 1e4, x)
    assert ill > 100 * tolerances.rounding(lambda v: v + 1, x)


def test_rounding_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tolerances.rounding(model, torch.ones(2, 3))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
