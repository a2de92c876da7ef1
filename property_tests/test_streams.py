"""Runs in pieces: a sequence cut anywhere, its state carried, is the whole; what is static stays."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    InputError,
    TraceError,
    account,
    calibrate,
    cascade,
    events,
    geometric,
    low_pass,
    pipe,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*never fired")


class Attention(nn.Module):
    """Nonlinear operators, products and neurons; a float mask, and a time step that scales."""

    def __init__(self):
        super().__init__()
        self.a, self.qkv, self.b = nn.Linear(6, 8), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x, mask, step):
        h = self.a(x).relu() * (1 + step)
        q, k, v = self.qkv(h).chunk(3, -1)
        return self.b(((q @ k.transpose(-2, -1) + mask).softmax(-1) @ v).relu() + step), h.sum(-1)


def made(seed=0):
    torch.manual_seed(seed)
    mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    return Attention().double().eval(), (mask.double(), torch.rand(2, 1, 1).double())


def network(code, neuron=None, seed=0, **options):
    model, rest = made(seed)
    state = trace(static=("mask", "step"), **options)(model)
    if neuron is not None:
        state = pipe(state, calibrate([(torch.randn(2, 4, 6).double(), *rest)]), replace(neuron=neuron))
    return model, rest, pipe(state, td_rewrite(code=code), to_snn)


#: For what does not depend on what is drawn.
made_once = cache(network)


def stream(T, seed):
    return torch.randn(T, 2, 4, 6, generator=torch.Generator().manual_seed(seed)).double()


CODES = [RATE, TD, DIFFERENTIAL, geometric(1.5), low_pass(3.0)]
NEURONS = [None, signed_memory(), cascade(n=3)]


@pytest.mark.parametrize("code", CODES, ids=str)
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@given(cuts=st.lists(st.integers(1, 39), max_size=4), seed=st.integers(0, 99))
def test_a_sequence_cut_anywhere_is_the_whole(code, neuron, cuts, seed):
    _, rest, snn = made_once(code, neuron)
    x = stream(40, seed)
    whole = snn.sequence(x, *rest)
    state, found = snn.init(), []
    for part in x.tensor_split(sorted(set(cuts))):
        before = state
        state, y = snn.sequence(part, *rest, state=state)
        assert before.t + len(part) == state.t
        found.append(y)
    for k in range(2):
        assert torch.equal(torch.cat([y[k] for y in found]), whole[k])
    again = snn.sequence(x[:1], *rest, state=before)[1]  # a state may be gone on from twice
    assert all(torch.equal(a, b) for a, b in zip(again, snn.sequence(x[:1], *rest, state=before)[1], strict=True))


@pytest.mark.parametrize("code", CODES, ids=str)
@given(first=st.integers(0, 5), seed=st.integers(0, 99))
def test_steps_and_sequences_may_take_turns(code, first, seed):
    _, rest, snn = made_once(code, signed_memory())
    x = stream(8, seed)
    state, found = snn.init(x[0], *rest), []
    for x_t in x[:first]:
        state, y = snn.step(state, x_t, *rest)
        found.append(y[0])
    state, y = snn.sequence(x[first:-1], *rest, state=state)
    last = snn.step(state, x[-1], *rest)[1][0]
    whole = snn.sequence(x, *rest)[0]
    torch.testing.assert_close(torch.cat([*(v[None] for v in found), y[0], last[None]]), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("code", [RATE, TD, geometric(1.5)], ids=str)
@pytest.mark.parametrize("front", ["fx", "export"])
def test_the_law_holds_beside_static_inputs(code, front):
    """Without neurons the decoded output is the ANN's, static inputs as they are, at every step."""
    x = stream(5, 3)
    model, rest = made()
    options = {"example": (x[0], *rest)} if front == "export" else {}
    _, _, snn = network(code, **options)
    X, decoded = None, None
    for t, (x_t, y_t) in enumerate(zip(x, snn.sequence(x, *rest)[0], strict=True), 1):
        clock = code.clock(t)
        X = clock.a * x_t if X is None else clock.alpha * X + clock.a * x_t
        decoded = clock.a * y_t if decoded is None else clock.alpha * decoded + clock.a * y_t
        torch.testing.assert_close(decoded, model(X, *rest)[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(snn(x, *rest, T=5, encoding=events())[0], decoded, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(snn(x[0], *rest, T=5)[0], model(x[0], *rest)[0], rtol=1e-9, atol=1e-9)


def test_what_is_static_costs_once_and_survives_every_stage():
    _, rest, snn = network(RATE, signed_memory())
    x = stream(4, 0)
    counted = account(snn, x, *rest, T=4, encoding=events())
    assert counted.batch == 2
    model, _ = made()
    edited = trace(static=("mask", "step"))(model).edit(lambda module: None)
    assert [node.get("static", False) for node in edited.graph.inputs] == [False, True, True]
    y = pipe(edited, td_rewrite, to_snn).sequence(x, *rest)[0]
    torch.testing.assert_close(y.sum(0), model(x.sum(0), *rest)[0], rtol=1e-9, atol=1e-9)


class Stateful(nn.Module):
    """An argument that is called like an option of ``sequence``."""

    def forward(self, x, state):
        return x * 2 + state


def test_an_argument_called_state_is_given_by_position():
    snn = pipe(Stateful(), trace, td_rewrite, to_snn)
    x, s = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    torch.testing.assert_close(snn.sequence(x, s).sum(0), 2 * x.sum(0) + s.sum(0))
    state, _ = snn.sequence(x, s, state=snn.init())
    torch.testing.assert_close(snn.sequence(x, s, state=state)[1].sum(0), 2 * x.sum(0) + s.sum(0))
    with pytest.raises(InputError, match=r"state is what snn\.init.*by position"):
        snn.sequence(x, state=s)


BAD = {
    "another batch": (lambda snn, x, r, s: snn.sequence(x[:, :1], *r, state=s), r"\(1, 4, 6\).*steps before"),
    "another batch at the first step": (
        lambda snn, x, r, s: snn.step(snn.init(x[0], *r), x[0, :1], *r), "steps before"),
    "another mask": (lambda snn, x, r, s: snn.sequence(x, torch.zeros(4, 4), r[1], state=s), "mask is static"),
    "another time step": (lambda snn, x, r, s: snn.step(s, x[0], r[0], r[1] + 1), "step is static"),
    "no state": (lambda snn, x, r, s: snn.step(None, x[0], *r), "state must be a state, got None"),
    "whole numbers in mid-stream": (lambda snn, x, r, s: snn.step(s, x[0].long(), *r), "integers"),
    "another code": (lambda snn, x, r, s: network(RATE)[2].sequence(x, *r, state=s), "under TD and not RATE"),
    "another network's": (
        lambda snn, x, r, s: network(TD, cascade(n=2))[2].sequence(x, *r, state=s), "another network"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_what_does_not_go_on_from_a_state_is_refused(bad):
    call, text = BAD[bad]
    _, rest, snn = network(TD)
    x = stream(3, 0)
    state, _ = snn.sequence(x, *rest, state=snn.init())
    with pytest.raises(InputError, match=text):
        call(snn, x, rest, state)


@pytest.mark.parametrize(
    ("static", "text"),
    [(("masks",), r"no input 'masks'; it has \['x', 'mask', 'step'\]"), ("mask", r'static=\("mask",\)'),
     (("x", "mask", "step"), "all the inputs"), ((3,), "names of inputs")],
)  # fmt: skip
def test_static_inputs_are_inputs(static, text):
    with pytest.raises(TraceError, match=text):
        trace(static=static)(made()[0])


def test_indices_are_static_without_being_named():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.a = nn.Embedding(10, 4), nn.Linear(4, 4)

        def forward(self, x, ids):
            return self.a(torch.tanh(x + self.e(ids)))

    torch.manual_seed(0)
    model, ids, x = Tokens().double().eval(), torch.randint(0, 10, (2, 3)), torch.randn(5, 2, 3, 4).double()
    snn = pipe(model, trace, td_rewrite, to_snn)
    state, found = snn.init(), []  # no inputs: the first step says what they are
    for x_t in x:
        state, y = snn.step(state, x_t, ids)
        found.append(y)
    torch.testing.assert_close(torch.stack(found).sum(0), model(x.sum(0), ids))
    with pytest.raises(InputError, match="ids is static"):
        snn.step(state, x[0], ids + 1)
