"""Every helper of these tests can fail."""

import copy

import pytest
import torch
from torch import nn

from snnpipe import fuse, pipe, to_module, trace
from tests.helpers import (
    EPS,
    assert_close,
    assert_converges,
    assert_same,
    assert_untouched,
    bound,
    cnn,
    images,
    mlp,
    snapshot,
    vectors,
)


@pytest.mark.parametrize("dtype", EPS)
def test_a_wrong_layer_exceeds_the_bound(dtype):
    model, x = mlp().to(dtype), vectors().to(dtype)
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong[2].weight.mul_(1 + 30 * bound(dtype))
    with pytest.raises(AssertionError):
        assert_close(wrong(x), model(x))


def test_single_precision_exceeds_the_bound_of_double():
    model, x = mlp(), vectors()
    with pytest.raises(AssertionError):
        assert_close(copy.deepcopy(model).float()(x.float()).double(), model(x))


def test_a_fold_with_the_wrong_epsilon_exceeds_the_bound():
    model, x = cnn(), images()
    folded = pipe(model, trace, fuse, to_module)
    assert_close(folded(x), model(x))
    model[1].eps *= 1 + 1e-4
    with pytest.raises(AssertionError):
        assert_close(folded(x), model(x))


def test_comparisons_see_structure_shape_and_dtype():
    one = torch.ones(2, 1)
    for other in ([one], {"a": one}, one.T, one.double(), one + 1e-3):
        with pytest.raises(AssertionError):
            assert_close(other, one)
    with pytest.raises(AssertionError):
        assert_same(one, one + EPS[torch.float32])


def test_convergence_can_fail():
    x = vectors()
    biased = {"constant error": lambda T: 0.01, "slow": lambda T: T**-0.5 / 10, "large": lambda T: 100 / T}
    for error in biased.values():
        with pytest.raises(AssertionError):
            assert_converges(lambda x, T, error=error: x * (1 + error(T)), (x,), x)
    assert_converges(lambda x, T: x * (1 + 1 / T), (x,), x)


def test_a_changed_model_is_noticed():
    changes = (
        lambda m: m.train(),
        lambda m: m[0].requires_grad_(False),
        lambda m: m[0].weight.data.add_(1e-9),
        lambda m: m.register_buffer("extra", torch.zeros(())),
        lambda m: m.__setitem__(1, nn.GELU()),
    )
    for change in changes:
        model = mlp()
        before = snapshot(model)
        assert_untouched(before, model)
        change(model)
        with pytest.raises(AssertionError):
            assert_untouched(before, model)
