"""Tolerances that are derived, comparisons of whole output trees, and the small networks most tests use."""

import inspect
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from snnpipe import calibrate, fuse, instrument, maximum, pipe, to_snn, trace

EPS = {dtype: torch.finfo(dtype).eps for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


def bound(dtype, scale=1.0, *, depth=4, terms=64):
    """How far two ways of computing the same ``depth`` layers may lie apart.

    The rounding errors of a sum of n products add up to lambda sqrt(n) u sum|w x|, u = eps / 2, but for a chance of
    2 exp(-lambda^2 / 2) (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis"); two ways
    differ by twice that, layers add up, lambda is 4 at a typical n and more below.  ``scale`` bounds sum|w x|.
    """
    return depth * 4 * math.sqrt(terms) * EPS[dtype] * scale


def needs_symbols(by_example=False):
    """Skip where torch's functions take no symbol for a size or a type (2.6): trace then wants an example."""
    try:
        fx.symbolic_trace(lambda x: torch.arange(x.shape[0]))
    except TypeError:
        if not by_example:
            pytest.skip("this torch's functions take no symbol for a size: test_operators holds what is said of it")


def flat(tree):
    """Tensors of an output, left to right, and its structure."""
    return pytree.tree_flatten(tree)


def assert_close(got, want, **size):
    """Equal structure, shapes and dtypes; values within ``bound``."""
    (got_leaves, got_spec), (want_leaves, want_spec) = flat(got), flat(want)
    assert got_spec == want_spec
    for g, w in zip(got_leaves, want_leaves, strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        scale = max(1.0, w.detach().abs().max().item())
        assert (g - w).abs().max().item() <= bound(w.dtype, scale, **size)


def assert_same(got, want):
    """Equal structure and equal bits."""
    (got_leaves, got_spec), (want_leaves, want_spec) = flat(got), flat(want)
    assert got_spec == want_spec
    assert all(torch.equal(g, w) for g, w in zip(got_leaves, want_leaves, strict=True))


def relative_error(got, want):
    """``||got - want|| / ||want||`` over all tensors of two outputs of one structure."""
    (got_leaves, got_spec), (want_leaves, want_spec) = flat(got), flat(want)
    assert got_spec == want_spec
    g, w = (torch.cat([leaf.detach().double().flatten() for leaf in leaves]) for leaves in (got_leaves, want_leaves))
    return ((g - w).norm() / w.norm()).item()


def assert_converges(snn, args, want, *, kwargs=(), steps=(16, 512), limit=0.02):
    """The error falls about as 1/T: to a quarter at most for each factor of eight, and below ``limit``."""
    early, late = (relative_error(snn(*args, T=T, **dict(kwargs)), want) for T in steps)
    factor = steps[1] / steps[0]
    assert late < limit
    assert late <= max(early * factor ** (-2 / 3), 1e-12)


def settled(model):
    """``model`` in float64 and evaluation mode, its batch norms as if trained."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
    return model.double().eval()


def mlp():
    """Linear, ReLU, Linear, ReLU, Linear: 6 -> 12 -> 10 -> 4, biased so that no unit is dead."""
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))
    for layer in (model[0], model[2]):
        nn.init.constant_(layer.bias, 0.5)
    return settled(model)


def cnn():
    """Conv, BatchNorm, ReLU, Conv, ReLU, pooling, Linear: (B, 2, 6, 6) -> (B, 3)."""
    body = (nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU())
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(model[3].bias, 0.5)  # no unit is dead
    return settled(model)


def vectors(batch=16, width=6):
    return torch.randn(batch, width, dtype=torch.float64)


def images(batch=4, channels=2, size=6):
    return torch.randn(batch, channels, size, size, dtype=torch.float64)


def spiking(model, *batches, statistic=None, **options):
    """The whole conversion, calibrated on the batches themselves, so that nothing saturates."""
    measure = instrument(statistic=maximum() if statistic is None else statistic)
    return pipe(model, trace(**options), fuse, measure, calibrate(batches), to_snn)


def line_of(code, text):
    """``file:line`` of the line of ``code`` that holds ``text``, as errors write it."""
    lines, first = inspect.getsourcelines(code)
    found = [first + k for k, line in enumerate(lines) if text in line]
    assert len(found) == 1
    return f"{Path(inspect.getsourcefile(code)).name}:{found[0]}"


def snapshot(model):
    """Everything of a model that a conversion must leave alone."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict(keep_vars=True).items()}
    modules = [(name, module.training, type(module)) for name, module in model.named_modules()]
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    return tensors, modules, flags


def assert_untouched(before, model):
    after = snapshot(model)
    assert before[1:] == after[1:]
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0])


def tensors_of(tree):
    return [leaf for leaf in flat(tree)[0] if isinstance(leaf, Tensor)]
