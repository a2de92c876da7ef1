"""What a temporal network costs beside the ANN."""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnpipe import pipe, td_rewrite, to_snn, trace

sys.path.insert(0, str(Path(__file__).parents[1]))
from cost import seconds, without_fake_kernels


class Block(nn.Module):
    """A plain transformer block, 192 wide, three heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(192), nn.LayerNorm(192)])
        self.qkv, self.out = nn.Linear(192, 576), nn.Linear(192, 192)
        self.mlp = nn.Sequential(nn.Linear(192, 768), nn.GELU(), nn.Linear(768, 192))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


def cost() -> list[str]:
    """TD on T = 8 steps of a batch of 2, against the ANN on the same 16 inputs in one batch."""
    with without_fake_kernels():
        from torchvision import models
    image = (3, 224, 224)
    cases = [(name, models.get_model(name), image) for name in ("resnet18", "vit_b_16", "swin_t")]
    cases += [("4 blocks, 192 wide, 64 tokens", nn.Sequential(*(Block() for _ in range(4))), (64, 192))]
    lines = ["| model | to network s | ANN ms | TD / ANN |", "|---|--:|--:|--:|"]
    for name, model, shape in cases:
        start = time.perf_counter()
        td, events = pipe(model.eval(), trace, td_rewrite, to_snn), torch.randn(8, 2, *shape)
        took = time.perf_counter() - start
        runs = partial(model, events.flatten(0, 1)), partial(td.sequence, events)
        pairs = [[seconds(run) for run in runs] for _ in range(8)][1:]
        ratio, plain = statistics.median(b / a for a, b in pairs), statistics.median(a for a, _ in pairs)
        lines.append(f"| {name} | {took:.2f} | {1e3 * plain:.0f} | {ratio:.2f} |")
        print(lines[-1], flush=True)
    return lines
