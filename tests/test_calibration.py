"""Calibration is a fold with a merge law: order and batching change nothing, and bad data is named."""

import math

import pytest
import torch
from torch import nn

from snnpipe import (
    TRANSFORMER_RULES,
    CalibrationError,
    ThresholdError,
    calibrate,
    cascade,
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
from snnpipe.graph import Ref, refs
from snnpipe.kernels import histogram
from snnpipe.kernels.gaussian import threshold_iteration
from snnpipe.kernels.optimal import local_threshold_balancing, mmse
from snnpipe.rules.sites import SITE_RULES, Match
from tests.catalogue import C
from tests.helpers import assert_converges, assert_same, images, mlp, settled, vectors
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


@pytest.fixture
def data():
    return torch.randint(-16, 17, (96, 6)).double() / 8


@pytest.mark.parametrize("way", batchings(torch.zeros(96, 6)))
@pytest.mark.parametrize("statistic", [maximum(), percentile(99.0), percentile(80.0, per="layer")], ids=str)
def test_order_and_batching_change_nothing(way, statistic, data):
    model, x = exact(), data
    reference = measured([x], statistic, model)
    other = measured(batchings(x)[way], statistic, model)
    assert state_equal(other, reference)
    for a, b in zip(thresholds(other), thresholds(reference), strict=True):
        assert_same(a, b)


def test_the_maximum_is_the_true_maximum(data):
    model, x = exact(), data
    first, second = thresholds(measured(x.split(7), maximum(), model))
    h = model[:2](x)
    assert_same(first, h.amax(0).detach())
    assert_same(second, model[2:4](h).amax(0).detach())
    for per_layer, per_channel in zip(
        thresholds(measured([x], maximum(per="layer"), model)), (first, second), strict=True
    ):
        assert_same(per_layer, per_channel.amax().reshape(1))
    assert_same(thresholds(measured([x], scaled(0.5), model))[0], 0.5 * first)


def test_the_moving_average_depends_on_order():
    a, b = torch.ones(1, 1), 5 * torch.ones(1, 1)
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    nn.init.ones_(model[0].weight), nn.init.zeros_(model[0].bias)
    (up,), (down,) = (thresholds(measured(batches, ema(0.25), model)) for batches in ([a, b], [b, a]))
    assert (up.item(), down.item()) == (0.75 * 1 + 0.25 * 5, 0.75 * 5 + 0.25 * 1)


def identity(width):
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU())
    model[0].weight.data, model[0].bias.data = torch.eye(width), torch.zeros(width)
    return model


def test_a_moving_average_per_layer_averages_the_layers_maxima():
    """Of [4, 1] and [1, 4] it is 4, not the 2.5 of either channel."""
    batches = [torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 4.0]])]
    for rule, expected in (
        (ema(0.5, per="layer"), [4.0]),
        (ema(0.5), [2.5, 2.5]),
        (ema(0.5, per="neuron"), [2.5, 2.5]),
        (ema(0.5, of=scaled(0.5, per="layer")), [2.0]),
        (ema(0.5, of=percentile(100.0), per="layer"), [4.0]),
    ):
        (theta,) = thresholds(measured(batches, rule, identity(2)))
        assert theta.tolist() == expected, rule


def test_a_moving_average_serves_its_own_rule_alone():
    batches = [torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 4.0]])]
    state = measured(batches, ema(0.5), identity(2))
    for other in (ema(0.5, per="layer"), ema(0.25), ema(0.5, of=percentile(99.0))):
        with pytest.raises(ThresholdError, match=r"order of the data.*measured for ema\(momentum=0\.5\)"):
            replace(threshold=other)(state)
    with pytest.raises(ThresholdError, match="order of the data"):
        replace(threshold=ema(0.5))(measured(batches, maximum(), identity(2)))
    (theta,) = thresholds(state, maximum(per="layer"))
    assert theta.tolist() == [4.0]  # maxima are kept beside the average


@pytest.mark.filterwarnings("ignore:percentile of")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_is_measured_at_least_in_float32(dtype):
    state = measured([vectors(40).to(dtype)], percentile(99.0), mlp().to(dtype))
    for summary in state.statistics.values():
        assert summary.max.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert {theta.dtype for theta in thresholds(state)} == {dtype}


def test_twenty_million_elements():
    model = nn.Sequential(nn.ReLU())
    x = torch.rand(20, 1000, 1000)
    (theta,) = thresholds(measured([x], percentile(90.0, per="layer"), model))
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
    with pytest.raises(CalibrationError, match=r"max_batches must be a whole number of at least 1, .*got 0"):
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
    for rule in (percentile(90.0), percentile(90.0, per="layer"), maximum(), scaled(0.5)):
        fresh = measured([X], rule, model)
        for a, b in zip(thresholds(state, rule), thresholds(fresh), strict=True):
            assert_same(a, b)
    for rule in (mmse(4), mmse(32), local_threshold_balancing(), percentile(90.0, nonzero=True)):
        for a, b in zip(thresholds(state, rule), thresholds(measured([X], rule, model)), strict=True):
            assert_same(a, b)
    for had, wanted in ((maximum(), percentile(99.0)), (maximum(), mmse(4)), (mmse(4), threshold_iteration(4))):
        with pytest.raises(ThresholdError, match=rf"{wanted.name}.*(Extrema|Histogram).*instrument"):
            thresholds(measured([X], had, model), wanted)


def cnn():
    """Conv, ReLU, Conv: (B, 2, 4, 4) -> (B, 2, 4, 4), 48 neurons in three channels, none of them dead."""
    model = settled(nn.Sequential(C(2, 3, padding=1), nn.ReLU(), C(3, 2, padding=1)))
    nn.init.constant_(model[0].bias, 2.0)
    return model


def test_one_threshold_per_neuron():
    model, x = cnn(), images(size=4)
    state = measured([x[:1], x[1:]], maximum(per="neuron"), model)
    snn = to_snn(state)
    (neuron,) = snn.neurons().values()
    assert_same(neuron.threshold, model[:2](x).amax(0).detach().reshape(-1))
    assert_converges(snn, (x,), model(x))
    assert_same(thresholds(state, maximum(per="layer"))[0], model[:2](x).amax().detach().reshape(1))
    with pytest.raises(ThresholdError, match=r"48 thresholds.*3 channels \(shape \(4, 3, 6, 6\).*size of input"):
        snn(images(size=6), T=1)


def test_one_threshold_per_neuron_must_be_measured_so():
    model, x = cnn(), images(size=4)
    for had, wanted in (("channel", "neuron"), ("layer", "neuron"), ("neuron", "channel")):
        state = measured([x], maximum(per=had), model)
        with pytest.raises(ThresholdError, match=rf'needs statistics per {wanted}.*site 1.*per {had}.*per="{wanted}"'):
            thresholds(state, maximum(per=wanted))
    by_moments = thresholds(measured([x], threshold_iteration(8, per="neuron"), model))
    assert by_moments[0].shape == (48,)
    by_histogram = thresholds(measured([x], mmse(8, per="neuron"), model))
    assert by_histogram[0].shape == (48,)


def test_too_many_histograms_are_refused(monkeypatch):
    monkeypatch.setattr(histogram, "MOST_BYTES", 40 * 8 * histogram.BINS)  # of 40 channels
    model, x = cnn(), images(size=4)
    with pytest.raises(CalibrationError, match=r'at site 1, 48 histograms would take.*maximum\(per="neuron"\)'):
        measured([x], percentile(99.9, per="neuron"), model)
    assert thresholds(measured([x], percentile(99.9), model))[0].shape == (3,)


def test_moments_are_those_of_the_current():
    model, x = exact(), dyadic(64, 6)
    found = measured(x.split(7), threshold_iteration(4), model).statistics.values()
    for summary, layers in zip(found, (1, 3), strict=True):
        z = model[:layers](x).detach()
        rounding = 64 * 64 * torch.finfo(torch.float64).eps  # 64 values, multiples of 1/64 below 64
        assert (summary.mean - z.mean(0)).abs().max() <= rounding
        assert (summary.m2 / 64 - z.var(0, correction=0)).abs().max() <= 64 * rounding
        assert_same(summary.max, z.amax(0))


@pytest.mark.parametrize("rule", [mmse(8), threshold_iteration(8), local_threshold_balancing()], ids=str)
def test_rules_that_minimise_an_error_convert(rule):
    model, x = mlp(), vectors(400)
    snn = to_snn(measured([x], rule, model))
    error = (snn(x, T=8) - model(x)).norm() / model(x).norm()
    coarse = to_snn(measured([x], maximum(), model))
    assert error < (coarse(x, T=8) - model(x)).norm() / model(x).norm() or rule.name.startswith("local")
    assert error < 0.25


def test_values_of_both_signs_are_measured_by_their_magnitude():
    def tanh(node, graph):
        return Match(Ref(refs(node.operands)[0]), signed=True) if node.path == "1" else None

    model, x = settled(nn.Sequential(nn.Linear(6, 3), nn.Tanh())), vectors(50)
    y, z = model(x).detach(), model[0](x).detach()
    largest = y.abs().amax(0)
    for rule, expected in (
        (maximum(), largest), (percentile(100.0), largest), (maximum(per="layer"), largest.amax().reshape(1)),
    ):  # fmt: skip
        state = pipe(model, trace, instrument(rules=(*SITE_RULES, tanh), statistic=rule), calibrate([x]))
        (site,) = state.sites.values()
        (summary,) = state.statistics.values()
        assert site.signed
        assert_same(rule(summary, signed=True), expected)
    rule = threshold_iteration(4)
    (summary,) = pipe(model, trace, instrument(rules=(tanh,), statistic=rule), calibrate([x])).statistics.values()
    assert_same(summary.max, z.abs().amax(0))
    assert_same(rule(summary, signed=True), threshold_iteration(4, two_sided=True)(summary))
    assert (rule(summary, signed=True) != rule(summary)).all()


def test_infinity_below_zero_is_seen_by_moments():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    nn.init.ones_(model[0].weight)
    with pytest.raises(CalibrationError, match="infinity at site 1 in batch 0"):
        measured([torch.tensor([[-math.inf], [1.0]])], threshold_iteration(4), model)


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


class Masked(nn.Module):
    """Attention over the positions that count, and an MLP; padded positions compute something all the same."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x, attention_mask):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e9
        p = ((q @ k.transpose(-2, -1)) + bias).softmax(-1)
        return self.head(nn.functional.gelu(self.out((p @ v).transpose(1, 2).flatten(2))))


def sentences():
    """Three of different length, alone and padded with large numbers."""
    alone = [vectors(n)[None] for n in (5, 3, 4)]
    mask = torch.tensor([[1] * len(s[0]) + [0] * (5 - len(s[0])) for s in alone])
    padded = torch.full((3, 5, 6), 50.0, dtype=torch.float64)
    for row, sentence in zip(padded, alone, strict=True):
        row[: len(sentence[0])] = sentence[0]
    return [{"x": s, "attention_mask": torch.ones(s.shape[:2])} for s in alone], {"x": padded, "attention_mask": mask}


@pytest.mark.parametrize("rule", [maximum(), percentile(90.0), threshold_iteration(4), mmse(4)], ids=str)
def test_padded_positions_do_not_count(rule):
    model = settled(Masked())
    alone, padded = sentences()

    def found(batches, **options):
        stage = instrument(rules=TRANSFORMER_RULES, statistic=rule)
        snn = pipe(model, trace, stage, calibrate(batches, **options), replace(neuron=cascade(n=4)), to_snn)
        return [neuron.threshold for neuron in snn.neurons().values()]

    expected = found(alone)
    for theta, same, more in zip(found([padded], mask="attention_mask"), expected, found([padded]), strict=True):
        if theta.numel() > 1:  # along features; probabilities have no feature axis, and are no larger for padding
            assert torch.allclose(theta, same, rtol=1e-9)
            assert not torch.allclose(more, same, rtol=1e-2)


@pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")
def test_a_mask_must_be_an_input():
    model, (alone, _) = settled(Masked()), sentences()
    with pytest.raises(CalibrationError, match=r"no input 'mask'; it has x, attention_mask"):
        pipe(model, trace, calibrate(alone, mask="mask"))
    stage = instrument(rules=TRANSFORMER_RULES, statistic=maximum(per="neuron"))
    with pytest.raises(CalibrationError, match='per="channel"'):
        pipe(model, trace, stage, calibrate(alone, mask="attention_mask"))
