"""A network that was trained quantised and its spiking twin are one function, bit for bit where sums are exact."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests import purity
from property_tests.test_layers import dyadic
from snnpipe import fuse, instrument, pipe, replace, td_rewrite, to_module, to_snn, trace
from snnpipe.ops.quantisers import QCFS
from snnpipe.rules.placement import PLACEMENT_RULES
from snnpipe.stages.matching import matching_levels

WIDTH = 4


def activation(seed: int, levels: int, channels: bool, axis: int) -> QCFS:
    g = torch.Generator().manual_seed(seed)
    theta = 2.0 ** torch.randint(-1, 3, (WIDTH if channels else 1,), generator=g)
    return QCFS(levels, theta, axis=axis if channels else None)


@st.composite
def quantised_nets(draw, images=False):
    """Linear or convolutional, with dyadic weights and thresholds; a pool or a ReLU beside some activations."""
    seed, layers, channels = draw(st.integers(0, 9999)), draw(st.integers(1, 3)), draw(st.booleans())
    levels, spatial = draw(st.sampled_from([1, 2, 4, 8])), images and draw(st.booleans())
    modules: list[nn.Module] = []
    for k in range(layers):
        affine = nn.Conv2d(WIDTH, WIDTH, 1) if spatial else nn.Linear(WIDTH, WIDTH)
        affine.weight.data = dyadic(*affine.weight.shape, seed=seed + k)
        affine.bias.data = dyadic(WIDTH, seed=seed + k + 50)
        modules += [affine, nn.ReLU()] if draw(st.booleans()) else [affine]
        modules.append(activation(seed + k, levels, channels, -3 if spatial else -1))
        modules += [nn.MaxPool2d(2, 1)] if spatial and draw(st.booleans()) else []
    return nn.Sequential(*modules).double().eval(), levels, layers, spatial


def samples(spatial: bool, seed: int) -> Tensor:
    return dyadic(*((2, WIDTH, 4, 4) if spatial else (3, WIDTH)), seed=seed)


@given(drawn=quantised_nets(images=True), seed=st.integers(0, 999))
def test_layer_after_layer_for_as_many_steps_as_levels(drawn, seed):
    model, levels, _, spatial = drawn
    x = samples(spatial, seed)
    state = pipe(model, trace, fuse, instrument)
    want = model(x)
    assert torch.equal(to_module(state)(x), want)  # pools and ReLUs were moved or dropped
    assert len(state.sites) == sum(isinstance(layer, QCFS) for layer in model)
    assert torch.equal(to_snn(state)(x, T=levels, schedule="layer"), want)


@given(drawn=quantised_nets(), seed=st.integers(0, 999))
def test_under_td_each_level_of_each_layer_takes_one_step_at_most(drawn, seed):
    model, levels, layers, _ = drawn
    x = samples(False, seed)
    td = pipe(model, trace, replace(rules=(matching_levels,)), td_rewrite, to_snn)
    assert torch.equal(td(x, T=levels * layers), model(x))


@given(drawn=quantised_nets(images=True))
def test_nothing_else_changes(drawn):
    model, *_ = drawn
    state = trace(model)
    with purity.unchanged(model, state), purity.WriteGuard(model, state):
        pipe(state, instrument, replace, to_snn)


@pytest.mark.parametrize("rule", PLACEMENT_RULES, ids=lambda rule: rule.__name__)
def test_a_rewrite_leaves_other_nodes_alone(rule):
    state = trace(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)))
    assert all(rule(node, state.graph, state.params) is None for node in state.graph)
