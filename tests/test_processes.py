"""Calibration in two processes: what one process measures, and an error wherever one of them cannot."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from snnpipe import (
    CalibrationError,
    calibrate,
    instrument,
    load_statistics,
    maximum,
    pipe,
    replace,
    trace,
)
from tests.processes import RULES, batches, measured, model

pytestmark = [
    pytest.mark.skipif(not distributed.is_available() or not distributed.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes have written what they found."""
    found = tmp_path_factory.mktemp("processes")
    root = Path(__file__).parent.parent
    options = {"cwd": root, "env": {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}}
    command = [sys.executable, "-W", "ignore", "-m", "tests.processes"]
    running = [subprocess.Popen([*command, str(rank), str(found)], **options) for rank in (0, 1)]
    codes = [process.wait(timeout=240) for process in running]
    assert codes == [0, 9]  # the second one is killed in the end
    return found


def said(folder, case, rank):
    return json.loads((folder / f"{case}.{rank}.json").read_text())


def thresholds(state):
    made = replace(state)
    return [made.params[node["threshold"].key] for node in made.graph if node.op == "encode"]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("case", ["uneven", "empty"])
def test_two_processes_measure_what_one_does(case, name, folder):
    alone = measured(RULES[name], batches(), ...)
    for rank in (0, 1):
        read = load_statistics(folder / f"{case}-{name}.{rank}")
        state = pipe(model(), trace, instrument(statistic=RULES[name]), read)
        for node, summary in state.statistics.items():
            assert summary.count == alone.statistics[node].count
            assert torch.equal(summary.max, alone.statistics[node].max)
        for got, want in zip(thresholds(state), thresholds(alone), strict=True):
            if name == "mmse":  # sums in float64, which the order rounds; at most the last bit of a float32 can show it
                assert torch.allclose(got, want, rtol=torch.finfo(torch.float32).eps, atol=0)
            else:
                assert torch.equal(got, want)


def test_earlier_statistics_count_once(folder):
    alone = pipe(measured(maximum(), batches(), ...), calibrate([10 * x for x in batches()]))
    for rank in (0, 1):
        state = pipe(model(), trace, instrument(statistic=maximum()), load_statistics(folder / f"again.{rank}"))
        for node, summary in state.statistics.items():
            assert summary.count == alone.statistics[node].count
            assert torch.equal(summary.max, alone.statistics[node].max)


@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        ("before", "init_process_group first", "init_process_group first"),
        ("none", "no batch in any of the processes", "no batch in any of the processes"),
        ("nan", "another process failed.*rank 1: CalibrationError: .*NaN .*in batch 1", "NaN or infinity"),
        ("network", "rank 1 holds another network", "rank 0 holds another network"),
        ("statistic", "or measures something else", "or measures something else"),
        ("ordered", "hangs on the order", "hangs on the order"),
        ("slow", "did not answer within the group's timeout", "has ended, or did not answer"),
        ("text", "calibrate'", "calibrate'"),
    ],
)
def test_what_each_process_says(case, first, second, folder):
    for rank, pattern in enumerate((first, second)):
        text, seconds = said(folder, case, rank)
        assert re.search(pattern, text, re.DOTALL), text
        assert seconds < 30


def test_a_process_that_is_killed_is_missed(folder):
    text, seconds = said(folder, "killed", 0)
    assert text.startswith("CalibrationError: calibrate: a process of the group has ended")
    assert seconds < 60
    assert not (folder / "killed.1.json").exists()


@pytest.mark.parametrize("wrong", [None, 1, "gloo"])
def test_what_is_no_group(wrong):
    with pytest.raises(CalibrationError, match="must be a process group"):
        calibrate(batches(), group=wrong)
