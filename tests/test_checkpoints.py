"""Calibrations that go on where they were interrupted: the result of one that was not, or an error."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from snnpipe import (
    CalibrationError,
    Statistic,
    Threshold,
    calibrate,
    checkpoint,
    digest,
    ema,
    load_statistics,
    maximum,
    percentile,
    pipe,
    replace,
    save_statistics,
    state_equal,
    trace,
)
from snnpipe.exchange.sealed import read_sealed, write_sealed
from tests.interrupted import EVERY, RULES, batches, sited

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left behind that were killed."""
    found = tmp_path_factory.mktemp("interrupted")
    root = Path(__file__).parent.parent
    options = {"cwd": root, "env": {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}}
    command = [sys.executable, "-W", "ignore", "-m", "tests.interrupted"]
    running = [subprocess.Popen([*command, name, str(found)], **options) for name in RULES]
    assert [process.wait(timeout=120) for process in running] == [-signal.SIGKILL] * len(RULES)
    return found


class Counted(nn.Module):
    """A stand-in that counts on how many batches a network runs."""

    def __init__(self):
        super().__init__()
        self.runs = 0

    def __call__(self, model, batch):
        self.runs += 1
        return model(batch)


def kept(path, data=None, state=None, every=EVERY, **options):
    state = sited(maximum()) if state is None else state
    return calibrate(batches() if data is None else data, checkpoint=checkpoint(path, every=every), **options)(state)


@pytest.mark.parametrize("name", RULES)
def test_a_killed_calibration_goes_on(name, folder):
    """One was killed between two checkpoints, the other while it wrote the second."""
    path, run = folder / f"{name}.safetensors", Counted()
    again = kept(path, state=sited(RULES[name]), forward=run)
    done = {"maximum": 2 * EVERY, "percentile": EVERY}[name]
    assert run.runs == len(batches()) - done
    alone = calibrate(batches())(sited(RULES[name]))
    assert state_equal(again, alone)
    assert digest(replace(again)) == digest(replace(alone))
    assert [str(event) for event in again.history] == [str(event) for event in alone.history]
    finished = Counted()
    assert state_equal(kept(path, state=sited(RULES[name]), forward=finished), alone)
    assert finished.runs == 0


@pytest.mark.parametrize("rule", [maximum(), percentile(99.0), ema(0.1)], ids=str)
@pytest.mark.parametrize("cut", [1, EVERY, EVERY + 1])
def test_every_statistic_goes_on_to_the_bit(rule, cut, tmp_path):
    state = calibrate([torch.ones(4, 6)])(sited(rule))  # what was measured before counts once
    kept(tmp_path / "x", batches()[:cut], state)
    assert state_equal(kept(tmp_path / "x", state=state), calibrate(batches())(state))
    assert os.listdir(tmp_path) == ["x"]


def test_a_batch_is_noted_as_it_came(tmp_path):
    """What the user's own function writes into it does not count."""
    forward = lambda model, batch: model(batch.mul_(2.0))  # noqa: E731
    kept(tmp_path / "x", batches()[:4], forward=forward)
    alone = calibrate(batches(), forward=forward)(sited(maximum()))
    assert state_equal(kept(tmp_path / "x", forward=forward), alone)


def test_a_loader_goes_on(tmp_path):
    data = TensorDataset(torch.cat(batches()), torch.arange(320))
    loader = lambda seed: DataLoader(  # noqa: E731
        data, 32, shuffle=True, generator=torch.Generator().manual_seed(seed)
    )
    kept(tmp_path / "x", loader(0), max_batches=4)
    assert state_equal(kept(tmp_path / "x", loader(0)), calibrate(loader(0))(sited(maximum())))
    kept(tmp_path / "y", loader(0), max_batches=4)
    with pytest.raises(CalibrationError, match="has 4 batches, and the first 4 here are not these; are they shuffled"):
        kept(tmp_path / "y", loader(1))


OTHER = {
    "weights": (lambda: {"state": sited(maximum(), seed=1)}, "another network, weights or sites"),
    "threshold": (lambda: {"state": sited(percentile(99.0))}, r"another threshold: maximum\(\).*, here it is percent"),
    "earlier statistics": (lambda: {"state": calibrate(batches())(sited(maximum()))}, "another network, weights or s"),
    "data": (lambda: {"data": batches(seed=1)}, "the first 4 here are not these"),
    "batch size": (lambda: {"data": batches(size=20)}, "the first 4 here are not these"),
    "arrays of another type": (lambda: {"data": [x.numpy().astype(np.float64) for x in batches()]}, "not these"),
    "labels": (lambda: {"data": [(x, 0) for x in batches()]}, "not these"),
    "fewer data": (lambda: {"data": batches()[:3]}, "not these"),
    "fewer batches": (lambda: {"max_batches": 3}, "has 4 batches already, more than max_batches=3"),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_checkpoint_of_something_else_is_refused(case, tmp_path):
    kept(tmp_path / "x", batches()[:4])
    before = (tmp_path / "x").read_bytes()
    given, words = OTHER[case]
    with pytest.raises(CalibrationError, match=words):
        kept(tmp_path / "x", **given())
    assert (tmp_path / "x").read_bytes() == before


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x, mask):
        return torch.relu(self.a(x)) * mask[..., None]


def test_another_mask_is_refused(tmp_path):
    state, data = trace(Masked().eval()), [(torch.randn(2, 3, 4), torch.ones(2, 3))]
    kept(tmp_path / "x", data, state, mask="mask")
    with pytest.raises(CalibrationError, match="another mask: mask, here it is None"):
        kept(tmp_path / "x", data, state)


@pytest.mark.parametrize("size", [0, 7, 300, -1])
def test_half_a_file_is_refused(size, tmp_path):
    kept(tmp_path / "x", batches()[:4])
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:size])
    with pytest.raises(CalibrationError, match=r"x .*; give another path, or delete it to begin anew"):
        kept(tmp_path / "x")


def rewritten(path, **changes):
    content, _ = read_sealed(str(path))
    write_sealed(content | changes, str(path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "else"}, "holds no checkpoint"),
        ({"version": 2}, "another version"),
        ({"count": 0}, "another version"),
        ({"about": {}}, "another threshold: None"),
        ({"statistics": {"format": "else"}}, "holds no statistics"),
    ],
)
def test_files_of_something_else_are_refused(changes, words, tmp_path):
    kept(tmp_path / "x", batches()[:4])
    rewritten(tmp_path / "x", **changes)
    with pytest.raises(CalibrationError, match=words):
        kept(tmp_path / "x")


def test_statistics_are_no_checkpoint_and_a_checkpoint_no_statistics(tmp_path):
    save_statistics(kept(tmp_path / "x", batches()[:4]), tmp_path / "y")
    with pytest.raises(CalibrationError, match="y holds no checkpoint"):
        kept(tmp_path / "y")
    with pytest.raises(CalibrationError, match="holds no statistics"):
        load_statistics(tmp_path / "x")(sited(maximum()))


class Odd:
    def __reduce__(self):
        raise TypeError("no")


BAD = {
    "no folder": (lambda path: kept(path / "no" / "x"), "cannot be written: no such folder"),
    "a folder": (lambda path: kept(path), "is not a file"),
    "what cannot be compared": (lambda path: kept(path / "x", [(x, Odd()) for x in batches()]), "holds a Odd"),
    "a path": (lambda path: calibrate(batches(), checkpoint=path), r"write checkpoint\("),
    "how often": (lambda path: checkpoint(path, every=0), "every must be a whole number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_use_says_what_to_do(case, tmp_path):
    call, words = BAD[case]
    with pytest.raises(CalibrationError, match=words):
        call(tmp_path)


def test_a_statistic_of_ones_own_is_refused_before_any_data_is_read(tmp_path):
    own = Statistic("own", lambda x, axis: OwnSummary(x), lambda a, b: a)
    with pytest.raises(CalibrationError, match="no OwnSummary; calibrate without one"):
        kept(tmp_path / "x", iter([]), sited(Threshold("own", own, lambda summary, **_: summary.max)))


class OwnSummary:
    def __init__(self, x):
        self.max = x.amax(0)


def test_a_part_that_was_finished_is_not_run(tmp_path):
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU())).eval()
    state = trace(part="1")(model)
    done = kept(tmp_path / "x", state=state)
    assert state_equal(kept(tmp_path / "x", state=state), done)


def test_the_text_of_the_stage_has_no_file_in_it(tmp_path):
    assert kept(tmp_path / "x").made[-1] == "calibrate"
    assert pipe(sited(maximum()), calibrate(batches())).made[-1] == "calibrate"
