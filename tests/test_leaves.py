"""Modules kept as one call: whatever their ``forward`` does to tensors, it does to private copies."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    UnsupportedError,
    calibrate,
    digest,
    fixed,
    fuse,
    instrument,
    maximum,
    pipe,
    replace,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from tests.helpers import assert_close, assert_same, settled, vectors


class Branching(nn.Module):
    """Cannot be followed, so that it must be a leaf."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        return self.a(x) if x.sum() > -1e9 else x


class CountsItsCalls(Branching):
    def forward(self, x):
        self.calls += 1
        return super().forward(x) + 0.1 * self.calls


class WritesToItsInput(Branching):
    def forward(self, x):
        return super().forward(F.relu(x, inplace=True))


KINDS = (Branching, CountsItsCalls, WritesToItsInput)


def around(leaf):
    """A network with a leaf first, and one before and behind a neuron."""
    return settled(nn.Sequential(leaf(), nn.Linear(6, 6), leaf(), nn.ReLU(), leaf(), nn.Linear(6, 3)))


@pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
@pytest.mark.parametrize("leaf", KINDS)
def test_leaves_change_neither_state_nor_network(leaf):
    model, x = around(leaf), vectors()
    state = pipe(model, trace(leaves=(leaf,)), fuse, instrument(statistic=maximum()))
    before = digest(state)
    ready = calibrate([x])(state)
    assert digest(state) == before
    snn = to_snn(ready)
    saved = {key: value.clone() for key, value in snn.state_dict().items()}
    first = snn(x, T=3)
    assert_same(snn(x, T=3), first)
    assert_same(dict(snn.state_dict()), saved)
    assert model[0].calls == 0


@pytest.mark.parametrize("leaf", [Branching, WritesToItsInput])
def test_leaves_are_exact_in_time(leaf):
    model = around(leaf)
    td = pipe(model, trace(leaves=(leaf,)), td_rewrite, to_snn)
    events = torch.randn(5, 4, 6, dtype=torch.float64)
    kept = events.clone()
    y = td.sequence(events).cumsum(0)
    for t in range(5):
        assert_close(y[t], model(kept[: t + 1].sum(0)), depth=64)
    assert torch.equal(events, kept)


@pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")
@pytest.mark.parametrize("leaf", KINDS)
def test_the_users_input_is_unchanged(leaf):
    model, x = settled(nn.Sequential(leaf(), nn.Linear(6, 3))), vectors()
    kept = x.clone()
    pipe(model, trace(leaves=(leaf,)), to_snn)(x, T=2)
    pipe(model, trace(leaves=(leaf,)), replace(threshold=fixed(1.0)), to_snn)(x, T=2)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("leaf", [Branching, WritesToItsInput])
def test_a_leaf_called_twice(leaf):
    inner = leaf()
    model, x = settled(nn.Sequential(inner, nn.Tanh(), inner)), vectors()
    assert_close(pipe(model, trace(leaves=(leaf,)), to_module)(x), model(x.clone()))


def test_torchs_own_modules_that_cannot_be_followed_stay_whole():
    layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True)
    for inner in (nn.GRU(6, 6, batch_first=True, bidirectional=True), layer, nn.InstanceNorm1d(4)):
        model, x = settled(nn.Sequential(inner)), torch.randn(3, 4, 6, dtype=torch.float64)
        assert_close(pipe(model, trace, to_module)(x), model(x))


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_attention_with_dropout_is_random(p):
    class Attending(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x, dropout_p=p)

    if p:
        with pytest.raises(UnsupportedError, match="random"):
            trace(Attending())
    else:
        assert trace(Attending()).graph


def test_a_random_activation_in_evaluation_mode_is_not_random():
    model, x = nn.RReLU().eval(), vectors()
    assert_close(pipe(model, trace, to_module)(x), model(x))
