"""The contract of ``SpikingNetwork``: fresh state, pure steps, any way of calling, saving, and errors that help."""

import copy
import itertools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from snnpipe import (
    InputError,
    constant,
    events,
    fuse,
    integrate_and_fire,
    leaky_integrate_and_fire,
    pipe,
    poisson,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)  # fmt: skip
from tests.catalogue import named
from tests.helpers import assert_close, assert_converges, assert_same, cnn, images, mlp, spiking, tensors_of, vectors


def test_two_calls_give_the_same_bits(snn, x):
    first = snn(x, T=7)
    snn(2 * x[:1], T=3)
    assert_same(snn(x, T=7), first)


def test_the_batch_size_may_change(snn, x):
    whole = snn(x, T=9)
    for size in (1, 3):
        assert_close(snn(x[:size], T=9), whole[:size])


def test_output_has_the_scale_and_dtype_of_the_ann(snn, x):
    model = cnn()
    assert_converges(spiking(model, x), (x,), model(x))


def test_readout_every_is_the_running_readout(snn, x):
    every = snn(x, T=6, readout="every")
    assert every.shape == (6, len(x), 3)
    for t in range(1, 7):
        assert_same(every[t - 1], snn(x, T=t))
    assert_same(torch.stack(list(snn.iterate(x, T=6))), every)


def test_iterate_stops_when_the_reader_does(snn, x):
    seen = list(itertools.islice(snn.iterate(x, T=10**9), 3))
    assert_same(seen[-1], snn(x, T=3))


def test_readout_every_keeps_the_structure_of_the_output():
    model, (batch,) = named("P10 dict in")[0].ready()
    every = spiking(model, batch)(batch, T=3, readout="every")
    assert {key: value.shape for key, value in every.items()} == {"logits": (3, 16, 3), "feat": (3, 16, 8)}


def test_inputs_by_position_and_by_name():
    model, (a, b) = named("P10 optional input given")[0].ready()
    snn = spiking(model, (a, b), inputs=("x", "y"))
    want = snn(a, b, T=5)
    assert_same(snn(x=a, y=b, T=5), want)
    assert_same(snn(a, T=5, y=b), want)
    assert_close(snn.sequence(a.expand(5, -1, -1), y=b.expand(5, -1, -1)).mean(0), want)


NEURONS = {
    "if": integrate_and_fire(),
    "if, hard reset": integrate_and_fire(v_reset=0.0),
    "lif": leaky_integrate_and_fire(tau=4.0),
    "signed": signed_memory(),
}


def calibrated(neuron, x):
    return pipe(cnn(), trace, fuse, replace(neuron=neuron, threshold=lambda site, summary: torch.tensor(1.5)), to_snn)


@pytest.mark.parametrize("neuron", NEURONS)
def test_stepping_by_hand_is_the_run_and_the_sequence(neuron, x):
    snn = calibrated(NEURONS[neuron], x)
    x_seq = torch.randn(6, *x.shape, dtype=x.dtype)
    state, outputs = snn.init(x), []
    for x_t in x_seq:
        state, y = snn.step(state, x_t)
        outputs.append(y)
    assert_same(torch.stack(outputs), snn.sequence(x_seq))
    assert_close(snn(x_seq, T=6, encoding=events()), snn.sequence(x_seq).mean(0))


def test_constant_encoding_is_a_sequence_of_one_value(snn, x):
    assert_close(snn(x, T=5), snn.sequence(x.expand(5, *x.shape)).mean(0))
    assert_same(snn(x, T=5, encoding=constant()), snn(x, T=5))


@pytest.mark.parametrize("build", [lambda x: spiking(cnn(), x), lambda x: pipe(cnn(), trace, td_rewrite, to_snn)])
def test_step_leaves_the_given_state_alone(build, x):
    snn = build(x)
    start = snn.init()
    middle, _ = snn.step(start, x)
    before = copy.deepcopy(middle.cells), copy.deepcopy(middle.decoded)
    _, first = snn.step(middle, 2 * x)
    _, second = snn.step(middle, 2 * x)
    assert_same(first, second)
    assert_same((dict(middle.cells), middle.decoded), (dict(before[0]), before[1]))
    assert (start.t, middle.t) == (0, 1)
    assert_same(snn.step(start, x)[1], snn.step(snn.init(), x)[1])


def test_poisson_is_reproducible_and_converges():
    model, x = mlp(), vectors(4).clamp(-1, 1)
    snn = spiking(model, x, 4 * vectors(64))

    def run(seed, T):
        return snn(x, T=T, encoding=poisson(torch.Generator().manual_seed(seed)))

    assert_same(run(1, 20), run(1, 20))
    assert not torch.equal(run(1, 20), run(2, 20))
    # the mean of T spikes has standard deviation at most 1 / (2 sqrt T) per input; the net is 1-Lipschitz up to
    # the product of its spectral norms, and 5 standard deviations of 4 x 6 inputs are never exceeded
    slope = torch.stack([torch.linalg.matrix_norm(m.weight, 2) for m in model if isinstance(m, nn.Linear)]).prod()
    T = 1024
    limit = 5 * (x.numel() / (4 * T)) ** 0.5 * slope.item()
    assert (run(3, T) - model(x)).norm() < limit < model(x).norm()


def test_poisson_refuses_what_it_cannot_encode(snn, x):
    with pytest.raises(InputError, match=r"\[-1, 1\].*scale"):
        snn(3 + x, T=2, encoding=poisson())
    td = pipe(cnn(), trace, td_rewrite, to_snn)
    with pytest.raises(InputError, match="RATE"):
        td(x.clamp(-1, 1), T=2, encoding=poisson())


def test_no_gradients_by_default_and_on_request(snn, x):
    state, y = snn.step(snn.init(), x)
    carried = tensors_of((dict(state.cells), dict(state.statics), state.decoded, y, snn(x, T=2)))
    assert carried
    assert not any(tensor.requires_grad for tensor in carried)
    snn.requires_grad_()
    assert snn(x, T=2).requires_grad


class Counting(TorchDispatchMode):
    """Counts calls by operator name."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **kwargs or {})


def test_the_first_layer_runs_once_and_the_head_when_read(snn, x):
    T = 9
    for budget, calls in ((snn.budget, 1), (1, T)):  # of the second layer: all steps together, or one by one
        snn.budget = budget
        with Counting() as mode, torch.no_grad():
            snn(x, T=T)
        assert mode.calls["convolution"] == 1 + calls
        assert mode.calls["addmm"] == 1


def test_memory_is_flat_in_time(snn, x):
    sizes = []
    state = snn.init()
    for _ in range(4):
        state, _ = snn.step(state, x)
        sizes.append(sum(t.numel() for t in tensors_of((dict(state.cells), dict(state.statics), state.decoded))))
    assert len(set(sizes)) == 1


def test_print_shows_where_the_neurons_are(snn):
    shown = repr(snn)
    assert list(snn.neurons()) == ["2__if0", "4__if0"]
    assert "2__if0" in shown
    assert "4__if0" in shown
    code = snn.graph_module.print_readable(print_output=False)
    assert "2__if0" in code.replace("_2__", "2__")
    assert "conv2d" in code


@pytest.mark.parametrize("T", [0, -3, 2.5, "8", True, None])
def test_bad_number_of_steps(snn, x, T):
    with pytest.raises(InputError, match="T is the number of time steps"):
        snn(x, T=T)


def test_missing_number_of_steps(snn, x):
    with pytest.raises(TypeError, match="T"):
        snn(x)


class Tokens(nn.Module):
    """Whole numbers say where, floats say what."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.a = nn.Embedding(10, 4), nn.Linear(4, 4)

    def forward(self, x, ids):
        return self.a(torch.tanh(x + self.e(ids)))


def test_whole_numbers_stay_the_same_through_a_sequence():
    torch.manual_seed(0)
    model = Tokens().double().eval()
    ids, x_seq = torch.randint(0, 10, (2, 3)), torch.randn(5, 2, 3, 4, dtype=torch.float64)
    td = pipe(model, trace, td_rewrite, to_snn)
    expected = torch.stack([model(x, ids) for x in x_seq.cumsum(0)])
    assert_close(td.sequence(x_seq, ids).cumsum(0), expected)
    assert_close(td.sequence(x_seq, ids=ids), td.sequence(x_seq, ids))
    state, outputs = td.init(x_seq[0], ids), []
    for x in x_seq:
        state, y = td.step(state, x, ids)
        outputs.append(y)
    assert_close(torch.stack(outputs).cumsum(0), expected)
    assert_close(td(x_seq, ids, T=5, encoding=events()), expected[-1])


def test_names_of_the_network_itself_are_free_for_the_user():
    names = ("code", "graph", "meta", "recompile", "weights", "history", "_boxed_call", "graph_module")
    model = nn.Sequential(OrderedDict((name, nn.Linear(3, 3)) for name in names)).eval()
    x = torch.randn(4, 3)
    assert_close(pipe(model, trace, td_rewrite, to_snn)(x, T=2), model(x))

    class Boxed(nn.Module):
        def __init__(self):
            super().__init__()
            self._boxed_call = nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            return x * self._boxed_call

    snn = pipe(Boxed(), trace, td_rewrite, to_snn)
    assert_close(snn(x, T=2), 3 * x)
    assert list(snn.state_dict()) == ["_boxed_call"]


BAD_INPUTS = {
    "numpy": (lambda snn: snn(np.zeros((1, 2, 6, 6)), T=2), r"torch\.as_tensor"),
    "list": (lambda snn: snn([[0.0]], T=2), r"torch\.as_tensor"),
    "nothing": (lambda snn: snn(T=2), "takes 1 input"),
    "too many": (lambda snn: snn(images(), images(), T=2), "takes 1 input"),
    "unknown name": (lambda snn: snn(images(), y=images(), T=2), "y"),
    "twice": (lambda snn: snn(images(), input=images(), T=2), "input"),
    "readout": (lambda snn: snn(images(), T=2, readout="mean"), "'mean'"),
    "too few events": (lambda snn: snn(images()[None], T=2, encoding=events()), "1 step"),
    "unknown schedule": (lambda snn: snn(images(), T=2, schedule="parallel"), '"layer"'),
    "too few features": (lambda snn: snn(images()[..., :2], T=1), r"shapes \(4, 2, 6, 2\)"),
    "another batch in mid-stream": (
        lambda snn: snn.step(snn.step(snn.init(), images())[0], images()[:1]),
        "steps before",
    ),
    "no time axis": (lambda snn: snn.sequence(torch.zeros(())), r"T, B"),
    "no step": (lambda snn: snn.sequence(images()[None][:0]), "T >= 1"),
    "whole numbers as events": (lambda snn: snn.sequence(torch.ones(3, 1, 2, 6, 6).long()), "float"),
    "wrong rank": (lambda snn: snn.sequence(images()), r"\(T, B"),
}


@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_bad_inputs_say_what_to_do(snn, bad):
    call, text = BAD_INPUTS[bad]
    with pytest.raises(InputError, match=text):
        call(snn)
