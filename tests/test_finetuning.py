"""A converted network learns in an ordinary torch loop: gradients, what they reach, and what they are good for."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    RATE,
    TD,
    calibrate,
    fuse,
    instrument,
    maximum,
    percentile,
    pipe,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.kernels.multilevel import burst, cascade, graded, group, one_of_n, st_bif
from snnpipe.kernels.neuron import integrate_and_fire
from snnpipe.kernels.quantiser import qcfs
from snnpipe.ops.quantisers import QCFS
from tests.helpers import EPS, assert_same, assert_untouched, cnn, images, snapshot


def spirals(samples, seed, classes=3):
    """Points on arms that wind around each other: no line tells them apart."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, classes, (samples,), generator=g)
    t = torch.rand(samples, generator=g) * 4.2
    angle = y * 2 * math.pi / classes + t
    x = torch.stack([t * angle.cos(), t * angle.sin()], 1) / 2
    return x + 0.08 * torch.randn(samples, 2, generator=g), y


TRAIN, TEST = spirals(1000, seed=0), spirals(1000, seed=1)


def mlp(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 3))


def fit(model, parameters, *, steps, lr, **call):
    """Adam on batches of 256; ``call`` are the keywords of the model."""
    optimizer = torch.optim.Adam(parameters, lr)
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randint(0, len(TRAIN[0]), (256,), generator=g)
        loss = F.cross_entropy(model(TRAIN[0][batch], **call), TRAIN[1][batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def score(model, **call):
    """Loss and accuracy on points never seen."""
    with torch.no_grad():
        out = model(TEST[0], **call)
    return F.cross_entropy(out, TEST[1]).item(), (out.argmax(1) == TEST[1]).float().mean().item()


@pytest.fixture(scope="module")
def trained():
    model = mlp(nn.ReLU)
    fit(model, model.parameters(), steps=300, lr=1e-2)
    assert score(model)[1] > 0.94
    return model.eval()


def converted(model):
    return pipe(model, trace, instrument(statistic=percentile(99.9, per="layer")), calibrate([TRAIN[0]]), to_snn)


def thresholds(snn):
    return [neuron.threshold.requires_grad_() for neuron in snn.neurons().values()]


@pytest.mark.parametrize("T", [1, 2, 4, 8])
@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_the_gradient_of_a_layer_is_that_of_the_quantiser_it_is(T, schedule):
    """Between 0 and theta, IF for T steps is QCFS with T levels, and so are both derivatives (h - x) / theta and 1."""
    theta = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    top = 2.0 - 2.0 / (2 * T)
    z = (torch.rand(200, dtype=torch.float64) * top).requires_grad_()
    snn = pipe(nn.Sequential(QCFS(T, 2.0)).double(), trace, to_snn)
    (own,) = thresholds(snn)
    weight = torch.randn(200, dtype=torch.float64)
    want = torch.autograd.grad((weight * qcfs(z, theta, T)).sum(), (z, theta))
    got = torch.autograd.grad((weight * snn(z, T=T, schedule=schedule)).sum(), (z, own))
    for g, w in zip(got, want, strict=True):
        assert (g - w).abs().max() <= 8 * T * 200 * EPS[torch.float64] * weight.abs().max()


def test_far_outside_the_gradients_are_those_of_a_clip():
    """0 and 0 below; above theta, the first steps apart, 0 and 1."""
    snn = pipe(nn.Sequential(QCFS(4, 2.0)).double(), trace, to_snn)
    (own,) = thresholds(snn)
    for value, slope, gain in ((-3.0, 0.0, 0.0), (9.0, 0.0, 1.0)):
        z = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        to_z, to_theta = torch.autograd.grad(snn(z, T=4).sum(), (z, own))
        assert (to_z.item(), to_theta.item()) == (slope, gain)


@pytest.mark.parametrize(("neuron", "code"), [
    (integrate_and_fire(), RATE), (integrate_and_fire(v_reset=0.0), RATE), (signed_memory(), RATE), (burst(), RATE),
    (group(), RATE), (cascade(n=3), RATE), (one_of_n(), RATE), (graded(levels=7), RATE), (cascade(n=3), TD),
    (st_bif(levels=4), TD), (graded(parts=4), TD),
], ids=str)  # fmt: skip
def test_gradients_reach_all_weights_and_thresholds(neuron, code):
    model, x = cnn(), images()
    before = snapshot(model)
    state = pipe(model, trace, fuse, calibrate([x]), replace(neuron=neuron, threshold=maximum()), td_rewrite(code=code))
    snn = to_snn(state)
    assert not snn(x, T=2).requires_grad  # and so keeps no history
    snn.requires_grad_()
    learned = {**dict(snn.named_parameters()), **{f"theta {k}": t for k, t in enumerate(thresholds(snn))}}
    snn(x, T=4).square().sum().backward()
    for name, tensor in learned.items():
        assert tensor.grad is not None, name
        assert torch.isfinite(tensor.grad).all(), name
        assert tensor.grad.any(), name
    assert_untouched(before, model)
    assert all(p.grad is None for p in model.parameters())
    assert all(t.grad is None for t in state.params.values())


@pytest.mark.parametrize(("T", "gain"), [(2, 0.05), (3, 0.03), (4, -0.01)])
def test_a_few_steps_improve_a_network_that_has_few_steps(trained, T, gain):
    snn = converted(trained)
    loss, accuracy = score(snn, T=T)
    snn.requires_grad_()
    fit(snn, [*snn.parameters(), *thresholds(snn)], steps=100, lr=5e-3, T=T)
    after, better = score(snn, T=T)
    assert after < 0.9 * loss
    assert better > accuracy + gain


def test_layer_after_layer_it_learns_too(trained):
    snn = converted(trained)
    loss, _ = score(snn, T=2, schedule="layer")
    snn.requires_grad_()
    fit(snn, snn.parameters(), steps=60, lr=5e-3, T=2, schedule="layer")
    assert score(snn, T=2, schedule="layer")[0] < 0.8 * loss


def test_weights_alone_may_learn(trained):
    snn = converted(trained)
    before = [neuron.threshold.clone() for neuron in snn.neurons().values()]
    loss, _ = score(snn, T=2)
    snn.requires_grad_()
    fit(snn, snn.parameters(), steps=60, lr=5e-3, T=2)
    assert score(snn, T=2)[0] < 0.8 * loss
    assert_same([neuron.threshold for neuron in snn.neurons().values()], before)


def test_what_was_learned_is_saved_and_copied(trained):
    snn = converted(trained)
    snn.requires_grad_()
    fit(snn, [*snn.parameters(), *thresholds(snn)], steps=5, lr=1e-2, T=2)
    x = TEST[0][:20]
    learned = snn(x, T=3)
    assert_same(copy.deepcopy(snn)(x, T=3), learned)  # no history of the training hangs on to it
    fresh = converted(trained)
    assert not torch.equal(fresh(x, T=3), learned)
    fresh.load_state_dict(snn.state_dict())
    assert_same(fresh(x, T=3), learned.detach())


def test_trained_for_two_steps_it_beats_a_converted_relu(trained):
    """The activation of the paper: quantised in training, nothing is lost in conversion."""
    model = mlp(lambda: QCFS(levels=2, theta=2.0))
    fit(model, model.parameters(), steps=300, lr=1e-2)
    loss, accuracy = score(model.eval())
    snn = pipe(model, trace, to_snn)
    same, equal = score(snn, T=2, schedule="layer")
    assert abs(same - loss) <= 1e-3  # a sample near a border between levels may cross it: one in a thousand
    assert abs(equal - accuracy) <= 1e-3
    assert accuracy > score(converted(trained), T=2, schedule="layer")[1] + 0.02
