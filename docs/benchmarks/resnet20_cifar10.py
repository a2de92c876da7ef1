r"""Accuracy of a converted ResNet-20 on CIFAR-10 images against T.

    python docs/benchmarks/resnet20_cifar10.py FOLDER \
        [--images 2000] [--steps 128] [--neuron if snm] [--percentile 99.9]

FOLDER holds ``cifar10_resnet20.pt`` (weights by Y. Idelbayev), ``cifar10_test2000.npz`` and ``cifar10_calib1024.npz``.
The network is written as its author wrote it: functional ReLU, in-place ``+=``, slicing and padding in the shortcut.
Thresholds come from the 1024 training images; the test images are only classified.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnpipe import (
    calibrate,
    fuse,
    instrument,
    integrate_and_fire,
    percentile,
    pipe,
    replace,
    signed_memory,
    to_snn,
    trace,
)

NEURONS = {"if": integrate_and_fire(), "snm": signed_memory()}


class BasicBlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.planes = planes
        self.reshapes = stride != 1 or in_planes != planes
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.reshapes:
            out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.planes // 4, self.planes // 4))
        else:
            out += x
        return F.relu(out)


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, 1)
        self.layer2 = self._layer(16, 32, 2)
        self.layer3 = self._layer(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _layer(in_planes: int, planes: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(in_planes, planes, stride), BasicBlock(planes, planes, 1), BasicBlock(planes, planes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


def load(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    data = np.load(folder / name)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (torch.from_numpy(data["images"]).float() / 255 - mean) / std
    return images.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(data["labels"]).long()


def trained(folder: Path) -> ResNet20:
    """The network with its published weights."""
    model = ResNet20().eval()
    weights = torch.load(folder / "cifar10_resnet20.pt", weights_only=True)
    model.load_state_dict(weights.get("state_dict", weights))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--neuron", nargs="+", choices=sorted(NEURONS), default=["if", "snm"])
    parser.add_argument("--percentile", type=float, default=99.9)
    args = parser.parse_args()

    model = trained(args.folder)
    images, labels = load(args.folder, "cifar10_test2000.npz")
    images, labels = images[: args.images], labels[: args.images]
    calibration, _ = load(args.folder, "cifar10_calib1024.npz")

    threshold = instrument(statistic=percentile(args.percentile))
    state = pipe(model, trace, fuse, threshold, calibrate(calibration.split(128)))
    reported = [2**k for k in range(20) if 2**k <= args.steps]
    with torch.no_grad():
        answers = torch.cat([model(x).argmax(1) for x in images.split(100)])
    print(f"ANN: {100 * (answers == labels).float().mean():.2f} % of {len(labels)} images")
    print(f"{'neuron':8}{'T':>5}{'accuracy %':>12}{'agrees with ANN %':>20}")
    for name in args.neuron:
        snn = pipe(state, replace(neuron=NEURONS[name]), to_snn)
        start = time.perf_counter()
        guesses: dict[int, list[Tensor]] = {T: [] for T in reported}
        with torch.no_grad():
            for x in images.split(100):
                for T, y in enumerate(snn.iterate(x, T=args.steps), start=1):
                    if T in guesses:
                        guesses[T].append(y.argmax(1))
        for T in reported:
            guess = torch.cat(guesses[T])
            right, same = (guess == labels).float().mean(), (guess == answers).float().mean()
            print(f"{name:8}{T:>5}{100 * right:>12.2f}{100 * same:>20.2f}")
        print(f"{name}: {time.perf_counter() - start:.0f} s for {args.steps} steps")


if __name__ == "__main__":
    main()
