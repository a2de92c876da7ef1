"""A calibration that is killed on its way: ``python -m tests.interrupted RULE FOLDER``, for ``test_checkpoints``."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from snnpipe import calibrate, checkpoint, instrument, maximum, percentile, pipe, trace

RULES = {"maximum": maximum(), "percentile": percentile(99.0)}
EVERY = 3


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def batches(seed=0, size=40):
    return list(torch.randn(8, size, 6, generator=torch.Generator().manual_seed(seed)))


def sited(rule, seed=0):
    return pipe(model(seed), trace, instrument(statistic=rule))


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def until_killed():
    """Two batches behind the second of two checkpoints."""
    yield from batches()[: 2 * EVERY + 1]
    killed()


def main(name, folder):
    keep = checkpoint(folder / f"{name}.safetensors", every=EVERY)
    if name == "maximum":
        calibrate(until_killed(), checkpoint=keep)(sited(RULES[name]))
    replace, written = os.replace, []

    def replace_and_die(*paths):
        if written:  # all of the second checkpoint is in a file beside the first
            killed()
        written.append(paths)
        replace(*paths)

    os.replace = replace_and_die
    calibrate(batches(), checkpoint=keep)(sited(RULES[name]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
