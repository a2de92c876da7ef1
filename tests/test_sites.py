"""Where neurons may stand: not on whole numbers, at every spelling of an activation, and said aloud when nowhere."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    SITE_RULES,
    TRANSFORMER_RULES,
    CalibrationError,
    Event,
    SiteWarning,
    StageError,
    ThresholdWarning,
    calibrate,
    cascade,
    fixed,
    fuse,
    instrument,
    integrate_and_fire,
    load_statistics,
    maximum,
    merge_statistics,
    percentile,
    pipe,
    recipes,
    replace,
    report,
    save_statistics,
    sweep,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.rules.sites import Match
from snnpipe.rules.wholes import wholes
from tests.helpers import (
    assert_converges,
    assert_same,
    bound,
    images,
    mlp,
    needs_symbols,
    relative_error,
    settled,
    vectors,
)
from tests.test_importers import FRONT_ENDS, traced

MEASURED = instrument(statistic=maximum())
L = nn.Linear


class Between(nn.Module):
    """A layer, ``f``, a layer; of images the mean over pixels goes into the second."""

    def __init__(self, f, image=False):
        super().__init__()
        self.image, self.f = image, f
        self.a, self.b = nn.Conv2d(2, 8, 3) if image else L(6, 8), L(8, 3)

    def forward(self, x):
        y = self.f(self.a(x))
        return self.b(y.mean((2, 3)) if self.image else y)


def between(f, image=False):
    torch.manual_seed(1)
    return settled(Between(f, image))


# whole numbers


class Positions(nn.Module):
    """Clamped distances of places, as relative position tables read them."""

    def __init__(self):
        super().__init__()
        self.a, self.e, self.b = L(8, 8), nn.Embedding(9, 8), L(8, 3)

    def forward(self, x):
        i = torch.arange(x.shape[1])
        return self.b(self.a(x).relu() + self.e((i[None] - i[:, None] + 4).clamp(0, 8)).mean(0))


class Experts(nn.Module):
    """One expert for each sample, its weights picked by the place of the largest score."""

    def __init__(self):
        super().__init__()
        self.router, self.w = L(8, 4), nn.Parameter(torch.randn(4, 8, 8))

    def forward(self, x):
        p, i = self.router(x).softmax(-1).topk(1, -1)
        return torch.bmm(x.unsqueeze(1), self.w[i.reshape(-1)]).squeeze(1) * p


class Of(nn.Module):
    """``f(self, relu(a(x)), n)``, with an embedding to read from."""

    def __init__(self, f):
        super().__init__()
        self.f, self.a, self.e = f, L(6, 8), nn.Embedding(9, 8)

    def forward(self, x, n):
        return self.f(self, self.a(x).relu(), n)


WHOLE = {
    "index of an embedding": lambda m, h, n: h + m.e(n.clamp(0, 8)),
    "shifted before it is read": lambda m, h, n: h + m.e((n - 1).relu()),
    "beside what is read": lambda m, h, n: (h + m.e(n)) * (n - 1).relu()[:, None],
    "length": lambda m, h, n: h / (n.clamp(0, 5)[:, None] + 1),
    "count": lambda m, h, n: h * (h > 0.1).sum(1, keepdim=True).clamp(0, 4),
    "place of the largest": lambda m, h, n: h + m.e(h.argmax(1).clamp(0, 5)),
    "place found": lambda m, h, n: h + m.e(h.sort(1).indices[:, 0].clamp(0, 5)),
    "place by max": lambda m, h, n: h + m.e(torch.max(h, 1)[1].clamp(0, 5)),
    "cast": lambda m, h, n: h + m.e((8 * h.sigmoid()).long().amax(1).clamp(0, 8)),
    "clamped, then cast": lambda m, h, n: h + m.e((8 * h.sigmoid()).amax(1).clamp(0, 8).long()),
    "mask": lambda m, h, n: h * (n > 3).int().clamp(0, 1)[:, None],
    "bucket": lambda m, h, n: h + m.e(torch.bucketize(h.mean(1), torch.tensor([0.0, 1.0]).double()).clamp(0, 8)),
    "gathered": lambda m, h, n: h.gather(1, n.clamp(0, 7)[:, None]) + h,
    "where": lambda m, h, n: h + m.e(torch.where(n > 4, n, 0).clamp(0, 8)),
}  # fmt: skip


@FRONT_ENDS
@pytest.mark.parametrize("name", WHOLE)
def test_no_neuron_stands_for_whole_numbers(name, by_example):
    torch.manual_seed(1)
    model = settled(Of(WHOLE[name]))
    inputs = vectors(), torch.randint(0, 9, (16,))
    before = MEASURED(traced(model, inputs, by_example))
    state = calibrate([inputs])(before)
    assert [state.graph[site.node].path.rpartition(".")[2] for site in state.sites.values()] == ["relu"]
    assert (before.sites == state.sites) == (name != "length")  # of which nothing but the data tells the type
    assert_same(to_module(state)(*inputs), model(*inputs))


@FRONT_ENDS
def test_clamped_positions(by_example):
    needs_symbols(by_example)
    torch.manual_seed(0)
    model, x = Positions().eval(), torch.randn(4, 6, 8)
    without = pipe(traced(model, x, by_example), replace(threshold=fixed(1.0)), to_snn)
    assert len(without.neurons()) == 1
    snn = pipe(traced(model, x, by_example), MEASURED, calibrate([x]), to_snn)
    assert relative_error(snn(x, T=512), model(x)) < 0.02


@FRONT_ENDS
def test_experts_are_picked_by_whole_numbers(by_example):
    torch.manual_seed(0)
    model, x = Experts().eval(), torch.randn(5, 8)
    measure = instrument(rules=TRANSFORMER_RULES, statistic=maximum())
    state = pipe(traced(model, x, by_example), measure, calibrate([x]))
    assert not wholes(state.graph, state.params) & state.sites.keys()
    assert relative_error(to_snn(replace(neuron=cascade(n=4))(state))(x, T=256), model(x)) < 0.03


def test_calibration_drops_what_turns_out_to_be_whole(tmp_path):
    """Nothing but the data says of what type ``n`` is."""

    class Lengths(nn.Module):
        def forward(self, x, n):
            return x.relu() / (n.clamp(0, 5)[:, None] + 1)

    x, n = vectors(), torch.randint(0, 9, (16,))
    state = pipe(Lengths(), trace, MEASURED)
    assert len(state.sites) == 2
    state = calibrate([(x, n)])(state)
    assert [site.name for site in state.sites.values()] == ["relu"]
    assert Event("calibrate", "clamp", "no site", "its value is of type torch.int64") in state.history
    assert_converges(to_snn(state), (x, n), Lengths()(x, n))
    save_statistics(state, tmp_path / "s.pt")
    assert pipe(Lengths(), trace, MEASURED, load_statistics(tmp_path / "s.pt")).statistics.keys() == {"relu"}


def test_floats_made_of_whole_numbers_are_no_whole_numbers():
    def made(m, h, n):
        b = torch.zeros(h.shape[0], 8).double()
        b[:, 0] = h[:, 0]
        return (b - 0.1).relu() + (n.double()[:, None] * h).relu() + (n[:, None] / 2).relu() + F.one_hot(n, 9)[:, :8]

    state = trace(settled(Of(made)), example=(vectors(), torch.randint(0, 9, (16,))))
    relus = [node.name for node in state.graph if node.op == "relu"]
    assert len(relus) == 4
    assert not wholes(state.graph, state.params) & set(relus)


# every spelling, both front ends


def in_place(x):
    y = x * 1
    y[y < 0] = 0
    return y


RELU = {
    "where, a new zero": lambda x: torch.where(x > 0, x, x.new_zeros(())),
    "where, zeros_like": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where, turned": lambda x: torch.where(0 < x, x, 0.0),  # noqa: SIM300
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "item by item": in_place,
    "leaky_relu(x, 0)": lambda x: F.leaky_relu(x, 0.0),
    "nn.LeakyReLU(0)": nn.LeakyReLU(0.0),
    "elu(x, 0)": lambda x: F.elu(x, 0.0),
    "rrelu(x, 0, 0)": lambda x: F.rrelu(x, 0.0, 0.0),
    "x * (x > 0)": lambda x: x * (x > 0),
    "(x >= 0) * x": lambda x: (x >= 0) * x,
    "x * (x > 0).to(x.dtype)": lambda x: x * (x > 0).to(x.dtype),
    "x * (x > 0).float()": lambda x: x * (x > 0).float(),
    "x * (x > 0).type_as(x)": lambda x: x * (x > 0).type_as(x),
    "x * ~(x < 0)": lambda x: x * (~(x < 0)),
    "x * x.gt(0)": lambda x: x * x.gt(0),
    "clamp(0, inf)": lambda x: torch.clamp(x, min=0, max=float("inf")),
    "clamp(tensor)": lambda x: torch.clamp(x, min=torch.tensor(0.0)),
    "clip(0, None)": lambda x: x.clip(0.0, None),
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "maximum(x, zeros)": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum(full, x)": lambda x: torch.maximum(torch.full((), 0.0), x),
}
CAPPED = {
    "clip(0, 1)": (lambda x: x.clip(0, 1), 1.0),
    "clip_(0, 1)": (lambda x: (x * 1).clip_(0, 1), 1.0),
    "torch.clip(min=, max=)": (lambda x: torch.clip(x, min=0, max=1), 1.0),
    "clamp of tensors": (lambda x: torch.clamp(x, torch.tensor(0.0), torch.tensor(1.0)), 1.0),
    "relu6": (F.relu6, 6.0),
    "hardtanh": (lambda x: F.hardtanh(x, 0.0, 2.0), 2.0),
    "clamp(min=0).clamp(max=6)": (lambda x: x.clamp(min=0).clamp(max=6), 6.0),
    "clamp(max=6).clamp(min=0)": (lambda x: x.clamp(max=6).clamp(min=0), 6.0),
    "minimum(relu(x), 0.5)": (lambda x: torch.minimum(F.relu(x), torch.tensor(0.5)), 0.5),
    "min(0.5, relu(x))": (lambda x: torch.min(torch.tensor(0.5), F.relu(x)), 0.5),
    "relu(x).clamp_max(6)": (lambda x: F.relu(x).clamp_max(6), 6.0),
    "hardtanh(x).clamp(min=0)": (lambda x: F.hardtanh(x).clamp(min=0), 1.0),
    "clamp(0, 3).clamp(0, 6)": (lambda x: x.clamp(0, 3).clamp(0, 6), 3.0),
}


@FRONT_ENDS
@pytest.mark.parametrize("name", [*RELU, *CAPPED])
def test_every_spelling_is_one_site_with_the_same_threshold(name, by_example):
    f, cap = (RELU[name], None) if name in RELU else CAPPED[name]
    model, x = between(f), vectors()
    state = pipe(traced(model, x, by_example), MEASURED, calibrate([x]))
    (site,) = state.sites.values()
    assert (site.cap, site.axis) == (cap, -1)
    assert_same(state.statistics[site.node].max, f(model.a(x)).detach().amax(0))
    assert_same(to_module(state)(x), model(x))


@FRONT_ENDS
@pytest.mark.parametrize("f", [
    lambda x: torch.max(x, 1, keepdim=True)[0] + x, lambda x: torch.where(x > 0.5, x, 0.0),
    lambda x: x * (x > 0.1),
    lambda x: torch.where(x > x.mean(), x, 0.0), lambda x: torch.minimum(x, torch.tensor(1.0)),
    lambda x: x.clamp(-1, 1), lambda x: x.masked_fill(x > 0, 0.0),
], ids=["along an axis", "another bound", "gate", "of data", "no floor", "both signs", "what is below"],
)  # fmt: skip
def test_what_is_no_relu_is_left_alone(f, by_example):
    model, x = between(f), vectors(batch=4)
    with pytest.warns(SiteWarning):
        state = pipe(traced(model, x, by_example), instrument)
    assert_same(to_module(state)(x), model(x))


# two slopes


class OwnSlopes(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.rand(8))

    def forward(self, x):
        return torch.where(x > 0, x, self.w * x)


SLOPED = {
    "PReLU": (nn.PReLU(), nn.PReLU()),
    "PReLU(8)": (nn.PReLU(8, init=0.3), nn.PReLU(8, init=0.3)),
    "LeakyReLU": (nn.LeakyReLU(0.2), nn.LeakyReLU(0.2)),
    "LeakyReLU(inplace)": (nn.LeakyReLU(0.2, inplace=True), nn.LeakyReLU(0.2, inplace=True)),
    "negative slope below 0": (nn.LeakyReLU(-0.5), nn.LeakyReLU(-0.5)),
    "RReLU": (nn.RReLU(), nn.RReLU()),
    "where": (lambda x: torch.where(x > 0, x, 0.1 * x), lambda x: torch.where(x <= 0, x / 10, x)),
    "max": (lambda x: torch.maximum(x, 0.1 * x), lambda x: torch.max(x * 0.1, x)),
    "own, a pool": (OwnSlopes(), nn.Sequential(nn.PReLU(8), nn.MaxPool2d(2))),
    "pooled": (nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool1d(1)), nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))),
    "pooled, falling": (nn.LeakyReLU(-0.1), nn.Sequential(nn.LeakyReLU(-0.1), nn.MaxPool2d(2))),
}


@FRONT_ENDS
@pytest.mark.parametrize("image", [False, True], ids=["flat", "image"])
@pytest.mark.parametrize("name", SLOPED)
def test_two_slopes_are_two_relus(name, image, by_example):
    model, x = between(SLOPED[name][image], image), images() if image else vectors()
    state = pipe(traced(model, x, by_example), MEASURED, calibrate([x]))
    assert [node.op for node in state.graph].count("relu") == len(state.sites) == 2
    assert {site.axis for site in state.sites.values()} == {-3 if image else -1}
    assert_same(to_module(state)(x), model(x))
    above, below = state.sites.values()
    assert below.name == f"{above.name}.below"


@pytest.mark.filterwarnings("ignore:.*never fired")
@pytest.mark.parametrize("name", ["PReLU", "PReLU(8)", "LeakyReLU", "RReLU", "own, a pool"])
def test_binary_neurons_say_both_slopes(name):
    model, x = between(SLOPED[name][0]), vectors()
    snn = pipe(model, trace, fuse, MEASURED, calibrate([x]), replace(neuron=integrate_and_fire()), to_snn)
    assert_converges(snn, (x,), model(x))
    assert report(snn).endswith("units: 2 binary neuron layers\nfully spiking")


def test_a_rule_of_ones_own_keeps_the_activation():
    def leaky(node, graph):
        return Match(node["input"], signed=True) if node.op == "leaky_relu" else None

    state = pipe(between(nn.LeakyReLU(0.1)), trace, instrument(rules=(*SITE_RULES, leaky)))
    assert [node.op for node in state.graph] == ["input", "linear", "leaky_relu", "linear"]
    assert [site.signed for site in state.sites.values()] == [True]


# nowhere


@pytest.mark.parametrize(("act", "words"), [
    (nn.GELU(), r"1 gelu.*TRANSFORMER_RULES\) finds 1"), (nn.ELU(), "1 elu.*TRANSFORMER_RULES"),
    (nn.Tanh(), "1 tanh.*TRANSFORMER_RULES"), (nn.Hardtanh(), "1 clamp.*TRANSFORMER_RULES"),
    (lambda x: x.square(), "1 square.*TRANSFORMER_RULES"), (lambda x: x * x, "1 mul.*TRANSFORMER_RULES"),
], ids=["gelu", "elu", "tanh", "hardtanh", "square", "product"])  # fmt: skip
def test_a_network_without_sites_says_so_once(act, words):
    for last in (calibrate([vectors()]), to_snn):
        with pytest.warns(SiteWarning, match=words) as seen:
            snn = pipe(between(act), trace, *([last, to_snn] if last is not to_snn else [last]))
        assert len(seen) == 1
        assert "\n" not in str(seen[0].message)
        assert not snn.neurons()
        assert seen[0].filename == __file__


def test_other_rules_are_named_where_they_find_some():
    with pytest.warns(SiteWarning, match=r"SITE_RULES\) finds 2"):
        pipe(mlp(), trace, instrument(rules=(lambda node, graph: None,)))


def test_without_neurons_on_purpose_nothing_is_said():
    pipe(between(nn.Identity()), trace, calibrate([vectors()]), to_snn)  # a linear network: nothing to say
    pipe(between(nn.GELU()), trace, td_rewrite, to_snn)
    pipe(between(nn.GELU()), trace, instrument(rules=()), to_snn)


def no_rule(node, graph):
    return None


@pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")
@pytest.mark.parametrize("rules", [(), (no_rule,)], ids=["no rules", "a rule that finds nothing"])
def test_what_was_asked_for_is_what_is_done(rules, tmp_path):
    x = vectors()
    asked = pipe(mlp(), trace, instrument(rules=rules, statistic=maximum()))
    state = calibrate([x])(asked)
    assert not state.sites
    assert state.threshold == maximum()
    assert not pipe(state, replace, to_snn).neurons()
    assert not pipe(asked, to_snn).neurons()
    save_statistics(pipe(mlp(), trace, MEASURED, calibrate([x])), tmp_path / "s.pt")
    with pytest.raises(CalibrationError, match="no sites here"):
        pipe(asked, load_statistics(tmp_path / "s.pt"))
    assert relative_error(pipe(state, replace, to_snn)(x, T=2), mlp()(x)) >= 0
    assert merge_statistics()(state).threshold == maximum()


# recipes


def gelu():
    torch.manual_seed(0)
    return nn.Sequential(L(6, 16), nn.GELU(), L(16, 16), nn.GELU(), L(16, 3)).eval()


def test_recipes_with_both_signs_convert_what_has_no_relu():
    model, x = gelu(), torch.randn(1024, 6)
    made = recipes.cascade_mmse()(model, [x], T=16)
    assert len(made.snn.neurons()) == 2
    assert relative_error(made(x), model(x)) < 0.05
    assert "TRANSFORMER_RULES" in report(made.snn)
    with pytest.raises(StageError, match=r"opi: 2 of 2 sites have values of both signs.*2 gelu.*cascade_mmse"):
        recipes.opi()(model, [x], T=4)


@pytest.mark.parametrize("name", ["opi", "snm"])
def test_a_recipe_says_that_there_are_no_sites(name):
    model, x = nn.Sequential(L(6, 4), L(4, 3)).eval(), torch.randn(8, 6)
    with pytest.raises(StageError, match=rf"{name}: this network has no site for a neuron .*pipe\(model, trace, td_re"):
        recipes.RECIPES[name]()(model, [x], T=4)


def test_a_sweep_goes_on_without_those_that_cannot():
    model, x = gelu(), torch.randn(1024, 6)
    found = sweep(model, ["opi", "cascade_mmse"], batches=[x], data=[(x, model(x).argmax(1))], T=(4,))
    assert [outcome.recipe for outcome in found.outcomes] == ["cascade_mmse"]
    assert "both signs" in found.refused["opi"]
    assert "left out (see refused): opi" in str(found)


# warnings


def test_warnings_point_at_the_line_that_asked():
    model, x = mlp(), vectors()
    with torch.no_grad():
        model[0].bias[:3] = -100.0
    for ask in (
        lambda: pipe(model, trace, MEASURED, calibrate([x]), to_snn),
        lambda: to_snn(calibrate([x])(MEASURED(trace(model)))),
        lambda: replace(threshold=maximum())(calibrate([x])(MEASURED(trace(model)))),
    ):
        with pytest.warns(
            ThresholdWarning, match=r"^never fired in calibration: 3 of 12 channels in 1 site \(1\); "
        ) as w:
            state = ask()
        assert (w[0].filename, w[0].lineno) == (__file__, ask.__code__.co_firstlineno)
        assert len(str(w[0].message)) < 120
        assert Event("replace", "1", "never fired",
                     "3 of 12 channels; they take the largest threshold of the site") in state.history  # fmt: skip


# little data


def dense(n):
    torch.manual_seed(0)
    model = nn.Sequential(L(64, 128), nn.ReLU(), L(128, 10)).eval()
    return model, torch.randn(n, 64)


def test_a_percentile_of_little_data_is_said_and_what_to_write():
    model, x = dense(256)
    with pytest.warns(ThresholdWarning, match=r"percentile of 256 values per channel in 1 site.*on 500 ") as seen:
        state = pipe(model, trace, calibrate([x]), replace)
    assert len(seen) == 1
    assert Event("replace", "1", "little data", "percentile(q=99.9) per channel is that of 256 values") in state.history
    words = str(seen[0].message).partition("or write ")[2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = pipe(model, trace, calibrate([x]), eval(words))
    assert (made.params["1__if0.threshold"] >= state.params["1__if0.threshold"]).all()


@pytest.mark.parametrize(("n", "rule"), [
    (500, percentile(99.9)), (16, maximum()), (16, percentile(99.9, per="layer")), (50, percentile(99.0)),
    (16, percentile(100)),
], ids=str)  # fmt: skip
def test_enough_data_says_nothing(n, rule):
    model, x = dense(n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(model, trace, instrument(statistic=rule), calibrate([x]), replace(threshold=rule))


def floor(model, theta):
    """The share of the activations of new data that is clipped."""
    a = model[:2](torch.randn(4096, 64, generator=torch.Generator().manual_seed(9)))
    return ((torch.minimum(a, theta) - a).norm() / a.norm()).item()


@pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
@pytest.mark.parametrize("sizes", [False, True], ids=["alike", "channels of many sizes"])
def test_shared_percentiles_clip_as_little_as_resolved_ones(sizes):
    model, x = dense(256)
    if sizes:
        with torch.no_grad():
            gain = torch.exp(torch.randn(128))
            model[0].weight.mul_(gain[:, None])
            model[0].bias.mul_(gain)
    few, many = calibrate([x])(trace(model)), calibrate([torch.randn(20_000, 64)])(trace(model))
    own, shared = (replace(threshold=percentile(99.9, shared=s))(few).params["1__if0.threshold"] for s in (False, True))
    resolved = replace(many).params["1__if0.threshold"]
    assert floor(model, own) > 1.5 * floor(model, resolved)
    assert floor(model, shared) < 1.1 * floor(model, resolved)
    assert (shared / resolved).log().abs().mean() < (own / resolved).log().abs().mean() + 0.05
    assert_same(replace(threshold=percentile(99.9, shared=True))(many).params["1__if0.threshold"], resolved)


@pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
def test_shared_percentiles_grow_with_the_channel():
    """A channel four times as large has a threshold four times as large."""
    model, x = dense(64)
    rule, before = percentile(99.9, shared=True), pipe(dense(64)[0], trace, calibrate([x]))
    with torch.no_grad():
        model[0].weight[7] *= 4
        model[0].bias[7] *= 4
    after = calibrate([x])(trace(model))
    a, b = (rule(state.statistics["_1"]) for state in (before, after))
    assert (b[7] / a[7] - 4).abs() < 4 / 16  # two bins
    assert ((b / a)[torch.arange(128) != 7] - 1).abs().max() < 1 / 16
    assert bound(torch.float32) < 1 / 16


@pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
@pytest.mark.parametrize("rule", [
    percentile(99.9, shared=True, nonzero=True), percentile(99.9, shared=True, per="layer"),
    percentile(99.9, shared=True, per="neuron"), percentile(99.9, shared=True, scale=1.5),
], ids=str)  # fmt: skip
def test_shared_percentiles_are_thresholds_whatever_else_is_asked(rule):
    model, x = dense(32)
    with torch.no_grad():
        model[0].bias[3] = -100.0
    state = pipe(model, trace, instrument(statistic=rule), calibrate([x]), replace(threshold=rule))
    theta = state.params["1__if0.threshold"]
    assert theta.isfinite().all()
    assert (theta > 0).all()
