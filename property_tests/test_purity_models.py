"""Purity on models whose ``forward`` has side effects, or which keep tensors and state in unusual places."""

import collections

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from property_tests import purity
from snnpipe import trace
from tests.reaching import REACHING, Net

GLOBAL = torch.full((4,), 2.0)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.calls, self.log, self.seen = nn.Linear(4, 4), 0, [], {"n": 0}
        self.scales = [torch.full((4,), 3.0)]
        self.plain = torch.full((4,), 4.0)
        self.register_buffer("count", torch.zeros(4))
        self.deque = collections.deque([1])
        self.norm = nn.BatchNorm1d(4)


class CountsCalls(Base):
    def forward(self, x):
        self.calls += 1
        return F.relu(self.a(x))


class AppendsToAList(Base):
    def forward(self, x):
        self.log.append(1)
        return F.relu(self.a(x))


class WritesADict(Base):
    def forward(self, x):
        self.seen["n"] += 1
        return F.relu(self.a(x))


class FillsADeque(Base):
    def forward(self, x):
        self.deque.append(2)
        return F.relu(self.a(x))


class UpdatesABuffer(Base):
    def forward(self, x):
        self.count += 1
        return F.relu(self.a(x)) + self.count


class WritesAPlainTensor(Base):
    def forward(self, x):
        self.plain.add_(1)
        return F.relu(self.a(x)) + self.plain


class WritesATensorInAList(Base):
    def forward(self, x):
        self.scales[0].add_(1)
        return F.relu(self.a(x)) * self.scales[0]


class ReadsATensorInAList(Base):
    def forward(self, x):
        return F.relu(self.a(x)) * self.scales[0]


class ReadsAPlainTensor(Base):
    def forward(self, x):
        return F.relu(self.a(x)) * self.plain


class ReadsAGlobalTensor(Base):
    def forward(self, x):
        return F.relu(self.a(x)) * GLOBAL


class ChangesModes(Base):
    def forward(self, x):
        self.a.train(not self.a.training)
        return F.relu(self.norm(self.a(x)))


class MakesAModule(Base):
    def forward(self, x):
        return nn.ReLU()(self.a(x)) + nn.Hardtanh(0, 1)(x)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.r = kind(4, 4, batch_first=True)

    def forward(self, x):
        return self.r(x)[0]


class Hooked(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a.register_forward_hook(lambda module, args, out: setattr(module, "hooked", True))

    def forward(self, x):
        return F.relu(self.a(x))


def spectral() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4)), nn.ReLU())


def weight_normed() -> nn.Module:
    m = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU())
    return m


MODELS = {
    cls.__name__: cls for cls in (
        CountsCalls, AppendsToAList, WritesADict, FillsADeque, UpdatesABuffer, WritesAPlainTensor, WritesATensorInAList,
        ReadsATensorInAList, ReadsAPlainTensor, ReadsAGlobalTensor, ChangesModes, MakesAModule, Hooked,
    )
} | {
    "LSTM": lambda: Recurrent(nn.LSTM), "GRU": lambda: Recurrent(nn.GRU), "spectral": spectral, "weight": weight_normed,
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8), "RNN": lambda: Recurrent(nn.RNN),
}  # fmt: skip


class Fails(Net):
    """It cannot be followed: the refusal comes after ``fails`` was called."""

    def __init__(self, register):
        super().__init__()
        self.log = []
        register(self)

    def forward(self, x):
        return self.fails(x) if x.sum() > 0 and x.numpy().any() else x

    def fails(self, x):
        return self.plain(x)


def _method(net):
    net.impl = net.fails


def _hook(net):
    net.register_forward_hook(lambda module, args, out: net.log.append(out))
    net.a.register_forward_pre_hook(lambda module, args: net.log.append(args))


def _forward(net):
    old = net.forward
    net.forward = lambda x: old(net.log.append(x) or net.a(x))


FAILING = {f"fails{register.__name__}": lambda register=register: Fails(register)
           for register in (_method, _hook, _forward)}  # fmt: skip
EXAMPLES = {name: torch.randn(4, 4) for name in MODELS} | {name: torch.randn(4, 6) for name in (*REACHING, *FAILING)}
MODELS |= REACHING | FAILING


def attempt(model: nn.Module, example=None):
    try:
        return trace(model, example=example)
    except ValueError:  # a refusal is fine here, a side effect is not
        return None


FRONT_ENDS = pytest.mark.parametrize("by_example", [False, True], ids=["fx", "export"])


@FRONT_ENDS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_trace_leaves_it_alone(name, training, by_example):
    model = MODELS[name]().train(training)
    example = EXAMPLES[name].to(next(model.parameters(), torch.zeros(1)).dtype) if by_example else None
    random = torch.get_rng_state()
    with purity.unchanged(model, GLOBAL, example), purity.WriteGuard(model, GLOBAL, example):
        attempt(model, example)
    assert torch.equal(torch.get_rng_state(), random)


@FRONT_ENDS
@pytest.mark.parametrize("name", MODELS)
def test_the_state_shares_no_memory_with_it(name, by_example):
    model = MODELS[name]()
    state = attempt(model, EXAMPLES[name] if by_example else None)
    if state is not None:
        purity.assert_disjoint(model, state)
        purity.assert_disjoint([GLOBAL], state)
        assert purity.loose(state) == []
