"""Inputs of any length: which axes are free, what shows it, and what is refused."""

import pytest
import torch
from torch import nn

from snnpipe import (
    InputError,
    StageError,
    TraceError,
    calibrate,
    correct_bias,
    pipe,
    replace,
    report,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from tests.helpers import assert_close

IDS = torch.randint(0, 11, (3, 6), generator=torch.Generator().manual_seed(0))


class Encoder(nn.Module):
    """A text encoder with a mask; ``fixed`` keeps something of the length."""

    def __init__(self, fixed="", longest=40):
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8), nn.Embedding(longest, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.fixed = fixed

    def forward(self, ids, mask=None):
        n = ids.shape[1]
        x = self.tokens(ids) + self.places(torch.arange(n, device=ids.device))
        if self.fixed == "decides" and n > 6:
            return x
        if self.fixed == "folds":
            x = x.view(-1, 2, n // 2, 8).flatten(1, 2)
        if self.fixed == "loops":
            for k in range(n):
                x = x + 0.1 * x[:, k : k + 1]
        return self.layer(x, src_key_padding_mask=None if mask is None else ~mask)


def encoder(**options):
    torch.manual_seed(0)
    return Encoder(**options).eval()


@pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
def test_a_text_encoder_takes_texts_of_any_length():
    model, mask = encoder(), torch.ones_like(IDS, dtype=torch.bool)
    state = trace(model, example={"ids": IDS, "mask": mask}, dynamic_axes={"ids": (1,), "mask": (-1,)})
    assert "ids (B, any), mask (B, any)" in report(state)
    ann, td = to_module(state), pipe(state, td_rewrite, to_snn)
    snn = pipe(state, calibrate([{"ids": IDS, "mask": mask}, {"ids": IDS[:, :4], "mask": mask[:, :4]}]), to_snn)
    for samples, n in ((1, 1), (2, 4), (3, 6), (1, 40)):
        ids = torch.randint(0, 11, (samples, n), generator=torch.Generator().manual_seed(n))
        seen = torch.arange(n).expand(samples, n) < max(1, n - 2)
        with torch.no_grad():
            want = model(ids, seen)
            assert_close(ann(ids=ids, mask=seen), want)
        assert_close(td(ids=ids, mask=seen, T=3), want)
        assert snn(ids=ids, mask=seen, T=2).shape == want.shape
    with pytest.raises(InputError, match=r"ids has shape \(3, 0\) at each step, .* was traced for \(B, any >= 1\)"):
        td(ids=IDS[:, :0], mask=mask[:, :0], T=1)


def test_images_of_any_size():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)).eval()
    state = trace(model, example=torch.rand(2, 1, 8, 9), dynamic_axes={"input": (2, 3)})
    for size in ((3, 5), (20, 4)):
        x = torch.rand(2, 1, *size)
        assert_close(to_module(state)(x), model(x).detach())
    with pytest.raises(InputError, match=r"traced for \(B, 1, any >= 3, any >= 3\)"):
        pipe(state, td_rewrite, to_snn)(torch.rand(2, 1, 1, 9), T=1)  # the kernel is larger


@pytest.mark.parametrize("fixed", ["loops", "decides"])
def test_a_length_that_the_model_decides_by_is_refused(fixed):
    with pytest.raises(TraceError, match=r"dynamic_axes: .*(size 6 of axis 1 of ids|axis 1 of ids)"):
        trace(encoder(fixed=fixed), example=IDS, dynamic_axes={"ids": (1,)})


def test_a_length_that_hangs_on_others_needs_an_example_of_them():
    class Both(nn.Module):
        def forward(self, x, y):
            return torch.cat([x, x.flip(1)], 1) + y

    example, other = (torch.randn(2, 3), torch.randn(2, 6)), (torch.randn(2, 5), torch.randn(2, 10))
    axes = {"x": (1,), "y": (1,)}
    with pytest.raises(TraceError, match=r"axis 1 of x: the model takes no other size of these alone. Give .* check="):
        trace(Both(), example=example, dynamic_axes=axes)
    state = trace(Both(), example=example, dynamic_axes=axes, check=other)
    assert_close(to_module(state)(*other), Both()(*other))
    with pytest.raises(TraceError, match="does not take the example"):
        trace(Both(), example=example, dynamic_axes=axes, check=(other[0], example[1]))
    with pytest.raises(TraceError, match=r"axis 1 of y has size 10 here and 6 in .*dynamic_axes={'y': \(1,\)"):
        trace(Both(), example=example, dynamic_axes={"x": (1,)}, check=other)


def test_an_example_that_the_model_does_not_take_is_said():
    with pytest.raises(TraceError, match=r"the model itself does not take the example: .*expected input"):
        trace(nn.Conv2d(1, 2, 3), example=torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"ids": (0,)}, r"axis 0 of ids, \(3, 6\) in the example, is the batch"),
        ({"ids": (2,)}, r"axis 2 of ids, \(3, 6\) in the example, is not there"),
        ({"idz": (1,)}, "the example has no input 'idz' with tensors; it has ids"),
    ],
)
def test_axes_that_are_not_there(axes, message):
    with pytest.raises(TraceError, match=message):
        trace(encoder(), example=IDS, dynamic_axes=axes)


@pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
@pytest.mark.parametrize("free", [True, False])
def test_what_each_neuron_has_of_its_own_is_for_one_length(free):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval(), torch.randn(600, 6, 4)
    state = trace(model, example=x, dynamic_axes={"input": (1,)}) if free else trace(model)
    measured = pipe(state, calibrate([x]), replace)
    per_channel = pipe(measured, correct_bias([x], T=4), to_snn)
    per_neuron = pipe(measured, correct_bias([x], T=4, per="neuron"), to_snn)
    assert per_neuron(x[:2], T=4).shape == (2, 6, 3)
    for n in (1, 3):  # one would be stretched to six
        assert per_channel(x[:2, :n], T=4).shape == (2, n, 3)
        with pytest.raises(InputError, match=r"input has shape \(2, \d, 4\) at each step.*\(B, 6, 4\)"):
            per_neuron(x[:2, :n], T=4)


def test_what_axes_are_for():
    with pytest.raises(TraceError, match="has size 1; an example has at least 2 on a free axis"):
        trace(encoder(), example=IDS[:, :1], dynamic_axes={"ids": (1,)})
    with pytest.raises(StageError, match="goes with example="):
        trace(encoder(), dynamic_axes={"ids": (1,)})
    with pytest.raises(StageError, match="must be a dictionary of axes by input, got"):
        trace(encoder(), example=IDS, dynamic_axes={"ids": 1})
