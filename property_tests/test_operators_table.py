"""A slice of PyTorch's own operator table, held to the law; ``nightly_operators`` takes the whole of it."""

import argparse
import zlib

import pytest
import torch
from torch import fx

from property_tests.nightly_operators import tried
from property_tests.operators import extras, table
from property_tests.operators.law import PLAIN, judged
from property_tests.operators.subject import CODES, Eager, Subject

pytest.importorskip("expecttest")
pytestmark = pytest.mark.filterwarnings("ignore")

OPERATORS = (
    "abs", "add", "bmm", "clamp", "cumsum", "index_select", "linalg.norm", "logsumexp", "mul", "nn.functional.conv2d",
    "nn.functional.linear", "nn.functional.relu", "softmax", "std", "transpose",
)  # fmt: skip
#: A sample of what is written by hand; which lines are in it hangs on nothing but their text.
LINES = sorted(extras.names(), key=lambda line: zlib.crc32(line.encode()))[::12]


@pytest.fixture(scope="module")
def rows():
    return {table.label(op): op for op in table.operators()}


def fallen_short(name, op):
    found = tried(name, op, argparse.Namespace(samples=1, spelling="", front=["symbolic"]))
    assert found
    return [trial for trial in found if trial["outcome"] in ("wrong", "other")]


@pytest.mark.parametrize("name", OPERATORS)
def test_every_spelling_is_right_or_refused(rows, name):
    assert fallen_short(name, rows[name]) == []


@pytest.mark.parametrize("name", LINES)
def test_every_line_is_right_or_refused(name):
    assert fallen_short(name, None) == []


UNLIKE = {
    "value": lambda x: x * 1.001,
    "shape": lambda x: x[:1],
    "dtype": lambda x: x.float(),
    "structure": lambda x: (x, x),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_the_harness_sees_a_network_that_is_not_the_model(kind):
    """``forward`` does something else while it is traced."""

    def formula(net, x):
        return UNLIKE[kind](x) if isinstance(x, fx.Proxy) else x * 1

    subject = Subject(formula, (torch.rand(3, 4, dtype=torch.float64) + 1,))
    found = judged(subject, Eager.of(subject), "symbolic")
    assert len(found) == 4
    assert not any(outcome.exact for outcome in found.values())
    assert {(found[PLAIN, code].word, found[PLAIN, code].kind) for code in CODES} == {("wrong", kind)}
