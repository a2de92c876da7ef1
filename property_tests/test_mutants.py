"""Files that were tampered with are refused by a ``SnnpipeError``; nothing of them is run, little memory is taken."""

import resource

import pytest
from hypothesis import settings

from property_tests.mutants import KINDS, run

pytestmark = pytest.mark.filterwarnings("ignore")


def test_tampered_files_are_refused(tmp_path):
    count = 12 * settings().max_examples
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = run(count, "tests", tmp_path)
    assert sum(outcomes.values()) == count
    assert all(outcomes[kind.__name__, "refused"] > outcomes[kind.__name__, "read"] for kind in KINDS)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 300  # MiB
