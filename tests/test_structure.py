"""What goes in and comes out keeps its structure; names and objects of any kind stay out of generated code."""

import copy
import enum
import functools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils import _pytree as pytree

from snnpipe import (
    InputError,
    SnnpipeError,
    TraceError,
    UnsupportedError,
    account,
    balance,
    calibrate,
    correct_bias,
    correct_potential,
    correct_weights,
    digest,
    fuse,
    pipe,
    readout_delay,
    replace,
    spike_counts,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from snnpipe.containers import opened, packed, tensors
from snnpipe.frozen import freeze, leaves, thaw
from tests.containers import KINDS, Frozen, OwnDict, Record
from tests.helpers import assert_close, assert_same, settled, vectors


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        nn.init.constant_(self.a.bias, 5.0)  # no unit is dead

    def body(self, x):
        return self.b(F.relu(self.a(x)))


def model_of(forward, base=Body):
    """A model with this ``forward(self, x)``."""
    return settled(type("Model", (base,), {"forward": forward})())


def traced(model, example, front):
    return trace(model) if front == "fx" else trace(model, example=(example,))


def flat(value):
    """Leaves, left to right, and the kinds of the containers."""
    tree = packed(value)
    return leaves(tree), repr(freeze(tree).__class__), type(value)


def assert_equal(got, want, close=assert_close):
    """Containers of the same classes, tensors within rounding, everything else equal."""
    (found, _, kind), (expected, _, wanted) = flat(got), flat(want)
    assert kind is wanted
    assert [type(leaf) for leaf in found] == [type(leaf) for leaf in expected]
    for g, w in zip(found, expected, strict=True):
        if isinstance(w, torch.Tensor):
            (close if w.is_floating_point() else assert_same)(g, w)
        else:
            assert g == w
    assert_kinds(got, want)


def assert_kinds(got, want):
    assert type(got) is type(want)
    a, b = opened(got), opened(want)
    if a is not None:
        for x, y in zip(a[1], b[1], strict=True):
            assert_kinds(x, y)
    elif isinstance(got, tuple | list):
        for x, y in zip(got, want, strict=True):
            assert_kinds(x, y)
    elif isinstance(got, dict):
        assert list(got) == list(want)
        for key in got:
            assert_kinds(got[key], want[key])


FRONTS = pytest.mark.parametrize("front", ["fx", "export"])


@FRONTS
@pytest.mark.parametrize("kind", KINDS)
def test_an_output_keeps_its_class(kind, front):
    make, _ = KINDS[kind]
    model, x = model_of(lambda self, x: make(self.body(x), self.a(x))), vectors(4)
    want = model(x)
    known = type(want) in pytree.SUPPORTED_NODES
    state = traced(model, x, front)
    assert (type(want) in pytree.SUPPORTED_NODES) is known
    assert_equal(to_module(state)(x), want)
    td = pipe(state, td_rewrite, to_snn)
    assert_equal(td(x, T=3), want)
    assert_equal(list(td.iterate(x, T=2))[-1], want)
    s, first = td.step(td.init(x), x / 2)
    _, second = td.step(s, x / 2)
    whole = td.sequence(torch.stack([x / 4, x / 4, x / 2]))
    assert_kinds(whole, want)
    for a, b, c, w in zip(*map(tensors, (first, second, whole, want)), strict=True):
        assert_close(a + b, w)
        assert_close(c.sum(0), w)
    snn = pipe(state, calibrate([x]), to_snn)
    for got in (snn(x, T=4, schedule="layer"), snn(x, T=2, readout="every"), snn(x, T=2)):
        assert_kinds(got, want)
    assert_equal(pickle.loads(pickle.dumps(td))(x, T=1), want)
    assert digest(state.edit(lambda module: None)) == digest(state)
    assert_equal(to_module(trace(to_module(state)))(x), want)
    account(snn, x, T=2)


@FRONTS
@pytest.mark.parametrize("kind", KINDS)
def test_an_input_may_be_any_container(kind, front):
    make, take = KINDS[kind]
    model = model_of(lambda self, v: self.body(take(v)[0] + 2 * take(v)[1]))
    a, b = vectors(4), vectors(4)
    given = make(a, b)
    want = model(given)
    state = traced(model, given, front)
    assert_close(to_module(state)(given), want)
    td = pipe(state, td_rewrite, to_snn)
    assert_close(td(given, T=3), want)
    state_1, first = td.step(td.init(given), make(a / 2, b / 2))
    assert_close(first + td.step(state_1, make(a / 2, b / 2))[1], want)
    parts = torch.tensor([0.25, 0.25, 0.5], dtype=a.dtype)[:, None, None]
    assert_close(td.sequence(make(parts * a, parts * b)).sum(0), want)
    snn = pipe(state, calibrate([given], forward=lambda model, batch: model(batch)), to_snn)
    assert_close(snn.sequence(make(a.expand(5, 4, 6), b.expand(5, 4, 6))).mean(0), snn(given, T=5))
    account(snn, given, T=2)
    spike_counts(snn, given, T=2)
    assert digest(state.edit(lambda module: None)) == digest(state)
    if front == "export":
        for wrong in (make(a[:, :3], b[:, :3]), make(a.long(), b.long()), make(a[0], b[0])):
            with pytest.raises(InputError, match="traced for"):
                td(wrong, T=1)


def test_sizes_inside_containers_are_those_of_the_example():
    model = model_of(lambda self, v: self.body(v["x"][0]).sum(1) / v["x"][0].shape[1])
    x = vectors(2)
    td = pipe(model, trace(example=({"x": [x], "k": 3},)), td_rewrite, to_snn)
    for batch in (1, 5):
        given = {"x": [vectors(batch)], "k": 3, "more": None}
        assert_close(td(given, T=1), model(given))
    for wrong, text in (
        ({"x": [x[:, :3]], "k": 3}, r"v\['x'\]\[0\] has shape \(2, 3\) at each step, .* \(B, 6\)"),
        ({"x": [x.bool()], "k": 3}, "boolean.*floating point"),
        ({"x": [x], "k": 4}, r"v\['k'\] is 4, .* constant 3"),
        ({"x": x, "k": 3}, r"v\['x'\]"),
        ({"x": [x, x], "k": 3}, r"v\['x'\] holds"),
        ({"k": 3, "y": x}, r"v holds"),
    ):
        with pytest.raises(InputError, match=text):
            td(wrong, T=1)


class Returning(Body):
    def __init__(self):
        super().__init__()
        self.register_buffer("priors", torch.rand(4))
        self.scale = nn.Parameter(torch.rand(2))
        self.unused = nn.Parameter(torch.rand(2))

    def forward(self, x):
        values = {"scale": self.scale, "range": torch.arange(3), "x": x, "computed": self.priors * 2}
        return self.body(x), self.priors, values, 3, None, "text"


@FRONTS
def test_returned_parameters_buffers_and_constants(front):
    model, x = settled(Returning()), vectors(4)
    want = model(x)
    state = traced(model, x, front)
    assert {"priors", "scale"} <= state.params.keys()
    assert "unused" not in state.params
    assert_equal(to_module(state)(x), want)
    td = pipe(state, td_rewrite, to_snn)
    assert_equal(td(x, T=3), want)
    events = td.sequence(torch.stack([x / 2, x / 2]))
    assert_close(events[1].sum(0), model.priors)
    assert_same(events[2]["range"], torch.arange(3).expand(2, 3))
    assert events[3:] == (3, None, "text")
    snn = pipe(state, fuse, calibrate([x]), to_snn)
    assert_same(snn(x, T=4)[1], model.priors)
    assert_same(snn(x, T=4, schedule="layer")[1], model.priors)
    account(snn, x, T=2)
    pipe(state, calibrate([x]), replace, correct_bias([x], T=2), correct_potential([x], T=2), to_snn)(x, T=2)
    pipe(state, calibrate([x]), replace, correct_weights([x], T=2), balance([x], T=2), to_snn)(x, T=2)
    assert_equal(pickle.loads(pickle.dumps(td))(x, T=2), want)
    assert digest(state.edit(lambda module: None)) == digest(state)


@FRONTS
def test_a_model_that_returns_nothing_but_a_buffer(front):
    model, x = model_of(lambda self, x: self.priors, Returning), vectors(4)
    td = pipe(traced(model, x, front), td_rewrite, to_snn)
    assert_same(td(x, T=2), model.priors)


class Plain:
    """An object that nobody can open."""

    def __init__(self, y):
        self.y = y


@FRONTS
@pytest.mark.parametrize("wrap", [Plain, lambda y: {"a": Plain(y)}, lambda y: (y, {y})])
def test_objects_that_cannot_be_opened_are_refused_by_name(wrap, front):
    model = model_of(lambda self, x: wrap(self.body(x)))
    with pytest.raises(TraceError, match=r"(Plain|set)[\s\S]*register_pytree_node"):
        traced(model, vectors(4), front)


# names

#: Names that torch, Python or snnpipe uses itself.
NAMES = (
    "code", "graph", "meta", "recompile", "weights", "history", "_boxed_call", "graph_module", "self", "T", "lambda",
    "class", "a-b", 'q"x', "é²", "back\\slash", "x y", "new\nline", "step", "init", "neurons", "print_readable",
    "_code", "relu__if0", "__if0", "torch", "_object_0", "getattr", "{}",
)  # fmt: skip


def layers(*names):
    """A linear layer and a ReLU for each name."""
    model = nn.Sequential()
    for name in names:
        model._modules[name] = nn.Linear(3, 3)
        nn.init.uniform_(model._modules[name].weight, 0.0, 0.3)
        nn.init.constant_(model._modules[name].bias, 3.0)  # no unit is dead
        model._modules[f"{name}_then"] = nn.ReLU()
    return settled(model)


@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES], ids=lambda names: repr(names)[:20])
def test_names_are_the_users_own_business(names):
    model, x = layers(*names), vectors(4, 3)
    want, keys = model(x), set(model.state_dict())
    state = trace(model)
    whole = to_module(state)
    assert_close(whole(x), want)
    assert_close(to_module(trace(whole))(x), want)
    td = pipe(state, td_rewrite, to_snn)
    assert_close(td(x, T=2), want)
    assert set(td.state_dict()) == keys == {name for name, _ in td.named_parameters()}
    neurons = pipe(state, calibrate([x]), replace)
    for made in (state, neurons):
        assert digest(made.edit(lambda module: None)) == digest(made)
    snn = to_snn(neurons)
    y = snn(x, T=4)
    assert keys <= set(snn.state_dict())
    assert snn.graph_module.print_readable(print_output=False)
    twin = pipe(layers(*names), trace, calibrate([x]), to_snn)
    twin.load_state_dict(snn.state_dict())
    for other in (twin, pickle.loads(pickle.dumps(snn)), copy.deepcopy(snn), copy.copy(snn)):
        assert_same(other(x, T=4), y)
    readout_delay(snn, x, T=8)
    account(snn, x, T=2)


def test_names_that_a_graph_module_has_taken_get_a_dash_there_and_nowhere_else():
    model = layers("code", "a", "code_")
    assert set(to_module(trace(model)).state_dict()) == {
        f"{name}.{kind}" for name in ("code__1", "a", "code_") for kind in ("weight", "bias")
    }
    inner = nn.Sequential(layers("code", "graph"))
    assert set(to_module(trace(inner)).state_dict()) == set(inner.state_dict())


class Arguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(3, 3)

    def forward(own, torch, self, state, T=None):
        return F.relu(own.l(torch)) + self * state


def test_arguments_may_be_called_anything():
    model, x = settled(Arguments()), vectors(4, 3)
    want, state = model(x, x, x), trace(model)
    assert_close(to_module(state)(x, x, x), want)
    td = pipe(state, td_rewrite, to_snn)
    assert_close(td(x, x, state=x, T=2), want)
    td.step(td.init(x, x, state=x), x, x, state=x)
    snn = pipe(state, calibrate([(x, x, x)]), to_snn)
    assert snn.graph_module is not None
    assert digest(state.edit(lambda module: None)) == digest(state)


# objects


class Mode(enum.Enum):
    DOUBLE = 2


class Flags(enum.Flag):
    A = 1
    B = 2


@fx.wrap
def scaled_by(x, how):
    """Reads an object of any kind."""
    if callable(how):
        return how(x)
    return x * {Mode.DOUBLE: 2.0, Flags.A | Flags.B: 3.0}[how] if isinstance(how, enum.Enum) else x * how.k


@fx.wrap
def applied(module, x):
    return module(x)


OBJECTS = {
    "enum": Mode.DOUBLE, "flags": Flags.A | Flags.B, "dataclass": Record(1.0), "function": F.relu,
    "partial": functools.partial(torch.mul, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_are_handed_on_by_reference(kind):
    model, x = model_of(lambda self, x: scaled_by(self.body(x), OBJECTS[kind])), vectors(4)
    want, state = model(x), trace(model)
    assert_close(to_module(state)(x), want)
    assert_close(copy.deepcopy(to_module(state))(x), want)
    td = pipe(state, td_rewrite, to_snn)
    assert_close(td(x, T=2), want)
    assert_close(td.sequence(torch.stack([x / 2, x / 2])).sum(0), want)
    assert_close(pickle.loads(pickle.dumps(td))(x, T=2), want)
    assert td.graph_module is not None
    assert digest(state.edit(lambda module: None)) == digest(state)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.int64(2)])
def test_numbers_of_numpy_are_numbers(number):
    model, x = model_of(lambda self, x: self.body(x) * number + number), vectors(4)
    assert_close(pipe(model, trace, td_rewrite, to_snn)(x, T=3), model(x))


def test_a_module_handed_on_is_refused():
    with pytest.raises(UnsupportedError, match="hands on the module `b`"):
        trace(model_of(lambda self, x: applied(self.b, F.relu(self.a(x)))))


@pytest.mark.filterwarnings("ignore")
def test_dynamically_quantised_layers():
    model = torch.ao.quantization.quantize_dynamic(Quantised().eval(), {nn.Linear})
    x = torch.randn(4, 6)
    state, want = trace(model), model(x)
    snn = pipe(state, calibrate([x]), to_snn)
    y = snn(x, T=8)
    for got in (to_module(state)(x), copy.deepcopy(to_module(state))(x), pipe(state, td_rewrite, to_snn)(x, T=1)):
        assert (got - want).norm() <= 0.02 * want.norm()
    assert_same(pickle.loads(pickle.dumps(snn))(x, T=8), y)
    assert snn.graph_module is not None


class Quantised(Body):
    def forward(self, x):
        return self.body(x)


def test_containers_say_what_they_are():
    assert opened({"a": 1}) is None
    assert opened(torch.ones(1)) is None
    assert thaw(freeze(packed(OwnDict(a=[1])))) == OwnDict(a=[1])
    assert repr(packed(Frozen(1, 2))) == "Frozen<a, b, note>(1, 2, 'text')"
    assert issubclass(TraceError, SnnpipeError)
