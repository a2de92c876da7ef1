"""What ``suggest`` finds for a ResNet-20 on CIFAR-10, and what ``explain`` costs there.

    python docs/benchmarks/suggesting.py FOLDER [--seconds 600] [--images 2000] [--wires 4] [--latency 8] [--write]

FOLDER is that of ``resnet20_cifar10.py``.  The cost of ``explain`` is its CPU time over that of the network at T = 8 on
the same 200 images, run before and after.  ``--write`` writes ``suggesting.md``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from resnet20_cifar10 import load, trained

from snnpipe import calibrate, explain, fuse, pipe, suggest, to_snn, trace


def cpu_time(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--wires", type=int)
    parser.add_argument("--latency", type=int)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    model = trained(args.folder)
    images, labels = load(args.folder, "cifar10_test2000.npz")
    images, labels = images[: args.images], labels[: args.images]
    batches = list(load(args.folder, "cifar10_calib1024.npz")[0].split(128))
    data = list(zip(images.split(100), labels.split(100), strict=True))

    snn, some = pipe(model, trace, fuse, calibrate(batches), to_snn), data[:2]
    with torch.no_grad():
        for x, _ in some:
            snn(x, T=8)
        runs = [cpu_time(lambda: [snn(x, T=8) for x, _ in some])]
        cost = cpu_time(lambda: explain(model, snn, batches=some, T=8))
        runs.append(cpu_time(lambda: [snn(x, T=8) for x, _ in some]))
    found = explain(model, snn, batches=some, T=8, try_advice=True)
    told = f"`explain` at T = 8 costs {cost / (sum(runs) / 2):.1f} runs of the network.\n\n```text\n{found}\n```\n"
    print(told)

    start = time.monotonic()
    suggested = suggest(model, batches=batches, data=data, seconds=args.seconds, wires=args.wires, latency=args.latency)
    took = f"`suggest` took {time.monotonic() - start:.0f} seconds with {torch.get_num_threads()} thread.\n"
    text = "# A ResNet-20 explained, and what is suggested\n\n"
    text += "    python docs/benchmarks/suggesting.py FOLDER --write\n\n"
    text += f"{told}\n{took}\n```text\n{suggested}\n```\n"
    print(text)
    if args.write:
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
