"""Each net for impurity can catch something."""

import types

import attrs
import pytest
import torch
from torch import nn

from property_tests import purity
from snnpipe import fuse, pipe, trace
from snnpipe.frozen import FrozenMap


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU())


def _set(name, value):
    return lambda m: setattr(m[1], name, value)


CHANGES = {
    "parameter": lambda m: m[0].weight.data.mul_(2),
    "parameter replaced": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach().clone())),
    "buffer": lambda m: m[1].running_mean.add_(1),
    "mode": lambda m: m[1].eval(),
    "gradient flag": lambda m: m[0].weight.requires_grad_(False),
    "gradient": lambda m: m(torch.ones(1, 2, 1, 1)).sum().backward(),
    "hook": lambda m: m[1].register_forward_hook(lambda *_: None),
    "scalar": _set("eps", 1.0),
    "new field": _set("note", [1]),
    "child": lambda m: m.__setitem__(2, nn.Identity()),
    "data rebound": lambda m: setattr(m[0].weight, "data", torch.zeros_like(m[0].weight)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_snapshot_sees(name):
    m = model().train()
    with pytest.raises(AssertionError, match="was changed at"), purity.unchanged(m):
        CHANGES[name](m)


def test_snapshot_of_a_container_sees_its_items():
    m = model()
    m.log = []
    with pytest.raises(AssertionError, match="log"), purity.unchanged(m):
        m.log.append(1)


def test_snapshot_sees_what_closures_and_objects_hold():
    m, log, helper = model(), [], types.SimpleNamespace(n=0)
    m.log, m.helper = (lambda x: log.append(x)), helper

    def use() -> None:
        helper.n = m.log(1)

    with pytest.raises(AssertionError, match=r"\.helper.*\.log"), purity.unchanged(m):
        use()


def test_unchanged_looks_after_an_exception_too():
    m = model()

    def fails() -> None:
        with purity.unchanged(m):
            m.eval()
            raise RuntimeError("in the middle")

    with pytest.raises(AssertionError, match="was changed at"):
        fails()


def test_unchanged_sees_a_state():
    state = trace(model())
    with pytest.raises(AssertionError, match="digest"), purity.unchanged(state):
        state.params["0.weight"].data.add_(1)


def _copy_out(w):
    torch.mul(torch.ones_like(w), 2, out=w)


WRITES = {
    "in place": lambda w: w.add_(1),
    "through a view": lambda w: w.view(-1)[0].fill_(3),
    "copy": lambda w: w.copy_(torch.zeros_like(w)),
    "out": _copy_out,
    "item": lambda w: w.__setitem__((0, 0), 1.0),
    "list": lambda w: torch._foreach_add_([w], 1.0),
}


@pytest.mark.parametrize("name", WRITES)
def test_guard_sees(name):
    state = trace(model())
    with torch.no_grad(), purity.WriteGuard(state), pytest.raises(purity.ProtectedWrite):
        WRITES[name](state.params["0.weight"])


def test_guard_lets_reading_and_other_memory_pass():
    state = trace(model())
    w = state.params["0.weight"]
    with torch.no_grad(), purity.WriteGuard(state):
        w.clone().add_(w.sum())


def test_disjointness_sees_a_view():
    w = torch.ones(4)
    with pytest.raises(AssertionError, match="share 1"):
        purity.assert_disjoint([w], [w[1:]])
    purity.assert_disjoint([w], [w.clone()])


def test_disjointness_sees_tensors_in_fields_of_a_module():
    m = model()
    m.scales = [torch.ones(2)]
    with pytest.raises(AssertionError, match="share 1"):
        purity.assert_disjoint(m, m.scales)


def test_sharing_is_what_unsafe_share_asks_for():
    m = model()
    with pytest.raises(AssertionError, match="share"):
        purity.assert_disjoint(trace(m, unsafe_share=True), m)


@attrs.define
class _Open:
    x: int = 1


@pytest.mark.parametrize("bad", [[1], {"a": 1}, {1}, _Open(), nn.ReLU(), torch.Generator()])
def test_audit_sees(bad):
    state = pipe(model(), trace, fuse)
    assert purity.loose(state) == []
    assert purity.loose(attrs.evolve(state, threshold=bad))
    assert purity.loose(attrs.evolve(state, statistics=FrozenMap(a=(1, bad))))
