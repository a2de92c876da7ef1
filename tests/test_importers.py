"""Networks that were trained quantised: one operator for both front ends, and the formulas of the papers."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.library import opcheck

from snnpipe import (
    StageError,
    ThresholdError,
    calibrate,
    digest,
    fixed,
    fuse,
    instrument,
    load_statistics,
    pipe,
    replace,
    report,
    save_statistics,
    spike_counts,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.kernels.multilevel import burst, cascade, graded
from snnpipe.kernels.neuron import signed_memory
from snnpipe.kernels.quantiser import qcfs
from snnpipe.ops.quantisers import QCFS
from snnpipe.stages.matching import matching_levels
from tests.helpers import EPS, assert_converges, assert_same, bound, relative_error

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


# known thresholds: no data


def wide(*activations, seed=0, width=8):
    """A net in float64 whose activations fill their range."""
    model = net(*activations, seed=seed, width=width).double()
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.8)
            nn.init.normal_(layer.bias, 0, 0.3)
    return model


def clipped(model, x):
    """The ANN that infinitely many steps compute: activations clipped to [0, theta], not quantised."""
    for layer in model:
        if isinstance(layer, QCFS):
            theta = layer.theta if layer.axis is None else layer.theta.reshape(-1, *[1] * (-layer.axis - 1))
            x = torch.minimum(x.clamp(min=0), theta)
        else:
            x = layer(x)
    return x.detach()


def points(batch=32, width=8):
    return torch.randn(batch, width, dtype=torch.float64)


def mixed_thetas(levels=4, width=8):
    return QCFS(levels, 1.0), QCFS(levels, torch.rand(width) + 0.5, axis=-1), QCFS(levels, 1.5)


@pytest.mark.parametrize("T", [1, 2, 4, 7, 16])
@pytest.mark.parametrize("theta", [1.0, torch.tensor([0.5, 1.0, 2.0, 4.0])])
def test_the_spike_count_of_a_layer_is_known(theta, T):
    axis = -1 if isinstance(theta, torch.Tensor) else None
    model = nn.Sequential(QCFS(4, theta, axis=axis), nn.Linear(4, 1)).double()
    z = (torch.arange(-32, 96, dtype=torch.float64) / 16).reshape(32, 4)  # ties included
    snn = pipe(model, trace, to_snn)
    size = torch.as_tensor(theta, dtype=torch.float64)
    count = torch.floor(z * T / size + 0.5).clamp(0, T)
    assert spike_counts(snn, z, T=T)["0__if0"].per_step.sum() == count.sum()
    plain = pipe(nn.Sequential(model[0]), trace, to_snn)
    assert (plain(z, T=T) - count * size / T).abs().max() <= 4 * T * EPS[torch.float64] * 4.0
    if T == 4:
        assert torch.equal(plain(z, T=T), model[0](z))


@FRONT_ENDS
def test_layer_after_layer_the_network_is_the_trained_one(by_example):
    model, x = wide(*mixed_thetas()), points()
    snn = to_snn(traced(model, x, by_example))
    assert [n.threshold.numel() for n in snn.neurons().values()] == [1, 8, 1]
    want = model(x)
    assert (snn(x, T=4, schedule="layer") - want).abs().max() <= bound(torch.float64, want.abs().max().item())
    assert relative_error(snn(x, T=3, schedule="layer"), want) > 0.01
    assert report(snn).endswith("\nfully spiking")


def test_step_by_step_the_network_converges_to_the_clipped_one():
    model, x = wide(*mixed_thetas()), points()
    assert_converges(pipe(model, trace, to_snn), (x,), clipped(model, x))


@pytest.mark.parametrize("neuron", [signed_memory(), cascade(n=4), burst(cap=5), graded(parts=16)], ids=str)
@pytest.mark.parametrize("threshold", [None, fixed(3.0), fixed(0.7)])
def test_no_neuron_decodes_to_more_than_the_trained_threshold(neuron, threshold):
    """Whatever its own: larger events, many of them, or a threshold of the user's."""
    theta = torch.rand(8) + 0.5
    model, x = nn.Sequential(QCFS(4, theta, axis=-1)).double(), 3 * points()
    snn = pipe(model, trace, replace(neuron=neuron, threshold=threshold), to_snn)
    cap = theta.double()
    for T in (1, 5, 40):
        assert (snn(x, T=T) <= cap * (1 + 4 * T * EPS[torch.float64])).all()
    own, book = snn.neurons()[f"0__{neuron.name}0"].threshold, neuron.options["codebook"]
    want = torch.minimum(torch.minimum(x.clamp(min=0), cap), own * book.top)
    assert (snn(x, T=40) - want).abs().max() <= own.max() / book.parts / 40 * (1 + 1e-9)  # one event, as RATE weighs it
    again = pickle.loads(pickle.dumps(snn))
    assert_same(again(x, T=5), snn(x, T=5))


def test_an_edited_network_keeps_its_caps():
    state = pipe(wide(*mixed_thetas()), trace, replace(neuron=cascade(n=3), threshold=fixed(0.5)))
    assert digest(state.edit(lambda module: None)) == digest(state)
    state = pipe(wide(*mixed_thetas()), trace, replace(neuron=cascade(n=3)))
    assert digest(state.edit(lambda module: None)) == digest(state)


@pytest.mark.parametrize("seed", range(2))
def test_under_td_matching_neurons_say_what_the_trained_network_computes(seed):
    model, x = wide(*mixed_thetas(), seed=seed), points()
    td = pipe(model, trace, replace(rules=(matching_levels,)), td_rewrite, to_snn)
    want = model(x).detach()
    steps = 3 * 4  # layers times levels
    outputs = list(td.iterate(x, T=steps))
    limit = bound(torch.float64, want.abs().max().item())
    assert (outputs[-1] - want).abs().max() <= limit
    assert (outputs[2] - want).abs().max() > limit  # one level in a step takes time
    parts = torch.cat([points(3 * 32).reshape(3, 32, 8) / 2, torch.zeros(steps, 32, 8, dtype=torch.float64)])
    assert (td.sequence(parts).sum(0) - model(parts.sum(0))).abs().max() <= limit


def test_only_the_rest_is_calibrated(tmp_path):
    model, x = wide(QCFS(4, 1.0), nn.ReLU(), nn.ReLU6(), QCFS(2, 2.0)), points()
    state = pipe(model, trace, fuse, calibrate([x]))
    assert list(state.statistics) == ["_3", "_5"]  # a quantised activation says its threshold, a capped one its largest
    assert [getattr(site.cap, "high", site.cap) for site in state.sites.values()] == [4, None, 6.0, 2]
    save_statistics(state, tmp_path / "s.pt")
    again = pipe(model, trace, fuse, load_statistics(tmp_path / "s.pt"))
    assert digest(again) == digest(state)
    with pytest.raises(StageError, match="nothing was measured at site 3"):
        pipe(model, trace, to_snn)
    nothing = pipe(wide(QCFS(4)), trace, calibrate([x]))
    assert nothing.history[-1].action == "nothing to measure"


def test_a_threshold_that_was_trained_away_is_refused():
    model = wide(*mixed_thetas())
    model[3].theta.data[2] = -0.1
    with pytest.raises(ThresholdError, match=r"-0\.1 \(1 of 8 values\) for site 3"):
        pipe(model, trace, to_snn)


class Convolutional(nn.Module):
    def __init__(self, axis, pool):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3)
        self.norm, self.pool, self.fc = nn.BatchNorm2d(4), pool, nn.Linear(3, 2)
        self.act = QCFS(4, torch.rand(4) + 0.5 if axis else 0.75, axis=axis)
        self.last = QCFS(4, 0.5)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.a(x))))
        return self.fc(self.last(self.b(x)).mean((2, 3)))


@FRONT_ENDS
@pytest.mark.parametrize("axis", [None, -3])
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.AdaptiveMaxPool2d(3)], ids=str)
def test_a_convolutional_network(axis, pool, by_example):
    model, x = Convolutional(axis, pool).double().eval(), torch.randn(5, 2, 8, 8, dtype=torch.float64)
    state = pipe(traced(model, x, by_example), fuse, instrument)
    assert any("max-pool moved before" in event.action for event in state.history)
    want = model(x).detach()
    assert_same(to_module(pipe(traced(model, x, by_example), instrument))(x), want)
    snn = to_snn(state)
    assert "\nfully spiking for a constant input" in report(snn)
    assert (snn(x, T=4, schedule="layer") - want).abs().max() <= bound(torch.float64, terms=64)


def test_a_pool_over_the_axis_of_the_thresholds_stays():
    model = nn.Sequential(QCFS(4, torch.tensor([0.5, 1.0, 2.0, 4.0]), axis=-1), nn.MaxPool2d(2))
    x = 2 * torch.rand(3, 2, 4, 4)
    state = pipe(model, trace, instrument)
    assert [node.op for node in state.graph] == ["input", "qcfs", "max_pool2d"]
    assert relative_error(to_snn(state)(x, T=4), model(x)) < 1e-6
