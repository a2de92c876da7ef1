"""What conversion costs: importing, converting, calibrating.

    python docs/benchmarks/cost.py [--repeats 7]

Times are medians; calibration is given as a ratio to the plain forward of the same model on the same batches, the two
measured in turn.  With torchvision installed the networks are its resnet18 and resnet50, at 224 pixels; a ResNet-20 at
32 pixels is always measured.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snnpipe import Threshold, calibrate, fixed, fuse, instrument, maximum, percentile, pipe, replace, to_snn, trace

sys.path.insert(0, str(Path(__file__).parent))
from resnet20_cifar10 import ResNet20


@contextmanager
def without_fake_kernels() -> Iterator[None]:
    """torchvision's wheel registers fake kernels for operators that a CPU build of torch does not have."""
    register = torch.library.register_fake

    def lenient(op: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda fn: fn
        return register(op, *args, **kwargs)

    torch.library.register_fake = lenient
    try:
        yield
    finally:
        torch.library.register_fake = register


def torchvision_models() -> Any:
    try:
        with without_fake_kernels():
            import torchvision
    except ImportError:
        return None
    return torchvision.models


def seconds(fn: Callable[[], Any]) -> float:
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def import_time(code: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True))


def calibration_ratio(
    model: nn.Module, batches: list[torch.Tensor], threshold: Threshold, repeats: int
) -> tuple[float, float]:
    """Median of (calibrate / plain forward), and the median plain forward in seconds."""
    state = pipe(model, trace, instrument(statistic=threshold))
    stage = calibrate(batches)

    def plain() -> None:
        with torch.no_grad():
            for x in batches:
                model(x)

    plain(), stage(state)
    pairs = [(seconds(plain), seconds(lambda: stage(state))) for _ in range(repeats)]
    return statistics.median(b / a for a, b in pairs), statistics.median(a for a, _ in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats

    pairs = [(import_time("import torch"), import_time("import torch, snnpipe")) for _ in range(repeats)]
    print(f"import snnpipe after torch: {statistics.median(b - a for a, b in pairs):.2f} s more")

    networks: list[tuple[str, nn.Module, list[torch.Tensor]]] = [
        ("ResNet-20, 32 px", ResNet20().eval(), [torch.randn(128, 3, 32, 32) for _ in range(4)])
    ]
    models = torchvision_models()
    if models is not None:
        resnet50 = models.resnet50().eval()

        def convert() -> Any:
            return pipe(resnet50, trace, fuse, instrument, replace(threshold=fixed(1.0)), to_snn)

        convert()
        times = [seconds(convert) for _ in range(repeats)]
        print(f"resnet50, trace to to_snn without data: {statistics.median(times):.2f} s")
        images = [torch.randn(16, 3, 224, 224)]
        networks += [("resnet18, 224 px", models.resnet18().eval(), images), ("resnet50, 224 px", resnet50, images)]

    print(f"{'network':20}{'forward s':>11}{'maximum':>10}{'percentile':>12}   (calibrate / forward)")
    for name, model, batches in networks:
        plain, most = calibration_ratio(model, batches, maximum(), repeats)[::-1]
        share = calibration_ratio(model, batches, percentile(99.9), repeats)[0]
        print(f"{name:20}{plain:>11.2f}{most:>10.2f}{share:>12.2f}")


if __name__ == "__main__":
    main()
