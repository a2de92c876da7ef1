"""Saving, copying and moving a converted network."""

import copy
import pickle

import pytest
import torch
from torch import nn

from snnpipe import fixed, pipe, replace, td_rewrite, to_snn, trace
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
