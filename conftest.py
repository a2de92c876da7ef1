"""How every test runs: in two processes when folders are run, each with one thread, and each test from one seed."""

import os
from importlib.util import find_spec

import pytest
import torch

#: Modules whose examples need the package nir.
collect_ignore_glob = [] if find_spec("nir") else ["snnpipe/exchange/nir/*_nir.py"]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For ``-n auto``: a file, or a test of it, is done before two processes have started."""
    return 2 if any(map(os.path.isdir, config.args)) else 0


def pytest_configure() -> None:
    """One thread: the networks are small, and the processes would fight for the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def reproducible() -> None:
    """What a test draws depends neither on the tests before it nor on the process it runs in."""
    torch.manual_seed(0)
