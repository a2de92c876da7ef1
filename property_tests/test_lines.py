"""Any line at all ends with one of the exit statuses, says why on stderr, and leaves only whole files."""

import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnpipe import cli
from snnpipe.commands.table import COMMANDS
from tests.lines import folder

SUBJECTS = ("mymodel:net", "mymodel:Branches", "mymodel:sigmoids", "mymodel:number", "mymodel:", "x.pt2",
            "snn.safetensors")  # fmt: skip
OPTIONS = ("--out", "--data", "--shape", "--T", "--pipeline", "--target", "--json", "--samples", "--own", "--schedule",
           "--pixels", "--mean", "--repeat", "--no-progress", "--fully-spiking", "--layout", "--")  # fmt: skip
VALUES = ("out.safetensors", "out.pt2", "out.nir", "mymodel:batches", "mymodel:nothing", "x.npz", ".", "2,1,8,8", "0",
          "2", "-1", "trace | calibrate | to_snn", "trace", "recipes.snm()", "to_snn | trace", "SPECK_2E", "step",
          "wave(2)", "a=mymodel:rule", "unit", "0.5", "nhwc", "hardware", "plan.toml")  # fmt: skip
WORDS = st.sampled_from(SUBJECTS + OPTIONS + VALUES) | st.text(max_size=6)
#: Lines that are mostly right, and lines that are not.
LINES = st.lists(WORDS, max_size=6) | st.builds(
    lambda name, subject, pairs: [name, subject, *(word for pair in pairs for word in pair)],
    st.sampled_from(sorted(COMMANDS.keys() - {"demo"})),
    st.sampled_from(SUBJECTS),
    st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES)), max_size=4),
)


@pytest.fixture(scope="module")
def here():
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        with folder(Path(path), patch) as inside:
            assert run(["convert", "mymodel:net", "--data", "mymodel:batches", "--out", "snn.safetensors"])[0] == 0
            yield inside
        patch.undo()


def run(line):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(line)
    return status, out.getvalue(), err.getvalue()


@settings(deadline=None)
@given(line=LINES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_line(here, line):
    status, out, err = run(line)
    assert status in (cli.YES, cli.NO, cli.WRONG)
    assert "Traceback" not in err
    assert status != cli.WRONG or err
    if "--json" in line and out and "-h" not in line:
        assert json.loads(out)["ok"] is (status == 0)
    assert not [name for name in os.listdir() if name.endswith(".tmp")]
