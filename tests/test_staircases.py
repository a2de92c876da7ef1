"""Quantisers written by hand, as found in the wild: each becomes one operator, and a neuron without data."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    SITE_RULES,
    every_fake_quantize_site,
    instrument,
    matching_levels,
    pipe,
    replace,
    report,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from snnpipe.graph import Ref
from snnpipe.kernels.quantiser import fake_quantize
from snnpipe.rules.arithmetic import form_of
from snnpipe.rules.staircase import _is_staircase
from tests.helpers import assert_same, bound
from tests.test_importers import FRONT_ENDS, traced


class Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.floor()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


class Written(nn.Module):
    """``formula(self, x)`` with a threshold, a step, and what a threshold may be computed from."""

    def __init__(self, formula, theta=1.7):
        super().__init__()
        self.formula = formula
        self.theta, self.step = nn.Parameter(torch.as_tensor(theta)), nn.Parameter(torch.tensor([0.21]))
        self.raw = nn.Parameter(torch.tensor(0.8))

    def forward(self, x):
        return self.formula(self, x)


def around(x):
    """round, straight through."""
    return x + (x.round() - x).detach()


def around_backwards(x):
    y = x.round()
    return (y - x).detach() + x


def less(x):
    return x - (x - x.floor()).detach()


def gradient_scaled(x, g):
    return (x - x * g).detach() + x * g


def positive(m):
    return (m.raw + torch.sqrt(m.raw**2 + 0.01)) / 2


#: Formula, theta, levels, and whether the input is shifted or stretched first.
WRITTEN = {
    "Bu et al.": (lambda m, x: Floor.apply((x / m.theta).clamp(0, 1) * 8 + 0.5) / 8 * m.theta, 1.7, 8, ""),
    "clip of floor": (lambda m, x: m.theta * torch.clamp(Floor.apply(x * 8 / m.theta + 0.5) / 8, 0, 1), 1.7, 8, ""),
    "relu first": (lambda m, x: torch.floor(F.relu(x) / m.theta * 4 + 0.5).clamp(max=4) * (m.theta / 4), 1.7, 4, ""),
    "in place": (lambda m, x: (x / m.theta).clamp_(0, 1).mul_(8).add_(0.5).floor_().div_(8).mul_(m.theta), 1.7, 8, ""),
    "computed": (lambda m, x: Floor.apply((x / positive(m)).clamp(0, 1) * 4 + 0.5) / 4 * positive(m), None, 4, ""),
    "LSQ": (lambda m, x: around((x / m.step).clamp(0, 7)) * m.step, 7 * 0.21, 7, ""),
    "LSQ, scaled": (
        lambda m, x: around_backwards((x / gradient_scaled(m.step, 0.1)).clamp(0, 7)) * gradient_scaled(m.step, 0.1),
        7 * 0.21, 7, "",
    ),
    "zero point": (lambda m, x: ((Round.apply(x / m.step) + 3).clamp(3, 10) - 3) * m.step, 7 * 0.21, 7, ""),
    "DoReFa": (lambda m, x: torch.round(x.clamp(0, 1) * 15) / 15, 1.0, 15, ""),
    "hardtanh": (lambda m, x: (F.hardtanh(x, 0, 1) * 15).round().div(15), 1.0, 15, ""),
    "clipped between levels": (lambda m, x: torch.round(x.clamp(0, 0.51) * 16) / 16, 0.5, 8, ""),
    "truncated": (lambda m, x: less((x / m.theta).clamp(0, 1) * 8) / 8 * m.theta, 1.7, 8, "shift"),
    "whole numbers": (lambda m, x: torch.round(x.clamp(0, 1) * 15), 15.0, 15, "gain"),
    "another step": (lambda m, x: torch.round(x.clamp(0, 1) * 15) / 12, 1.25, 15, "gain"),
}  # fmt: skip


def net(formula, theta=1.7):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), Written(formula, theta), nn.Linear(6, 3)).eval()


def data():
    return 2 * torch.randn(200, 6)


@FRONT_ENDS
@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_one_operator(name, by_example):
    formula, theta, levels, change = WRITTEN[name]
    model, x = net(formula), data()
    state = pipe(traced(model, x, by_example), instrument)
    first = {"gain": ["mul"], "shift": ["add"], "": []}[change]
    assert [node.op for node in state.graph] == ["input", "linear", *first, "qcfs", "linear"]
    (site,) = state.sites.values()
    assert (site.cap.parts, site.cap.high) == (levels, levels)
    own = state.params[site.cap.unit.key]
    want = positive(model[1]).item() if theta is None else theta
    assert abs(own.item() - want) <= 4 * torch.finfo(torch.float32).eps * want
    y = model(x)
    limit = bound(torch.float32, max(1.0, y.abs().max().item()))
    assert (to_module(state)(x) - y).abs().max() <= limit
    assert (to_snn(state)(x, T=levels, schedule="layer") - y).abs().max() <= limit
    assert report(to_snn(state)).endswith("\nfully spiking")


@pytest.mark.parametrize(("theta", "axis"), [
    (torch.tensor([[1.0], [2.0], [0.5]])[:, :, None], -3), (torch.tensor([1.0, 2.0, 0.5, 4.0]), -1),
    (torch.tensor([[1.0, 2.0, 0.5, 4.0]]), -1), (torch.tensor([[[2.0]]]), None), (torch.tensor(2.0), None),
], ids=["channels", "features", "row", "one of three axes", "number"])  # fmt: skip
def test_thresholds_of_channels(theta, axis):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), Written(WRITTEN["Bu et al."][0], theta), nn.MaxPool2d(1, 2)).eval()
    x = 2 * torch.randn(5, 2, 4, 4)
    state = pipe(model, trace, instrument)
    node = next(node for node in state.graph if node.op == "qcfs")
    assert node.get("axis") == axis
    assert torch.equal(state.params[node["theta"].key], theta.reshape(-1))
    assert (to_snn(state)(x, T=8, schedule="layer") - model(x)).abs().max() <= bound(torch.float32)


#: Of both signs: formula, step, lowest and highest level, what a zero point may be taken from.
BOTH = {
    "LSQ": (lambda m, x: (x / m.step).round().clamp(-4, 3) * m.step, 0.21, -4, 3),
    "clipped first": (lambda m, x: around((x / m.step).clamp(-4, 3)) * m.step, 0.21, -4, 3),
    "LSQ, scaled": (
        lambda m, x: around_backwards((x / gradient_scaled(m.step, 0.1)).clamp(-4, 3)) * gradient_scaled(m.step, 0.1),
        0.21, -4, 3,
    ),
    "SpikeZIP": (lambda m, x: less(x / m.step + 0.5).clip(-4, 3) * m.step, 0.21, -4, 3),
    "function": (lambda m, x: Round.apply(torch.clamp(x / m.step, -7, 7)) * m.step, 0.21, -7, 7),
    "zero point": (lambda m, x: (((x / m.step).round() + 4).clamp(0, 7) - 4) * m.step, 0.21, -4, 3),
    "zero point inside": (lambda m, x: ((x / m.step + 4).round().clamp(0, 7) - 4) * m.step, 0.21, -4, 3),
    "bytes": (lambda m, x: (torch.clamp(torch.round(x / 0.02) + 128, 0, 255) - 128) * 0.02, 0.02, -128, 127),
    "extremes": (
        lambda m, x: torch.max(torch.min(x.mul(4).round(), torch.tensor(3.0)), torch.tensor(-4.0)) * 0.25, 0.25, -4, 3,
    ),
    "hardtanh": (lambda m, x: torch.round(F.hardtanh(x) * 7) / 7, 1 / 7, -7, 7),
    "ternary": (lambda m, x: x.clamp(-1, 1).round(), 1.0, -1, 1),
}  # fmt: skip
EVERY = instrument(rules=(*SITE_RULES, every_fake_quantize_site))


@FRONT_ENDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", BOTH)
def test_quantisers_of_both_signs_are_one_operator_and_one_neuron(name, dtype, by_example):
    formula, step, low, high = BOTH[name]
    model, x = net(formula).to(dtype), data().to(dtype)
    state = pipe(traced(model, x, by_example), EVERY)
    assert [node.op for node in state.graph] == ["input", "linear", "fake_quantize", "linear"]
    (site,) = state.sites.values()
    assert (site.signed, site.cap.low, site.cap.high) == (True, low, high)
    assert abs(state.params[site.cap.unit.key].item() - step) <= 4 * torch.finfo(torch.float32).eps * step
    y = model(x)
    limit = bound(dtype, max(1.0, y.abs().max().item()))
    assert (to_module(state)(x) - y).abs().max() <= limit
    snn = pipe(state, replace(rules=(matching_levels,)), td_rewrite, to_snn)
    assert (snn(x, T=2 * max(-low, high)) - y).abs().max() <= limit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "axis"), [((3, 1, 1), -3), ((1, 3, 1, 1), -3), ((4,), -1), ((1,), None)], ids=str)
def test_quantisers_of_both_signs_by_channel(shape, axis, dtype):
    step = torch.rand(shape) + 0.2
    model = nn.Sequential(nn.Conv2d(2, 3, 1), Written(lambda m, x: (x / m.theta).round().clamp(-4, 3) * m.theta, step))
    model, x = model.to(dtype).eval(), 2 * torch.randn(5, 2, 4, 4, dtype=dtype)
    state = pipe(model, trace, EVERY)
    node = next(node for node in state.graph if node.op == "fake_quantize")
    assert node.get("axis") == axis
    assert torch.equal(state.params[node["scale"].key], step.reshape(-1).to(dtype))
    assert_same(to_module(state)(x), model(x))
    snn = pipe(state, replace(rules=(matching_levels,)), td_rewrite, to_snn)
    assert (snn(x, T=8) - model(x)).abs().max() <= bound(dtype, 4.0)


def test_the_gradient_in_double_precision_is_torchs():
    x, weight = torch.randn(50, 3), torch.randn(50, 3)
    step = torch.rand(3) / 4 + 0.1

    def gradients(dtype):
        own = x.to(dtype).requires_grad_(), step.to(dtype).requires_grad_()
        return torch.autograd.grad((weight * fake_quantize(*own, 0, -4, 3, -1)).sum(), own)

    for double, single in zip(gradients(torch.float64), gradients(torch.float32), strict=True):
        assert double.dtype == torch.float64
        assert (double - single).abs().max() <= 64 * torch.finfo(torch.float32).eps * (1 + single.abs().max())


#: Of these a part is a staircase, but not the whole.
PARTLY = {"another zero", "two widths", "sloped", "falling", "of data"}

#: Not staircases of equal steps from 0 on: left as they are.
OTHERS = {
    "another zero": lambda m, x: ((x / m.step).round().clamp(0, 7) - 3.4) * m.step,
    "bounds of channels": lambda m, x: torch.minimum(x.round().clamp(min=-4), torch.arange(6.0)),
    "without end": lambda m, x: torch.round(x * 15) / 15,
    "two widths": lambda m, x: torch.floor(x.clamp(0, 1) * 4) + torch.floor(x.clamp(0, 1) * 8),
    "sloped": lambda m, x: torch.floor(x.clamp(0, 1) * 4) + 0.1 * x,
    "off 0": lambda m, x: torch.floor(x.clamp(0.3, 1) * 4) / 4,
    "falling": lambda m, x: torch.floor(x.clamp(0, 1) * 4) * (m.raw - 1),
    "cut between levels": lambda m, x: (torch.floor(x * 4) / 4).clamp(0, 0.6),
    "of data": lambda m, x: torch.floor((x / x.abs().amax(1, keepdim=True)).clamp(0, 1) * 4) / 4 * x.abs().amax(),
    "two axes": lambda m, x: torch.floor((x / m.theta).clamp(0, 1) * 4) / 4 * m.theta,
    "another straight line": lambda m, x: x + (x.round() - 2 * x).detach(),
}


@pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_staircase_is_left_alone(name):
    wide = torch.rand(200, 6) + 0.5 if name == "two axes" else 1.7
    model, x = net(OTHERS[name], wide), data()
    state, untouched = pipe(model, trace, instrument), trace(model)
    assert ("qcfs" in {node.op for node in state.graph}) == (name in PARTLY)
    assert state.graph.producer(next(n for n in state.graph if n.name == "_2")["input"]).op != "qcfs"
    y = model(x)
    limit = bound(torch.float32, max(1.0, y.abs().max().item()))
    assert_same(to_module(untouched)(x), y)
    assert (to_module(state)(x) - y).abs().max() <= limit
    exact = pipe(model, trace, td_rewrite, to_snn)
    assert (exact(x, T=2) - y).abs().max() <= limit


def test_the_trial_finds_a_wrong_staircase():
    """A step, a width, a number of levels or a place that the nodes do not have."""
    state = trace(net(WRITTEN["Bu et al."][0]))
    node = next(node for node in state.graph if node.op == "linear" and node.name != "_0")
    last = state.graph[node["input"].name]
    form = form_of(Ref(last.name), state.graph, state.params)
    line, step = form.of, form.scale

    def tried(line=line, step=step, levels=8):
        return _is_staircase(last, state.graph, state.params, line, step, levels)

    assert tried()
    assert not tried(levels=7)
    assert not tried(levels=9)
    assert not tried(step=1.001 * step)
    assert not tried(line=line.shifted(torch.tensor(0.01, dtype=torch.float64)))
    assert not tried(line=line.scaled(torch.tensor(1.01, dtype=torch.float64)))


def test_what_else_is_read_of_it_stays():
    class Both(Written):
        def forward(self, x):
            u = (x / self.theta).clamp(0, 1)
            return Floor.apply(u * 8 + 0.5) / 8 * self.theta + u

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 6), Both(None), nn.Linear(6, 3)).eval(), data()
    state = pipe(model, trace, instrument)
    assert sorted(node.op for node in state.graph) == ["add", "clamp", "div", "input", "linear", "linear", "qcfs"]
    assert (to_module(state)(x) - model(x)).abs().max() <= bound(torch.float32, 4.0)
    assert {site.cap if isinstance(site.cap, float) else site.cap.high for site in state.sites.values()} == {1.0, 8}
