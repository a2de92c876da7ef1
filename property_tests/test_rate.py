"""Rate coding: the network of spiking neurons comes as near to the ANN as one wants, with an error of about 1/T."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

import snnpipe
from property_tests import tolerances
from property_tests.strategies import BLOCKS, Net, decode, few, inputs, nets, relu_nets
from snnpipe import (
    RATE,
    InputError,
    ThresholdWarning,
    calibrate,
    constant,
    fuse,
    instrument,
    integrate_and_fire,
    maximum,
    pipe,
    poisson,
    replace,
    scaled,
    signed_memory,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from snnpipe.waves import Wave

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")  # a drawn network may have no ReLU


def convert(net: nn.Module, x: torch.Tensor, *stages: Any, statistic: Any = "max") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ThresholdWarning)  # a drawn network has dead channels; they stay silent
        return pipe(net, trace, fuse, instrument(statistic=statistic), calibrate([x]), *stages, to_snn)


def norm(tree: Any) -> float:
    return max(leaf.abs().max().item() for leaf in tree_leaves(tree))


def minus(a: Any, b: Any) -> Any:
    return tree_map(lambda u, v: u - v, a, b)


@few(0.6)
@given(
    net=relu_nets(max_blocks=3), seed=st.integers(0, 99),
    neuron=st.sampled_from([integrate_and_fire(), signed_memory()]),
)  # fmt: skip
def test_the_error_falls_as_one_over_t(net, seed, neuron):
    """Nothing saturates (thresholds a quarter above the maximum), so err(4T) is about err(T) / 4.

    The error of one spike train is a sawtooth of at most a threshold per T; the floor is that quantum, summed over
    the sites.
    """
    net = net.double().eval()
    x = inputs(net, seed)
    snn = convert(net, x, replace(neuron=neuron), statistic=scaled(1.25))
    with torch.no_grad():
        ann = net(x.clone())
        every = snn(x, T=256, readout="every")
    outputs = {T: tree_map(lambda leaf, T=T: leaf[T - 1], every) for T in (64, 256)}
    error = {T: norm(minus(out, ann)) for T, out in outputs.items()}
    thetas = [n.threshold.max().item() for n in snn.neurons().values()]
    quantum = sum(theta for theta in thetas if theta < 1e6)
    rounding = 256 * tolerances.temporal(net, RATE, x[None])
    assert error[256] <= 0.5 * error[64] + 2 * quantum / 256 + rounding


@given(
    seed=st.integers(0, 99), width=st.integers(1, 6), T=st.integers(1, 40), per=st.sampled_from(["channel", "layer"])
)
def test_one_layer_calibrated_by_its_maximum_is_off_by_less_than_a_threshold_over_t(seed, width, T, per):
    """The sharp form, for one layer: abs(error) <= theta / (2 T) because v_init = theta / 2."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Identity()).double()
        x = torch.randn(5, 4, dtype=torch.float64)
    snn = convert(model, x, statistic=maximum(per=per))
    (neuron,) = snn.neurons().values()
    with torch.no_grad():
        error = (snn(x, T=T) - model(x)).abs()
    theta = neuron.threshold.where(neuron.threshold < 1e6, torch.zeros(()).double())
    slack = T * tolerances.temporal(model, RATE, x[None])
    assert (error <= theta / (2 * T) + slack).all()


@few(0.4)
@given(net=nets(), seed=st.integers(0, 99), T=st.integers(1, 4))
def test_scanning_step_equals_the_run(net, seed, T):
    net = net.double().eval()
    x = inputs(net, seed)
    snn = convert(net, x)
    with torch.no_grad():
        state, events = snn.init(x), []
        for _ in range(T):
            state, y = snn.step(state, x)
            events.append(y)
        ran = snn(x, T=T)
        assert tree_structure(ran) == tree_structure(net(x.clone()))
        # spikes are decided by comparing rounded potentials: two orders of summation may decide a tie differently,
        # so what is compared is the same program on the same bits, once per step and once per run
        stream = snn(x[None].expand(T, *x.shape), T=T, encoding=snnpipe.events())
        for k, (a, b) in enumerate(zip(tree_leaves(stream), tree_leaves(state.decoded), strict=True)):
            assert torch.equal(a, b)
            Y = decode(torch.stack([tree_leaves(y)[k] for y in events]), RATE)[-1]
            assert (Y - b).abs().max() <= tolerances.summed(b.dtype, T, 1 + b.abs().max().item())


@few(0.4)
@given(net=relu_nets(), seed=st.integers(0, 99), T=st.integers(1, 5))
def test_every_step_of_a_run_is_the_run_of_that_length(net, seed, T):
    net = net.double().eval()
    x = inputs(net, seed)
    snn = convert(net, x)
    with torch.no_grad():
        every = tree_leaves(snn(x, T=T, readout="every"))
        iterated = list(snn.iterate(x, T=T))
        for t in range(1, T + 1):
            last = tree_leaves(snn(x, T=t))
            assert all(torch.equal(a[t - 1], b) for a, b in zip(every, last, strict=True))
            assert all(map(torch.equal, tree_leaves(iterated[t - 1]), last))


@few(0.4)
@given(net=nets(), seed=st.integers(0, 99))
def test_pipe_equals_nested_calls(net, seed):
    net = net.double().eval()
    x = inputs(net, seed)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", ThresholdWarning)
        piped = pipe(net, trace, fuse, calibrate([x]), to_snn)
        nested = to_snn(calibrate([x])(fuse(trace(net))))
        spelled = to_snn(replace(calibrate([x])(instrument()(fuse()(trace()(net))))))
        for T in (1, 3):
            a, b, c = (tree_leaves(snn(x, T=T)) for snn in (piped, nested, spelled))
            assert all(map(torch.equal, a, b))
            assert all(map(torch.equal, a, c))


@few(0.4)
@given(net=nets(), seed=st.integers(0, 99), batch=st.integers(1, 4))
def test_two_calls_and_another_batch_size(net, seed, batch):
    assume("gram" not in net.recipe[1])  # a product over the batch is no function of one sample
    net = net.double().eval()
    x = inputs(net, seed, batch=2)
    snn = convert(net, x)
    with torch.no_grad():
        first = tree_leaves(snn(x, T=2))
        snn(inputs(net, seed + 1, batch=batch), T=3)
        assert all(map(torch.equal, tree_leaves(snn(x, T=2)), first))


@given(net=nets(), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_a_traced_network_is_the_network(net, seed, dtype):
    net = net.to(dtype).eval()
    x = inputs(net, seed)
    with torch.no_grad():
        expected, found = net(x.clone()), to_module(trace(net))(x.clone())
    assert tree_structure(expected) == tree_structure(found)
    bound = 4 * tolerances.REDUCTION * tolerances.rounding(net, x)
    assert norm(minus(expected, found)) <= bound


@pytest.mark.parametrize("spelling", [k for k in BLOCKS if k.startswith("relu_")])
def test_every_spelling_of_relu_is_one_site(spelling):
    state = instrument(trace(Net(False, (spelling,), (0, 0), (0, 0), "classes")))
    assert [site.cap for site in state.sites.values()] == [None, None]
    assert {state.graph[name].op for name in state.sites} == {"relu"}


def test_a_cap_of_infinity_is_no_cap():
    """Half a threshold per T at each of two neurons, times the weights that read them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(0.0, float("inf")), nn.Linear(2, 2)).double()
        x = torch.randn(6, 2, dtype=torch.float64)
    snn, T = convert(model, x), 100
    with torch.no_grad():
        quantum = model[:2](x).max() / (2 * T) * model[2].weight.abs().sum(1).max()
        assert norm(snn(x, T=T) - model(x)) <= quantum + T * tolerances.temporal(model, RATE, x[None])


class Two(nn.Module):
    def forward(self, beta, alpha):
        return beta + 2 * alpha


@given(seed=st.integers(0, 99), T=st.integers(1, 6), K=st.sampled_from([1, 2, None]))
def test_random_events_are_drawn_step_by_step_then_by_name(seed, T, K):
    """Whatever the schedule and the order of the arguments."""
    snn = pipe(Two(), trace, td_rewrite(code=RATE), to_snn)
    alpha, beta = torch.rand(2, 3), torch.rand(2, 3)
    source = torch.Generator().manual_seed(seed)
    drawn = [{name: (torch.rand(2, 3, generator=source) < x).float() for name, x in (("alpha", alpha), ("beta", beta))}
             for _ in range(T)]  # fmt: skip
    wanted = sum(step["beta"] + 2 * step["alpha"] for step in drawn) / T
    for args, named in ((beta, alpha), {}), ((), {"alpha": alpha, "beta": beta}), ((beta,), {"alpha": alpha}):
        found = snn(*args, **named, T=T, schedule=Wave(K), encoding=poisson(torch.Generator().manual_seed(seed)))
        assert torch.allclose(found, wanted, rtol=0, atol=3 * (T + 2) * torch.finfo(torch.float32).eps)


@given(seed=st.integers(0, 99), T=st.integers(1, 5))
def test_poisson_spikes_come_from_the_generator_alone(seed, T):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    x = torch.rand(2, 3)
    snn = convert(model, x)
    a, b = (snn(x, T=T, encoding=poisson(torch.Generator().manual_seed(seed))) for _ in range(2))
    assert torch.equal(a, b)
    with pytest.raises(InputError):
        snn(2 + x, T=T, encoding=poisson())
    assert snn(x, T=T, encoding=constant()).shape == a.shape
