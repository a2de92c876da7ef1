"""The private copy: whatever a network reaches itself by is traced in evaluation mode, under its own names."""

import collections
import contextlib
import functools
import itertools
import pickle
import random
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from snnpipe import TraceError, check, pipe, td_rewrite, to_module, to_snn, trace
from tests.helpers import assert_close, line_of
from tests.reaching import REACHING, Net, hooked

FRONT_ENDS = pytest.mark.parametrize("by_example", [False, True], ids=["fx", "export"])


def rows():
    return torch.randn(4, 6, dtype=torch.float64)


def traced(model, x, by_example, **options):
    return trace(model, **options, **({"example": x} if by_example else {}))


def ready(build):
    """A trained network in training mode, its input and what it computes in evaluation mode."""
    model, x = build().double().eval(), rows()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    with torch.no_grad():
        want = model(x)
    return model.train(), x, want


@FRONT_ENDS
@pytest.mark.parametrize("name", REACHING)
def test_what_is_reached_is_the_copy(name, by_example):
    model, x, want = ready(REACHING[name])
    state = traced(model, x, by_example)
    assert_close(to_module(state)(x), want)
    assert all(module.training for module in model.modules())
    extra = state.params.keys() - model.state_dict().keys()
    assert all("part" in key for key in extra)
    used = [state.params[key] for key, _ in model.named_parameters() if key in state.params]
    assert all(isinstance(tensor, nn.Parameter) for tensor in used)


def test_modules_in_plain_containers_are_parameters_by_where_they_were_found():
    model, x, _ = ready(REACHING["ListedModules"])
    want = {"parts_0.weight", "parts_0.bias", "parts_1_last.weight", "parts_1_last.bias"}
    for by_example in (False, True):
        assert set(traced(model, x, by_example).params) == want


@pytest.mark.parametrize("name", [name for name in REACHING if "hook" in name])
def test_hooks_keep_no_symbols(name):
    model, x, _ = ready(REACHING[name])
    hooks = [getattr(hook, "__self__", hook) for part in model.modules() for hook in part._forward_hooks.values()]
    kept = [hook.seen for hook in hooks if hasattr(hook, "seen")] + [getattr(model[0], "features", [])]
    before = list(map(list, kept))
    for by_example in (False, True):
        traced(model, x, by_example)
    assert [[id(out) for out in seen] for seen in kept] == [[id(out) for out in seen] for seen in before]
    model.train()(x).sum().backward()


LOG = []


def _global_hook(net, root):
    net.a.register_forward_hook(_logs)


def _logs(module, args, out):
    LOG.append(out)


def test_globals_of_a_hook_are_copied_too():
    model, x, want = ready(hooked(_global_hook))
    LOG.clear()
    assert_close(to_module(trace(model))(x), want)
    assert not LOG


class Listing(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = [inner]

    def forward(self, x):
        return self.inner[0](x)


def generated(kind):
    net = Net().double().eval()
    return fx.symbolic_trace(net) if kind == "fx" else torch.export.export(net, (rows(),)).module()


@FRONT_ENDS
@pytest.mark.parametrize("wrap", [lambda m: m, nn.Sequential, Listing], ids=["itself", "part", "list"])
@pytest.mark.parametrize("kind", ["fx", "export"])
def test_generated_modules(kind, wrap, by_example):
    inner, x = generated(kind), rows()
    want, code, call = inner(x).detach(), inner.code, type(inner).__call__
    state = traced(wrap(inner), x, by_example)
    assert_close(to_module(state)(x), want)
    assert (inner.code, type(inner).__call__) == (code, call)


# modules that belong to nobody the copy knows


GLOBAL = nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double()
NORM = nn.BatchNorm1d(6).double()


class UsesAGlobal(Net):
    def forward(self, x):
        return self.plain(GLOBAL(x))


class UsesAClassAttribute(Net):
    act = nn.Tanh()
    seen = []  # noqa: RUF012

    def forward(self, x):
        self.seen.append(x)
        return self.plain(self.act(x))


@FRONT_ENDS
@pytest.mark.parametrize("build", [UsesAGlobal, UsesAClassAttribute])
def test_a_module_that_is_met_is_copied(build, by_example):
    model, x, want = ready(build)
    UsesAClassAttribute.seen.clear()
    if by_example and build is UsesAClassAttribute and torch.__version__.startswith("2.6."):
        with pytest.raises(TraceError, match="exports no model that changes the length of a list"):
            traced(model, x, by_example)
        return
    GLOBAL.train()
    state = traced(model, x, by_example)
    assert all(module.training for module in (*GLOBAL.modules(), vars(build).get("act", GLOBAL)))
    assert not UsesAClassAttribute.seen
    assert_close(to_module(state)(x), want)
    assert sum(isinstance(tensor, nn.Parameter) for tensor in state.params.values()) >= len(list(model.parameters()))
    with torch.no_grad():
        GLOBAL[0].weight.add_(1)
    assert_close(to_module(state)(x), want)
    assert state.graph.by_name


@FRONT_ENDS
def test_a_module_that_is_met_in_training_mode_is_not_run(by_example):
    class Normed(Net):
        def forward(self, x):
            return self.plain(NORM(x))

    model, x = Normed().double(), rows()
    kept = NORM.running_mean.clone()
    with contextlib.suppress(ValueError):
        traced(model, x, by_example)
    assert torch.equal(NORM.running_mean, kept)
    assert NORM.training


def test_modules_made_in_forward_are_taken_as_they_are():
    class Makes(Net):
        def forward(self, x):
            return self.plain(nn.Dropout(0.5)(x))

    for by_example in (False, True):
        with pytest.raises(ValueError, match="random"):
            traced(Makes().double(), rows(), by_example)


# what cannot be copied


class Iterating(Net):
    def __init__(self, held):
        super().__init__()
        self.held = held

    def forward(self, x):
        return self.plain(x) * float(next(self.held))


class Calling(Iterating):
    def forward(self, x):
        return self.held(x)


class Drawing(Iterating):
    def forward(self, x):
        return self.plain(x) * float(self.held.random())


def scripted():
    return torch.jit.trace(lambda x: x + 1, torch.zeros(2))


UNCOPIED = {
    "an iterator": (Iterating, lambda: iter([1.0, 2.0])),
    "a generator": (Iterating, lambda: (k for k in (1, 2))),
    "a counter": (Iterating, itertools.count),
    "numpy's random numbers": (Drawing, np.random.default_rng),
    "Python's random numbers": (Drawing, random.Random),
    "a scripted function": (Calling, scripted),
}


@FRONT_ENDS
@pytest.mark.parametrize("name", UNCOPIED)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_cannot_be_copied_is_named_when_it_is_used(name, by_example):
    kind, make = UNCOPIED[name]
    with pytest.raises(TraceError, match=r"model\.held|held.*could not be copied"):
        traced(nn.ModuleDict({"model": kind(make())})["model"].double(), rows(), by_example)


class Ignores(Net):
    """It has all kinds of things, and uses none of them."""

    def __init__(self):
        super().__init__()
        self.things = [make() for _, make in UNCOPIED.values()]
        self.lock, self.local, self.event = threading.Lock(), threading.local(), threading.Event()
        self.local.model = self
        self.frame = (frame for frame in [self])
        self.generator = torch.Generator()
        self.array, self.types = np.ones(3), [nn.Linear, F.relu, torch.relu, [].append, collections]

    def forward(self, x):
        if self.things is not None and isinstance(self.generator, torch.Generator):
            with self.lock:
                x = self.plain(x)
        return x


@FRONT_ENDS
def test_what_is_not_used_may_stay(by_example):
    model, x, want = ready(Ignores)
    assert_close(to_module(traced(model, x, by_example))(x), want)


def test_what_cannot_change_is_shared():
    class Held(Net):
        def __init__(self):
            super().__init__()
            self.mode, self.size, self.act, self.pure = MODE, SIZE, F.relu, pure

        def forward(self, x):
            assert all(a is b for a, b in zip((self.mode, self.size, self.act, self.pure), FIXED, strict=True))
            return self.plain(x)

    model, x, want = ready(Held)
    assert_close(to_module(trace(model))(x), want)


MODE, SIZE = object(), ((1, 2), "same")


def pure(x):
    return x


FIXED = (MODE, SIZE, F.relu, pure)


@FRONT_ENDS
def test_an_evaluation_mode_of_ones_own_that_drops_is_random(by_example):
    class Sampling(nn.Dropout):
        def train(self, mode=True):
            return super().train(True)

    with pytest.raises(ValueError, match="random"):
        traced(nn.Sequential(nn.Linear(6, 6), Sampling()).double(), rows(), by_example)


def test_weights_that_eval_writes_are_not_the_users():
    model, _, _ = ready(REACHING["OwnEval"])
    with pytest.raises(TraceError, match=r"model\.eval\(\) before"):
        trace(model, unsafe_share=True)
    kept = model.a.weight.clone()
    trace(model.eval(), unsafe_share=True)
    trace(model.train())
    assert_close(model.a.weight, kept)


def test_attributes_of_a_tensor_are_kept():
    class Scaled(Net):
        def __init__(self):
            super().__init__()
            self.a.weight.gain = 2.0

        def forward(self, x):
            return self.plain(x) * self.held.gain

    class Outer(Scaled):
        def __init__(self):
            super().__init__()
            self.held = torch.ones(3)
            self.held.gain = 2.0

    model, x, want = ready(Outer)
    assert_close(to_module(trace(model))(x), want)


def test_networks_with_a_leaf_that_reaches_itself_can_be_saved():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6)
            self.impl = self.inner

        def inner(self, x):
            return self.a(x) if x.sum() > -1e9 else x

        def forward(self, x):
            return self.impl(x)

    globals()["Branch"] = Branch
    Branch.__qualname__ = "Branch"
    model, x = nn.Sequential(Branch(), nn.ReLU()).double(), rows()
    td = pipe(model, trace(leaves=(Branch,)), td_rewrite, to_snn)
    assert_close(td(x, T=1), model(x))
    assert_close(pickle.loads(pickle.dumps(td))(x, T=1), model(x))


def test_hooks_on_all_modules_are_refused():
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: None)
    try:
        with pytest.raises(TraceError, match="register_module_forward_hook"):
            trace(Net())
    finally:
        handle.remove()


def test_a_refusal_in_a_rebound_function_names_its_line():
    class Branches(Net):
        def __init__(self):
            super().__init__()
            self.impl = functools.partial(self.branch)

        def branch(self, x):
            return x if x.sum() > 0 else -x

        def forward(self, x):
            return self.impl(x)

    with pytest.raises(TraceError, match=line_of(Branches, "x.sum() > 0")):
        trace(Branches())
    assert not check(Branches()).ok
