r"""Accuracy at every step, and what a run costs on named devices, of a converted ResNet-20 on CIFAR-10 images.

    python docs/benchmarks/energy.py FOLDER [--images 2000] [--steps 32] [--write]

FOLDER holds ``cifar10_resnet20.pt``, ``cifar10_test2000.npz`` and ``cifar10_calib1024.npz``, as for
``resnet20_cifar10.py``.  Costs are counted on the first eight images.  ``--write`` writes ``energy.md`` beside this
file, and ``--page PATH`` the report as a page.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from resnet20_cifar10 import ResNet20, load

from snnpipe import account, calibrate, energy, evaluate, fuse, pipe, replace, report, signed_memory, to_snn, trace

HEAD = """# What a run costs

    python docs/benchmarks/energy.py FOLDER --write

A ResNet-20 with ternary neurons (`signed_memory()`), thresholds from 1024 training images, accuracy of {images} test
images; costs of the first eight. Evaluating took {ratio:.2f} times the process time of running the steps alone.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ResNet20().eval()
    weights = torch.load(args.folder / "cifar10_resnet20.pt", weights_only=True)
    model.load_state_dict(weights.get("state_dict", weights))
    images, labels = load(args.folder, "cifar10_test2000.npz")
    images, labels = images[: args.images], labels[: args.images]
    calibration, _ = load(args.folder, "cifar10_calib1024.npz")
    snn = pipe(model, trace, fuse, calibrate([calibration]), replace(neuron=signed_memory()), to_snn)
    loader = list(zip(images.split(250), labels.split(250), strict=True))
    start = time.process_time()
    found = evaluate(snn, loader, T=args.steps, ann=model, progress=True)
    middle = time.process_time()
    with torch.no_grad():
        for x, _ in loader:
            for _ in snn.iterate(x, T=args.steps):
                pass
    ratio = (middle - start) / (time.process_time() - middle)
    blocks = [str(found)]
    for steps in (args.steps // 4, args.steps):
        costs = account(snn, images[:8], T=steps)
        blocks.append(f"T = {steps}\n\n{energy(costs)}")
    text = HEAD.format(images=len(images), ratio=ratio) + "".join(f"\n```\n{block}\n```\n" for block in blocks)
    if args.page:
        report(snn, html=args.page, evaluation=found, account=costs)
    if args.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
