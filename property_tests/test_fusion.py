"""Fusion: the fused network is the network, within the rounding of its weights; fusing again changes nothing."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_leaves

from property_tests import tolerances
from property_tests.blocks import fill
from property_tests.strategies import few, inputs, nets
from snnpipe import fuse, pipe, to_module, trace

CONVS = {
    (False, 1): nn.Conv1d, (False, 2): nn.Conv2d, (False, 3): nn.Conv3d,
    (True, 1): nn.ConvTranspose1d, (True, 2): nn.ConvTranspose2d, (True, 3): nn.ConvTranspose3d,
}  # fmt: skip
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@st.composite
def layers(draw: Any, dims: int, channels: int = 4) -> nn.Module:
    transposed, groups = draw(st.booleans()), draw(st.sampled_from([1, 2, 4]))
    stride = draw(st.integers(1, 2))
    extra = {"output_padding": draw(st.integers(0, stride - 1))} if transposed else {}
    return CONVS[transposed, dims](
        channels, channels * draw(st.integers(1, 2)), 3, stride=stride, padding=2, dilation=draw(st.integers(1, 2)),
        groups=groups, bias=draw(st.booleans()), **extra,
    )  # fmt: skip


@st.composite
def norms(draw: Any, dims: int, channels: int) -> nn.Module:
    return NORMS[dims](
        channels, eps=draw(st.sampled_from([1e-5, 0.1])), affine=draw(st.booleans()),
        track_running_stats=draw(st.sampled_from([True, True, True, False])),
    )  # fmt: skip


def check(model: nn.Module, x: torch.Tensor) -> Any:
    """The law for one model; returns the fused state."""
    model = model.to(x.dtype).eval()
    state = trace(model)
    fused = fuse(state)
    bound = tolerances.folding(model, x)
    with torch.no_grad():
        for a, b in zip(tree_leaves(model(x.clone())), tree_leaves(to_module(fused)(x.clone())), strict=True):
            assert (a - b).abs().max() <= bound
    assert fuse(fused) is fused
    return fused


def norms_left(state: Any) -> int:
    return sum(node.op == "batch_norm" or "batch_norm" in str(node.get("target", "")) for node in state.graph)


@given(data=st.data(), dims=st.sampled_from([1, 2, 3]), seed=st.integers(0, 999),
       dtype=st.sampled_from([torch.float32, torch.float64]))  # fmt: skip
def test_every_kind_of_convolution(data, dims, seed, dtype):
    conv = data.draw(layers(dims))
    bn = data.draw(norms(dims, conv.out_channels))
    model = fill(nn.Sequential(conv, bn, nn.ReLU()), seed, grid=False)
    g = torch.Generator().manual_seed(seed)
    state = check(model, torch.randn(2, 4, *[5] * dims, generator=g).to(dtype))
    assert norms_left(state) == (0 if bn.track_running_stats else 1)


@given(net=nets(), seed=st.integers(0, 999), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_whole_networks(net, seed, dtype):
    check(net, inputs(net, seed, dtype=dtype))


@given(
    rank=st.integers(2, 3), flat=st.booleans(), bias=st.booleans(), affine=st.booleans(), training=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_linear_is_folded_only_where_batch_norm_acts_on_its_last_axis(rank, flat, bias, affine, training, seed):
    shape = (3, 4) if rank == 2 else (3, 4, 4)  # (N, L, C) with L = C: nothing but the axis tells them apart
    features = 4 ** (rank - 1) if flat else 4
    model = nn.Sequential(nn.Linear(features, 4, bias=bias), nn.BatchNorm1d(4, affine=affine))
    if flat:
        model = nn.Sequential(nn.Flatten(1), *model)
    model = fill(model, seed, grid=False).train(training)
    state = check(model, torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    assert norms_left(state) == (0 if flat else 1)


class Shared(nn.Module):
    """One convolution, several batch norms: by drawn wiring."""

    def __init__(self, wiring: tuple[int, ...], tied: bool, nested: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.other = nn.Conv2d(2, 2, 1, bias=False)
        if tied:
            self.other.weight = self.conv.weight
        if nested:  # batch norms that share their last name
            self.norms = nn.ModuleList(nn.ModuleDict({"bn": nn.BatchNorm2d(2)}) for _ in range(3))
        else:
            self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(3))
        self.wiring, self.nested = wiring, nested

    def norm(self, k: int) -> nn.Module:
        return self.norms[k]["bn"] if self.nested else self.norms[k]

    def forward(self, x):
        y = x
        for choice in self.wiring:  # 0-2: conv and that norm; 3: conv alone; 4: conv read twice; 5: other, norm 0
            if choice < 3:
                y = y + F.relu(self.norm(choice)(self.conv(x)))
            elif choice == 3:
                y = self.conv(y)
            elif choice == 4:
                z = self.conv(y)
                y = self.norm(1)(z) - z
            else:
                y = self.norm(0)(self.other(y))
        return y


@given(wiring=st.lists(st.integers(0, 5), min_size=1, max_size=4), tied=st.booleans(), nested=st.booleans(),
       seed=st.integers(0, 99))  # fmt: skip
def test_shared_convolutions_and_tied_weights(wiring, tied, nested, seed):
    model = fill(Shared(tuple(wiring), tied, nested), seed, grid=False)
    check(model, torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@pytest.mark.parametrize("padding", [0, 1])
@given(seed=st.integers(0, 99))
def test_a_norm_before_a_padded_convolution(padding, seed):
    model = fill(nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3, padding=padding), nn.ReLU()), seed, grid=False)
    check(model, torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@few(0.4)
@given(net=nets())
def test_every_norm_left_standing_is_explained(net):
    state = pipe(net, trace, fuse)
    left = {node.name for node in state.graph if node.op == "batch_norm" and node["input"] != state.graph.inputs[0]}
    after_affine = {
        name for name in left
        if (before := state.graph.producer(state.graph[name]["input"])) and before.op in ("conv2d", "linear")
    }  # fmt: skip
    assert after_affine <= {event.subject for event in state.history if event.action == "not folded"}
