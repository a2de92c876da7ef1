"""Calibration is a fold with a merge law: order and batching change nothing, and bad data is named."""

import math

import pytest
import torch
from torch import nn

from snnpipe import (
    CalibrationError,
    ThresholdError,
    calibrate,
    digest,
    ema,
    fuse,
    instrument,
    maximum,
    percentile,
    pipe,
    replace,
    scaled,
    state_equal,
    to_snn,
    trace,
)  # fmt: skip
from tests.helpers import assert_same, mlp, vectors
from tests.models import DictInDictOut, OptionalInput
from tests.test_statistic import BIN


def dyadic(*shape):
    """Multiples of 1/8: sums and products of a few of them are exact, in any order."""
    return torch.randint(-16, 17, shape).double() / 8


def exact():
    """An MLP on the dyadic grid, so that batching cannot change a single bit."""
    model = mlp()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(dyadic(*p.shape))
        model[0].bias.fill_(4.0)
        model[2].bias.fill_(60.0)
    return model


def measured(batches, statistic=None, model=None, **options):
    stage = instrument(statistic=maximum() if statistic is None else statistic)
    return pipe(exact() if model is None else model, trace, stage, calibrate(batches, **options))


def thresholds(state, rule=None):
    """Thresholds by site, as the network will have them."""
    return [neuron.threshold for neuron in to_snn(replace(threshold=rule)(state)).neurons().values()]


def batchings(x):
    """The same data in other orders and portions, and a huge first batch."""
    mixed = x[torch.randperm(len(x))]
    return {
        "one batch": [x],
        "permuted": [mixed],
        "one by one": list(mixed.split(1)),
        "uneven": list(mixed.split([3, 40, 1, len(x) - 44])),
        "huge first batch": [x[:-3], x[-3:-1], x[-1:]],
        "huge last batch": [x[:1], x[1:]],
    }


@pytest.fixture(scope="module")
def data():
    return torch.Generator().manual_seed(3), torch.randint(-16, 17, (96, 6)).double() / 8


@pytest.mark.parametrize("way", batchings(torch.zeros(96, 6)))
@pytest.mark.parametrize("statistic", [maximum(), percentile(99.0), percentile(80.0, per_channel=False)], ids=str)
def test_order_and_batching_change_nothing(way, statistic, data):
    model, x = exact(), data[1]
    reference = measured([x], statistic, model)
    other = measured(batchings(x)[way], statistic, model)
    assert state_equal(other, reference)
    for a, b in zip(thresholds(other), thresholds(reference), strict=True):
        assert_same(a, b)


def test_the_maximum_is_the_true_maximum(data):
    model, x = exact(), data[1]
    first, second = thresholds(measured(x.split(7), maximum(), model))
    h = model[:2](x)
    assert_same(first, h.amax(0).detach())
    assert_same(second, model[2:4](h).amax(0).detach())
    for per_layer, per_channel in zip(
        thresholds(measured([x], maximum(per_channel=False), model)), (first, second), strict=True
    ):
        assert_same(per_layer, per_channel.amax().reshape(1))
    assert_same(thresholds(measured([x], scaled(0.5), model))[0], 0.5 * first)


def test_the_moving_average_depends_on_order():
    a, b = torch.ones(1, 1), 5 * torch.ones(1, 1)
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    nn.init.ones_(model[0].weight), nn.init.zeros_(model[0].bias)
    (up,), (down,) = (thresholds(measured(batches, ema(0.25), model)) for batches in ([a, b], [b, a]))
    assert (up.item(), down.item()) == (0.75 * 1 + 0.25 * 5, 0.75 * 5 + 0.25 * 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_is_measured_at_least_in_float32(dtype):
    state = measured([vectors(40).to(dtype)], percentile(99.0), mlp().to(dtype))
    for summary in state.statistics.values():
        assert summary.max.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert {theta.dtype for theta in thresholds(state)} == {dtype}


def test_twenty_million_elements():
    model = nn.Sequential(nn.ReLU())
    x = torch.rand(20, 1000, 1000)
    (theta,) = thresholds(measured([x], percentile(90.0, per_channel=False), model))
    assert theta.item() == pytest.approx(0.9, rel=BIN)


def used_up():
    generator = (x for x in [vectors()])
    list(generator)
    return generator


def with_nan(k, value=math.nan):
    batches = [vectors() for _ in range(4)]
    batches[k][0, 0] = value
    return batches


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        (lambda: [], "no batch.*empty.*generator"),
        (used_up, "no batch.*generator"),
        (lambda: [vectors(), vectors()[:0]], r"batch 1 is empty.*\(0, 6\)"),
        (lambda: with_nan(2), r"NaN or infinity at site 1 in batch 2"),
        (lambda: with_nan(0, math.inf), r"NaN or infinity at site 1 in batch 0"),
        (lambda: [vectors(), "text"], "batch 1.*str.*forward="),
        (lambda: [()], "batch 0 is empty"),
        (lambda: [{"a": vectors(), "b": vectors()}], r"batch 0.*\['a', 'b'\].*forward="),
        (lambda: vectors(), r"calibrate\(\[x\]\)"),
        (lambda: None, r"calibrate\(loader\)"),
        (lambda: mlp(), r"calibrate\(loader\)"),
    ],
)
def test_bad_data_is_named(batches, text):
    with pytest.raises(CalibrationError, match=f"(?s){text}"):
        measured(batches())


def test_a_failed_calibration_changes_nothing():
    state = pipe(mlp(), trace, fuse, instrument)
    before = digest(state)
    with pytest.raises(CalibrationError):
        calibrate(with_nan(1))(state)
    assert digest(state) == before


X = torch.randn(12, 6, dtype=torch.float64)
LABELS = torch.zeros(12)


@pytest.mark.parametrize(
    "batch",
    [(X, LABELS), [X, LABELS], X.numpy(), (X.numpy(), 3), {"x": X}, {"image": X, "label": LABELS}, {"anything": X},
     {"pixel_values": X, "mask": LABELS}, X.tolist() and [X]],
    ids=["tuple", "list", "numpy", "numpy tuple", "x", "image", "only value", "pixel_values", "list of one"],
)  # fmt: skip
def test_any_kind_of_batch(batch):
    model = mlp()
    assert state_equal(measured([batch], model=model), measured([X], model=model))


def test_any_kind_of_call():
    model = mlp()
    odd = [{"left": X[:5], "right": X[5:], "junk": "text"}]
    state = measured(odd, model=model, forward=lambda m, batch: m(torch.cat([batch["left"], batch["right"]])))
    assert state_equal(state, measured([X], model=model))
    with pytest.raises(CalibrationError, match="did not call the model on batch 0"):
        measured(odd, model=model, forward=lambda m, batch: None)


def test_dictionary_and_several_inputs():
    model = DictInDictOut(a=nn.Linear(6, 8), b=nn.Linear(8, 3), r=nn.ReLU()).double()
    assert_same(measured([{"x": X}], model=model).statistics["r"].max, model.a(X).relu().amax(0).detach())
    two = OptionalInput(a=nn.Linear(6, 6), r=nn.ReLU()).double()
    for batch in ((X, X), {"y": X, "x": X, "label": 3}):
        state = pipe(two, trace(inputs=("x", "y")), instrument(statistic=maximum()), calibrate([batch]))
        assert_same(state.statistics["r"].max, two.a(X).relu().amax(0).detach())


def test_max_batches_reads_no_more_than_it_says():
    read = []

    def batches():
        for k in range(10):
            read.append(k)
            yield X + k

    model = mlp()
    assert state_equal(measured(batches(), model=model, max_batches=2), measured([X, X + 1], model=model))
    assert read == [0, 1]
    with pytest.raises(CalibrationError, match="max_batches must be at least 1, got 0"):
        measured([X], max_batches=0)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("max", maximum()), ("MAX", maximum()), ("99.9%", percentile(99.9)), (" 99.9 %", percentile(99.9)),
     (0.8, scaled(0.8)), (1, scaled(1.0))],
)  # fmt: skip
def test_strings_of_other_tools(written, meant):
    state = pipe(mlp(), trace, instrument(statistic=written))
    assert state.threshold == meant


@pytest.mark.parametrize("bad", ["maximum", "99.9", "%", "a%", "0%", "101%", -0.5, 0, math.nan, None, True, [1]])
def test_bad_strings_are_shown(bad):
    with pytest.raises(ThresholdError, match=str(bad).strip("%[]") or "%"):
        instrument(statistic=bad)(trace(mlp()))


def test_new_thresholds_from_old_statistics():
    model = mlp()
    state = measured([X], percentile(99.9), model)
    for rule in (percentile(90.0), percentile(90.0, per_channel=False), maximum(), scaled(0.5)):
        fresh = measured([X], rule, model)
        for a, b in zip(thresholds(state, rule), thresholds(fresh), strict=True):
            assert_same(a, b)
    with pytest.raises(ThresholdError, match=r"percentile.*Extrema.*instrument"):
        thresholds(measured([X], maximum(), model), percentile(99.0))


def test_calibrating_again_merges():
    model = mlp()
    twice = pipe(model, trace, instrument(statistic=maximum()), calibrate([X[:4]]), calibrate([X[4:]]))
    for name, summary in measured([X], model=model).statistics.items():
        assert_same(twice.statistics[name].max, summary.max)
        assert twice.statistics[name].count == summary.count


def test_progress_is_silent_unless_asked(capfd):
    measured([X])
    assert capfd.readouterr() == ("", "")
    measured([X], progress=True)
    assert "calibrate" in capfd.readouterr().err
