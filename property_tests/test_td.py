"""Exactness: a network carried to a code gives the ANN of the decoded input, at every step and for every split.

Each drawn network is carried in four ways: bare (one accumulate, the ANN, one difference), with *wires* (encoders
that pass events on, so that everything linear has to work on events), with an exact encoder for each activation, and
with each block kept as one call.
"""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves, tree_structure

from property_tests import tolerances
from property_tests.blocks import Block
from property_tests.strategies import (
    ONE_TENSOR,
    Net,
    codes,
    decode,
    event_sequences,
    exact,
    few,
    inputs,
    linear_nets,
    nets,
    with_wires,
)
from snnpipe import TD, ConversionState, InputError, SpikingNetwork, pipe, replace, td_rewrite, to_snn, trace
from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.stages.instrument import instrument
from snnpipe.stages.thresholds import fixed

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")  # a drawn network may have no ReLU


def wired(net: Net, draw: Any) -> ConversionState:
    state = trace(net)
    places = [node.name for node in state.graph if node.op in ONE_TENSOR]
    chosen = draw(st.sets(st.sampled_from(places)) if places else st.just(set()), label="wires after")
    graph, params = with_wires(state.graph, state.params, chosen)
    return state.evolve(graph=graph, params=FrozenMap(params))


def with_exact_activations(net: Net, draw: Any) -> ConversionState:
    def choose(site: Any, neuron: Any) -> Any:
        return exact(lambda Z: Z.clamp(0, site.cap))

    return replace(instrument(trace(net)), neuron=exact(torch.relu), threshold=fixed(1.0), rules=(choose,))


WAYS = {
    "bare": lambda net, draw: trace(net), "wired": wired, "exact activations": with_exact_activations,
    "whole blocks": lambda net, draw: trace(net, leaves=(Block,)),
}  # fmt: skip


def per_step(tree: Any, t: int) -> Any:
    return map_leaves(lambda leaf: leaf[t], tree)


@pytest.mark.parametrize("way", WAYS)
@given(data=st.data(), net=nets(), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_the_decoded_output_is_the_ann_of_the_decoded_input(way, data, net, dtype):
    net, code = net.to(dtype).eval(), data.draw(codes())
    x_seq = data.draw(event_sequences(inputs(net, 0), code))
    td = pipe(WAYS[way](net, data.draw), td_rewrite(code=code), to_snn)
    X = decode(x_seq, code)
    bound = tolerances.temporal(net, code, X)
    with torch.no_grad():
        y_seq = td.sequence(x_seq)
        for t in range(len(x_seq)):
            expected = net(X[t].clone())
            assert tree_structure(per_step(y_seq, t)) == tree_structure(expected)
            for y, Y in zip(tree_leaves(y_seq), tree_leaves(expected), strict=True):
                assert (decode(y, code)[t] - Y).abs().max() <= bound


@pytest.mark.parametrize("way", ["bare", "wired"])
@given(data=st.data(), net=linear_nets())
def test_on_a_dyadic_grid_affine_networks_are_bit_equal_under_td(way, data, net):
    net = net.double().eval()
    x_seq = data.draw(event_sequences(inputs(net, 0), TD, grid=True))
    td = pipe(WAYS[way](net, data.draw), td_rewrite, to_snn)
    with torch.no_grad():
        y_seq = td.sequence(x_seq)
        for t in range(len(x_seq)):
            assert torch.equal(y_seq[: t + 1].sum(0), net(x_seq[: t + 1].sum(0)))


@pytest.mark.parametrize("way", WAYS)
@few(0.6)
@given(data=st.data(), net=nets())
def test_a_sequence_cut_anywhere_with_its_state_carried_over_equals_the_whole(way, data, net):
    """``sequence`` reads steps together and sums in another order: both are the ANN, each to its rounding."""
    net, code = net.eval(), data.draw(codes())
    x_seq = data.draw(event_sequences(inputs(net, 0), code))
    bound = 2 * tolerances.temporal(net, code, decode(x_seq, code))
    td = pipe(WAYS[way](net, data.draw), td_rewrite(code=code), to_snn)
    cut = data.draw(st.integers(0, len(x_seq)))
    state, found = td.init(), []
    for t, x in enumerate(x_seq):
        if t == cut:  # a fork from here must not disturb what follows
            td.step(state, 7 * x)
        state, y = td.step(state, x)
        found.append(y)
    whole = td.sequence(x_seq)
    for steps, y_seq in zip(zip(*map(tree_leaves, found), strict=True), tree_leaves(whole), strict=True):
        assert (decode(torch.stack(steps), code) - decode(y_seq, code)).abs().max() <= bound


@few(0.4)
@given(net=nets(heads=("classes",)), steps=st.integers(1, 4), code=codes())
def test_a_constant_input_is_encoded_under_the_code(net, steps, code):
    """``snn(x, T)`` equals the scan over ``x kappa_t``, and both the ANN."""
    net = net.double().eval()
    x = inputs(net, 1)
    td = pipe(net, trace, td_rewrite(code=code), to_snn)
    x_seq = torch.stack([code.clock(t).kappa * x for t in range(1, steps + 1)])
    bound = tolerances.temporal(net, code, torch.stack([x] * steps))
    with torch.no_grad():
        assert (td(x, T=steps) - net(x.clone())).abs().max() <= bound
        assert (decode(td.sequence(x_seq), code)[-1] - net(x.clone())).abs().max() <= bound


@few(0.6)
@given(data=st.data(), net=nets(heads=("classes",)))
def test_gradients_flow_and_are_those_of_the_ann(data, net):
    net = net.double().eval()
    x_seq = data.draw(event_sequences(inputs(net, 0), TD)).requires_grad_()
    td = pipe(net, trace, td_rewrite, to_snn).requires_grad_()
    x = x_seq.detach().sum(0).requires_grad_()
    shared = dict(td.named_parameters(remove_duplicate=False))
    assert "classes.weight" in shared
    td.sequence(x_seq).sum(0).square().sum().backward()
    net(x * 1.0).square().sum().backward()

    def gradient(at: torch.Tensor) -> torch.Tensor:
        at = at.clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(net(at * 1.0).square().sum(), at)[0]

    bound = tolerances.temporal(gradient, TD, torch.stack([x.detach()] * len(x_seq)))
    assert x_seq.grad is not None
    assert all((g - x.grad).abs().max() <= bound for g in x_seq.grad)
    for key, p in net.named_parameters():
        found = shared.get(key)
        if p.grad is not None and found is not None:
            scale = 1 + p.grad.abs().max().item()
            assert found.grad is not None, key
            assert (found.grad - p.grad).abs().max() <= bound + tolerances.summed(x.dtype, len(x_seq), scale)


@given(net=nets(), steps=st.integers(1, 3))
@few(0.2)
def test_bad_sequences_are_errors(net, steps):
    td = pipe(net.eval(), trace, td_rewrite, to_snn)
    for bad in (torch.zeros(()), inputs(net, 0)[None][:0], [1.0]):
        with pytest.raises(InputError):
            td.sequence(bad)
    for bad in (0, -1, True, 1.5):
        with pytest.raises(InputError):
            td(inputs(net, 0), T=bad)


class Positions(torch.nn.Module):
    def forward(self, x):
        return x + torch.arange(3)


@few(0.6)
@given(code=codes(), steps=st.integers(1, 4), seed=st.integers(0, 99))
def test_integer_constants_keep_the_precision_of_the_network(code, steps, seed):
    state = trace(Positions())
    graph, params = with_wires(state.graph, state.params, None)
    td = pipe(state.evolve(graph=graph, params=FrozenMap(params)), td_rewrite(code=code), to_snn)
    x_seq = torch.randn(steps, 2, 3, generator=torch.Generator().manual_seed(seed)).double()
    X = decode(x_seq, code)
    assert (decode(td.sequence(x_seq), code) - Positions()(X)).abs().max() <= tolerances.temporal(Positions(), code, X)


class Masked(torch.nn.Module):
    def forward(self, x):
        return x.masked_fill(torch.tensor([True, False]), float("-inf"))


@few(0.4)
@given(code=codes(), steps=st.integers(1, 4), wire=st.booleans())
def test_infinities_stay_what_they_are(code, steps, wire):
    """An attention mask of -inf is -inf at every step, and never the NaN of inf - inf."""
    state = trace(Masked())
    if wire:
        graph, params = with_wires(state.graph, state.params, None)
        state = state.evolve(graph=graph, params=FrozenMap(params))
    x_seq = torch.ones(steps, 1, 2)
    y_seq = pipe(state, td_rewrite(code=code), to_snn).sequence(x_seq)
    assert torch.equal(decode(y_seq, code)[..., 0], torch.full((steps, 1), float("-inf")))


@few(0.4)
@given(data=st.data(), net=nets(), code=codes())
def test_a_copy_of_the_network_gives_the_same_bits(data, net, code):
    td: SpikingNetwork = pipe(net.eval(), trace, td_rewrite(code=code), to_snn)
    x = inputs(net, 2)
    first, second = td(x, T=2), td(x, T=2)
    copied = copy.deepcopy(td)(x, T=2)
    for a, b, c in zip(tree_leaves(first), tree_leaves(second), tree_leaves(copied), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
