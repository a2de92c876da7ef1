"""The network and the images that most tests start from."""

import pytest

from tests.helpers import cnn, images, spiking


@pytest.fixture
def x():
    return images()


@pytest.fixture
def snn(x):
    return spiking(cnn(), x)
