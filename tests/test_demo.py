"""The demonstration, end to end with little training."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import snnpipe
from snnpipe import cli, demo
from snnpipe.analysis.plots import Row, plot_accuracy, require_matplotlib
from snnpipe.commands import demo as command
from snnpipe.errors import SnnpipeError

COLUMNS = ["T", "accuracy %", "agreement with ANN %", "spikes per neuron"]


@pytest.fixture(scope="module")
def result():
    pytest.importorskip("sklearn")
    return demo.run(steps=6, epochs=2)


def test_a_row_for_each_power_of_two_and_the_last_step(result):
    assert [row.T for row in result.rows] == [1, 2, 4, 6]
    assert all(0 <= row.accuracy <= 100 and 0 <= row.agreement <= 100 for row in result.rows)
    spikes = [row.spikes for row in result.rows]
    assert spikes == sorted(spikes)
    assert all(0 < row.spikes <= row.T for row in result.rows)


def test_the_network_learns_and_keeps_what_it_learned(result):
    assert result.ann_accuracy > 80
    assert result.rows[-1].agreement > 80


def test_test_images_are_not_calibrated_on(result):
    assert result.images == (1347, 450)
    assert [event.detail for event in result.snn.history if event.stage == "calibrate"] == ["11 batches"]


def test_the_table_is_aligned(result):
    lines = demo.render(result).splitlines()
    start = next(number for number, line in enumerate(lines) if "accuracy %" in line)
    header, rule, *rows = lines[start : start + 2 + len(result.rows)]
    assert [part.strip() for part in header.split("  ") if part.strip()] == COLUMNS
    assert {len(line) for line in (header, rule, *rows)} == {len(header)}
    assert [len(row.split()) for row in rows] == [4] * len(result.rows)
    assert f"ANN accuracy: {result.ann_accuracy:.2f} %" in lines
    assert "units: 3 binary neuron layers" in lines


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_the_same_seed_gives_the_same_rows(result, two_threads):
    generator = torch.get_rng_state()
    again = demo.run(steps=6, epochs=2)
    assert again.rows == result.rows
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_command_prints_and_draws(result, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(command, "run", lambda **options: result)
    out = tmp_path / "figure.png"
    assert cli.main(["demo", "--steps", "6", "--out", str(out), "--no-progress"]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(column in printed for column in COLUMNS)
    assert printed.endswith(f"figure: {out}\n")


SILENT = [Row(1, 100.0, 100.0, 0.0)]
MANY = [Row(2**k, 50.0 + k, 60.0, 0.2 * 2**k) for k in range(9)]


@pytest.mark.parametrize("rows", [SILENT, MANY], ids=["one", "many"])
def test_plot_of_few_and_many_rows(rows, tmp_path):
    pytest.importorskip("matplotlib")
    plot_accuracy(rows, 100.0, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert text.count("<svg") == 1


@pytest.mark.parametrize("name", list(demo.NEURONS))
def test_options_reach_the_demo(name, result, monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    seen = {}
    monkeypatch.setattr(command, "run", lambda **options: seen.update(options) or result)
    cli.main(["demo", "--neuron", name, "--seed", "3", "--out", str(tmp_path / "figure.png")])
    assert seen == {"steps": 64, "seed": 3, "neuron": name, "progress": True}


INSTALL = 'pip install scikit-learn matplotlib, or in a clone of snnpipe pip install -e ".[demo]"'


def test_missing_extras_say_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SnnpipeError, match=re.escape(f"scikit-learn: {INSTALL}")):
        demo.digits(0)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SnnpipeError, match=re.escape(f"matplotlib: {INSTALL}")):
        require_matplotlib()
    assert stopped("--out", str(tmp_path / "figure.png")) == 1
    assert INSTALL in one_line(capsys)


def test_both_extras_are_what_the_message_installs():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    root = Path(snnpipe.__file__).parents[1]
    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["demo"]
    assert {re.match(r"[\w-]+", each)[0] for each in extra} == {"scikit-learn", "matplotlib", "numpy"}


def stopped(*arguments):
    """The exit status of the demo."""
    return cli.main(["demo", *arguments])


def one_line(capsys):
    text = capsys.readouterr().err
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


BAD = (
    "--steps 0", "--steps many", "--steps 2.5", "--steps 1000000000000", "--seed -1", "--seed x", f"--seed {2**40}",
    "--neuron lif", "--out /no/such/folder/x.png", "--out x", "--out .png", "--out /dev/null/x.png", "--unknown 1",
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_bad_options_are_refused_before_anything_runs(bad, monkeypatch, capsys):
    monkeypatch.setattr(command, "run", lambda **options: pytest.fail("ran"))
    assert stopped(*bad.split()) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert bad.split()[0] in last
    assert not re.search(r"\b_\w+", last), "a private name"


def test_a_figure_that_cannot_be_written_is_refused_before_anything_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "run", lambda **options: pytest.fail("ran"))
    (tmp_path / "folder.png").mkdir()
    assert stopped("--out", str(tmp_path / "folder.png")) == 2
    assert "is not a file" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write to every folder
    assert stopped("--out", str(tmp_path / "figure.png")) == 2
    assert "permission denied" in capsys.readouterr().err


def test_a_figure_that_cannot_be_written_after_all(result, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "folder" / "figure.png"
    out.parent.mkdir()
    monkeypatch.setattr(command, "run", lambda **options: out.parent.rmdir() or result)
    assert stopped("--out", str(out)) == 1
    assert "figure.png" in one_line(capsys)


def test_interrupted(monkeypatch, tmp_path, capsys):
    def interrupted(**options):
        raise KeyboardInterrupt

    pytest.importorskip("matplotlib")
    monkeypatch.setattr(command, "run", interrupted)
    assert stopped("--out", str(tmp_path / "figure.png")) == 130
    assert one_line(capsys) == "snnpipe demo: stopped\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "snnpipe", "demo", "--steps", "64", "--out", str(tmp_path / "figure.png")]
    root = Path(snnpipe.__file__).parents[1]

    def as_a_terminal():  # a shell starts its background jobs, and so their children, deaf to SIGINT
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        command, cwd=root, stderr=subprocess.PIPE, text=True, preexec_fn=as_a_terminal
    ) as process:
        process.stderr.read(1)  # the first progress bar
        process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said.endswith("snnpipe demo: stopped\n")
    assert "Traceback" not in said


def test_without_a_command_the_help_is_printed(capsys):
    assert cli.main([]) == 0
    assert "demo" in capsys.readouterr().out


def test_version_of_the_module():
    done = subprocess.run([sys.executable, "-m", "snnpipe", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"snnpipe {snnpipe.__version__}\n"
