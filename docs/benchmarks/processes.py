"""Calibration in two processes against one: the time of the busiest process on the same data, one thread each.

python docs/benchmarks/processes.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import torch
from torch import distributed, multiprocessing, nn

from snnpipe import calibrate, pipe, trace


def network() -> nn.Module:
    """Six convolutions of 64 channels."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for _ in range(5):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def work(rank: int, size: int, folder: str, repeats: int) -> None:
    """Calibrate ``repeats`` times on every ``size``-th of the batches, and write down how long it took."""
    torch.set_num_threads(1)
    state = trace(network())
    batches = [torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(k)) for k in range(16)][rank::size]
    group: Any = ...
    if size > 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=size)
        group = distributed.group.WORLD
    times = []
    for _ in range(repeats + 1):
        if size > 1:
            distributed.barrier()
        start = time.process_time()
        pipe(state, calibrate(batches, group=group))
        times.append(time.process_time() - start)
    torch.save(min(times[1:]), f"{folder}/{rank}of{size}")


def main() -> None:
    """Print both times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, 2):
            multiprocessing.spawn(work, (size, folder, given.repeats), size)
        one = torch.load(f"{folder}/0of1")
        two = max(torch.load(f"{folder}/{rank}of2") for rank in (0, 1))
    print(f"one process {one:.2f} s, two {two:.2f} s, ratio {two / one:.2f}")


if __name__ == "__main__":
    main()
