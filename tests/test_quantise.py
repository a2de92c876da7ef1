"""Weights on a grid: what is rounded, what is not, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    StageError,
    absorb,
    calibrate,
    fixed,
    fuse,
    pipe,
    quantise_weights,
    replace,
    report,
    roundings,
    td_rewrite,
    to_snn,
    trace,
)
from tests.models import Model


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()


def test_the_error_of_each_layer_is_in_the_history_and_in_numbers():
    state = pipe(net(), trace, fuse, quantise_weights(bits=4))
    told = [event for event in state.history if event.stage == "quantise_weights"]
    assert [event.subject for event in told] == ["0", "4"]
    assert all(event.action == "rounded to 4 bits" for event in told)
    found = roundings(pipe(net(), trace, fuse), bits=4)
    assert [event.detail for event in told] == [str(layer).split(": ")[1] for layer in found]
    assert all(0 < layer.relative < 0.5 for layer in found)
    assert "rounded to 4 bits" in report(state)
    finer = roundings(pipe(net(), trace, fuse), bits=8)
    assert all(a.relative < b.relative / 8 for a, b in zip(finer, found, strict=True))


def test_biases_and_norms_are_left():
    state = pipe(net(), trace, quantise_weights)
    assert {"0.bias", "1.weight", "1.bias", "4.bias"} <= state.params.keys()
    assert ("1", "not rounded", "a batch norm: put fuse before it") in [
        (event.subject, event.action, event.detail) for event in state.history
    ]


def test_layers_that_share_weights_go_on_sharing_them():
    layer = nn.Linear(4, 4)
    other = nn.Linear(4, 4)
    other.weight = layer.weight
    made = quantise_weights(trace(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), other)))
    weights = [node["weight"] for node in made.graph if node.op == "linear"]
    assert len(set(weights)) == 1
    assert len(roundings(trace(nn.Sequential(layer, nn.ReLU(), layer)))) == 1


def test_what_is_no_layer_is_named():
    class Other(Model):
        def forward(self, x):
            return F.linear(x @ self.m, 2 * self.w)

    model = Other(m=nn.Parameter(torch.randn(3, 3)), w=nn.Parameter(torch.randn(2, 3)))
    state = quantise_weights(trace(model))
    reasons = [event.detail for event in state.history if event.action == "not rounded"]
    assert reasons == ["matmul with a parameter is no layer", "its weights are computed, or no floats"]
    assert quantise_weights(state) is state


def test_one_step_for_a_layer():
    linear = nn.Linear(2, 2, bias=False)
    linear.weight = nn.Parameter(torch.tensor([[1.0, 0.5], [1e-3, 1e-3]]))
    each, shared = (quantise_weights(per=per)(trace(linear)) for per in ("channel", "layer"))
    assert torch.equal(each.params["weight__rounded"][1], linear.weight[1])
    assert shared.params["weight__rounded"][1].tolist() == [0.0, 0.0]


def test_weights_without_a_grid_are_refused_all_at_once():
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = float("nan")
        model[4].weight[0] = float("inf")
    with pytest.raises(StageError) as caught:
        pipe(model, trace, quantise_weights)
    assert "0.weight" in str(caught.value)
    assert "16 of 48 are NaN or infinite" in str(caught.value)
    with pytest.raises(StageError, match=r"torch.float16 has fewer digits than that(.|\n)*keep the model in float32"):
        pipe(net().half(), trace, quantise_weights(bits=12))


@pytest.mark.parametrize("bad", [{"bits": 1}, {"bits": 8.0}, {"bits": 17}, {"per": "neuron"}])
def test_options_are_checked(bad):
    with pytest.raises(StageError, match="quantise_weights: "):
        quantise_weights(**bad)
    with pytest.raises(StageError, match="roundings: "):
        roundings(trace(net()), **bad)


def test_zero_weights_stay():
    linear = nn.Linear(2, 2)
    nn.init.zeros_(linear.weight)
    state = trace(linear)
    assert quantise_weights(state) is state


def test_the_order_of_stages():
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    state = pipe(net(), trace, fuse, calibrate([x]), replace(threshold=fixed(0.7)), absorb, quantise_weights)
    assert all(found.largest == 0.0 for found in roundings(state))
    assert absorb(state) is state
    assert to_snn(state)(x, T=4).isfinite().all()
    with pytest.raises(StageError, match="before td_rewrite"):
        pipe(state, td_rewrite, quantise_weights)
