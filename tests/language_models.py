"""Causal language models as ``transformers`` has them, without it: with a cache, with a wrong one, with none."""

import math
from types import SimpleNamespace

import torch
from torch import nn


class Layer:
    """What one layer keeps of the tokens."""

    def __init__(self):
        self.keys = self.values = None


class Cache:
    """Keys and values of each layer."""

    def __init__(self):
        self.layers = []

    def update(self, key, value, layer):
        while len(self.layers) <= layer:
            self.layers.append(Layer())
        kept = self.layers[layer]
        kept.keys = key if kept.keys is None else torch.cat([kept.keys, key], 2)
        kept.values = value if kept.values is None else torch.cat([kept.values, value], 2)
        return kept.keys, kept.values

    def length(self):
        return self.layers[0].keys.shape[2] if self.layers else 0


class Attention(nn.Module):
    def __init__(self, width, heads, layer):
        super().__init__()
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.layer = heads, layer

    def forward(self, x, mask, cache):
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        score = (q @ k.transpose(-1, -2)) / math.sqrt(c // self.heads)
        shares = score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(-1)
        return self.o((shares @ v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, width, heads, layer):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, layer)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x, mask, cache):
        x = x + self.attention(self.norm1(x), mask, cache)
        return x + self.mlp(self.norm2(x))


class Causal(nn.Module):
    """A decoder of two layers; ``window`` tokens at the most are looked at."""

    def __init__(self, vocabulary=19, width=16, heads=2, depth=2, longest=64, window=64):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        self.blocks = nn.ModuleList([Block(width, heads, layer) for layer in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.window = window

    def before(self, cache):
        return cache.length()

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=False, return_dict=True
    ):
        cache = Cache() if use_cache and past_key_values is None else past_key_values
        before, new = 0 if cache is None else self.before(cache), input_ids.shape[1]
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if position_ids is None:
            position_ids = (mask.cumsum(1) - 1).clamp(min=0)[:, before:]
        every = torch.arange(before + new, device=input_ids.device)
        own, theirs = every[before:, None], every[None]
        seen = (theirs <= own) & (theirs > own - self.window)
        mask = seen & mask[:, None, None, :].bool()
        x = self.tokens(input_ids) + self.places(position_ids)
        for block in self.blocks:
            x = block(x, mask, cache)
        return SimpleNamespace(logits=self.head(self.norm(x)), past_key_values=cache)


class Forgets(Causal):
    """With a cache the window is half as long: what is written is not what the whole text says."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=False,
                return_dict=True):  # fmt: skip
        self.window = 2 if past_key_values is not None else 64
        return super().forward(input_ids, attention_mask, position_ids, past_key_values, use_cache, return_dict)


class Recurrent(nn.Module):
    """It keeps one state, not one of each token."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(19, 8), nn.Linear(8, 19)

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=False, return_dict=True):
        x = self.tokens(input_ids).cumsum(1)
        cache = Cache()
        cache.update(x[:, None, -1:], x[:, None, -1:], 0)
        return SimpleNamespace(logits=self.head(x), past_key_values=cache)


def causal(seed=0, kind=Causal, **sizes):
    """A model with weights that make its choices differ."""
    torch.manual_seed(seed)
    model = kind(**sizes).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.4)
    return model
