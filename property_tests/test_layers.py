"""Layer after layer: a neuron that knows its whole input is a quantiser, and the network the quantised ANN."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.strategies import codes
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    fixed,
    geometric,
    integrate_and_fire,
    low_pass,
    pipe,
    replace,
    restarted,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.runtime.depth import depth


def dyadic(*shape: int, seed: int, bits: int = 3) -> Tensor:
    """Multiples of 2**-bits: sums and products of a few are exact."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**bits), 2**bits + 1, shape, generator=g).double() / 2**bits


def network(seed: int, layers: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for k in range(layers):
        linear = nn.Linear(4, 4).double()
        linear.weight.data, linear.bias.data = dyadic(4, 4, seed=seed + k), dyadic(4, seed=seed + k + 50)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1]).eval()


def qcfs(x: Tensor, theta: float, levels: int) -> Tensor:
    return theta * torch.floor(x * levels / theta + 0.5).clamp(0, levels) / levels


@given(seed=st.integers(0, 9999), layers=st.integers(2, 4), T=st.sampled_from([1, 2, 4, 8]), power=st.integers(-1, 2))
def test_integrate_and_fire_is_the_qcfs_quantiser_bit_for_bit(seed, layers, T, power):
    model, theta = network(seed, layers), 2.0**power
    snn = pipe(model, trace, replace(threshold=fixed(theta)), to_snn)
    x = expected = dyadic(3, 4, seed=seed + 99)
    with torch.no_grad():
        for module in model:
            expected = qcfs(expected, theta, T) if isinstance(module, nn.ReLU) else module(expected)
        assert torch.equal(snn(x, T=T, schedule="layer"), expected)
    assert depth(snn.graph) == layers - 1


@pytest.mark.parametrize("neuron", [integrate_and_fire(), integrate_and_fire(v_init=0.0), signed_memory()], ids=str)
@given(seed=st.integers(0, 9999), code=codes(), T=st.integers(1, 6))
def test_for_one_layer_both_schedules_are_the_same(neuron, seed, code, T):
    model = network(seed, 2)
    snn = pipe(model, trace, replace(neuron=neuron, threshold=fixed(1.0)), td_rewrite(code=code), to_snn)
    x = dyadic(3, 4, seed=seed + 99)
    with torch.no_grad():
        waiting, together = snn(x, T=T, schedule="layer"), snn(x, T=T)
    worth = sum(abs(w) for w in code.worth(T)) * 4  # the decoded hidden values are at most this large
    bound = 64 * T * torch.finfo(torch.float64).eps * (1 + worth)
    assert (waiting - together).abs().max() <= bound


@pytest.mark.parametrize("code", [RATE, TD, DIFFERENTIAL, geometric(2.0), low_pass(3.0), restarted(2)], ids=str)
@pytest.mark.parametrize("T", [1, 3, 8])
def test_the_worth_of_events_is_what_decoding_gives_them(code, T):
    events = torch.randn(T, dtype=torch.float64)
    decoded = torch.zeros((), dtype=torch.float64)
    for t, x in enumerate(events, 1):
        decoded = code.clock(t).alpha * decoded + code.clock(t).a * x
    worth = torch.tensor(code.worth(T), dtype=torch.float64)
    assert (worth @ events - decoded).abs() <= 4 * T * torch.finfo(torch.float64).eps * (worth.abs() @ events.abs())


def test_bit_planes_are_the_binary_expansion():
    """Binary events under geometric(2): step t sends bit t of the activation, most significant first."""
    neuron = integrate_and_fire(v_init=0.0)
    snn = pipe(nn.ReLU(), trace, replace(neuron=neuron, threshold=fixed(1.0)), td_rewrite(code=geometric(2.0)), to_snn)
    x = torch.arange(0, 16, dtype=torch.float64) / 16
    assert torch.equal(snn(x, T=4, schedule="layer"), x)
    assert torch.equal(snn(x, T=2, schedule="layer"), torch.floor(x * 4) / 4)
