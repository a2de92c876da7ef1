"""Awkward networks, one row each: what users write, and what converters get wrong.

The P numbers are the patterns of the behaviour list; the ``forward`` of each class is its point.
"""

from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn


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
