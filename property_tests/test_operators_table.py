"""A slice of PyTorch's own operator table, held to the law; ``nightly_operators`` takes the whole of it."""

import argparse

import pytest

from property_tests.nightly_operators import tried
from property_tests.operators import table

pytest.importorskip("expecttest")

OPERATORS = (
    "abs", "add", "bmm", "clamp", "cumsum", "index_select", "linalg.norm", "logsumexp", "mul", "nn.functional.conv2d",
    "nn.functional.linear", "nn.functional.relu", "softmax", "std", "transpose",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return {table.label(op): op for op in table.operators()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPERATORS)
def test_every_spelling_is_right_or_refused(rows, name):
    options = argparse.Namespace(samples=1, spelling="", front=["symbolic"])
    found = tried(name, rows[name], options)
    assert any(trial["outcome"] == "exact" for trial in found)
    assert [trial for trial in found if trial["outcome"] in ("wrong", "other")] == []
