"""Two processes against one on the same data, one thread each: the time of the slower one, and of its processor.

python docs/benchmarks/processes.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, multiprocessing, nn

from snnpipe import calibrate, correct_bias, evaluate, pipe, replace, to_snn, trace


def network() -> nn.Module:
    """Six convolutions of 64 channels, and 10 classes."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for _ in range(5):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


def jobs(batches: list[Any], group: Any) -> dict[str, Callable[[], Any]]:
    """What is timed, by name, on the same network in every process."""
    traced = trace(network())
    spiking = replace(calibrate(batches, group=group)(traced))
    snn, labelled = to_snn(spiking), [(x, torch.zeros(len(x), dtype=torch.int64)) for x in batches]
    return {
        "calibrate": lambda: pipe(traced, calibrate(batches, group=group)),
        "correct_bias, T = 4": lambda: pipe(spiking, correct_bias(batches, T=4, group=group)),
        "evaluate, T = 4": lambda: evaluate(snn, labelled, T=4, group=group),
    }


def work(rank: int, size: int, folder: str, repeats: int) -> None:
    """Do each job ``repeats`` times on every ``size``-th of the batches, and write down how long each took."""
    torch.set_num_threads(1)
    batches = [torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(k)) for k in range(16)][rank::size]
    group: Any = ...
    if size > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=size)
        group = distributed.group.WORLD
    found = {}
    for name, job in jobs(batches, group).items():
        times = []
        for _ in range(repeats + 1):
            if size > 1:
                distributed.barrier()
            wall, processor = time.perf_counter(), time.process_time()
            job()
            times.append((time.perf_counter() - wall, time.process_time() - processor))
        found[name] = tuple(map(min, zip(*times[1:], strict=True)))
    torch.save(found, f"{folder}/{rank}of{size}")
    if size > 1:
        distributed.destroy_process_group()


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, 2):
            multiprocessing.spawn(work, (size, folder, given.repeats), size)
        one, *two = (torch.load(f"{folder}/{name}") for name in ("0of1", "0of2", "1of2"))
    for name, (wall, processor) in one.items():
        walls, processors = zip(*(of_rank[name] for of_rank in two), strict=True)
        print(
            f"{name}: {wall:.2f} s and {max(walls):.2f} s, ratio {max(walls) / wall:.2f}; "
            f"of the processor {processor:.2f} s and {max(processors):.2f} s, ratio {max(processors) / processor:.2f}"
        )


if __name__ == "__main__":
    main()
