"""Temporal-difference networks in every floating dtype: what is exact, to which tolerance, and how gradients flow."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from property_tests.tolerances import Perturb
from snnpipe import DIFFERENTIAL, RATE, TD, InputError, fixed, pipe, replace, td_rewrite, to_snn, trace
from tests.helpers import EPS, assert_same, assert_untouched, images, relative_error, settled, snapshot

DTYPES = tuple(EPS)


class Mixed(nn.Module):
    """Convolution, batch norm, layer norm, attention, softmax, dropout as a module and as a function."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8)
        self.ln, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x):
        x = self.drop(F.gelu(self.bn(self.conv(x)))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.ln(x)).chunk(3, -1)
        x = x + self.out((q @ k.mT * 8**-0.5).softmax(-1) @ v)
        x = F.dropout(x + F.scaled_dot_product_attention(v, k, q), 0.5, self.training)
        return self.head(x.amax(1)).log_softmax(-1)


def mixed(dtype=torch.float64):
    return settled(Mixed()).to(dtype)


def split(x, T, seed=1):
    """Random, unequal events that sum to about ``x``; the decoded value on the way has nothing to do with it."""
    generator = torch.Generator().manual_seed(seed)
    path = torch.cat([torch.randn(T - 1, *x.shape, dtype=torch.float64, generator=generator), x[None].double()])
    return torch.diff(path, dim=0, prepend=torch.zeros_like(path[:1])).to(x.dtype)


def moved(model, x, eps):
    """How far the output moves when the input and the result of every operation round by eps, up or down at random:
    stochastic arithmetic, in float64."""
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        exact = model(x.double())
        found = []
        for seed in range(8):
            with Perturb(eps, seed):
                found.append(model(x.double() * 1.0))
    return max((y - exact).abs().max().item() for y in found)


def bound(model, X, T):
    r"""How far the decoded output may be from the ANN, both in a dtype with machine epsilon eps, after T steps.

    Rounding errors are eps / 2 at most and of random sign, so n of them add up to sqrt(n) (see ``helpers.bound``).
    Let r be how far the ANN's output ``moved`` by errors of eps, twice the largest.

    * the ANN, and the network's pass through the same operators: r / 2 each;
    * the input: the network sums events, and each of T partial sums, as large as what is left in the end, is rounded;
      the test rounds their exact sum once: sqrt(T + 1) r / 2;
    * the events ``y_t = Y_t - Y_{t-1}`` are rounded, the sum over them is taken here, in float64, and telescopes:
      T errors of (eps / 2) 2 max|Y|, hence sqrt(T) eps max|Y|.
    """
    eps = torch.finfo(X.dtype).eps
    r = max(moved(model, x, eps) for x in X[:4])  # the inputs of the steps are alike
    with torch.no_grad():
        largest = max(model(x).abs().max().item() for x in X)
    return (1 + math.sqrt(T + 1) / 2) * r + math.sqrt(T) * eps * largest


def prefixes(model, network, T):
    """Largest error of the decoded output over the prefixes, its bound, and how far the output moves on the way."""
    x = images().to(next(model.parameters()).dtype)
    events = split(x, T)
    X = events.double().cumsum(0).to(x.dtype)
    with torch.no_grad():
        y, want = network.sequence(events), torch.stack([model(x_t) for x_t in X])
    assert y.dtype == want.dtype == x.dtype
    error = (y.double().cumsum(0) - want.double()).abs().max().item()
    return error, bound(model, X, T), (want[0] - want[-1]).abs().max().item()


@pytest.mark.parametrize("T", [1, 2, 5, 20])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_decoded_outputs_are_the_anns_to_the_rounding_of_the_dtype(dtype, T):
    model = mixed(dtype)
    error, limit, moves = prefixes(model, pipe(model, trace, td_rewrite, to_snn), T)
    assert error <= limit
    assert T == 1 or moves > limit  # what the bound allows is less than what happens


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constants_at_every_step_exceed_the_bound(dtype):
    """The events of a rate network, summed: the classic bug."""
    model = mixed(dtype)
    error, limit, _ = prefixes(model, pipe(model, trace, td_rewrite(code=RATE), to_snn), 5)
    assert error > 4 * limit


@pytest.mark.parametrize(("dtype", "coarser"), [(torch.float64, torch.float32), (torch.float32, torch.float16)])
def test_the_next_coarser_dtype_exceeds_the_bound(dtype, coarser):
    model, x = mixed(), images()
    with torch.no_grad():
        error = (copy.deepcopy(model).to(coarser)(x.to(coarser)).double() - model(x)).abs().max().item()
    assert error > bound(model.to(dtype), x[None].to(dtype), 1)


@pytest.mark.parametrize("code", [TD, RATE, DIFFERENTIAL], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_are_kept(dtype, code):
    model, x = mixed(dtype), images().to(dtype)
    snn = pipe(model, trace, td_rewrite(code=code), to_snn)
    assert {t.dtype for t in snn.state_dict().values() if t.is_floating_point()} == {dtype}
    with torch.no_grad():
        want = model(x)
    for T in (1, 3):
        assert snn(x, T=T).dtype == dtype
        assert (snn(x, T=T) - want).abs().max() <= bound(model, x[None], T)
    assert snn.sequence(x.expand(3, *x.shape)).dtype == dtype
    state, y = snn.step(snn.init(), x)
    assert (y.dtype, state.decoded.dtype) == (dtype, dtype)


def gradients(model, network, x_seq, weight):
    """Of sum_t <weight_t, Y_t>: by event and by parameter, through the network and, step by step, through the ANN."""
    x_seq = x_seq.clone().requires_grad_()
    (network.sequence(x_seq).cumsum(0) * weight).sum().backward()
    X = x_seq.detach().cumsum(0).requires_grad_()
    sum((model(x_t) * w).sum() for x_t, w in zip(X, weight, strict=True)).backward()
    # Y_t depends on the events up to t
    return x_seq.grad, X.grad.flip(0).cumsum(0).flip(0)


@pytest.mark.parametrize("T", [1, 5, 20])
def test_gradients_are_the_anns(T):
    model = mixed()
    td = pipe(model, trace, td_rewrite, to_snn).requires_grad_()
    got, want = gradients(model, td, split(images(), T), torch.randn(T, 4, 3, dtype=torch.float64))
    assert relative_error(got, want) <= 1e-10
    assert all(step.abs().max() > 0 for step in want)
    found = {key: p.grad for key, p in td.named_parameters()}
    expected = {key: p.grad for key, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    for key, grad in expected.items():
        assert (found[key] - grad).abs().max() <= 1e-10 * grad.abs().max(), key


def test_gradients_know_the_past_only():
    td = pipe(mixed(), trace, td_rewrite, to_snn)
    x_seq = split(images(), 6).requires_grad_()
    td.sequence(x_seq)[:4].square().sum().backward()
    assert [bool(step.any()) for step in x_seq.grad] == [True] * 4 + [False] * 2


def test_gradients_reach_inputs_before_and_weights_after_they_are_asked_for():
    model = mixed()
    td = pipe(model, trace, td_rewrite, to_snn)
    assert not any(p.requires_grad for p in td.parameters())
    assert all(p.requires_grad for p in model.parameters())
    x = split(images(), 3)
    assert not td.sequence(x).requires_grad
    x.requires_grad_()
    td.sequence(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in td.parameters())
    td.requires_grad_().sequence(x.detach()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in td.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_gradients_of_steps_by_hand_are_those_of_the_sequence():
    td = pipe(mixed(), trace, td_rewrite, to_snn).requires_grad_()
    x, weight = images(), torch.randn(4, 4, 3, dtype=torch.float64)

    def by_hand(x_seq):
        state, outputs = td.init(), []
        for x_t in x_seq:
            state, y = td.step(state, x_t)
            outputs.append(y)
        return torch.stack(outputs)

    found = []
    for run in (by_hand, td.sequence):
        td.zero_grad()
        x_seq = split(x, 4).requires_grad_()
        (run(x_seq) * weight).sum().backward()
        found.append((x_seq.grad, *(p.grad.clone() for p in td.parameters())))
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 1e-10 * max(1.0, b.abs().max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_have_the_dtype(dtype):
    td = pipe(mixed(dtype), trace, td_rewrite, to_snn).requires_grad_()
    x_seq = split(images().to(dtype), 3).requires_grad_()
    td.sequence(x_seq).sum(0)[:, 0].sum().backward()
    for grad in (x_seq.grad, *(p.grad for p in td.parameters())):
        assert grad.dtype == dtype
        assert grad.isfinite().all()
    assert x_seq.grad.any()
    assert td.get_parameter("conv.weight").grad.any()


@pytest.mark.parametrize("options", [{}, {"example": images()}], ids=["symbolic", "export"])
def test_the_network_is_in_evaluation_form_and_the_model_in_its_own(options):
    model, x = mixed(), images()
    want = model(x).detach()
    model.train()
    model.bn.eval()  # a mode for each module
    before = snapshot(model)
    td = pipe(model, trace(**options), td_rewrite, to_snn)
    assert not td.training
    for network in (td, td.train(), copy.deepcopy(td).train()):  # nothing random is left, nothing is updated
        first = network(x, T=2)
        assert relative_error(first, want) <= 1e-12
        assert_same(network(x, T=2), first)
        events = split(x, 3)
        assert relative_error(network.sequence(events).sum(0), want) <= 1e-12
    assert_untouched(before, model)
    assert model.training
    assert model.drop.training
    assert not model.bn.training


class Two(nn.Module):
    """An image and a vector."""

    def __init__(self):
        super().__init__()
        self.c, self.f, self.g = nn.Conv2d(2, 3, 3), nn.Linear(48, 4), nn.Linear(5, 4)

    def forward(self, x, y):
        return self.f(F.gelu(self.c(x)).flatten(1)) + self.g(y).softmax(-1)


X, Y = torch.randn(3, 2, 2, 6, 6), torch.randn(3, 2, 5)
BAD = {
    "rank too small": (lambda td: td.sequence(X[0], Y[0]), r"5 axes \(T, B, \.\.\.\); got shape \(2, 2, 6, 6\)"),
    "no axis": (lambda td: td.sequence(X, torch.tensor(1.0)), r"(?=.*\(3, 2, 2, 6, 6\))(?=.*\(\)).*one length T"),
    "no step": (lambda td: td.sequence(X[:0], Y[:0]), r"(?=.*\(0, 2, 2, 6, 6\))(?=.*\(0, 2, 5\)).*T >= 1"),
    "mismatched lengths": (lambda td: td.sequence(X, Y[:2]), r"(?=.*\(3, 2, 2, 6, 6\))(?=.*\(2, 2, 5\)).*one length"),
    "one input missing": (lambda td: td.sequence(X), "takes 2 inputs, x, y; got 1"),
    "T = 0": (lambda td: td(X[0], Y[0], T=0), "T is the number of time steps, a whole number of at least 1, got 0"),
    "iterate, T = 0": (lambda td: td.iterate(X[0], Y[0], T=0), "at least 1, got 0"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_shapes_are_named(bad):
    td = pipe(Two().eval(), trace, td_rewrite, to_snn)
    call, text = BAD[bad]
    with pytest.raises(InputError, match=text) as caught:
        call(td)
    if "sequence" in str(caught.value):
        assert "write snn(x, T=...)" in str(caught.value)


def test_shapes_an_exported_network_was_not_traced_for_are_named():
    td = pipe(Two().eval(), trace(example=(X[0], Y[0])), td_rewrite, to_snn)
    assert td.sequence(X, Y).shape == (3, 2, 4)
    for bad in ((X, Y[:, 0]), (X[..., :4], Y)):
        with pytest.raises(InputError, match=r"traced for \(B, .*trace\(example=x\)"):
            td.sequence(*bad)


class OfTheSum(nn.Module):
    def forward(self, x):
        return torch.relu(x.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("by_export", [False, True])
def test_a_neuron_on_a_number_gives_a_number(dtype, by_export):
    x = torch.arange(12, dtype=dtype).reshape(4, 3)
    traced = trace(example=x) if by_export else trace
    snn = pipe(OfTheSum().eval(), traced, replace(threshold=fixed(66.0)), to_snn)
    for schedule in ("step", "layer"):
        out = snn(x, T=4, schedule=schedule)
        assert out.shape == ()
        assert out.dtype == dtype
        assert out.item() == 66.0  # the sum: one spike of 66 at every step
