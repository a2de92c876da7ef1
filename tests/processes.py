"""What one of three processes does in ``test_processes``: ``python -m tests.processes RANK FOLDER``.

What it finds is written to a file in the folder, by the name of each case.
"""

import json
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from unittest import mock

import torch
from torch import distributed, nn

import snnpipe
from snnpipe import (
    SnnpipeError,
    balance,
    calibrate,
    checkpoint,
    confident,
    correct_bias,
    correct_potential,
    correct_threshold,
    ema,
    evaluate,
    instrument,
    maximum,
    mmse,
    percentile,
    pipe,
    replace,
    save_statistics,
    sweep,
    to_snn,
    trace,
)
from snnpipe.stages import adjust

RULES = {"maximum": maximum(), "percentile": percentile(99.0), "mmse": mmse(T=4)}
CORRECTIONS = {
    "bias": lambda data, **given: correct_bias(data, T=3, iterations=2, **given),
    "potential": lambda data, **given: correct_potential(data, T=3, **given),
    "threshold": lambda data, **given: correct_threshold(data, T=3, **given),
    "balance": lambda data, **given: balance(data, T=3, **given),
}
RECIPES = ["opi", "ltb", "calibration_advanced"]


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def batches():
    return [torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (400, 300, 7, 250, 64)]


def shards(rank):
    """Of different lengths: three batches and two, and of a third process none."""
    return [batches()[:3], batches()[3:], []][rank]


def labelled(data):
    """Labels that the network gets right in part."""
    return [(x, model(1)(x).argmax(1)) for x in data]


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


def spiking():
    return replace(measured(maximum(), batches(), ...))


def wide():
    """The network in float64, in which sums in another order have other bits."""
    data = [x.double() for x in batches()]
    return pipe(model().double(), trace, instrument(statistic=maximum()), calibrate(data), replace)


def corrected(name, data, group=...):
    return pipe(wide(), CORRECTIONS[name]([x.double() for x in data], group=group))


def evaluated(data, group=..., **options):
    return evaluate(to_snn(spiking()), labelled(data), T=4, ann=model(), until=confident(0.6), group=group, **options)


def swept(data, group=...):
    return sweep(model(), RECIPES, batches=data, data=labelled(data), T=(2, 4), group=group)


def dying(data, how):
    def forward(net, batch):
        how()
        return net(batch)

    return {"data": data, "forward": forward}


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_the_second_neuron(z, path, *given):
    if path.startswith("3"):
        killed()


def three(rank, group):
    """Cases in which a process has no data."""
    for name in CORRECTIONS:
        state = corrected(name, shards(rank), group)
        torch.save((dict(state.params), [str(event) for event in state.history]), FOLDER / f"{name}.{rank}")
    found = {"evaluate": evaluated(shards(rank), group), "sweep": swept(shards(rank), group)}
    torch.save(found, FOLDER / f"found.{rank}")
    bad = [*shards(rank), *[torch.full((2, 6), torch.nan)] * (rank == 1)]
    say(rank, "nan in bias", lambda: corrected("bias", bad, group))
    say(rank, "nan in balance", lambda: corrected("balance", bad, group))
    say(rank, "none in bias", lambda: corrected("bias", [], group))
    say(rank, "other bias", lambda: pipe(spiking(), correct_bias(shards(rank), T=3 + rank // 2, group=group)))
    say(rank, "another stage", lambda: corrected(["bias", "bias", "balance"][rank], shards(rank), group))
    say(rank, "none in evaluate", lambda: evaluated([], group))
    say(rank, "top", lambda: evaluated(shards(rank), group, top=1 + rank // 2))
    unlabelled = lambda: evaluate(to_snn(spiking()), shards(rank) or batches(), T=1, group=group)  # noqa: E731
    say(rank, "unlabelled", lambda: unlabelled() if rank == 2 else evaluated(shards(rank), group))
    recipes = RECIPES[: 1 + rank % 2]
    say(rank, "other recipes", lambda: sweep(model(), recipes, batches=shards(rank), data=[], group=group))
    deadly = mock.patch.object(adjust, "check_current", killed_at_the_second_neuron if rank == 2 else lambda *_: None)
    with deadly:
        say(rank, "killed in bias", lambda: corrected("bias", shards(rank) or batches(), group))


def two(rank, group, impatient):
    """Cases in which the second process is slow, and killed in the end."""
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
    say(rank, "earlier", lambda: calibrate(batches(), group=group)(measured(maximum(), shards(rank), ...)))
    keep = checkpoint(FOLDER / f"kept {rank}", every=1)
    bad = [*shards(rank), *[torch.full((2, 6), torch.nan)] * rank]
    say(rank, "interrupted", lambda: measured(maximum(), bad, group, checkpoint=keep))
    again = measured(maximum(), [*shards(rank), *[10 * x for x in shards(rank)]], group, checkpoint=keep)
    save_statistics(again, FOLDER / f"resumed.{rank}")
    keep = checkpoint(FOLDER / f"kept {1 - rank}")
    say(rank, "other rank", lambda: measured(maximum(), shards(1 - rank), group, checkpoint=keep))
    say(rank, "ordered", lambda: measured(ema(0.1), shards(rank), group))
    slow = dying(shards(rank), lambda: time.sleep(3 * rank))
    say(rank, "slow", lambda: measured(maximum(), group=impatient, max_batches=1, **slow))
    last = dying(shards(rank), killed if rank else lambda: None)
    say(rank, "killed", lambda: measured(maximum(), group=group, **last))


def main(rank):
    torch.set_num_threads(1)
    say(rank, "before", lambda: calibrate(shards(rank), group=distributed.group.WORLD))
    distributed.init_process_group(
        "gloo", init_method=f"file://{FOLDER}/rendezvous", rank=rank, world_size=3, timeout=timedelta(seconds=60)
    )
    pair, impatient = (distributed.new_group([0, 1], timeout=timedelta(seconds=seconds)) for seconds in (60, 1))
    three(rank, distributed.group.WORLD)
    two(rank, pair, impatient)
    os._exit(0)  # a group of which a process was killed cannot be taken down


if __name__ == "__main__":
    assert snnpipe
    FOLDER = Path(sys.argv[2])
    main(int(sys.argv[1]))
