"""Work in several processes: what one process finds, and an error wherever one of them cannot."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from torch import distributed

from property_tests.tolerances import summed
from snnpipe import (
    CalibrationError,
    StageError,
    calibrate,
    correct_weights,
    instrument,
    load_statistics,
    maximum,
    pipe,
    replace,
    state_equal,
    trace,
)
from tests.processes import CORRECTIONS, RULES, batches, corrected, evaluated, measured, model, swept, wide

pytestmark = [
    pytest.mark.skipif(not distributed.is_available() or not distributed.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where three processes have written what they found."""
    found = tmp_path_factory.mktemp("processes")
    root = Path(__file__).parent.parent
    options = {"cwd": root, "env": {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}}
    command = [sys.executable, "-W", "ignore", "-m", "tests.processes"]
    running = [subprocess.Popen([*command, str(rank), str(found)], **options) for rank in range(3)]
    codes = [process.wait(timeout=240) for process in running]
    assert codes == [0, -signal.SIGKILL, -signal.SIGKILL]  # the third one in the midst, the second in the end
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


@pytest.mark.parametrize("case", ["again", "resumed"])
def test_what_was_measured_earlier_counts_once(case, folder):
    alone = pipe(measured(maximum(), batches(), ...), calibrate([10 * x for x in batches()]))
    for rank in (0, 1):
        state = pipe(model(), trace, instrument(statistic=maximum()), load_statistics(folder / f"{case}.{rank}"))
        for node, summary in state.statistics.items():
            assert summary.count == alone.statistics[node].count
            assert torch.equal(summary.max, alone.statistics[node].max)


@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        ("before", "init_process_group first", "init_process_group first"),
        ("none", "no batch in any of the processes", "no batch in any of the processes"),
        ("nan", "another process failed.*rank 1: CalibrationError: .*NaN .*in batch 2", "NaN or infinity"),
        ("network", "rank 1 holds another network", "rank 0 holds another network"),
        ("statistic", "or measures something else", "or measures something else"),
        ("earlier", "or measures something else", "or measures something else"),
        ("interrupted", "another process failed.*rank 1: .*NaN", "NaN or infinity at site 1 in batch 2"),
        ("other rank", "another process: 1 of 2, here it is 0 of 2", "another process: 0 of 2, here it is 1 of 2"),
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


@pytest.mark.parametrize(("case", "left", "gone"), [("killed in bias", (0, 1), 2), ("killed", (0,), 1)])
def test_a_process_that_is_killed_is_missed(case, left, gone, folder):
    for rank in left:
        text, seconds = said(folder, case, rank)
        assert re.match(r"CalibrationError: \w+: a process of the group has ended", text)
        assert seconds < 60
    assert not (folder / f"{case}.{gone}.json").exists()


@pytest.mark.parametrize("name", CORRECTIONS)
def test_three_processes_correct_as_one_does(name, folder):
    """To the bit: each goes on with the sums of the one before it."""
    alone = corrected(name, batches())
    for rank in range(3):
        params, history = torch.load(folder / f"{name}.{rank}")
        assert params.keys() == alone.params.keys()
        assert all(torch.equal(params[key], value) for key, value in alone.params.items())
        assert history == [str(event) for event in alone.history]
    assert alone.params.keys() - wide().params.keys() or name == "balance"


def test_three_processes_evaluate_and_sweep_as_one_does(folder):
    alone, swept_alone = evaluated(batches()), swept(batches())
    found = [torch.load(folder / f"found.{rank}", weights_only=False) for rank in range(3)]
    assert found[0] == found[1] == found[2]
    ours = found[0]["evaluate"]
    for got, want in zip((*ours.readouts, ours.stopped), (*alone.readouts, alone.stopped), strict=True):
        assert abs(got.error - want.error) <= summed(torch.float64, len(batches()), want.error)
        assert attrs.evolve(got, error=want.error) == want
    for name in ("samples", "neurons", "ann"):
        assert getattr(ours, name) == getattr(alone, name)
    sweep = found[0]["sweep"]
    assert sweep.outcomes == tuple(one for one in swept_alone.outcomes if one.recipe != "calibration_advanced")
    assert (sweep.ann, sweep.samples) == (swept_alone.ann, swept_alone.samples)
    assert "a group has no order; train in one process" in sweep.refused["calibration_advanced"]


NAN, SAME = "NaN or infinity in the current of 1__if0 in batch 2", "holds another network, or measures something else"


@pytest.mark.parametrize(
    ("case", "first", "second", "third"),
    [
        ("nan in bias", f"another process failed.*rank 1: .*{NAN}", f"^CalibrationError: correct_bias: {NAN}", NAN),
        ("nan in balance", f"another process failed.*rank 1: .*{NAN}", f"^CalibrationError: balance: {NAN}", NAN),
        ("none in bias", *["no batch in any of the processes"] * 3),
        ("none in evaluate", *["no batch in any of the processes"] * 3),
        ("other bias", f"rank 2 {SAME}", f"rank 2 {SAME}", f"rank 0 {SAME}"),
        ("another stage", f"rank 2 {SAME}", f"rank 2 {SAME}", f"balance: rank 0 {SAME}"),
        ("top", f"rank 2 {SAME}", f"rank 2 {SAME}", f"rank 0 {SAME}"),
        ("unlabelled", *["another process failed.*rank 2: .*has no labels"] * 2, "evaluate: batch 0 has no labels"),
        ("other recipes", f"rank 1 {SAME}", f"rank 0 {SAME}", f"rank 1 {SAME}"),
    ],
)
def test_what_each_of_three_says(case, first, second, third, folder):
    for rank, pattern in enumerate((first, second, third)):
        text, seconds = said(folder, case, rank)
        assert re.search(pattern, text, re.DOTALL), text
        assert seconds < 30


def test_the_example_of_the_page_runs(tmp_path):
    root = Path(__file__).parent.parent
    script = root / "docs" / "examples" / "processes.py"
    assert script.read_text().partition("\n\n")[2] in (root / "docs" / "processes.md").read_text()
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "env": environment, "text": True, "check": True}
    assert "2000 samples" in subprocess.run([*command, str(script)], stdout=subprocess.PIPE, **options).stdout
    files = {"snn.safetensors", "calibration.0.safetensors", "calibration.1.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == files


def test_weights_are_trained_in_one_process():
    with pytest.raises(StageError, match="a group has no order; train in one process"):
        correct_weights(batches(), T=2, group=None)


def test_a_group_of_one_is_that_process_and_one_that_is_gone_is_refused(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    group = distributed.group.WORLD
    try:
        assert state_equal(measured(maximum(), batches(), group), measured(maximum(), batches(), ...))
    finally:
        distributed.destroy_process_group()
    with pytest.raises(CalibrationError, match="must be a process group"):
        calibrate(batches(), group=group)


@pytest.mark.parametrize("wrong", [None, 1, "gloo"])
def test_what_is_no_group(wrong):
    with pytest.raises(CalibrationError, match="must be a process group"):
        calibrate(batches(), group=wrong)
