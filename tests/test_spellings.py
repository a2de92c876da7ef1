"""Every way to write an activation is one operator, one site, one threshold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import calibrate, fuse, instrument, maximum, pipe, to_snn, trace
from tests.helpers import assert_converges, assert_same, settled, vectors
from tests.models import Clamped

# small nets may have dead units; that they are handled is test_replace's business
pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")


class MyReLU(nn.ReLU):
    """A user's own subclass."""


ZERO = torch.zeros(())

SPELLINGS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "subclass": MyReLU(),
    "F.relu": F.relu,
    "F.relu(inplace)": lambda t: F.relu(t, inplace=True),
    "F.relu_": lambda t: F.relu_(t),
    "torch.relu": torch.relu,
    "torch.relu_": lambda t: torch.relu_(t),
    "x.relu()": lambda t: t.relu(),
    "x.relu_()": lambda t: t.clone().relu_(),
    "clamp(min=0)": lambda t: t.clamp(min=0),
    "clamp(0)": lambda t: t.clamp(0),
    "clamp_(min=0)": lambda t: t.clamp_(min=0),
    "clip(min=0)": lambda t: t.clip(min=0.0),
    "torch.clamp": lambda t: torch.clamp(t, min=0.0),
    "clamp_min(0)": lambda t: t.clamp_min(0),
    "torch.clamp_min": lambda t: torch.clamp_min(t, 0),
    "maximum(x, zeros)": lambda t: torch.maximum(t, t.new_zeros(())),
    "maximum(zeros, x)": lambda t: torch.maximum(torch.zeros_like(t), t),
    "maximum(x, constant)": lambda t: torch.maximum(t, ZERO),
    "x.maximum": lambda t: t.maximum(torch.zeros(())),
    "torch.max(x, zeros)": lambda t: torch.max(t, torch.zeros_like(t)),
    "F.threshold": lambda t: F.threshold(t, 0, 0),
    "F.threshold(inplace)": lambda t: F.threshold(t, 0.0, 0.0, inplace=True),
    "nn.Threshold": nn.Threshold(0, 0),
    "where(x > 0, x, 0)": lambda t: torch.where(t > 0, t, 0),
    "where(x <= 0, 0, x)": lambda t: torch.where(t <= 0, 0.0, t),
    "where(x < 0, zeros, x)": lambda t: torch.where(t < 0, torch.zeros_like(t), t),
    "where(0 < x, x, 0)": lambda t: torch.where(t > 0, t, 0.0),
    "where(x.gt(0), x, 0)": lambda t: torch.where(t.gt(0), t, 0.0),
    "x.where(x > 0, 0)": lambda t: t.where(t > 0, 0.0),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_is_one_site(spelling):
    x = vectors()
    torch.manual_seed(1)
    model = settled(Clamped(a=nn.Linear(6, 8), b=nn.Linear(8, 3), act=SPELLINGS[spelling]))
    state = pipe(model, trace, instrument(statistic=maximum()), calibrate([x]))
    assert [node.op for node in state.graph if node.op != "clone"] == ["input", "linear", "relu", "linear"]
    (site,) = state.sites.values()
    assert site.cap is None
    assert site.axis == -1
    assert_same(state.statistics[site.node].max, F.relu(model.a(x)).amax(0))
    assert len(to_snn(state).neurons()) == 1


CAPPED = {
    "nn.ReLU6": (nn.ReLU6(), 6.0),
    "F.relu6": (F.relu6, 6.0),
    "F.relu6(inplace)": (lambda t: F.relu6(t, inplace=True), 6.0),
    "nn.Hardtanh(0, 1)": (nn.Hardtanh(0.0, 1.0), 1.0),
    "F.hardtanh": (lambda t: F.hardtanh(t, 0, 2), 2.0),
    "clamp(0, c)": (lambda t: t.clamp(0, 0.5), 0.5),
    "clamp_(0, c)": (lambda t: t.clamp_(min=0, max=0.5), 0.5),
    "torch.clip": (lambda t: torch.clip(t, 0, 3), 3.0),
}


@pytest.mark.parametrize("spelling", CAPPED)
def test_capped_activations_need_no_data(spelling):
    act, cap = CAPPED[spelling]
    model, x = settled(Clamped(a=nn.Linear(6, 8), b=nn.Linear(8, 3), act=act)), 3 * vectors()
    snn = pipe(model, trace, fuse, to_snn)
    (neuron,) = snn.neurons().values()
    assert neuron.threshold.tolist() == [cap]
    assert_converges(snn, (x,), model(x))


NUMPY = {
    "x + array": lambda x: x + np.ones(6),
    "x * array of floats": lambda x: x * np.arange(6, dtype=np.float32),
    "x[array]": lambda x: x[np.array([0, 2])],
    "number * x": lambda x: np.float64(2.0) * x,
    "number ** x": lambda x: np.float32(2.0) ** x,
    "x / whole number": lambda x: x / np.int64(3),
    "x[array] = number": lambda x: x.clone().index_put_((torch.as_tensor(np.array([1])),), x.new_tensor(np.sqrt(2))),
}


@pytest.mark.parametrize("spelling", NUMPY)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::snnpipe.SiteWarning")
def test_arrays_and_numbers_of_numpy_mean_what_they_mean_to_torch(spelling):
    class Spelt(nn.Module):
        def forward(self, x):
            return NUMPY[spelling](x)

    x = vectors()
    got, want = pipe(Spelt(), trace, to_snn)(x, T=1), NUMPY[spelling](x)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want)
