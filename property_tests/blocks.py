"""The building blocks of drawn networks: each maps ``(h, skip)`` of one shape to a value of that shape.

``h`` is (B, 4) in the layout ``flat`` and (B, 4, 4, 4) in the layout ``image``.  ``BLOCKS`` says of each block where
it may be used.  Adding a kind of operator to the library means adding a block here.
"""

from collections.abc import Callable

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 4


def affine(image: bool, inputs: int = WIDTH, bias: bool = True) -> nn.Module:
    return nn.Conv2d(inputs, WIDTH, 3, padding=1, bias=bias) if image else nn.Linear(inputs, WIDTH, bias=bias)


def norm(image: bool) -> nn.Module:
    return nn.BatchNorm2d(WIDTH) if image else nn.BatchNorm1d(WIDTH)


def fill(module: nn.Module, seed: int, *, grid: bool) -> nn.Module:
    """Give every tensor of ``module`` a value: of unit gain, or small multiples of 1/8 (``grid``)."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in [*module.named_parameters(), *module.named_buffers()]:
            if not p.is_floating_point():
                continue
            drawn = torch.randn(p.shape, generator=g, dtype=torch.float64)
            if grid:
                drawn = torch.randint(-4, 5, p.shape, generator=g).double() / 8
            elif "running_var" in name or name.endswith("norm.weight"):
                drawn = 0.5 + drawn.abs()
            elif p.ndim > 1:
                drawn = drawn / (p[0].numel() ** 0.5)
            else:
                drawn = 0.5 * drawn
            p.copy_(drawn)
    return module


def _mask(image: bool) -> Tensor:
    return torch.arange(WIDTH).remainder(2).bool().reshape(WIDTH, *[1, 1] * image)


RELU_SPELLINGS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.relu, torch.relu, lambda h: h.relu(), lambda h: h.clamp(min=0), lambda h: torch.clamp_min(h, 0),
    lambda h: torch.maximum(h, h.new_zeros(())), lambda h: F.threshold(h, 0.0, 0.0),
    lambda h: torch.where(h > 0, h, 0.0), lambda h: h * (h > 0),
    lambda h: F.leaky_relu(h, 0.0), lambda h: h.clone().relu_(), lambda h: F.relu(h + 0, inplace=True),
    nn.ReLU(),
)  # fmt: skip


class Block(nn.Module):
    """A block whose ``forward`` is ``formula(self, h, skip)``."""

    def __init__(self, formula: Callable[..., Tensor], image: bool) -> None:
        super().__init__()
        self.formula, self.image = formula, image
        self.c, self.d = affine(image), affine(image, bias=False)
        self.wide = affine(image, 2 * WIDTH)
        self.bn, self.bn2 = norm(image), norm(image)
        self.se = nn.Linear(WIDTH, WIDTH)
        self.padded = nn.Conv2d(WIDTH, WIDTH, 2) if image else nn.Linear(WIDTH + 1, WIDTH)
        self.act, self.sloped = nn.ReLU(), nn.PReLU(WIDTH)
        self.pos = nn.Parameter(torch.zeros(WIDTH, *[1, 1] * image))
        self.register_buffer("mask", _mask(image))
        self.register_buffer("later", torch.ones(WIDTH, WIDTH).triu(1).bool())
        self.register_buffer("index", torch.arange(WIDTH).reshape(WIDTH, *[1, 1] * image))

    def forward(self, h: Tensor, skip: Tensor) -> Tensor:
        return self.formula(self, h, skip)


def _tied(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    return _with(m.d, m.c.weight, m.bn(m.c(h)).relu())


def _with(layer: nn.Module, weight: Tensor, h: Tensor) -> Tensor:
    return F.conv2d(h, weight, padding=1) if isinstance(layer, nn.Conv2d) else F.linear(h, weight)


def _in_place_then_read(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    y = m.c(h)
    z = F.relu(y, inplace=True)
    return m.d(z) + y


def _statements(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    y = m.c(h)
    y.mul_(0.5)
    y.relu_()
    return m.d(y)


def _add_in_place(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    y = m.c(h)
    y += skip
    return m.act(y)


def _chunk(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    a, b = h.chunk(2, 1)
    return torch.cat([b, a * 0.5], 1)


def _squeeze_excite(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    pooled = F.adaptive_avg_pool2d(h, 1).flatten(1) if m.image else h
    gate = torch.sigmoid(m.se(pooled))
    return h * (gate.view(gate.size(0), -1, 1, 1) if m.image else gate)


def _pad(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    return m.padded(F.pad(h, (1, 0, 0, 1) if m.image else (0, 1), value=0.5))


def _set_item(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    y = m.c(h)
    y[:, 0] = 0.25
    y[:, 1] = skip[:, 2]
    return y


def _token(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    token = m.pos[:1].expand(h.shape[0], 1, WIDTH, WIDTH) if m.image else m.pos[:1].expand(h.shape[0], 1)
    return torch.cat((token, h[:, 1:]), dim=1)


def _reshape(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    b = h.size(0)
    return h.reshape(b, -1).flip(1).view(h.shape)


def _masked_attention(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    scores = h.unsqueeze(-1) * skip.unsqueeze(-2)
    return (scores.masked_fill(m.later, float("-inf")).softmax(-1) @ h.unsqueeze(-1)).squeeze(-1)


def _pools(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(h, 2), scale_factor=2) if m.image else h.cumsum(1) * 0.25


def _max_pool(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    return F.max_pool2d(h, 3, 1, 1) if m.image else torch.maximum(h, skip)


def _max_pool_of_relu(m: Block, h: Tensor, skip: Tensor) -> Tensor:
    y = m.act(m.c(h))
    return F.max_pool2d(y, 3, 1, 1) + y if m.image else y


@attrs.frozen
class Kind:
    """A block's formula; whether it is linear (then exact on the grid) and made of linear maps and ReLU only."""

    formula: Callable[[Block, Tensor, Tensor], Tensor]
    linear: bool = False
    rate: bool = False


BLOCKS: dict[str, Kind] = {
    "affine": Kind(lambda m, h, s: m.c(h), True, True),
    "affine_relu": Kind(lambda m, h, s: m.act(m.c(h)), False, True),
    "batch_norm": Kind(lambda m, h, s: m.bn(m.d(h)), False, True),
    "bare_batch_norm": Kind(lambda m, h, s: m.bn(h), False, True),
    "shared_conv_two_norms": Kind(lambda m, h, s: m.act(m.bn(m.c(h))) + m.bn2(m.c(h)), False, True),
    "two_users": Kind(lambda m, h, s: (lambda y: m.act(y) + 0.5 * y)(m.c(h)), False, True),
    "tied": Kind(_tied, False, True),
    "in_place_then_read": Kind(_in_place_then_read, False, True),
    "statements": Kind(_statements, False, True),
    "add_in_place": Kind(_add_in_place, False, True),
    "residual": Kind(lambda m, h, s: m.c(h) + s, True, True),
    "residual_relu": Kind(lambda m, h, s: m.act(m.bn(m.c(h)) + s), False, True),
    "concat": Kind(lambda m, h, s: m.wide(torch.cat([h, s], 1)), True, True),
    "chunk": Kind(_chunk, True, True),
    "gate": Kind(lambda m, h, s: m.c(h) * torch.sigmoid(m.d(h))),
    "squeeze_excite": Kind(_squeeze_excite),
    "square": Kind(lambda m, h, s: h * h * 0.25),
    "product": Kind(lambda m, h, s: m.c(h) * s * 0.5),
    "gram": Kind(lambda m, h, s: 0.1 * (h @ h.transpose(-1, -2)) @ s),
    "quotient": Kind(lambda m, h, s: h / (1.0 + s.abs())),
    "plus_constant": Kind(lambda m, h, s: h + 0.5, True, True),
    "minus_from": Kind(lambda m, h, s: 1 - h, True, True),
    "scaled": Kind(lambda m, h, s: torch.add(h, s, alpha=2) / 4, True, True),
    "position": Kind(lambda m, h, s: h + m.pos, True, True),
    "integer_position": Kind(lambda m, h, s: h + m.index, True),
    "ones_like": Kind(lambda m, h, s: h + torch.ones_like(h), True),
    "masked_fill": Kind(lambda m, h, s: h.masked_fill(m.mask, 0.25), True, True),
    "where": Kind(lambda m, h, s: torch.where(m.mask, h, s), True, True),
    "where_constant": Kind(lambda m, h, s: torch.where(m.mask, h, m.pos), True, True),
    "pad": Kind(_pad, True, True),
    "set_item": Kind(_set_item, True, True),
    "token": Kind(_token, True, True),
    "reshape": Kind(_reshape, True, True),
    "average": Kind(_pools, True, True),
    "max_pool": Kind(_max_pool),
    "max_pool_of_relu": Kind(_max_pool_of_relu, False, True),
    "leaky_relu": Kind(lambda m, h, s: F.leaky_relu(m.c(h), 0.2), False, True),
    "prelu": Kind(lambda m, h, s: m.sloped(m.c(h)), False, True),
    "relu6": Kind(lambda m, h, s: F.relu6(m.c(h))),
    "capped": Kind(lambda m, h, s: torch.clamp(m.c(h), 0, 1)),
    "silu": Kind(lambda m, h, s: F.silu(h)),
    "layer_norm": Kind(lambda m, h, s: F.layer_norm(h, h.shape[-1:])),
    "masked_attention": Kind(_masked_attention),
    "attention": Kind(lambda m, h, s: (h @ s.transpose(-1, -2)).softmax(-1) @ h),
} | {
    f"relu_{k}": Kind(lambda m, h, s, spelling=spelling: spelling(m.c(h)), False, True)
    for k, spelling in enumerate(RELU_SPELLINGS)
}  # fmt: skip
