"""How long a converted network takes to be as good as it must be: accuracy, and time in runs of the ANN.

    python docs/benchmarks/time_to_accuracy.py FOLDER [--images 2000] [--batch 32] [--threads 1]

FOLDER as for ``resnet20_cifar10.py``.  The time is processor time for all images, over that of the ANN (batch norm
folded, channels last) on the same batches, the two measured batch by batch in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnpipe import fuse, pipe, recipes, to_module, trace

sys.path.insert(0, str(Path(__file__).parent))
from resnet20_cifar10 import load, trained

#: Recipes and their steps: one bit, then one bit of either sign, then four wires.
WAYS = [
    (recipes.parallel(), 8), (recipes.parallel(), 16), (recipes.parallel(), 32), (recipes.wave(K=4), 16),
    (recipes.wave(K=4, share=1.5), 16), (recipes.snm_calibrated(), 8), (recipes.cascade_mmse(), 1),
    (recipes.cascade_calibrated(), 1),
]  # fmt: skip


def timed(run: Any, x: Tensor) -> tuple[float, Tensor]:
    start = time.process_time()
    found = run(x)
    return time.process_time() - start, found.argmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    model = trained(args.folder)
    images, labels = load(args.folder, "cifar10_test2000.npz")
    images, labels = images[: args.images], labels[: args.images]
    calibration, _ = load(args.folder, "cifar10_calib1024.npz")
    ann = pipe(model, trace, fuse, to_module).to(memory_format=torch.channels_last)
    print(f"{'recipe':34}{'T':>4}{'latency':>9}{'accuracy':>10}{'ANN runs':>10}")
    with torch.no_grad():
        for recipe, T in WAYS:
            made = recipe(model, calibration.split(128), T=T)
            right, ours, theirs = 0, 0.0, 0.0
            for x, y in zip(images.split(args.batch), labels.split(args.batch), strict=True):
                laid = x.contiguous(memory_format=torch.channels_last)
                seconds, _ = timed(ann, laid)
                theirs += seconds
                seconds, said = timed(made, x)
                ours, right = ours + seconds, right + int((said == y).sum())
            accuracy = 100 * right / len(images)
            print(f"{recipe!r:34}{T:>4}{made.latency:>9}{accuracy:>10.2f}{ours / theirs:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
