"""The table of awkward networks; ``test_awkward_models`` holds every law against every row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tests import models as m
from tests.helpers import images, settled, vectors


class Case(NamedTuple):
    """A network, its inputs, the options ``trace`` needs, and how many neuron layers it must get."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple]
    sites: int
    options: dict[str, Any] = {}  # noqa: RUF012

    def ready(self):
        torch.manual_seed(1)
        return settled(self.build()), self.inputs()


def L(i, o, **k):
    return nn.Linear(i, o, **k)


def C(i, o, k=3, **options):
    return nn.Conv2d(i, o, k, **options)


def x():
    return (vectors(),)


def im():
    return (images(),)


def shared_relu():
    act = nn.ReLU()
    return m.SharedReLU(a=L(6, 8), b=L(8, 8), c=L(8, 3), act=act, act2=act)


def tied():
    model = m.Tied(a=L(6, 6), b=L(6, 6), bn=nn.BatchNorm1d(6), r=nn.ReLU())
    model.b.weight = model.a.weight
    return model


def normed():
    """Old and new weight norms, and a buffer that ``forward`` changes."""
    model = m.Counting(a=nn.utils.parametrizations.weight_norm(L(6, 8)), r=nn.ReLU(), b=nn.utils.spectral_norm(L(8, 2)))
    model.register_buffer("calls", torch.tensor(0))
    return model


def manual(q, k, v):
    return (q @ k.mT * 0.5).softmax(-1) @ v


def einsum(q, k, v):
    return torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v)


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention(attend):
    return lambda: m.Attention(qkv=L(8, 24), o=L(8, 8), h=2, attend=attend)


def class_token():
    token, position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 4, 8))
    return m.ClassToken(cls=token, pos=position, mha=nn.MultiheadAttention(8, 2, batch_first=True), head=L(8, 3))


def language_block():
    w = nn.Parameter(torch.rand(8) + 0.5)
    return m.LanguageBlock(e=nn.Embedding(11, 8), w=w, g=L(8, 12, bias=False), u=L(8, 12, bias=False), d=L(12, 8))


def tokens():
    return (torch.randint(0, 11, (3, 5)),)


def words():
    return (torch.randn(3, 3, 8, dtype=torch.float64),)


def pooled(pool, features):
    return lambda: m.PoolThenHead(c=C(2, 4), pool=pool, head=L(features, 3))


def skipped(pool):
    return lambda: m.PoolAndSkip(c=C(2, 4), pool=pool, d=C(4, 2, 1), r=nn.ReLU())


def normalised(*layers):
    return lambda: nn.Sequential(*layers, nn.ReLU())


def token_rows():
    return (torch.randn(3, 4, 16, dtype=torch.float64),)


CASES = (
    Case("P2 one ReLU, many calls, two names", shared_relu, x, 2),
    Case("P3 reused conv, two norms", lambda: m.TwoNorms(c=C(2, 4), bn1=nn.BatchNorm2d(4), bn2=nn.BatchNorm2d(4),
                                                         r=nn.ReLU()), im, 1),
    Case("P3 reused conv, norm on one path", lambda: m.NormOnOnePath(c=C(2, 4), bn1=nn.BatchNorm2d(4), r=nn.ReLU()),
         im, 1),
    Case("P4 tied weights", tied, x, 1),
    Case("P5 skip sees the rectified tensor", lambda: m.SkipSeesRectified(a=L(6, 6), b=L(6, 6), r=nn.ReLU(True)), x, 1),
    Case("P5 residual added in place", lambda: m.ResidualInPlace(a=L(6, 6), b=L(6, 6), r=nn.ReLU(True)), x, 2),
    Case("P6 statements with unused results", lambda: m.UnusedResult(a=L(6, 8), b=L(8, 3)), x, 1),
    Case("P7 MaxPool2d(2)", pooled(nn.MaxPool2d(2), 16), im, 1),
    Case("P7 MaxPool2d(3, 2, 1)", pooled(nn.MaxPool2d(3, 2, 1), 16), im, 1),
    Case("P7 ceil_mode", pooled(nn.MaxPool2d(3, 2, ceil_mode=True), 16), im, 1),
    Case("P7 AdaptiveMaxPool2d", pooled(nn.AdaptiveMaxPool2d(3), 36), im, 1),
    Case("P7 pool and skip", skipped(nn.MaxPool2d(2)), im, 2),
    Case("P7 adaptive pool and skip", skipped(nn.AdaptiveMaxPool2d(2)), im, 2),
    Case("P8 view by shape", lambda: m.ViewByShape(c=C(2, 3), r=nn.ReLU(), f=L(48, 4)), im, 1),
    Case("P8 view by size", lambda: m.ViewBySize(c=C(2, 3), r=nn.ReLU(), f=L(48, 4)), im, 1),
    Case("P10 optional input left out", lambda: m.OptionalInput(a=L(6, 4), r=nn.ReLU()), x, 1),
    Case("P10 optional input given", lambda: m.OptionalInput(a=L(6, 4), r=nn.ReLU()),
         lambda: (*x(), vectors(width=4)), 1, {"inputs": ("x", "y")}),
    Case("P10 dict in, dict out", lambda: m.DictInDictOut(a=L(6, 8), b=L(8, 3), r=nn.ReLU()),
         lambda: ({"x": vectors()},), 1),
    Case("P10 NamedTuple out", lambda: m.NamedTupleOut(a=L(6, 8), b=L(8, 3), r=nn.ReLU()), x, 1),
    Case("P11 C2f", lambda: m.C2f(c=C(2, 8, 1), m=nn.ModuleList([C(4, 4, 3, padding=1) for _ in range(2)]),
                                  o=C(16, 3, 1)), im, 0),
    Case("P16 no running statistics", normalised(C(2, 4), nn.BatchNorm2d(4, track_running_stats=False)), im, 1),
    Case("P16 no affine", normalised(C(2, 4), nn.BatchNorm2d(4, affine=False)), im, 1),
    Case("P16 norm before conv", normalised(nn.BatchNorm2d(2), nn.ReLU(), C(2, 4, padding=1)), im, 2),
    Case("P16 Linear, norm on (N, C)", normalised(L(6, 8), nn.BatchNorm1d(8)), x, 1),
    Case("P16 Linear, norm on (N, L, C)", normalised(L(16, 8), nn.BatchNorm1d(4)), token_rows, 1),
    Case("P16 Linear, norm on (N, L, C), square", normalised(L(16, 4), nn.BatchNorm1d(4)), token_rows, 1),
    Case("P16 ConvTranspose, norm", normalised(nn.ConvTranspose2d(2, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6)),
         im, 1),
    Case("P16 conv without bias", normalised(C(2, 4, bias=False), nn.BatchNorm2d(4)), im, 1),
    Case("P17 squeeze and excite", lambda: m.SqueezeExcite(c=C(2, 4), fc=C(4, 4, 1), d=C(4, 2, 1), r=nn.ReLU()), im, 1),
    Case("P17 gate before a neuron", lambda: nn.Sequential(
        m.SqueezeExcite(c=C(2, 4), fc=C(4, 4, 1), d=C(4, 2, 1), r=nn.ReLU()), nn.ReLU(), C(2, 3, 1)), im, 2),
    Case("P18 weight-tied recurrence", lambda: m.Recurrent(a=L(6, 6), r=nn.ReLU()), x, 3),
    Case("P18 block called twice", lambda: nn.Sequential(*[m.Recurrent(a=L(6, 6), r=nn.ReLU())] * 2), x, 6),
    Case("P19 parametrized weights", normed, x, 1),
    Case("P20 attention, sdpa", attention(F.scaled_dot_product_attention), words, 0),
    Case("P20 attention, causal", attention(causal), words, 0),
    Case("P20 attention, by hand", attention(manual), words, 0),
    Case("P20 attention, einsum", attention(einsum), words, 0),
    Case("P21 class token, MHA", class_token, words, 0),
    Case("P22 language block", language_block, tokens, 0),
    Case("P23 softmax head", lambda: m.Head(a=L(6, 8), r=nn.ReLU(), c=L(8, 3), head=nn.Softmax(-1)), x, 1),
    Case("P23 sigmoid head", lambda: m.Head(a=L(6, 8), r=nn.ReLU(), c=L(8, 3), head=nn.Sigmoid()), x, 1),
    Case("P23 physical units", lambda: m.Head(a=L(6, 8), r=nn.ReLU(), c=L(8, 3), head=lambda y: 300 + 20 * y), x, 1),
    Case("P24 colliding names", lambda: m.Colliding(spiking_0=L(6, 8), graph_module=L(8, 8), step=L(8, 2),
                                                    relu__if0=nn.ReLU()), x, 2),
    Case("P25 clamp(0, 1)", lambda: m.Clamped(a=L(6, 8), b=L(8, 3), act=lambda y: y.clamp(0, 1)), x, 1),
    Case("P25 ReLU6", lambda: m.Clamped(a=L(6, 8), b=L(8, 3), act=nn.ReLU6()), x, 1),
    Case("P25 Hardtanh(0, 1)", lambda: m.Clamped(a=L(6, 8), b=L(8, 3), act=nn.Hardtanh(0, 1)), x, 1),
    Case("P26 PReLU", lambda: m.Clamped(a=L(6, 8), b=L(8, 3), act=nn.PReLU(8)), x, 2),
    Case("P26 LeakyReLU", lambda: m.Clamped(a=L(6, 8), b=L(8, 3), act=nn.LeakyReLU(0.2)), x, 2),
)  # fmt: skip

NAMES = [case.name for case in CASES]


def named(prefix):
    """The rows whose name starts so."""
    return [case for case in CASES if case.name.startswith(prefix)]
