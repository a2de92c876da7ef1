"""How conversion stands up to depth: networks of 20, 32 and 56 layers of one family, with events of one bit.

    python docs/benchmarks/depth.py [--layers 20 32 56] [--epochs 30] [--weights trained.pt] [--threads 1]

The networks are those of He et al. 2016 for CIFAR-10, 6 n + 2 layers, trained here on scikit-learn's digits (8 x 8,
drawn at 16 x 16, shifted by up to two pixels).  A quarter of these is never trained on; as they are and shifted in four
ways they are what is measured: accuracy, and in brackets how often the spiking network answers as its ANN.
``--weights`` keeps what was trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from snnpipe import recipes

sys.path.insert(0, str(Path(__file__).parent))
from resnet20_cifar10 import BasicBlock, ResNet20

#: Recipes and the steps they get.
COLUMNS: list[tuple[str, Any, int]] = [
    ("opi T=16", recipes.opi(), 16), ("light T=16", recipes.calibration_light(), 16),
    ("fading T=16", recipes.fading(), 16), ("wave(4) T=16", recipes.wave(K=4), 16),
    ("wave(4) trained T=16", recipes.wave_advanced(K=4), 16), ("parallel T=16", recipes.parallel(), 16),
    ("4 wires T=4", recipes.cascade_calibrated(), 4),
]  # fmt: skip


class ResNet(ResNet20):
    """6 n + 2 layers, for one channel."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        n, rest = divmod(layers - 2, 6)
        if rest:
            raise ValueError(f"a network of this family has 6 n + 2 layers, not {layers}")
        self.conv1 = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        for name, planes in (("layer1", 16), ("layer2", 32), ("layer3", 64)):
            first = next(iter(getattr(self, name)))
            setattr(self, name, nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(n - 1))))


def digits() -> tuple[Tensor, Tensor]:
    """(1797, 1, 16, 16) and labels, in an order that has nothing to do with them."""
    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return F.interpolate(x, scale_factor=2, mode="bilinear")[order], torch.tensor(found.target)[order]


def shifted(x: Tensor, across: int, down: int) -> Tensor:
    return F.pad(x, (2, 2, 2, 2), value=-1.0)[:, :, 2 + down : 18 + down, 2 + across : 18 + across]


def trained(layers: int, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    torch.manual_seed(layers)
    model = ResNet(layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = len(x) // 64
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, epochs * batches)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(x))[: batches * 64].split(64):
            shown = shifted(x[rows], *torch.randint(-2, 3, (2,)).tolist())
            loss = F.cross_entropy(model(shown.contiguous(memory_format=torch.channels_last)), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() / batches
        print(f"  {layers} layers, epoch {epoch + 1}: {total:.3f}", file=sys.stderr, flush=True)
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 32, 56])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images, labels = digits()
    known, unseen = images[:1348], images[1348:]
    x = torch.cat([shifted(unseen, *by) for by in ((0, 0), (1, -1), (-2, 1), (2, 2), (-1, -2))])
    y = labels[1348:].repeat(5)
    kept = torch.load(args.weights, weights_only=True) if args.weights and args.weights.exists() else {}
    print(f"{'layers':>6}{'ANN':>8}" + "".join(f"{name:>22}" for name, _, _ in COLUMNS), flush=True)
    for layers in args.layers:
        if layers not in kept:
            kept[layers] = trained(layers, known, labels[:1348], args.epochs).state_dict()
            if args.weights:
                torch.save(kept, args.weights)
        model = ResNet(layers).eval()
        model.load_state_dict(kept[layers])
        with torch.no_grad():
            said = torch.cat([model(part).argmax(1) for part in x.split(100)])
        cells = f"{layers:>6}{100 * (said == y).float().mean():>8.1f}"
        for _, recipe, T in COLUMNS:
            snn = recipe(model, known[:512].split(128), T=T)
            with torch.no_grad():
                found = torch.cat([snn(part).argmax(1) for part in x.split(100)])
            right, same = (100 * (found == target).float().mean() for target in (y, said))
            cells += f"{f'{right:.1f} ({same:.1f})':>22}"
        print(cells, flush=True)


if __name__ == "__main__":
    main()
