"""Neurons compiled by torch: the same events, and a way on where there is no compiler."""

import pytest
import torch
from torch import nn

from property_tests.test_runs import Net
from snnpipe import (
    CompileWarning,
    StageError,
    compiled,
    fixed,
    integrate_and_fire,
    leaky_integrate_and_fire,
    pipe,
    replace,
    signed_memory,
    to_snn,
    trace,
    wave,
)  # fmt: skip
from snnpipe.kernels import fused


def pair(neuron):
    g = torch.Generator().manual_seed(2)
    state = pipe(Net(g).eval(), trace)
    made = [pipe(state, replace(neuron=n, threshold=fixed(0.75)), to_snn) for n in (neuron, compiled(neuron))]
    return *made, torch.randn(3, 2, 4, 4, generator=g, dtype=torch.float64)


@pytest.fixture
def kernel(monkeypatch):
    """The kernel, followed by torch.compile and run as torch has it, which takes no compiler; how often it ran."""
    calls = []

    def backend(gm, example):
        def run(*args):
            calls.append(1)
            return gm.forward(*args)

        return run

    torch._dynamo.reset()
    monkeypatch.setattr(fused.KERNEL, "run", torch.compile(fused.steps, dynamic=True, backend=backend))
    return calls


@pytest.mark.parametrize("neuron", [integrate_and_fire(), integrate_and_fire(v_init=0.25), signed_memory()], ids=str)
@pytest.mark.parametrize("schedule", ["step", wave(2), "layer"], ids=str)
def test_compiled_neurons_send_the_same(neuron, schedule, kernel):
    plain, fast, x = pair(neuron)
    with torch.no_grad():
        for T in (1, 6, 7):
            for a, b in zip(plain(x, T=T, schedule=schedule), fast(x, T=T, schedule=schedule), strict=True):
                assert torch.equal(a, b)
    assert bool(kernel) == (schedule == "step" and neuron.name == "if")


def test_where_a_gradient_is_wanted_nothing_is_compiled(kernel):
    plain, fast, x = pair(integrate_and_fire())
    found = []
    for snn in (plain, fast):
        leaf = x.clone().requires_grad_()
        snn(leaf, T=5)[0].sum().backward()
        found.append(leaf.grad)
    assert torch.equal(*found)
    assert not kernel


def test_without_a_compiler_it_runs_as_it_is_and_says_so_once(monkeypatch, recwarn):
    def none(gm, example):
        raise RuntimeError("no C++ compiler")

    torch._dynamo.reset()
    monkeypatch.setattr(fused.KERNEL, "run", torch.compile(fused.steps, dynamic=True, backend=none))
    plain, fast, x = pair(integrate_and_fire())
    with torch.no_grad():
        assert torch.equal(plain(x, T=6)[0], fast(x, T=6)[0])
        fast(x, T=6)
    said = [str(w.message) for w in recwarn if w.category is CompileWarning]
    assert len(said) == 1
    assert "run uncompiled" in said[0]
    assert "C++ compiler" in said[0]


def test_what_cannot_be_compiled_is_refused():
    with pytest.raises(StageError, match=r"lif.* takes its steps in a way of its own; those of integrate_and_fire"):
        compiled(leaky_integrate_and_fire(tau=2.0))


def test_torch_compile_of_a_network_is_the_network():
    plain, _, x = pair(integrate_and_fire())
    compiled_by_torch = torch.compile(plain, backend="eager")
    assert torch.equal(compiled_by_torch(x, T=4)[0], plain(x, T=4)[0])
    assert isinstance(compiled_by_torch, nn.Module)
