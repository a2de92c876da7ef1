"""What every test starts from: one seed and few threads."""

import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible():
    torch.manual_seed(0)
    torch.set_num_threads(2)
