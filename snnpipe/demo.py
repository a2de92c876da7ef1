"""The demonstration: a small CNN on scikit-learn's digits, trained, converted and measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from snnpipe.analysis.activity import spike_counts, spikes_per_neuron
from snnpipe.analysis.plots import HOW_TO_INSTALL, Row
from snnpipe.analysis.report import unit_lines
from snnpipe.errors import SnnpipeError
from snnpipe.frozen import FrozenMap
from snnpipe.kernels.neuron import Neuron, integrate_and_fire, signed_memory
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stage import pipe
from snnpipe.stages.calibrate import calibrate
from snnpipe.stages.fuse import fuse
from snnpipe.stages.replace import replace
from snnpipe.stages.to_snn import to_snn
from snnpipe.stages.trace import trace

#: The neurons one can ask for.
NEURONS: FrozenMap[str, Neuron] = FrozenMap({"if": integrate_and_fire(), "snm": signed_memory()})


class DigitsNet(nn.Module):
    """A CNN as anybody would write it: (B, 1, 8, 8) images to (B, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)) + x)
        return self.head(y.flatten(1))  # type: ignore[no-any-return]


@attrs.frozen(eq=False)
class Data:
    """Images (N, 1, 8, 8) in [0, 1] and labels (N,)."""

    train: TensorDataset
    images: Tensor
    labels: Tensor


@attrs.frozen(eq=False)
class Result:
    """What a run of the demonstration found; accuracies in per cent, times in seconds."""

    snn: SpikingNetwork
    ann_accuracy: float
    rows: tuple[Row, ...]
    images: tuple[int, int]
    seconds: FrozenMap[str, float]


def run(*, steps: int = 64, seed: int = 0, neuron: str = "if", epochs: int = 12, progress: bool = False) -> Result:
    """Train, convert and measure, on one core (of a network this small a second one only delays the first).

    The same seed gives the same result, and the state of torch is left as it was.

    Args:
        steps: the largest T.
        seed: of the split, the initial weights and the order of the training data.
        neuron: a key of ``NEURONS``.
        epochs: passes over the training data.
        progress: show progress bars.

    Raises:
        SnnpipeError: scikit-learn is missing.
    """
    data = digits(seed)
    with _apart(seed):
        start = time.perf_counter()
        model = train(data.train, epochs, progress)
        trained = time.perf_counter()
        snn = convert(model, DataLoader(data.train, batch_size=128), NEURONS[neuron])
        converted = time.perf_counter()
        with torch.no_grad():
            answers = model(data.images).argmax(1)
        rows = measure(snn, data, answers, steps, progress)
        done = time.perf_counter()
    seconds: FrozenMap[str, float] = FrozenMap(train=trained - start, convert=converted - trained, run=done - converted)
    return Result(snn, _per_cent(answers == data.labels), rows, (len(data.train), len(data.labels)), seconds)


def convert(model: nn.Module, loader: DataLoader[Any], neuron: Neuron) -> SpikingNetwork:
    """The main job.  ``to_snn`` alone would take IF neurons; ``replace`` says which."""
    network: SpikingNetwork = pipe(model, trace, fuse, calibrate(loader), replace(neuron=neuron), to_snn)
    return network


def digits(seed: int) -> Data:
    """Scikit-learn's handwritten digits, a quarter of them for testing."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise SnnpipeError(f"the demo needs scikit-learn: {HOW_TO_INSTALL}") from error
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=0.25, stratify=labels, random_state=seed)
    x, x_test = (torch.as_tensor(part / 16, dtype=torch.float32).view(-1, 1, 8, 8) for part in parts[:2])
    y, y_test = (torch.as_tensor(part, dtype=torch.int64) for part in parts[2:])
    return Data(TensorDataset(x, y), x_test, y_test)


def train(data: TensorDataset, epochs: int, progress: bool) -> nn.Module:
    """Ordinary training."""
    model = DigitsNet()
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    for _ in tqdm(range(epochs), "train", leave=False, disable=not progress):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def measure(snn: SpikingNetwork, data: Data, answers: Tensor, steps: int, progress: bool) -> tuple[Row, ...]:
    """A row for T = 1, 2, 4, ... and ``steps``; ``answers`` are the ANN's."""
    wanted = {2**k for k in range(steps.bit_length())} & set(range(steps + 1)) | {steps}
    spikes = spikes_per_neuron(spike_counts(snn, data.images, T=steps))
    rows = []
    outputs = tqdm(snn.iterate(data.images, T=steps), "run", total=steps, leave=False, disable=not progress)
    with torch.no_grad():
        for T, y in enumerate(outputs, start=1):
            if T in wanted:
                guess = y.argmax(1)
                right, same = _per_cent(guess == data.labels), _per_cent(guess == answers)
                rows.append(Row(T, right, same, float(spikes[T - 1])))
    return tuple(rows)


def render(result: Result) -> str:
    """The table and what stands around it, as text."""
    columns = ("T", "accuracy %", "agreement with ANN %", "spikes per neuron")
    cells = [(str(r.T), f"{r.accuracy:.2f}", f"{r.agreement:.2f}", f"{r.spikes:.2f}") for r in result.rows]
    seconds = result.seconds
    widths = [max(4, len(column)) for column in columns]
    table = (columns, tuple("-" * width for width in widths), *cells)
    return "\n".join(
        [
            f"digits: {result.images[0]} training images (also used to calibrate), {result.images[1]} test images",
            f"ANN accuracy: {result.ann_accuracy:.2f} %",
            *unit_lines(result.snn),
            "input: constant current (float), presented at every step",
            "",
            *("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in table),
            "",
            f"train {seconds['train']:.1f} s, convert {seconds['convert']:.2f} s, run {seconds['run']:.1f} s",
        ]
    )


@contextmanager
def _apart(seed: int) -> Iterator[None]:
    """One thread and a random state of our own; afterwards both are as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _per_cent(right: Tensor) -> float:
    return 100.0 * right.double().mean().item()
