r"""SpikingJelly's conversion of the ResNet-20 of resnet20_cifar10.py: accuracy against T.

    python -m venv peer && peer/bin/pip install torch==2.13.0 spikingjelly==2.0.0
    peer/bin/python docs/benchmarks/peer.py FOLDER [--images 2000] [--steps 32] [--write]

FOLDER holds ``cifar10_resnet20.pt`` (weights by Y. Idelbayev), ``cifar10_test2000.npz`` and ``cifar10_calib1024.npz``.
Nothing of snnpipe is used here: an environment with SpikingJelly alone will do.

``spikingjelly.activation_based.ann2snn`` makes neurons of modules of type ``nn.ReLU`` only; ``F.relu``, ``F.pad`` and
``F.avg_pool2d`` its recipes refuse.  So the network is rewritten here: one ``nn.ReLU`` at each of its 19 activations,
``nn.AvgPool2d``, ``nn.Flatten``, and the shortcut that skips pixels and pads channels as a 1x1 convolution with a
weight of zeros and ones.  It computes the same; that it gets 19 neurons is checked.

The recipes, calibrated on the 1024 training images:

default
    ``RateCodingRecipe(dataloader)``: one threshold per layer, the moving average of the batches' maxima.
percentile
    The best of its options: 99.9th percentile per channel, potential initialised to half the threshold,
    ``RateCodingRecipe(dataloader, mode="99.9%", channel_wise=True, pre_spike_maxpool=True, half_threshold=True)``.
LTB
    ``LocalThresholdBalancingRecipe(dataloader)`` (Bu et al. 2025), which raises the thresholds from 0 once per batch,
    so that how many batches there are decides: the images in batches of 32, given 1, 4 and 16 times.  Fewer steps
    want lower thresholds.

Two readouts: the mean of the outputs of all T steps, and *delayed*, the mean of those after the first steps that
``estimate_delay_start(snn, dataloader, device, T)`` says to leave out, as SpikingJelly's own examples read out LTB.
All T come from one run: the dynamics do not depend on T.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

try:
    import numpy as np
    import torch
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.ann2snn import (
        Converter,
        LocalThresholdBalancingRecipe,
        RateCodingRecipe,
        estimate_delay_start,
    )
    from spikingjelly.activation_based.neuron.base_node import BaseNode
    from torch import Tensor, nn
except ImportError as missing:
    raise SystemExit(
        f"peer.py: {missing}; SpikingJelly goes into an environment of its own:\n"
        "    python -m venv peer && peer/bin/pip install torch==2.13.0 spikingjelly==2.0.0\n"
        "    peer/bin/python docs/benchmarks/peer.py FOLDER"
    ) from missing

PAGE = Path(__file__).with_suffix(".md")
SITES = 19


def padded(in_planes: int, planes: int, stride: int) -> nn.Conv2d:
    """``F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, planes // 4, planes // 4))`` as a convolution."""
    conv = nn.Conv2d(in_planes, planes, 1, stride, bias=False)
    weight = torch.zeros(planes, in_planes, 1, 1)
    weight[planes // 4 : planes // 4 + in_planes, :, 0, 0] = torch.eye(in_planes)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    return conv


class BasicBlock(nn.Module):
    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Identity() if stride == 1 and in_planes == planes else padded(in_planes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


class ResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = self._layer(16, 16, 1)
        self.layer2 = self._layer(16, 32, 2)
        self.layer3 = self._layer(32, 64, 2)
        self.pool = nn.AvgPool2d(8)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _layer(in_planes: int, planes: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(in_planes, planes, stride), BasicBlock(planes, planes, 1), BasicBlock(planes, planes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(self.flatten(self.pool(out)))


def load(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    data = np.load(folder / name)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (torch.from_numpy(data["images"]).float() / 255 - mean) / std
    return images.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(data["labels"]).long()


class Recipe(NamedTuple):
    """What a row is called, how SpikingJelly is asked for it, and how it is given the calibration images."""

    name: str
    make: Callable[[Any], Any]
    batch: int = 128
    passes: int = 1


RECIPES = (
    Recipe("default", RateCodingRecipe),
    Recipe(
        "percentile",
        lambda batches: RateCodingRecipe(
            batches, mode="99.9%", channel_wise=True, pre_spike_maxpool=True, half_threshold=True
        ),
    ),
    *(Recipe(f"LTB, {32 * passes} batches", LocalThresholdBalancingRecipe, 32, passes) for passes in (1, 4, 16)),
)


def convert(model: nn.Module, recipe: Recipe, batches: list[Tensor]) -> nn.Module:
    """The peer's spiking network; refuses one that kept an activation."""
    snn = Converter(recipe=recipe.make(batches), device="cpu").convert(model).eval()
    kinds = [type(module) for module in snn.modules()]
    neurons = sum(issubclass(kind, BaseNode) for kind in kinds)
    if neurons != SITES or nn.ReLU in kinds:
        raise SystemExit(f"peer.py: {recipe.name} made {neurons} neurons of {SITES} activations")
    return snn


def outputs(snn: nn.Module, images: Tensor, steps: int) -> Tensor:
    """Sums of the outputs up to each step, (T + 1, N, 10); the first is 0."""
    parts = []
    for x in images.split(100):
        functional.reset_net(snn)
        summed = torch.stack([snn(x) for _ in range(steps)]).cumsum(0)
        parts.append(torch.cat([torch.zeros_like(summed[:1]), summed]))
    return torch.cat(parts, 1)


class Row(NamedTuple):
    """A line of the table: steps left out of the readout at each T, and accuracies in %."""

    name: str
    readout: str
    skipped: list[int]
    accuracies: list[float]

    def __str__(self) -> str:
        cells = [
            f"{100 * accuracy:.2f}" + (f" ({skip})" if skip else "")
            for skip, accuracy in zip(self.skipped, self.accuracies, strict=True)
        ]
        return f"| {' | '.join([self.name, self.readout, *cells])} |"


def rows(model: nn.Module, calibration: Tensor, images: Tensor, labels: Tensor, reported: list[int]) -> Iterator[Row]:
    """The table, a row at a time."""
    for recipe in RECIPES:
        batches = list(calibration.split(recipe.batch)) * recipe.passes
        snn = convert(model, recipe, batches)
        with warnings.catch_warnings():  # it warns where T is too short for the delay, and shortens it
            warnings.simplefilter("ignore", RuntimeWarning)
            delays = [estimate_delay_start(snn, batches, "cpu", T) for T in reported]
        summed = outputs(snn, images, reported[-1])
        for readout, skipped in (("all steps", [0] * len(reported)), ("delayed", delays)):
            guesses = [(summed[T] - summed[skip]).argmax(1) for T, skip in zip(reported, skipped, strict=True)]
            yield Row(recipe.name, readout, skipped, [(guess == labels).float().mean().item() for guess in guesses])


def page(said: str, table: list[str], options: str) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "spikingjelly"))
    command = f"    peer/bin/python docs/benchmarks/peer.py FOLDER{options} --write"
    intro = (__doc__ or "").split("\n\n", 3)[3].strip()
    return "\n\n".join(
        ["# SpikingJelly's ResNet-20 on CIFAR-10 images", "Written by", command, f"with {versions}.", intro, said,
         "\n".join(table)]
    ) + "\n"  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_grad_enabled(False)

    model = ResNet20()
    weights = torch.load(args.folder / "cifar10_resnet20.pt", weights_only=True)
    unknown = model.load_state_dict(weights.get("state_dict", weights), strict=False)
    if unknown.unexpected_keys or any("shortcut" not in key for key in unknown.missing_keys):
        raise SystemExit(f"peer.py: these are not the weights of this network: {unknown}")
    model.eval()
    images, labels = load(args.folder, "cifar10_test2000.npz")
    images, labels = images[: args.images], labels[: args.images]
    calibration, _ = load(args.folder, "cifar10_calib1024.npz")
    reported = [2**k for k in range(20) if 2**k <= args.steps]

    right = torch.cat([model(x).argmax(1) for x in images.split(100)]) == labels
    said = (
        f"Accuracy in % of {len(labels)} test images; the ANN has {100 * right.float().mean():.2f}.  "
        "In brackets the steps left out of the readout."
    )
    head = f"| recipe | readout | {' | '.join(f'T={T}' for T in reported)} |"
    table = [head, "|---" * 2 + "|--:" * len(reported) + "|"]
    print("\n".join([said, *table]), flush=True)
    start = time.perf_counter()
    for row in rows(model, calibration, images, labels, reported):
        table.append(str(row))
        print(table[-1], flush=True)
    print(f"{time.perf_counter() - start:.0f} s")
    if args.write:
        options = "".join(
            f" --{name} {value}" for name, value, default in
            (("images", args.images, 2000), ("steps", args.steps, 32)) if value != default
        )  # fmt: skip
        PAGE.write_text(page(said, table, options))


if __name__ == "__main__":
    main()
