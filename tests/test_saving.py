"""Saving, copying and moving a converted network."""

import copy
import pickle

import pytest
import torch
from torch import nn

from snnpipe import fixed, pipe, replace, td_rewrite, to_module, to_snn, trace
from tests.helpers import assert_converges, assert_same, cnn, mlp, spiking, vectors


def test_state_dict_has_the_keys_of_the_ann(x):
    model = mlp()
    own = spiking(model, vectors()).state_dict()
    assert model.state_dict().keys() <= own.keys()
    assert all(torch.equal(own[key], value) for key, value in model.state_dict().items())
    assert all("threshold" in key for key in own.keys() - model.state_dict().keys())
    folded = spiking(cnn(), x).state_dict()
    assert {"3.weight", "7.weight", "7.bias"} <= folded.keys()
    assert not any("weights." in key for key in folded)


def test_tied_weights_are_saved_under_all_their_names():
    model = mlp()
    model = nn.Sequential(*model[:3], nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10)).double()
    model[6].weight = model[4].weight
    snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    assert model.state_dict().keys() <= snn.state_dict().keys()
    assert not snn.load_state_dict(model.state_dict(), strict=False).unexpected_keys


def test_a_failed_load_speaks_of_the_keys_of_the_ann(snn):
    with pytest.raises(RuntimeError) as caught:
        snn.load_state_dict({})
    assert "weights." not in str(caught.value)


@pytest.mark.parametrize("nested", [False, True])
def test_state_dict_round_trip(snn, x, nested):
    torch.manual_seed(7)
    other = spiking(cnn(), 2 * x)
    a, b = (nn.ModuleDict({"body": net, "extra": nn.Linear(2, 2)}) if nested else net for net in (snn, other))
    want = snn(x, T=5)
    assert not torch.equal(other(x, T=5), want)
    result = b.load_state_dict(a.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert_same(other(x, T=5), want)
    with pytest.raises(RuntimeError, match="Missing"):
        b.load_state_dict({})


def test_saved_weights_load_with_weights_only(snn, tmp_path):
    torch.save(snn.state_dict(), tmp_path / "snn.pt")
    loaded = torch.load(tmp_path / "snn.pt", weights_only=True)
    assert_same(dict(loaded), dict(snn.state_dict()))


def pickled(net):
    return pickle.loads(pickle.dumps(net))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
@pytest.mark.parametrize("build", [lambda x: spiking(cnn(), x), lambda x: pipe(cnn(), trace, td_rewrite, to_snn)])
def test_copies_work_and_share_nothing(build, x, copied):
    snn = build(x)
    want = snn(x, T=4)
    twin = copied(snn)
    assert_same(twin(x, T=4), want)
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.zero_()
    assert_same(snn(x, T=4), want)
    assert not torch.equal(twin(x, T=4), want)
    assert twin.neurons().keys() == snn.neurons().keys()


def test_to_changes_dtype():
    model = mlp().float()
    x = vectors().float()
    snn = spiking(model, x).to(torch.float64)
    assert {tensor.dtype for tensor in snn.state_dict().values()} == {torch.float64}
    assert_converges(snn, (x.double(),), model.double()(x.double()))


def test_names_of_parameters_are_the_keys_of_the_state(snn, x):
    named = {name for name, _ in [*snn.named_parameters(), *snn.named_buffers()]}
    assert named == set(snn.state_dict())
    want = snn(x, T=4)
    assert_same(torch.func.functional_call(snn, snn.state_dict(), (x,), {"T": 4}), want)
    silent = {name: torch.zeros_like(p) for name, p in snn.named_parameters()}
    assert not torch.func.functional_call(snn, silent, (x,), {"T": 4}).any()
    assert_same(snn(x, T=4), want)
    slopes = torch.func.grad(lambda p: torch.func.functional_call(snn, p, (x,), {"T": 4}).sum())
    assert slopes(dict(snn.named_parameters())).keys() == dict(snn.named_parameters()).keys()
    assert snn.get_submodule("3").weight is snn.get_parameter("3.weight")
    assert snn.weights is snn


def test_a_shallow_copy_shares_the_tensors(snn, x):
    twin = copy.copy(snn)
    assert_same(twin(x, T=3), snn(x, T=3))
    assert all(a is b for a, b in zip(twin.parameters(), snn.parameters(), strict=True))


def test_to_meta_and_back(snn, x):
    empty = copy.deepcopy(snn).to("meta")
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    empty.load_state_dict(snn.state_dict(), assign=True)
    assert_same(empty(x, T=3), snn(x, T=3))


def test_tied_weights_stay_tied():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).double()
    model[4].weight = model[2].weight
    snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    for net in (snn, copy.deepcopy(snn), pickled(snn), copy.deepcopy(snn).half()):
        assert net.get_parameter("2.weight") is net.get_parameter("4.weight")
        assert len(list(net.parameters())) == 5


@pytest.mark.parametrize("front", ["fx", "export"])
@pytest.mark.parametrize("where", ["network", "model", "both"])
def test_made_under_inference_mode(where, front):
    with torch.inference_mode(where != "network"):
        model, x = mlp(), vectors()
    with torch.inference_mode(where != "model"):
        options = {} if front == "fx" else {"example": x}
        snn = spiking(model, x, **options)
        ann = pipe(model, trace(**options), to_module)
    x = x.clone()
    snn.requires_grad_()
    optimiser = torch.optim.SGD(snn.parameters(), lr=0.1)
    before = snn.get_parameter("0.weight").detach().clone()
    (snn(x, T=4).square().sum() + ann(x).sum()).backward()
    optimiser.step()
    assert not torch.equal(before, snn.get_parameter("0.weight"))
    assert not any(tensor.is_inference() for tensor in [*snn.state_dict().values(), *ann.state_dict().values()])
