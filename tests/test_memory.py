"""Models that remember, or draw random numbers: refused where it counts, by both front ends, and followed where not."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import SnnpipeError, TraceError, UnsupportedError, check, pipe, td_rewrite, to_module, to_snn, trace
from tests.helpers import needs_symbols

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(4, 4)
        self.register_buffer("h", torch.ones(4))
        self.table = torch.ones(4)
        self.count = 1
        self.seen = []
        self.cache = None


class Assigned(Model):
    def forward(self, x):
        self.h = self.l(x).mean(0) + 0.5 * self.h
        return self.h.relu()


class InPlace(Model):
    def forward(self, x):
        self.h += 1
        return self.l(x) * self.h


class CopiedPart(Model):
    def forward(self, x):
        self.h[:2] = x[0, :2]
        return self.l(x) * self.h


class Attribute(Model):
    def forward(self, x):
        self.table = self.table + x.mean(0)
        return self.l(x) + self.table


class AttributeInPlace(Model):
    def forward(self, x):
        self.table[0] = x.mean()
        return self.l(x) + self.table


class Counter(Model):
    def forward(self, x):
        self.count += 1
        return self.l(x) * self.count


class Growing(Model):
    def forward(self, x):
        self.seen.append(self.l(x))
        return sum(self.seen)


class Before(Model):
    def forward(self, x):
        y = self.l(x)
        out = y if self.cache is None else y + self.cache
        self.cache = y
        return out


MEMORIES = [Assigned, InPlace, CopiedPart, Attribute, AttributeInPlace, Counter, Growing, Before]


@pytest.mark.parametrize("kind", MEMORIES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("front", ["symbolic", "export"])
def test_a_model_that_remembers_is_refused(kind, front):
    model = kind().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SnnpipeError) as caught:
        trace(model, **({} if front == "symbolic" else {"example": X}))
    assert "Traceback" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.count == 1
    assert not model.seen
    assert model.cache is None


def test_the_buffer_is_named():
    for options in ({}, {"example": X}):
        with pytest.raises(UnsupportedError, match="`h` is the model's own memory"):
            trace(Assigned().eval(), **options)


class WrittenFirst(Model):
    """The buffer is filled anew at each run: nothing is remembered."""

    def forward(self, x):
        self.h.copy_(x.mean(0))
        return self.l(x) * self.h


class NeverRead(Model):
    def forward(self, x):
        self.h = x.mean(0)
        self.count += 1
        self.last = x
        return self.l(x)


class Table(Model):
    """A table that only the shape decides, made at the first run."""

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.arange(x.shape[1], dtype=torch.float32)
        return self.l(x) + self.cache


@pytest.mark.parametrize("kind", [WrittenFirst, NeverRead, Table], ids=lambda kind: kind.__name__)
def test_memory_that_does_not_count_is_no_reason_to_refuse(kind):
    if kind is Table:
        needs_symbols()
    model = kind().eval()
    torch.testing.assert_close(pipe(model, trace, to_module)(X), kind.forward(model, X))


class Formula(nn.Module):
    def __init__(self, formula):
        super().__init__()
        self.formula = formula
        self.l = nn.Linear(4, 4)

    def forward(self, x):
        return self.formula(self.l(x))


RANDOM = {
    "noise of a literal shape": lambda x: x + torch.randn(4),
    "made from noise": lambda x: x + torch.rand(4).mul(2).sin(),
    "filled with noise": lambda x: x + torch.empty(4).normal_(),
    "a generator's": lambda x: x + torch.randn(4, generator=torch.Generator()),
    "permuted": lambda x: x[:, torch.randperm(4)],
    "a branch": lambda x: x if torch.rand(()) > 0.5 else -x,
    "a number": lambda x: x * torch.rand(1).item(),
    "a new layer": lambda x: nn.Linear(4, 4)(x),
    "numpy": lambda x: x * float(np.random.rand()),
    "Python": lambda x: x * random.random(),
    "a branch of Python": lambda x: x if random.random() < 0.5 else -x,
    "dropout by position": lambda x: F.dropout(x, 0.5, True),
    "binomial": lambda x: torch.binomial(x.relu(), x.sigmoid()),
    "native dropout": lambda x: torch.native_dropout(x, 0.5, True)[0],
    "attention by position": lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.5),
    "gumbel": lambda x: F.gumbel_softmax(x),
    "rrelu": lambda x: F.rrelu(x, training=True),
    "drawn in place": lambda x: (x * 1).uniform_(),
}  # fmt: skip


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("front", ["symbolic", "export"])
def test_random_numbers_are_refused_however_they_are_drawn(name, front):
    model = Formula(RANDOM[name]).eval()
    state, numbers, python = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    verdict = check(model, **({} if front == "symbolic" else {"example": X}))
    assert not verdict.ok
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numbers).all()
    assert random.getstate() == python


@pytest.mark.parametrize("pool", [nn.FractionalMaxPool2d(2, output_size=3), nn.FractionalMaxPool3d(2, output_size=2)])
def test_random_pooling_is_refused(pool):
    assert "random" in check(nn.Sequential(pool)).refusal


NOT_RANDOM = {
    "never used": lambda x: (torch.rand(()), x * 2)[1],
    "only in training": lambda x: x + torch.randn(4) if torch.is_grad_enabled() and False else x,
    "switched off": lambda x: F.dropout(x, 0.5, False) + F.rrelu(x),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "given": lambda x: F.fractional_max_pool2d(x[None, None], 2, 1, None, False, torch.ones(1, 1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_RANDOM)
def test_what_draws_nothing_that_counts_is_followed(name):
    model = Formula(NOT_RANDOM[name]).eval()
    torch.testing.assert_close(pipe(model, trace, to_module)(X), model(X))


class Numbers(Formula):
    pass


@pytest.mark.parametrize("front", ["symbolic", "export"])
def test_a_number_made_of_a_value_that_moves_is_refused_before_data_is_run(front):
    options = {} if front == "symbolic" else {"example": X}
    td = pipe(Formula(lambda x: x * x.sum().item()).eval(), trace(**options), td_rewrite, to_snn)
    with pytest.raises(UnsupportedError, match="keep it a tensor"):
        td.sequence(X[None])

    class OfAParameter(Model):
        def forward(self, x):
            return self.l(x) * self.h.sum().item()

    model = OfAParameter().eval()
    td = pipe(model, trace(**options), td_rewrite, to_snn)
    torch.testing.assert_close(td.sequence(X[None])[0], model(X))


def test_a_size_is_a_number_like_any_other():
    model = Formula(lambda x: x * x.shape[1] / x.dim()).eval()
    torch.testing.assert_close(pipe(model, trace, to_module)(X), model(X))


def test_tracing_ends_with_a_trace_error_that_says_what_to_do():
    with pytest.raises(TraceError, match=r"if self\.training"):
        trace(Formula(RANDOM["noise of a literal shape"]).eval())


def test_a_symbol_is_a_tensor_for_torch():
    model = Formula(lambda x: torch.cat([x] if torch.is_tensor(x) else x, 1) * 2).eval()
    torch.testing.assert_close(pipe(model, trace, to_module)(X), model(X))
