"""Networks that were trained quantised: one operator for both front ends, and the formulas of the papers."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
    disable_fake_quant,
    disable_observer,
)
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize
from torch.library import opcheck

from snnpipe import TraceError, pipe, td_rewrite, to_module, to_snn, trace
from snnpipe.kernels.quantiser import qcfs
from snnpipe.ops.quantisers import QCFS
from tests.helpers import assert_same

FRONT_ENDS = pytest.mark.parametrize("by_example", [False, True], ids=["fx", "export"])


def traced(model, x, by_example):
    return trace(model, **({"example": x} if by_example else {}))


def net(*activations, seed=0, width=6):
    torch.manual_seed(seed)
    layers = [layer for act in activations for layer in (nn.Linear(width, width), act)]
    return nn.Sequential(*layers, nn.Linear(width, 3)).eval()


# the formula and its gradient


def brute(x, theta, levels):
    """One number, in Python."""
    return theta / levels * min(max(math.floor(levels * x / theta + 0.5), 0), levels)


@pytest.mark.parametrize("levels", [1, 3, 4, 8])
@pytest.mark.parametrize("theta", [0.5, 2.0])  # powers of two: products and quotients are exact
def test_qcfs_is_the_clip_floor_shift_function(levels, theta):
    x = torch.arange(-64, 129, dtype=torch.float64) / 32  # the grid holds every border between levels of 4 and 8
    want = torch.tensor([brute(value, theta, levels) for value in x.tolist()], dtype=torch.float64)
    got = qcfs(x, torch.tensor(theta, dtype=torch.float64), levels)
    assert (got - want).abs().max() <= 2 * torch.finfo(torch.float64).eps * theta  # theta k / L, rounded twice
    assert len(got.unique()) == levels + 1


def test_thresholds_of_channels_lie_along_the_axis():
    x, theta = torch.randn(2, 3, 4), torch.tensor([0.5, 1.0, 2.0])
    rows = torch.stack([qcfs(x[:, c], theta[c], 4) for c in range(3)], 1)
    assert torch.equal(qcfs(x, theta, 4, -2), rows)
    assert torch.equal(QCFS(4, theta, axis=-2)(x), rows)


def test_the_gradient_is_the_papers():
    """Bu et al. 2022: 1 and (h - x) / theta inside, 0 and 0 below, 0 and 1 above."""
    levels, theta = 4, torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    x = (torch.arange(-39, 80, dtype=torch.float64) / 16 + 1 / 128).requires_grad_()  # no border is met exactly
    weight = torch.randn_like(x)
    low, high = -2.0 / 8, 2.0 - 2.0 / 8  # theta / 2L below 0 and below theta
    h = qcfs(x, theta, levels)
    to_x, to_theta = torch.autograd.grad((weight * h).sum(), (x, theta))
    inside = (x > low) & (x < high)
    assert torch.equal(to_x, weight * inside)
    slope = torch.where(inside, (h - x) / 2.0, (x >= high).double())
    assert to_theta.shape == theta.shape
    assert abs(to_theta - (weight * slope).sum()) <= x.numel() * torch.finfo(torch.float64).eps * weight.abs().sum()


def test_the_gradient_is_that_of_the_formula_with_the_slope_of_floor_taken_as_one():
    """Written with autograd: floor(u) = u + (floor(u) - u).detach()."""
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    theta = (torch.rand(3, dtype=torch.float64) + 0.5).requires_grad_()
    u = (x * 4 / theta + 0.5).clamp(0, 4)
    straight = theta * (u + (u.floor() - u).detach()) / 4
    want = torch.autograd.grad(straight.square().sum(), (x, theta))
    got = torch.autograd.grad(qcfs(x, theta, 4, -1).square().sum(), (x, theta))
    for g, w in zip(got, want, strict=True):
        assert (g - w).abs().max() <= 64 * torch.finfo(torch.float64).eps * (1 + w.abs().max())


def test_torch_finds_the_operator_well_made():
    ops, x = torch.ops.snnpipe, torch.randn(2, 3)
    opcheck(ops.qcfs.default, (x.clone().requires_grad_(), torch.ones(3).requires_grad_(), 4, -1))
    opcheck(ops.qcfs.default, (x, torch.tensor(2.0, dtype=torch.float64), 4))
    opcheck(ops.fake_quantize.default, (x, torch.ones(1), torch.zeros(1, dtype=torch.int32), 0, 7, None))


@pytest.mark.parametrize("at", [(0, None), (1, 1), (None, 0)], ids=str)
def test_the_operator_maps_over_batches(at):
    x = torch.randn(*((5, 2, 3) if at[0] == 0 else (2, 5, 3) if at[0] == 1 else (2, 3)))
    theta = torch.rand(*((3,) if at[1] is None else (3, 5) if at[1] else (5, 3))) + 0.5
    got = torch.vmap(lambda x, theta: qcfs(x, theta, 4, -1), in_dims=at)(x, theta)
    for k in range(5):
        own = x if at[0] is None else x.select(at[0], k)
        assert torch.equal(got[k], qcfs(own, theta if at[1] is None else theta.select(at[1], k), 4, -1))


@pytest.mark.parametrize("wrong", [{"levels": 0}, {"levels": 2.5}, {"theta": 0.0}, {"theta": torch.ones(3)},
                                   {"theta": torch.ones(3), "axis": 1}, {"theta": torch.ones(2, 2), "axis": -1},
                                   {"theta": float("nan")}])  # fmt: skip
def test_an_impossible_activation_is_refused(wrong):
    with pytest.raises(ValueError, match="QCFS: "):
        QCFS(**wrong)


def test_the_activation_trains_saves_and_copies():
    model = net(QCFS(4, 2.0), QCFS(4, torch.ones(6), axis=-1))
    x = torch.randn(8, 6)
    before = model(x)
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), before)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    optimizer.step()
    assert not torch.equal(model(x), before)
    saved.seek(0)
    model.load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(model(x), before)


# both front ends


@FRONT_ENDS
def test_qcfs_is_one_operator(by_example):
    model = net(QCFS(4, 2.0), QCFS(8, torch.rand(6) + 1, axis=-1))
    x = torch.randn(5, 6)
    state = traced(model, x, by_example)
    found = [node for node in state.graph if node.op == "qcfs"]
    assert [node["theta"].key for node in found] == ["1.theta", "3.theta"]
    assert [(node["levels"], node.get("axis")) for node in found] == [(4, None), (8, -1)]
    assert [node.path for node in found] == ["1", "3"]
    assert_same(to_module(state)(x), model(x))
    assert_same(pickle.loads(pickle.dumps(to_module(state)))(x), model(x))


def observed(quantiser, x, *, train=False):
    """The quantiser behind a ReLU, its range taken from x and then left alone."""
    model = net(nn.ReLU())
    model.insert(2, quantiser)
    if train:
        quantiser.enable_static_estimate()
    model(x)
    quantiser.enable_param_learning() if train else model.apply(disable_observer)
    return model.eval()


UNSIGNED = {"quant_min": 0, "quant_max": 15, "dtype": torch.quint8}
SIGNED = {"quant_min": -8, "quant_max": 7, "dtype": torch.qint8}
CHANNELS = {"qscheme": torch.per_channel_symmetric, "ch_axis": 1, **SIGNED}
QUANTISERS = {
    "plain": lambda: FakeQuantize(MinMaxObserver, **UNSIGNED),
    "average": lambda: FakeQuantize(MovingAverageMinMaxObserver, **SIGNED),
    "fused": lambda: FusedMovingAvgObsFakeQuantize(MovingAverageMinMaxObserver, **UNSIGNED),
    "channels": lambda: FakeQuantize(PerChannelMinMaxObserver, **CHANNELS),
    "trained": lambda: _LearnableFakeQuantize(MinMaxObserver, **UNSIGNED, use_grad_scaling=True),
    "trained, symmetric": lambda: _LearnableFakeQuantize(MinMaxObserver, qscheme=torch.per_tensor_symmetric, **SIGNED),
}


@FRONT_ENDS
@pytest.mark.parametrize("name", QUANTISERS)
def test_fake_quantisation_is_one_operator(name, by_example):
    x = torch.randn(16, 6)
    model = observed(QUANTISERS[name](), x, train=name.startswith("trained"))
    before = copy.deepcopy(model.state_dict())
    state = traced(model, x, by_example)
    node = next(node for node in state.graph if node.op == "fake_quantize")
    assert (node["scale"].key, node["zero_point"].__class__, node.path) == ("2.scale", int, "2")
    assert_same(to_module(state)(x), model(x))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert type(model[2]) is type(QUANTISERS[name]())


class Direct(nn.Module):
    """torch's functions, called."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.scale, self.zero_point = nn.Parameter(torch.tensor([0.25, 0.25, 0.5])), nn.Parameter(torch.full((3,), 2.4))

    def forward(self, x):
        return self.function(x, self.scale, self.zero_point)


ONE = (torch.tensor([0.25]), torch.tensor([3], dtype=torch.int32))
MANY = (torch.tensor([0.25, 0.5, 1.0]), torch.tensor([3, 0, 1], dtype=torch.int32))
DIRECT = {
    "numbers": (lambda x, s, z: torch.fake_quantize_per_tensor_affine(x, 0.25, 3, 0, 15), 3),
    "tensors": (lambda x, s, z: torch.fake_quantize_per_tensor_affine(x, *ONE, 0, 15), 3),
    "zero points": (lambda x, s, z: torch.fake_quantize_per_channel_affine(x, *MANY, 1, 0, 15), None),
    "trained": (lambda x, s, z: torch._fake_quantize_learnable_per_tensor_affine(x, s[:1], z[:1], 0, 15), None),
    "trained channels": (lambda x, s, z: torch._fake_quantize_learnable_per_channel_affine(x, s, z, 1, 0, 15, 1.0), 2),
}  # fmt: skip


@pytest.mark.parametrize("name", DIRECT)
def test_torchs_functions_are_the_same_operator(name):
    function, zero_point = DIRECT[name]
    model, x = Direct(function), torch.randn(4, 3, 2)
    state = trace(model)
    module = to_module(state)
    assert_same(module(x), model(x))
    if name.startswith("trained"):  # the scale learns as before
        for net in (model, module):
            net(x).square().sum().backward()
        assert (module.scale.grad - model.scale.grad).abs().max() <= (
            64 * torch.finfo(torch.float32).eps * model.scale.grad.abs().max()
        )
    found = [node["zero_point"] for node in state.graph if node.op == "fake_quantize"]
    if zero_point is not None:
        assert found == [zero_point]
    td = pipe(model, trace, td_rewrite, to_snn)
    parts = torch.randn(3, 4, 3, 2) / 3
    want = model(parts.sum(0))
    far = (td.sequence(parts).sum(0) - want).abs() > 8 * torch.finfo(torch.float32).eps * (1 + want.abs())
    assert not far.any()  # both sum the parts in one order, so no level is missed


def test_a_module_that_still_observes_is_refused():
    model = net(nn.ReLU(), FakeQuantize(MinMaxObserver, **UNSIGNED))
    with pytest.raises(TraceError, match=r"(?s)3 \(FakeQuantize\) still observes .*disable_observer"):
        trace(model)
    model[3] = _LearnableFakeQuantize(MinMaxObserver, **UNSIGNED)
    model[3].enable_static_estimate()
    with pytest.raises(TraceError, match="enable_param_learning"):
        trace(model)


@FRONT_ENDS
def test_a_module_that_does_not_quantise_passes_everything(by_example):
    model, x = net(nn.ReLU(), FakeQuantize(MinMaxObserver, **UNSIGNED)), torch.randn(5, 6)
    model.apply(disable_observer)
    model.apply(disable_fake_quant)
    state = traced(model, x, by_example)
    assert "fake_quantize" not in {node.op for node in state.graph}
    assert_same(to_module(state)(x), model(x))


def test_a_forward_of_ones_own_is_followed():
    class Twice(FakeQuantize):
        def forward(self, x):
            return torch.fake_quantize_per_tensor_affine(x, 0.125, 0, 0, 15) * 2

    model, x = net(Twice(MinMaxObserver, **UNSIGNED)), torch.randn(5, 6)
    assert_same(to_module(trace(model))(x), model(x))
