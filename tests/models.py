"""Awkward networks, one row each: what users write, and what converters get wrong.

The P numbers are the patterns of the behaviour list; the ``forward`` of each class is its point.
"""

from collections import namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers import images, settled, vectors


class Model(nn.Module):
    """Parts by keyword."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class SharedReLU(Model):
    def forward(self, x):
        return self.c(self.act2(self.b(self.act(self.a(x)))))


class TwoNorms(Model):
    def forward(self, x):
        return self.r(self.bn1(self.c(x))) + self.bn2(self.c(x))


class NormOnOnePath(Model):
    def forward(self, x):
        return self.r(self.bn1(self.c(x))) + self.c(x)


class Tied(Model):
    def forward(self, x):
        return self.b(self.r(self.bn(self.a(x.flatten(1)))))


class SkipSeesRectified(Model):
    def forward(self, x):
        i = self.a(x)
        h = self.r(i)
        return self.b(h) + i


class ResidualInPlace(Model):
    def forward(self, x):
        h = self.r(self.a(x))
        o = self.b(h)
        o += h
        return self.r(o)


class UnusedResult(Model):
    def forward(self, x):
        h = self.a(x)
        h.relu_()
        h.mul_(0.5)
        return self.b(h)


class PoolThenHead(Model):
    def forward(self, x):
        return self.head(self.pool(F.relu(self.c(x))).flatten(1))


class PoolAndSkip(Model):
    def forward(self, x):
        y = self.r(self.c(x))
        return self.pool(y), self.d(y)


class ViewByShape(Model):
    def forward(self, x):
        y = self.r(self.c(x))
        b, c, h, w = y.shape
        return self.f(y.view(b, c * h * w))


class ViewBySize(Model):
    def forward(self, x):
        y = self.r(self.c(x))
        return self.f(y.view(y.size(0), -1))


class OptionalInput(Model):
    def forward(self, x, y=None):
        h = self.r(self.a(x))
        return h if y is None else h + y


class DictInDictOut(Model):
    def forward(self, batch):
        h = self.r(self.a(batch["x"]))
        return {"logits": self.b(h), "feat": h}


Result = namedtuple("Result", "logits features")


class NamedTupleOut(Model):
    def forward(self, x):
        h = self.r(self.a(x))
        return Result(self.b(h), [h, (h,)])


class C2f(Model):
    def forward(self, x):
        y = list(F.silu(self.c(x)).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.o(torch.cat(y, 1))


class SqueezeExcite(Model):
    def forward(self, x):
        y = self.r(self.c(x))
        return self.d(y * torch.sigmoid(self.fc(F.adaptive_avg_pool2d(y, 1))))


class Recurrent(Model):
    def forward(self, x):
        for _ in range(3):
            x = self.r(self.a(x))
        return x


class Counting(Model):
    def forward(self, x):
        self.calls += 1
        return self.b(self.r(self.a(x)))


class Attention(Model):
    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.h, c // self.h).permute(2, 0, 3, 1, 4).unbind(0)
        return self.o(self.attend(q, k, v).transpose(1, 2).reshape(b, n, c))


class ClassToken(Model):
    def forward(self, x):
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.mha(x, x, x)[0][:, 0])


class LanguageBlock(Model):
    def forward(self, ids):
        x = self.e(ids)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.w
        return self.d(F.silu(self.g(x)) * self.u(x))


class Head(Model):
    def forward(self, x):
        return self.head(self.c(self.r(self.a(x))))


class Colliding(Model):
    def forward(self, x):
        return self.step(self.relu__if0(self.graph_module(F.relu(self.spiking_0(x)))))


class Clamped(Model):
    def forward(self, x):
        return self.b(self.act(self.a(x)))


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
    return SharedReLU(a=L(6, 8), b=L(8, 8), c=L(8, 3), act=act, act2=act)


def tied():
    model = Tied(a=L(6, 6), b=L(6, 6), bn=nn.BatchNorm1d(6), r=nn.ReLU())
    model.b.weight = model.a.weight
    return model


def normed():
    """Old and new weight norms, and a buffer that ``forward`` changes."""
    model = Counting(a=nn.utils.parametrizations.weight_norm(L(6, 8)), r=nn.ReLU(), b=nn.utils.spectral_norm(L(8, 2)))
    model.register_buffer("calls", torch.tensor(0))
    return model


def manual(q, k, v):
    return (q @ k.mT * 0.5).softmax(-1) @ v


def einsum(q, k, v):
    return torch.einsum("bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v)


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention(attend):
    return lambda: Attention(qkv=L(8, 24), o=L(8, 8), h=2, attend=attend)


def class_token():
    mha = nn.MultiheadAttention(8, 2, batch_first=True)
    return ClassToken(cls=nn.Parameter(torch.randn(1, 1, 8)), pos=nn.Parameter(torch.randn(1, 4, 8)), mha=mha, head=L(8, 3))


def language_block():
    w = nn.Parameter(torch.rand(8) + 0.5)
    return LanguageBlock(e=nn.Embedding(11, 8), w=w, g=L(8, 12, bias=False), u=L(8, 12, bias=False), d=L(12, 8))


def tokens():
    return (torch.randint(0, 11, (3, 5)),)


def words():
    return (torch.randn(3, 3, 8, dtype=torch.float64),)


def pooled(pool, features):
    return lambda: PoolThenHead(c=C(2, 4), pool=pool, head=L(features, 3))


def skipped(pool):
    return lambda: PoolAndSkip(c=C(2, 4), pool=pool, d=C(4, 2, 1), r=nn.ReLU())


def normalised(*layers):
    return lambda: nn.Sequential(*layers, nn.ReLU())


def token_rows():
    return (torch.randn(3, 4, 16, dtype=torch.float64),)
