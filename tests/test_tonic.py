"""Event streams as the tonic package has them: its arrays, behind its transforms, and its own frames of them."""

import pytest
import torch
from torch import nn

from snnpipe import fixed, frames, pipe, replace, stream, to_snn, trace
from tests.helpers import assert_close

np = pytest.importorskip("numpy")
SENSOR = (7, 5, 2)  # width, height, polarities, as tonic writes them
WINDOW = 1000


@pytest.fixture(scope="module")
def tonic():
    """tonic, which imports torchvision, whose compiled operators do not load with every torch."""
    register = torch.library.register_fake

    def lenient(op, *args, **kwargs):
        return (lambda fn: fn) if str(op).startswith("torchvision::") else register(op, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.library, "register_fake", lenient)
        return pytest.importorskip("tonic")


def recording(tonic, polarity):
    """Events in tonic's record, with windows that nothing falls into."""
    rng = np.random.default_rng(0)
    t = np.sort(np.concatenate([rng.integers(0, 4 * WINDOW, 400), rng.integers(9 * WINDOW, 12 * WINDOW - 1, 100)]))
    t[-1] = 12 * WINDOW - 1 + t[0]  # the last window is whole
    x, y, p = (rng.integers(0, most, len(t)) for most in SENSOR)
    dtype = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", polarity)])
    return tonic.io.make_structured_array(x, y, t, p, dtype=dtype)


@pytest.mark.parametrize("polarity", [bool, np.int8])
@pytest.mark.parametrize("before", [
    lambda transforms: [],
    lambda transforms: [transforms.TimeAlignment()],
    lambda transforms: [transforms.CropTime(min=WINDOW // 3), transforms.RefractoryPeriod(200)],
    lambda transforms: [transforms.RandomFlipLR(SENSOR, 1.0), transforms.RandomFlipPolarity(1.0)],
], ids=["as it is", "aligned", "cropped", "flipped"])  # fmt: skip
def test_frames_are_tonics(tonic, polarity, before):
    transforms = tonic.transforms
    events = transforms.Compose(before(transforms))(recording(tonic, polarity))
    want = transforms.ToFrame(SENSOR, time_window=WINDOW, include_incomplete=True)(events.copy())
    got = list(frames(events, window=WINDOW, height=SENSOR[1], width=SENSOR[0]))
    assert want.sum() == len(events) > 100
    assert torch.equal(torch.cat(got), torch.from_numpy(want).float())


def test_a_recording_runs_through_a_network(tonic):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 3 * 5, 3)).eval()
    snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    events = recording(tonic, bool)
    whole = tonic.transforms.ToFrame(SENSOR, time_window=WINDOW, include_incomplete=True)(events.copy())
    *_, (state, output) = stream(snn, frames(events, window=WINDOW, height=SENSOR[1], width=SENSOR[0]))
    assert state.t == len(whole)
    want = snn.sequence(torch.from_numpy(whole).float()[:, None]).mean(0)
    assert_close(output, want)
