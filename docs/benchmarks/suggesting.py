"""What ``suggest`` finds for a ResNet-20 on CIFAR-10, and what ``explain`` costs there.

    python docs/benchmarks/suggesting.py FOLDER [--seconds 600] [--images 2000] [--wires 4] [--latency 8] [--write]

FOLDER is that of ``resnet20_cifar10.py``.  The cost of ``explain`` is its CPU time over that of the network at T = 8 on
the same 200 images, run before and after.  The clock of ``suggest`` is CPU time too, of one thread, so that it does not
matter what else the machine does.  What it found is held against the rows of ``recipes.md`` that keep the accuracy
within 4 steps; recipes with graded events, which multiply, are not among its candidates.  ``--write`` writes
``suggesting.md``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from resnet20_cifar10 import load, trained

from snnpipe import Suggestions, calibrate, explain, fuse, pipe, suggest, to_snn, trace

ABOUT = "The rows of [recipes](recipes.md) that keep the accuracy within 4 steps, graded events left out:"
HEAD = "| recipe | latency | wires | events | accuracy % there | `suggest` |\n|---|--:|--:|--:|--:|---|"


def cpu_time(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def held(suggested: Suggestions) -> list[str]:
    """Each row of ``recipes.md`` that keeps the accuracy within 4 steps, and what became of it."""
    found = {(one.text, one.outcome.T): f"found, {one.accuracy.mean:.2f}" for one in suggested.found}
    rows = []
    for line in Path(__file__).with_name("recipes.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 10 or not cells[1].isdigit() or "graded" in cells:
            continue
        name, T, latency, accuracy, _, events, wires, *_ = cells
        if int(latency) <= 4 and float(accuracy) >= suggested.wanted:
            text = f"recipes.{name}()"
            told = f"{text} T={T}"
            fate = found.get((text, int(T))) or suggested.dropped.get(told) or suggested.left.get(told)
            fate = fate or "no time"
            rows.append((int(latency), f"| {name} | {latency} | {wires} | {events} | {accuracy} | {fate} |"))
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


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

    options = {"seconds": args.seconds, "wires": args.wires, "latency": args.latency}
    with patch("time.monotonic", time.process_time):
        start = time.process_time()
        suggested = suggest(model, batches=batches, data=data, **options)
        took = f"`suggest` took {time.process_time() - start:.0f} seconds of CPU time.\n"
    text = "# A ResNet-20 explained, and what is suggested\n\n"
    text += "    python docs/benchmarks/suggesting.py FOLDER --write\n\n"
    text += f"{told}\n{took}\n```text\n{suggested}\n```\n\n{ABOUT}\n\n{HEAD}\n" + "\n".join(held(suggested)) + "\n"
    print(text)
    if args.write:
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
