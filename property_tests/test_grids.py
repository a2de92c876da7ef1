"""Rounding to a grid: the nearest point of it, and of a point itself."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.strategies import few, inputs, nets
from property_tests.test_fusion import CONVS
from snnpipe import fuse, pipe, quantise_weights, roundings, state_equal, to_module, trace
from snnpipe.kernels.grid import is_on_grid, rounded, steps
from snnpipe.kernels.scaling import output_axes

BITS = st.integers(2, 12)
FLOATS = st.sampled_from([torch.float32, torch.float64])


@st.composite
def rows(draw: Any) -> Tensor:
    g = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    drawn = torch.randn(draw(st.integers(1, 5)), draw(st.integers(1, 9)), generator=g, dtype=torch.float64)
    drawn[draw(st.integers(0, len(drawn) - 1))] *= draw(st.sampled_from([0.0, 1e-3, 1e6]))
    return drawn.to(draw(FLOATS))


@given(w=rows(), bits=BITS, shared=st.booleans())
def test_the_nearest_point_of_the_grid(w, bits, shared):
    q, step = rounded(w, bits, shared=shared), steps(w, bits, shared=shared)
    multiples = q.double() / step
    top = 2 ** (bits - 1) - 1
    off = top * torch.finfo(w.dtype).eps  # a multiple is rounded once to the dtype, a division rounds once more
    assert (multiples - multiples.round()).abs().max() <= off < 0.5
    assert multiples.abs().max() <= top + off
    assert ((q - w).abs().double() <= step * (0.5 + off)).all()


@given(w=rows(), bits=BITS, shared=st.booleans())
def test_a_point_of_the_grid_stays(w, bits, shared):
    q = rounded(w, bits, shared=shared)
    assert torch.equal(steps(q, bits, shared=shared), steps(w, bits, shared=shared))
    assert torch.equal(rounded(q, bits, shared=shared), q)
    assert is_on_grid(q, bits, shared=shared)
    assert is_on_grid(w, bits, shared=shared) == torch.equal(w, q)


@given(w=rows(), bits=BITS)
def test_signs_and_scales_of_rows_go_through(w, bits):
    q = rounded(w, bits, shared=False)
    assert torch.equal(rounded(-w, bits, shared=False), -q)
    factors = 2.0 ** torch.arange(len(w), dtype=w.dtype).reshape(-1, 1)
    assert torch.equal(rounded(w * factors, bits, shared=False), q * factors)


@given(dims=st.sampled_from([1, 2, 3]), transposed=st.booleans(), groups=st.sampled_from([1, 2, 4]), bits=BITS,
       seed=st.integers(0, 99))  # fmt: skip
def test_each_output_channel_has_its_step(dims, transposed, groups, bits, seed):
    """A channel of the output whose weights are tiny keeps them: its largest weight stays to the bit."""
    torch.manual_seed(seed)
    conv = CONVS[transposed, dims](4, 8, 2, groups=groups, bias=False).double()
    x = torch.randn(1, 4, *[3] * dims, dtype=torch.float64)
    with torch.no_grad():
        output_axes(f"conv_transpose{dims}d" if transposed else f"conv{dims}d", conv.weight, groups)  # a copy or a view
        scales = 10.0 ** -torch.arange(8, dtype=torch.float64)
        made = pipe(conv, trace, quantise_weights(bits=bits), to_module)
        small = pipe(_scaled(conv, scales, transposed, groups), trace, quantise_weights(bits=bits), to_module)
        want = made(x) * scales.reshape(-1, *[1] * dims)
        top = 2 ** (bits - 1)  # a tie may go the other way by the rounding of a scaled weight
        bound = torch.finfo(torch.float64).eps * top * 64 * scales.reshape(-1, *[1] * dims)
        assert ((small(x) - want).abs() <= bound * (1 + want.abs())).all()


def _scaled(conv: nn.Module, scales: Tensor, transposed: bool, groups: int) -> nn.Module:
    """The layer with its output channels scaled."""
    made = type(conv)(4, 8, 2, groups=groups, bias=False).double()
    if transposed:
        by = scales.reshape(groups, 1, -1).expand(-1, 4 // groups, -1).reshape(4, -1)
    else:
        by = scales.reshape(-1, 1)
    made.weight = nn.Parameter(conv.weight * by.reshape(*by.shape, *[1] * (conv.weight.ndim - 2)))
    return made


@few(0.6)
@given(net=nets(), bits=BITS, per=st.sampled_from(["channel", "layer"]), seed=st.integers(0, 99))
def test_networks_on_a_grid(net, bits, per, seed):
    state = pipe(net.double().eval(), trace, fuse)
    made = quantise_weights(bits=bits, per=per)(state)
    told = roundings(state, bits=bits, per=per)
    assert quantise_weights(bits=bits, per=per)(made) is made
    assert all(found.largest == 0.0 for found in roundings(made, bits=bits, per=per))
    assert sum(found.largest > 0 for found in told) == sum(key.endswith("__rounded") for key in made.params)
    errors = {found.key: found for found in told}
    for key in made.params:
        if key.endswith("__rounded"):
            old, new, found = state.params[key.removesuffix("__rounded")], made.params[key], None
            found = errors[key.removesuffix("__rounded")]
            assert found.largest == (new - old).abs().max()
            assert abs(found.relative - (new - old).norm() / old.norm()) <= 1e-9 * found.relative
    assert state_equal(quantise_weights(bits=bits, per=per)(state), made)
    with torch.no_grad():
        to_module(made)(inputs(net, seed, dtype=torch.float64))
