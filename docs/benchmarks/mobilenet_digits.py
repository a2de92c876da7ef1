"""A depthwise network with squeeze-excite gates at few time steps: a small MobileNet on scikit-learn's digits.

    python docs/benchmarks/mobilenet_digits.py [--epochs 20] [--steps 8] [--write]

The network is written here as MobileNetV2 and V3 are: inverted residual blocks of a 1x1 expansion, a depthwise 3x3
convolution, a squeeze-excite gate with a sigmoid and a *linear* 1x1 bottleneck, with BatchNorm, ReLU6 and residual adds
between bottlenecks.  It is trained here, in about a minute, on 1197 of the 1797 digits, at 16x16 pixels; the other 600
are only classified.  Thresholds and corrections come from the training images, without labels.

Sites: *activations*, the default, makes neurons of ReLU6 and ReLU.  The bottlenecks then send no events: they are
linear, what enters the next expansion is their current, and multiplying it is no addition.  The gate multiplies two
values that vary over time and has a sigmoid: it runs on decoded values (the general rule of docs/law.md), and so its
product is no event either.  *Convolutions* puts signed neurons behind gates and bottlenecks, so that every convolution
but the first is given events; the residual adds still read the current.

Thresholds: ``percentile(99.9)``, the default, and ``maximum()`` per channel; ``mmse(4)``, the best for T = 4, with the
levels of the neuron; and that with ``correct_bias(T=4)`` or ``correct_weights(T=4)``.  No threshold exceeds the cap of
a ReLU6.  All T come from one run.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from snnpipe import (
    BOTTLENECK_RULES,
    DIFFERENTIAL,
    RATE,
    SITE_RULES,
    Code,
    Neuron,
    SpikingNetwork,
    ThresholdWarning,
    account,
    calibrate,
    cascade,
    correct_bias,
    correct_weights,
    fuse,
    instrument,
    integrate_and_fire,
    low_pass,
    maximum,
    mmse,
    one_of_n,
    percentile,
    pipe,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)

PAGE = Path(__file__).with_suffix(".md")
FEW = 4  # the T that thresholds and corrections are for


class Gate(nn.Module):
    """Squeeze and excite (Hu et al. 2018): each channel times a number in (0, 1) that the image decides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, expansion: int = 4) -> None:
        super().__init__()
        wide = inside * expansion
        self.expand = nn.Sequential(nn.Conv2d(inside, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()
        )
        self.gate = Gate(wide)
        self.project = nn.Sequential(nn.Conv2d(wide, outside, 1, bias=False), nn.BatchNorm2d(outside))
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + y if self.adds else y


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.blocks = nn.Sequential(
            InvertedResidual(16, 16, 1),
            InvertedResidual(16, 24, 2),
            InvertedResidual(24, 24, 1),
            InvertedResidual(24, 32, 2),
            InvertedResidual(32, 32, 1),
            InvertedResidual(32, 32, 1),
        )
        self.last = nn.Sequential(nn.Conv2d(32, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6())
        self.classifier = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.last(self.blocks(self.stem(x))).mean((2, 3)))


class Data(NamedTuple):
    """Images (N, 1, 16, 16) and labels (N,)."""

    images: Tensor
    labels: Tensor


def load(held_out: int = 600) -> tuple[Data, Data]:
    """Training and test digits, shuffled with a fixed seed."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    images, labels = F.interpolate(images, size=16, mode="bilinear"), torch.tensor(digits.target)[order]
    return Data(images[:-held_out], labels[:-held_out]), Data(images[-held_out:], labels[-held_out:])


def trained(data: Data, epochs: int, batch: int = 64) -> nn.Module:
    """The network, trained from a fixed seed."""
    torch.manual_seed(0)
    model, number = MobileNet(), len(data.images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.5e-3, total_steps=epochs * number)
    for _ in range(epochs):
        for part in torch.randperm(len(data.images)).split(batch)[:number]:
            loss = F.cross_entropy(model(data.images[part]), data.labels[part], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


#: A neuron, the smallest steps of its largest event, and how many theta that event is.
NEURONS: dict[str, tuple[Neuron, int, float]] = {
    "IF": (integrate_and_fire(), 1, 1.0),
    "signed memory": (signed_memory(), 1, 1.0),
    "cascade, n=4": (cascade(n=4), 15, 15 / 8),
    "one of n, n=4": (one_of_n(n=4), 8, 1.0),
}
CODES = {
    "IF": (RATE, low_pass(3.0)), "signed memory": (RATE,),
    "cascade, n=4": (RATE, DIFFERENTIAL), "one of n, n=4": (RATE, DIFFERENTIAL),
}  # fmt: skip
THRESHOLDS = ("percentile(99.9)", "maximum()", "mmse(4)", "mmse(4), bias", "mmse(4), weights")


class Plan(NamedTuple):
    """What a row of the table is about."""

    sites: str
    neuron: str
    threshold: str
    code: Code


def plans() -> Iterator[Plan]:
    for name, codes in CODES.items():
        yield from (Plan("activations", name, threshold, code) for code in codes for threshold in THRESHOLDS)
    for name in ("cascade, n=4", "one of n, n=4"):
        yield from (Plan("convolutions", name, "mmse(4)", code) for code in CODES[name])


class Converter:
    """The states that all rows start from: sites found and measured once."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.images = images
        measured = calibrate(images.split(128))
        self.states = {
            sites: pipe(model, trace, fuse, instrument(rules=rules), measured)
            for sites, rules in (("activations", SITE_RULES), ("convolutions", BOTTLENECK_RULES))
        }

    def __call__(self, plan: Plan) -> SpikingNetwork:
        neuron, levels, top = NEURONS[plan.neuron]
        name, _, correction = plan.threshold.partition(", ")
        rule = {
            "percentile(99.9)": percentile(99.9),
            "maximum()": maximum(),
            "mmse(4)": mmse(FEW, levels=levels, top=top),
        }[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ThresholdWarning)  # gates have channels that never fire, and may
            state = pipe(self.states[plan.sites], replace(neuron=neuron, threshold=rule))
        if correction == "bias":
            state = correct_bias([self.images[:256]], T=FEW, code=plan.code)(state)
        if correction == "weights":
            state = correct_weights(self.images.split(32), T=FEW, code=plan.code)(state)
        return pipe(state, td_rewrite(code=plan.code), to_snn)


HEAD = ("sites", "neuron", "threshold", "code")


class Row(NamedTuple):
    """A line of the table: accuracies in % at each T; the rest at T = 4."""

    plan: Plan
    accuracies: list[float]
    error: float
    events: float
    wires: int
    mac: float

    def __str__(self) -> str:
        accuracies = (f"{accuracy:.2f}" for accuracy in self.accuracies)
        costs = (f"{self.error:.3f}", f"{self.events:.2f}", f"{self.wires}", f"{self.mac:.2f}")
        return f"| {' | '.join([*map(str, self.plan), *accuracies, *costs])} |"


def row(plan: Plan, snn: SpikingNetwork, test: Data, logits: Tensor, reported: list[int]) -> Row:
    found = {T: y for T, y in enumerate(snn.iterate(test.images, T=reported[-1]), 1) if T in {*reported, FEW}}
    accuracies = [100 * (found[T].argmax(1) == test.labels).double().mean().item() for T in reported]
    error = ((found[FEW] - logits).norm() / logits.norm()).item()
    cost = account(snn, test.images[:50], T=FEW)
    wires = max(layer.wires for layer in cost.layers)
    return Row(plan, accuracies, error, cost.per_neuron, wires, cost.mac / cost.ann)


def page(said: str, table: list[str], options: str) -> str:
    intro = "\n\n".join((__doc__ or "").split("\n\n")[2:]).strip()
    command = f"    python docs/benchmarks/mobilenet_digits.py{options} --write"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "scikit-learn"))
    title = "# A small MobileNet on digits"
    return "\n\n".join([title, "Written by", command, f"with {versions}.", intro, said, "\n".join(table)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.steps < FEW:
        parser.error(f"--steps is at least {FEW}, the T that thresholds are for")
    training, test = load()
    start = time.perf_counter()
    model = trained(training, args.epochs)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    torch.set_grad_enabled(False)
    logits = model(test.images)
    right = 100 * (logits.argmax(1) == test.labels).double().mean()
    said = (
        f"Accuracy in % of {len(test.labels)} test images at each T; the ANN has {right:.2f}.  At T = {FEW}: the error "
        "of the logits relative to the ANN's (root mean square), spikes per neuron, the wires of a neuron, and the "
        "multiplications that remain in the whole run, relative to one of the ANN's."
    )
    reported = [2**k for k in range(20) if 2**k <= args.steps]
    head = (*HEAD, *(f"T={T}" for T in reported), "logits", "spikes", "wires", "MAC")
    table = [f"| {' | '.join(head)} |", "|---" * len(HEAD) + "|--:" * (len(head) - len(HEAD)) + "|"]
    print("\n".join([said, *table]), flush=True)
    convert = Converter(model, training.images)
    for plan in plans():
        table.append(str(row(plan, convert(plan), test, logits, reported)))
        print(table[-1], flush=True)
    if args.write:
        options = "".join(
            f" --{name} {value}" for name, value, default in
            (("epochs", args.epochs, 20), ("steps", args.steps, 8)) if value != default
        )  # fmt: skip
        PAGE.write_text(page(said, table, options))


if __name__ == "__main__":
    main()
