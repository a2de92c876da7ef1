"""What every test starts from: one seed and few threads."""

import pytest
import torch

from tests.helpers import cnn, images, spiking


@pytest.fixture(autouse=True)
def reproducible():
    torch.manual_seed(0)
    torch.set_num_threads(2)


@pytest.fixture
def x():
    return images()


@pytest.fixture
def snn(x):
    return spiking(cnn(), x)
