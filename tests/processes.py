"""What one of two processes does in ``test_processes``: ``python -m tests.processes RANK FOLDER``.

What it finds is written to a file in the folder, by the name of each case.
"""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn

import snnpipe
from snnpipe import SnnpipeError, calibrate, ema, instrument, maximum, mmse, percentile, pipe, save_statistics, trace

RULES = {"maximum": maximum(), "percentile": percentile(99.0), "mmse": mmse(T=4)}


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def batches():
    return [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (400, 300, 7, 250, 64)]


def shards(rank):
    """Of different lengths: four batches and one."""
    return batches()[:4] if rank == 0 else batches()[4:]


def say(rank, case, work):
    start = time.monotonic()
    try:
        found = work()
        said = "done" if found is None else str(found)
    except SnnpipeError as error:
        said = f"{type(error).__name__}: {error}"
    (FOLDER / f"{case}.{rank}.json").write_text(json.dumps([said, time.monotonic() - start]))


def measured(rule, data, group, seed=0, **options):
    return pipe(model(seed), trace, instrument(statistic=rule), calibrate(data, group=group, **options))


def dying(data, how):
    def forward(net, batch):
        how()
        return net(batch)

    return {"data": data, "forward": forward}


def main(rank):
    torch.set_num_threads(1)
    say(rank, "before", lambda: calibrate(shards(rank), group=distributed.group.WORLD))
    distributed.init_process_group(
        "gloo", init_method=f"file://{FOLDER}/rendezvous", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    group = distributed.group.WORLD
    for name, rule in RULES.items():
        for case, data in (("uneven", shards(rank)), ("empty", batches() if rank == 0 else [])):
            save_statistics(measured(rule, data, group), FOLDER / f"{case}-{name}.{rank}")
    again = measured(maximum(), shards(rank), group)
    save_statistics(calibrate([10 * x for x in shards(rank)], group=group)(again), FOLDER / f"again.{rank}")
    say(rank, "text", lambda: again.made)
    say(rank, "none", lambda: measured(maximum(), [], group))
    say(rank, "nan", lambda: measured(maximum(), [*shards(rank), *[torch.full((2, 6), torch.nan)] * rank], group))
    say(rank, "network", lambda: measured(maximum(), shards(rank), group, seed=rank))
    say(rank, "statistic", lambda: measured(RULES[["maximum", "mmse"][rank]], shards(rank), group))
    say(rank, "ordered", lambda: measured(ema(0.1), shards(rank), group))
    impatient = distributed.new_group(timeout=timedelta(seconds=2))
    slow = dying(shards(rank), lambda: time.sleep(6 * rank))
    say(rank, "slow", lambda: measured(maximum(), group=impatient, max_batches=1, **slow))
    killed = dying(shards(rank), lambda: os._exit(9) if rank else None)
    say(rank, "killed", lambda: measured(maximum(), group=group, **killed))
    os._exit(0)  # a group of which a process was killed cannot be taken down


if __name__ == "__main__":
    assert snnpipe
    FOLDER = Path(sys.argv[2])
    main(int(sys.argv[1]))
