"""Every law against every awkward network, and the details single patterns are known for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from snnpipe import TD, calibrate, fuse, instrument, maximum, pipe, td_rewrite, to_module, to_snn, trace
from tests.catalogue import CASES, NAMES, named
from tests.helpers import (
    assert_close,
    assert_converges,
    assert_same,
    assert_untouched,
    mlp,
    snapshot,
    spiking,
    vectors,
)  # fmt: skip

# small nets may have dead units; that they are handled is test_replace's business
pytestmark = [
    pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning"),
    pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning"),
]

every_case = pytest.mark.parametrize("case", CASES, ids=NAMES)


def batch_of(inputs):
    """One calibration batch for a model with these positional inputs."""
    return inputs if len(inputs) > 1 else inputs[0]


def split(value, steps):
    """Random events that sum to ``value`` over time; whole numbers cannot be split, they stay."""
    if isinstance(value, dict):
        return {key: split(item, steps) for key, item in value.items()}
    parts = torch.randn(steps - 1, *value.shape, dtype=value.dtype)
    return torch.cat([parts, value[None] - parts.sum(0, keepdim=True)])


def upto(value, t):
    if isinstance(value, dict):
        return {key: upto(item, t) for key, item in value.items()}
    return value[:t].sum(0)


@every_case
@pytest.mark.parametrize(
    "stages", [(), (fuse,), (instrument,), (fuse, instrument)], ids=["no stage", "fuse", "instrument", "both"]
)
def test_each_stage_keeps_the_function(case, stages):
    model, inputs = case.ready()
    module = pipe(model, trace(**case.options), *stages, to_module)
    assert_close(module(*inputs), model(*inputs))


@every_case
def test_the_model_is_untouched(case):
    model, inputs = case.ready()
    before = snapshot(model)
    spiking(model, batch_of(inputs), **case.options)(*inputs, T=2)
    assert_untouched(before, model)


@every_case
def test_one_neuron_layer_per_call(case):
    model, inputs = case.ready()
    assert len(spiking(model, batch_of(inputs), **case.options).neurons()) == case.sites


@every_case
def test_temporal_difference_is_exact_at_every_prefix(case):
    model, inputs = case.ready()
    td = pipe(model, trace(**case.options), fuse, td_rewrite, to_snn)
    if not any(leaf.is_floating_point() for leaf in pytree.tree_leaves(inputs)):
        for T in (1, 3):
            assert_close(td(*inputs, T=T), model(*inputs))
        return
    events = tuple(split(value, 4) for value in inputs)
    y = td.sequence(*events)
    for t in range(1, 5):
        decoded = pytree.tree_map(lambda leaf, t=t: leaf[:t].sum(0), y)
        assert_close(decoded, model(*(upto(value, t) for value in events)), depth=64)


@every_case
def test_rate_converges(case):
    model, inputs = case.ready()
    snn = spiking(model, batch_of(inputs), **case.options)
    want = model(*inputs)
    if case.sites == 0:
        assert_close(snn(*inputs, T=3), want)
    else:
        assert_converges(snn, inputs, want)


@every_case
def test_another_batch_size(case):
    model, inputs = case.ready()
    snn = spiking(model, batch_of(inputs), **case.options)
    fewer = pytree.tree_map(lambda leaf: leaf[:2], inputs)
    whole, part = snn(*inputs, T=4), snn(*fewer, T=4)
    if "no running statistics" not in case.name:
        assert_close(part, pytree.tree_map(lambda leaf: leaf[:2], whole))
    assert_same(snn(*inputs, T=4), whole)


def test_tied_weights_stay_tied_until_one_is_folded():
    model, _ = named("P4")[0].ready()
    state = trace(model)
    a, b = (node["weight"] for node in state.graph if node.op == "linear")
    assert state.params[a.key] is state.params[b.key]
    folded = fuse(state)
    a, b = (folded.params[node["weight"].key] for node in folded.graph if node.op == "linear")
    assert not torch.equal(a, b)
    assert torch.equal(b, model.b.weight)


def test_shared_relu_has_two_thresholds():
    model, (x,) = named("P2")[0].ready()
    first, second = pipe(model, trace, instrument(statistic=maximum()), calibrate([x])).statistics.values()
    h = F.relu(model.a(x))
    assert_same(first.max, h.amax(0))
    assert_same(second.max, F.relu(model.b(h)).amax(0))


def test_buffers_changed_in_forward_stay_as_they_were():
    model, (x,) = named("P19")[0].ready()
    spiking(model, x)(x, T=2)
    assert model.calls == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_model_is_kept(dtype):
    model = mlp().to(dtype)
    x = vectors().to(dtype)
    snn = spiking(model, x)
    assert {tensor.dtype for tensor in snn.state_dict().values()} == {dtype}
    assert_close(pipe(model, trace, to_module)(x), model(x))
    got = snn(x, T=64)
    assert got.dtype == dtype
    assert F.mse_loss(got.double(), model(x).double()).sqrt() < 0.05 * model(x).double().norm()


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, nn.Sequential], ids=lambda w: w.__name__)
def test_wrapped_models(wrap):
    model, x = mlp(), vectors()
    assert_converges(spiking(wrap(model), x), (x,), model(x))


def test_a_model_in_training_mode_is_converted_as_in_evaluation():
    case = named("P16 Linear, norm on (N, C)")[0]
    model, (x,) = case.ready()
    want = model(x)
    model.train()
    before = snapshot(model)
    assert_close(pipe(model, trace, fuse, to_module)(x), want)
    assert_untouched(before, model)


def norms():
    p = nn.utils.parametrizations
    return {
        "weight_norm": lambda layer: nn.utils.weight_norm(layer),
        "spectral_norm": lambda layer: nn.utils.spectral_norm(layer),
        "parametrized weight_norm": p.weight_norm,
        "parametrized spectral_norm": p.spectral_norm,
        "orthogonal": p.orthogonal,
    }


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", norms())
def test_normalised_weights_become_plain_weights(norm):
    apply = norms()[norm]
    model = nn.Sequential(apply(nn.Linear(6, 6)), nn.ReLU(), apply(nn.Linear(6, 2))).double().eval()
    x = vectors()
    state = trace(model)
    assert set(state.params) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert_close(to_module(state)(x), model(x))
    before = snapshot(model)
    assert_converges(spiking(model, x), (x,), model(x))
    assert_untouched(before, model)


def test_td_of_a_constant_input_is_exact_at_every_length():
    model, x = mlp(), vectors()
    td = pipe(model, trace, td_rewrite(code=TD), to_snn)
    for T in (1, 2, 8):
        assert_close(td(x, T=T), model(x))
