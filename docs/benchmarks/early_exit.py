"""Early exit: the steps a sample takes until its readout is sure, what that costs in accuracy and saves in time.

    python docs/benchmarks/early_exit.py FOLDER [--images 2000] [--T 32] [--batch 100] [--threads 1]

FOLDER as for ``resnet20_cifar10.py``.  The ResNet-20, ternary events (signed memory), thresholds ``mmse(T)``.  Times
are processor time as a ratio to ``snn(x, T)`` on the same batch, measured in turn; the last row never stops.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from snnpipe import calibrate, confident, fuse, instrument, mmse, pipe, replace, signed_memory, to_snn, trace

sys.path.insert(0, str(Path(__file__).parent))
from resnet20_cifar10 import load, trained

RULES = [(0.9, 1), (0.9, 4), (0.99, 4), (0.0, 4), (0.0, 8), (0.9, 8), (0.99, 8), (1.0, 2**24)]


def timed(run: Any) -> tuple[float, Any]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--T", type=int, default=32)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = trained(args.folder)
    images, labels = load(args.folder, "cifar10_test2000.npz")
    images, labels = images[: args.images], labels[: args.images]
    calibration, _ = load(args.folder, "cifar10_calib1024.npz")
    rule = mmse(T=args.T)
    state = pipe(model, trace, fuse, instrument(statistic=rule), calibrate(calibration.split(128)))
    snn = pipe(state, replace(neuron=signed_memory(), threshold=rule), to_snn)
    batches = [*zip(images.split(args.batch), labels.split(args.batch), strict=True)]
    print(f"{'probability':>11}{'steady':>9}{'accuracy':>10}{'steps':>8}{'95 %':>6}{'time':>7}")
    with torch.no_grad():
        snn(batches[0][0], T=2)
        for probability, steady in RULES:
            right, full, taken, ratios = 0, 0, [], []
            for x, y in batches:
                whole, want = timed(lambda x=x: snn(x, T=args.T))
                part, (output, steps) = timed(
                    lambda x=x: snn(x, T=args.T, until=confident(probability, steady=steady))  # noqa: B023
                )
                ratios.append(part / whole)
                right, full = right + int((output.argmax(1) == y).sum()), full + int((want.argmax(1) == y).sum())
                taken += steps.tolist()
            taken.sort()
            print(
                f"{probability:>11}{steady if steady < 2**24 else 'never':>9}{100 * right / len(images):>10.2f}"
                f"{statistics.mean(taken):>8.1f}{taken[int(0.95 * len(taken))]:>6}{statistics.median(ratios):>7.2f}",
                flush=True,
            )
    print(f"all {args.T} steps: {100 * full / len(images):.2f}")


if __name__ == "__main__":
    main()
