"""Suggestions on small networks: what is found can be run, is measured on all data, and what was dropped is named."""

import pytest
import torch
from torch import nn

from snnpipe import InputError, StageError, fuse, parse, pipe, recipes, suggest, sweep, trace
from snnpipe.analysis.candidates import Entries, candidates
from snnpipe.analysis.judge import judging
from snnpipe.recipe import Recipe
from tests.helpers import assert_same

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning", "ignore::snnpipe.SiteWarning")

X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
NAMES = ["opi", "snm", recipes.cascade_mmse(n=2), "cascade_mmse", "wave"]


def mlp():
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(8, 3)).eval()
    for layer in model:
        if isinstance(layer, nn.Linear):  # what a layer says is to matter
            layer.weight.data.mul_(2.5)
    return model


def labelled(model, *sizes):
    """Data sorted by class, in batches of these sizes."""
    y = model(X).argmax(1)
    order = y.argsort(stable=True)
    return list(zip(X[order].split(sizes), y[order].split(sizes), strict=True))


def entries(model, data, chosen=()):
    with torch.no_grad():
        state = pipe(trace(model), fuse)
        return Entries(tuple(chosen), state, [X], judging(state, data, "suggest"))


def test_suggestions_can_be_run():
    model = mlp()
    data = labelled(model, 256)
    found = suggest(model, batches=[X], data=data, latency=8, wires=2, accuracy=0.8, recipes=NAMES, T=(1, 8))
    assert found.found
    assert found.tried == 7
    best = found.found[0]
    made = parse(best.text)
    assert isinstance(made, Recipe)
    x, y = data[0]
    with torch.no_grad():
        again = made(model, [X], T=best.outcome.T)
        assert again.latency == best.outcome.latency <= 8
        assert 100 * (again(x).argmax(1) == y).double().mean().item() == pytest.approx(best.outcome.accuracy)
    assert all(one.outcome.wires <= 2 for one in found.found)
    assert best.call in str(found)
    rushed = suggest(model, batches=[X], data=data, seconds=1e-6, T=(1, 2))
    assert not rushed.found
    assert len(rushed.left) == 2 * len(candidates(None))
    assert "no time for" in str(rushed)


def test_what_is_found_is_what_a_sweep_measures_on_all_data():
    model = mlp()
    data = labelled(model, 100, 100, 56)
    found = suggest(model, batches=[X], data=data, recipes=["opi", "snm", "cascade_mmse"], T=(1, 4, 32))
    swept = sweep(model, ["opi", "snm", "cascade_mmse"], batches=[X], data=data, T=(1, 4, 32)).outcomes
    assert found.found
    assert found.dropped
    for one in found.found:
        assert one.outcome in swept
        assert one.accuracy.samples == found.samples == 256
        assert one.accuracy.mean == pytest.approx(one.outcome.accuracy)
        assert one.accuracy.low <= one.accuracy.mean <= one.accuracy.high
    assert found == suggest(model, batches=[X], data=data, recipes=["opi", "snm", "cascade_mmse"], T=(1, 4, 32))


def test_recipes_that_begin_alike_are_calibrated_once_and_convert_as_they_do_alone():
    chosen = [recipes.opi(), recipes.snm(), recipes.calibration_light(), recipes.dcgs(), recipes.hmt()]
    model = mlp()
    made = entries(model, labelled(model, 256), chosen)
    rows = torch.arange(256)
    with torch.no_grad():
        for kind, recipe in enumerate(chosen):
            job = made.jobs(kind, [2])[0]
            assert_same(made.make(job).answer(rows), recipe(model, [X], T=2)(made.judge.inputs[0][0]).argmax(1))
    assert len(made.measured) == 2  # histograms, and moments of currents


class Two(nn.Module):
    """Two inputs, of which one belongs to no sample."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x, scale):
        return self.body(x * scale)


@pytest.mark.parametrize("sizes", [(256,), (100, 100, 56), (1,) * 256, (1, 255)])
def test_samples_are_taken_out_of_their_batches(sizes):
    model, scale = Two().eval(), torch.tensor([2.0] * 8)
    y = model(X, scale).argmax(1)
    data = [((x, scale), labels) for x, labels in zip(X.split(sizes), y.split(sizes), strict=True)]
    state = pipe(trace(model), fuse)
    with torch.no_grad():
        judge = judging(state, data, "suggest")
        assert judge.divisible(model)
        part = judge.part(torch.arange(0, 256, 3))
        assert_same(torch.cat([model(*given).argmax(1) for given in part.inputs]), y[::3])
        assert_same(part.labels, y[::3])
        assert len(part.inputs) == 1


class Together(nn.Module):
    """What is said of one sample hangs on the others."""

    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, x):
        return self.body(x - x[:1])


def test_samples_that_belong_together_stay_so():
    model = Together().eval()
    made = entries(model, [(x, model(x).argmax(1)) for x in X.split(32)])
    assert not made.judge.divisible(model)
    assert [len(rows) for rows in made.course(0.05, 0).looks[0]] == [32] * 8
    apart = entries(mlp(), labelled(mlp(), *[32] * 8))
    assert [sum(map(len, rows)) for rows in apart.course(0.05, 0).looks] == [64, 64, 128]


def test_a_part_of_a_model_is_refused():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.part = mlp()

        def forward(self, x):
            return self.part(x)

    state = trace(Whole().eval(), part="part")
    for call in (suggest, lambda *a, **k: sweep(*a, ["opi"], **k)):
        with pytest.raises(StageError, match="part is a part and no classifier"):
            call(state, batches=[X], data=[(X, X[:, 0].long())])
    with pytest.raises(InputError, match="probability"):
        suggest(mlp(), batches=[X], data=[(X, X[:, 0].long())], confidence=1.0)
