"""Graphs are held against the model on the example: what slipped through is named, and what is right passes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import InputError, StageError, TraceError, pipe, td_rewrite, to_module, to_snn, trace
from snnpipe.frontend import symbolic
from snnpipe.frontend.spellings import KNOWN

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(self.act(self.a(x)))


def test_a_right_graph_passes_and_the_history_says_so():
    state = trace(Net().eval(), check=X)
    assert "held against the model" in state.history[0].detail


def test_a_wrong_spelling_is_found_and_the_first_module_named(monkeypatch):
    monkeypatch.setitem(KNOWN, torch.tanh, KNOWN[torch.sigmoid])
    with pytest.raises(TraceError, match=r"first in module 'act'.*relative difference"):
        trace(Net().eval(), check=X)
    trace(Net().eval())  # without an example nobody sees it


def test_another_type_is_found(monkeypatch):
    monkeypatch.setitem(KNOWN, torch.tanh, KNOWN["double"])
    with pytest.raises(TraceError, match=r"cannot be run on the example.*Double"):
        trace(Net().eval(), check=X)


class OwnNoise(Net):
    """A generator of its own, which nobody else can see."""

    def __init__(self):
        super().__init__()
        self.draw = iter(torch.rand(1000).tolist())

    def forward(self, x):
        return super().forward(x) * next(self.draw)


def test_a_model_that_answers_otherwise_each_time_is_refused():
    for options in ({"check": X}, {"example": X}, {}):
        with pytest.raises(TraceError):
            trace(OwnNoise().eval(), **options)


def test_rounding_is_no_difference():
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU())))
    model.append(nn.TransformerEncoderLayer(64, 4, batch_first=True))
    trace(model.eval(), check=torch.randn(2, 7, 64))
    trace(model.eval(), example=torch.randn(2, 7, 64))


class OneIsSpecial(nn.Module):
    def forward(self, x):
        return 2 * x if x.shape[0] == 1 else 3 * x


class OneIsSqueezed(nn.Module):
    def forward(self, x):
        y = x * 1
        y.squeeze(0).mul_(2)
        return y


@pytest.mark.parametrize("kind", [OneIsSpecial, OneIsSqueezed])
def test_a_batch_of_one_is_right_or_refused(kind):
    model = kind()
    for example in (X[:1], X):
        snn = pipe(model, trace(example=example), td_rewrite, to_snn)
        for x in (X[:1], X[:2], X):
            try:
                y = snn(x, T=2)
            except InputError:
                assert len(x) != len(example)
                continue
            torch.testing.assert_close(y, model(x))


def test_a_loop_over_the_batch_is_for_that_batch():
    class Loop(nn.Module):
        def forward(self, x):
            return sum(row for row in x)

    snn = pipe(Loop(), trace(example=X), td_rewrite, to_snn)
    torch.testing.assert_close(snn(X, T=2), X.sum(0))
    with pytest.raises(InputError, match="traced for"):
        snn(X[:3], T=2)


class Branch(nn.Module):
    def __init__(self, features=3):
        super().__init__()
        self.w = nn.Parameter(torch.ones(features) * 2)

    def forward(self, x, scale=1.0):
        y = x * self.w if x.sum() > 0 else -x
        return {"y": y, "rest": (y * scale, x.sum(0))}


class WithLeaves(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.first, self.inner = nn.Linear(4, 3), Branch(), nn.ModuleList([Branch()])

    def forward(self, x):
        h = self.first(F.relu(self.a(x)))
        again = self.first(h["rest"][0], scale=0.5)
        last = self.inner[0](again["y"])
        return last["y"] + h["rest"][1]


def test_leaves_with_an_example():
    model = WithLeaves().eval()
    state = trace(model, example=X, leaves=(Branch,))
    assert {"a.weight", "first.w", "inner.0.w"} <= set(state.params)
    assert sum(node.op == "call" for node in state.graph) == 3
    snn = pipe(state, td_rewrite, to_snn)
    for x in (X, -X, X[:2]):
        torch.testing.assert_close(snn(x, T=2), model(x))
    with pytest.raises(TraceError, match=r"leaves=\(Branch,\)"):
        trace(model, example=X)


def test_options_that_exclude_each_other():
    with pytest.raises(StageError, match="symbolic"):
        trace(Net(), example=X, check=X)


def test_export_says_nothing_but_its_error(capfd):
    with pytest.raises(TraceError):
        trace(WithLeaves(), example=X)
    with pytest.raises(TraceError):
        trace(WithLeaves())
    out, err = capfd.readouterr()
    assert out + err == ""


def test_a_place_in_another_library_is_not_torchs():
    from snnpipe.frontend.places import is_users_file

    inside = torch.__file__
    assert not is_users_file(inside)
    assert is_users_file(inside.replace("/torch/", "/torchvision/"))
    assert not is_users_file(symbolic.__file__)


def test_the_graph_of_a_check_is_the_graph_without_it():
    assert str(trace(Net().eval(), check=X).graph) == str(trace(Net().eval()).graph)
    torch.testing.assert_close(pipe(Net().eval(), trace(check=X), to_module)(X).shape, (5, 2))


def test_a_decoder_is_told_to_leave_out_its_cache():
    class Decoder(nn.Module):
        def forward(self, x, use_cache=True):
            return x if x.sum() > 0 else -x

    for options in ({}, {"example": X}):
        with pytest.raises(TraceError, match=r"constants=\{'use_cache': False\}"):
            trace(Decoder(), **options)
