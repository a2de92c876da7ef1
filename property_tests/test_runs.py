"""A run computes many steps together, as many as its budget holds; the answer is that of the steps in turn."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from property_tests.strategies import codes
from property_tests.test_waves import LOSING, NEURONS
from snnpipe import (
    RATE,
    InputError,
    constant,
    events,
    fixed,
    pipe,
    repaired,
    replace,
    restarted,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
    wave,
)  # fmt: skip
from snnpipe.kernels.neuron import integrate_and_fire
from snnpipe.runtime.presented import _AT_ONCE, BUDGET

EPS = torch.finfo(torch.float64).eps


class Net(nn.Module):
    """Convolutions, a skip, a gate and a head; read after the last neuron by its size too."""

    def __init__(self, g):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1).double(), nn.Conv2d(4, 4, 3, padding=1, groups=2).double()
        self.head = nn.Linear(4, 3).double()
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) / 2

    def forward(self, x):
        h = torch.relu(self.a(x))
        h = torch.relu(self.b(h)) + h * torch.sigmoid(h.mean((2, 3), keepdim=True))
        h = torch.relu(h)
        return self.head(nn.functional.adaptive_avg_pool2d(h, 1).flatten(1)), h


def network(neuron, code, seed):
    g = torch.Generator().manual_seed(seed)
    snn = pipe(Net(g).eval(), trace, replace(neuron=neuron, threshold=fixed(0.75)), td_rewrite(code=code), to_snn)
    return snn, torch.randn(3, 2, 4, 4, generator=g, dtype=torch.float64)


def close(found, want, code, T):
    """Equal but for the rounding of a few thousand operations; a single event more is a hundred million times that."""
    size = sum(abs(w) for w in code.worth(T)) + 1
    for a, b in zip(found, want, strict=True):
        assert a.shape == b.shape
        assert a.is_contiguous()
        assert (a - b).abs().max() <= 2**14 * T * EPS * size * (1 + b.abs().max())


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@given(seed=st.integers(0, 999), code=codes(), T=st.integers(1, 7), K=st.sampled_from([1, 1, 2, 3]))
def test_a_run_ends_where_its_steps_end(neuron, seed, code, T, K):
    if neuron.objection(code):
        return
    snn, x = network(neuron, code, seed)
    with torch.no_grad():
        *_, want = snn.iterate(x, T=T, schedule=wave(K))
        for budget in (1, 3 * 4 * 4 * 4 * 8 * 4 * 2, BUDGET):  # a step at a time, two, all
            snn.budget = budget
            close(snn(x, T=T, schedule=wave(K)), want, code, T)


TWICE = (repaired(integrate_and_fire()), repaired(signed_memory(), how="mask"))


@pytest.mark.parametrize("neuron", [*LOSING, *TWICE], ids=str)
@pytest.mark.parametrize("schedule", ["step", wave(2), "layer"], ids=str)
def test_neurons_that_lose_charge_or_look_twice(neuron, schedule):
    code = restarted(3) if "repaired" in repr(neuron) else RATE
    snn, x = network(neuron, code, 5)
    *_, want = snn.iterate(x, T=7, schedule=schedule)
    close(snn(x, T=7, schedule=schedule), want, code, 7)


@pytest.mark.parametrize("encoding", [constant(), events()], ids=str)
@pytest.mark.parametrize("neuron", [integrate_and_fire(), signed_memory()], ids=str)
@pytest.mark.parametrize("schedule", ["step", wave(2)], ids=str)
@pytest.mark.parametrize("delay", [0, 2, 4])
def test_delays_and_encodings(encoding, neuron, schedule, delay):
    snn, x = network(neuron, RATE, 7)
    given = x if encoding.encode is None else torch.stack([x, -x, 2 * x, 0 * x, x, x, 3 * x])
    options = {"T": 7, "encoding": encoding, "schedule": schedule, "delay": delay}
    *_, want = snn.iterate(given, **options)
    close(snn(given, **options), want, RATE, 7)


def test_gradients_go_through_a_run_as_through_its_steps():
    snn, x = network(integrate_and_fire(), RATE, 3)
    found = []
    for run in (lambda x: snn(x, T=5), lambda x: [*snn.iterate(x, T=5)][-1]):
        leaf = x.clone().requires_grad_()
        run(leaf)[0].square().sum().backward()
        found.append(leaf.grad)
    assert found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_a_run_changes_neither_its_input_nor_the_network_and_says_the_same_twice():
    snn, x = network(integrate_and_fire(), RATE, 3)
    before, held = x.clone(), {key: value.clone() for key, value in snn.state_dict().items()}
    first, again = snn(x, T=9), snn(x, T=9)
    assert torch.equal(x, before)
    assert all(torch.equal(value, held[key]) for key, value in snn.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_budget_is_kept_in_copies_and_must_be_a_number_of_bytes():
    snn, x = network(integrate_and_fire(), RATE, 3)
    snn.budget = 12345
    assert copy.deepcopy(snn).budget == 12345
    snn.budget = "64 MiB"
    with pytest.raises(InputError, match="budget must be a whole number"):
        snn(x, T=2)


def test_memory_does_not_grow_with_the_number_of_steps():
    """The largest tensor of a run holds a window, not all its steps."""
    snn, x = network(integrate_and_fire(), RATE, 3)
    step = 3 * 4 * 4 * 4 * 8
    snn.budget = 8 * _AT_ONCE * step
    largest = []
    for T in (16, 256):
        sizes = []

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                sizes.extend(o.numel() * o.element_size() for o in [out] if isinstance(o, torch.Tensor))  # noqa: B023
                return out

        with torch.no_grad(), Watch():
            snn(x, T=T)
        largest.append(max(sizes))
    assert largest == [8 * step, 8 * step]


def test_what_comes_out_lies_in_memory_as_what_goes_in():
    """Inside, channels come last, in float32 where torch's convolutions take that."""
    snn, x = network(integrate_and_fire(), RATE, 3)
    snn, x = snn.float(), x.float()
    assert snn.get_parameter("a.weight").is_contiguous(memory_format=torch.channels_last)
    _, sent = snn.step(snn.init(x), x)
    for out in (snn(x, T=3), next(snn.iterate(x, T=3)), snn(x, T=3, readout="every"), snn.sequence(x[None]), sent):
        assert all(leaf.is_contiguous() for leaf in out)
    last = snn(x.contiguous(memory_format=torch.channels_last), T=3)[1]
    torch.testing.assert_close(last, snn(x, T=3)[1])
