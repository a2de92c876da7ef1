"""Networks with torch's fake quantisation: one operator for both front ends, and neurons that need no data."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.library import opcheck

from snnpipe import (
    StageError,
    TraceError,
    fixed,
    instrument,
    pipe,
    replace,
    report,
    signed_memory,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.kernels.multilevel import cascade, graded, st_bif
from snnpipe.ops.quantisers import QCFS
from snnpipe.rules.sites import SITE_RULES, every_fake_quantize_site
from snnpipe.stages.matching import matching_levels
from tests.helpers import EPS, assert_same, bound
from tests.test_importers import FRONT_ENDS, net, points, traced, wide

ao = pytest.importorskip("torch.ao.quantization")
FakeQuantize, disable_observer = ao.FakeQuantize, ao.disable_observer
MinMaxObserver, MovingAverageMinMaxObserver = ao.MinMaxObserver, ao.MovingAverageMinMaxObserver
_LearnableFakeQuantize = pytest.importorskip("torch.ao.quantization._learnable_fake_quantize")._LearnableFakeQuantize


def test_torch_finds_the_operator_well_made():
    parameters = (torch.ones(1), torch.zeros(1, dtype=torch.int32), 0, 7, None)
    opcheck(torch.ops.snnpipe.fake_quantize.default, (torch.randn(2, 3), *parameters))


# both front ends


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
    "average": lambda: FakeQuantize(MovingAverageMinMaxObserver, qscheme=torch.per_tensor_symmetric, **SIGNED),
    "affine": lambda: FakeQuantize(MovingAverageMinMaxObserver, **SIGNED),
    "fused": lambda: ao.FusedMovingAvgObsFakeQuantize(MovingAverageMinMaxObserver, **UNSIGNED),
    "channels": lambda: FakeQuantize(ao.PerChannelMinMaxObserver, **CHANNELS),
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
    model.apply(ao.disable_fake_quant)
    state = traced(model, x, by_example)
    assert "fake_quantize" not in {node.op for node in state.graph}
    assert_same(to_module(state)(x), model(x))


def test_it_may_lie_in_a_module_that_is_kept_whole():
    class Block(nn.Sequential):
        pass

    globals()["Block"], Block.__qualname__ = Block, "Block"
    x = torch.randn(16, 6)
    model = nn.Sequential(Block(*observed(QUANTISERS["plain"](), x)))
    state = trace(model, leaves=(Block,))
    assert [node.op for node in state.graph] == ["input", "call"]
    assert_same(to_module(state)(x), model(x))
    td = pipe(state, td_rewrite, to_snn)
    assert_same(pickle.loads(pickle.dumps(td))(x, T=2), td(x, T=2))


def test_a_forward_of_ones_own_is_followed():
    class Twice(FakeQuantize):
        def forward(self, x):
            return torch.fake_quantize_per_tensor_affine(x, 0.125, 0, 0, 15) * 2

    model, x = net(Twice(MinMaxObserver, **UNSIGNED)), torch.randn(5, 6)
    assert_same(to_module(trace(model))(x), model(x))


# sites


def quantised(model, x, make):
    """The model with a fake quantisation behind every ReLU, its range taken from x."""
    layers = [part for layer in model for part in ((layer, make()) if isinstance(layer, nn.ReLU) else (layer,))]
    model = nn.Sequential(*layers).train()
    model(x)
    model.apply(disable_observer)
    return model.eval()


def relus(seed=0):
    return wide(nn.ReLU(), nn.ReLU(), seed=seed).float()


@FRONT_ENDS
@pytest.mark.parametrize("name", ["plain", "average", "fused"])
def test_a_quantised_relu_is_one_site_without_data(name, by_example):
    """A signed quantiser behind a ReLU has no level below 0 either."""
    x = points().float()
    model = quantised(relus(), x, QUANTISERS[name])
    state = pipe(traced(model, x, by_example), instrument)
    assert_same(to_module(state)(x), model(x))
    assert [node.op for node in state.graph] == ["input", *["linear", "fake_quantize"] * 2, "linear"]
    n = state.sites["_2"].cap.high
    assert n == (7 if name == "average" else 15)
    snn = to_snn(state)
    scale = model[2].scale.item()
    assert abs(snn.neurons()["2__if0"].threshold.item() - n * scale) <= 2 * EPS[torch.float32] * n * scale
    want = model(x)
    assert (snn(x, T=n, schedule="layer") - want).abs().max() <= bound(torch.float32, want.abs().max().item() * n)
    td = pipe(state, replace(rules=(matching_levels,)), td_rewrite, to_snn)
    assert (td(x, T=2 * n) - want).abs().max() <= bound(torch.float32, want.abs().max().item() * n)


def test_quantised_channels_keep_their_scales():
    x = points().float()
    model = quantised(relus(), x, QUANTISERS["channels"])
    snn = pipe(model, trace, replace(rules=(matching_levels,)), td_rewrite, to_snn)
    assert [n.threshold.numel() for n in snn.neurons().values()] == [8, 8]
    want = model(x)
    assert (snn(x, T=2 * 7) - want).abs().max() <= bound(torch.float32, 7 * want.abs().max().item())


@pytest.mark.parametrize(("activation", "high", "sites"), [(nn.ReLU6(), 6.0, 1), (nn.Hardtanh(0, 1), 6.0, 2)], ids=str)
def test_a_cap_above_the_highest_level_says_nothing(activation, high, sites):
    fq = FakeQuantize(MinMaxObserver, **UNSIGNED)
    fq.scale.fill_(high / 15)
    model = nn.Sequential(nn.Linear(8, 8), activation, fq, nn.Linear(8, 2)).apply(disable_observer).eval()
    state, x = pipe(model, trace, instrument), 4 * points().float()
    assert len(state.sites) == sites
    assert_same(to_module(state)(x), model(x))


def signed_model(x):
    """Quantised everywhere: the input, in front of the last layer without an activation, and the output."""
    make = QUANTISERS["average"]
    layers = (make(), nn.Linear(8, 8), nn.ReLU(), make(), nn.Linear(8, 8), make(), nn.Linear(8, 3), make())
    torch.manual_seed(1)
    model = nn.Sequential(*layers).train()
    model(x)
    return model.apply(disable_observer).eval()


def test_values_of_both_signs_are_left_as_they_are_unless_asked():
    x = points().float()
    model = signed_model(x)
    state = pipe(model, trace, instrument)
    assert [site.name for site in state.sites.values()] == ["3"]
    deep = nn.Sequential(*model, nn.Linear(3, 3), QCFS(7, 1.0))
    snn = pipe(deep, trace, to_snn)
    assert "not fully spiking: graded units 5 (fake_quantize), 7 (fake_quantize)" in report(snn)
    assert (snn(x, T=7, schedule="layer") - deep(x)).abs().max() <= bound(torch.float32)


def test_values_of_both_signs_with_neurons_that_keep_the_levels():
    x = points().float()
    model, rules = signed_model(x), (*SITE_RULES, every_fake_quantize_site)
    state = pipe(model, trace, instrument(rules=rules))
    found = [(site.cap.low, site.cap.high, site.signed) for site in state.sites.values()]
    assert found == [(-8, 7, True), (0, 7, False), (-8, 7, True), (-8, 7, True)]
    for neuron in (cascade(n=4), signed_memory(), st_bif(levels=7), graded(parts=8)):
        with pytest.raises(StageError, match=r"levels -8..7 of %0.scale, .*matching_levels"):
            replace(state, neuron=neuron)
    with pytest.raises(StageError, match="says nothing below zero"):
        replace(state)
    with pytest.raises(StageError, match="does not keep within them"):
        replace(state, rules=(matching_levels,), threshold=fixed(1.0))
    td = pipe(state, replace(rules=(matching_levels,)), td_rewrite, to_snn)
    want = model(x)
    assert (td(x, T=4 * 15) - want).abs().max() <= bound(torch.float32, 8 * want.abs().max().item())
    assert report(td).endswith("\nfully spiking")


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:.*reduce_range will be deprecated")
def test_a_model_prepared_by_torch():
    """prepare_qat: fake quantisation of weights, and of activations by hooks."""
    x = points().float()
    model = ao.fuse_modules_qat(relus().train(), [["0", "1"], ["2", "3"]])
    model.qconfig = ao.get_default_qat_qconfig("fbgemm")
    model = ao.prepare_qat(model)
    model(x)
    model.apply(disable_observer).eval()
    state = trace(model)
    assert_same(to_module(state)(x), model(x))
    snn = to_snn(state)
    highest = 2**7 - 1  # fbgemm leaves a bit; the output is quantised too, so a level may be missed by one
    assert [n.threshold.numel() for n in snn.neurons().values()] == [1, 1]
    assert (snn(x, T=highest, schedule="layer") - model(x)).abs().max() <= model[4].activation_post_process.scale
