"""What waits at a layer may wait anywhere: corrections are the same whatever the budget."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import snnpipe.stages.adjust as adjusting
from property_tests.test_corrections import CORRECTIONS
from snnpipe import (
    CalibrationError,
    InputError,
    StageError,
    balance,
    calibrate,
    cascade,
    correct_bias,
    digest,
    fixed,
    integrate_and_fire,
    pipe,
    replace,
    signed_memory,
    to_snn,
    trace,
    wave,
)
from snnpipe.emit import module_tree
from snnpipe.kernels.evidence import added
from snnpipe.runtime.shelf import Row, Shelf
from snnpipe.stages.walk import parts

pytestmark = pytest.mark.filterwarnings("ignore:.*never fired")


class Skips(nn.Module):
    """A small U-Net: what is made on the way down is read beside what comes up."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.up, self.c, self.head = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        first = self.a(x).relu()
        low = self.b(nn.functional.max_pool2d(first, 2)).relu()
        return self.head(nn.functional.relu6(self.c(torch.cat([self.up(low), first + 0.5], 1))))


def skips(seed):
    """Weights and inputs k/4, thresholds 1/2: sums and products up to the second layer are exact."""
    g = torch.Generator().manual_seed(seed)
    model = Skips().double().eval()
    for tensor in model.parameters():
        tensor.data = torch.randint(-2, 3, tensor.shape, generator=g).double() / 4
    return model, torch.randint(-4, 5, (12, 2, 16, 16), generator=g).double() / 4


@pytest.mark.parametrize("schedule", ["step", wave(2), "layer"], ids=str)
@pytest.mark.parametrize("correct", CORRECTIONS)
@settings(max_examples=max(2, settings().max_examples // 8))
@given(
    seed=st.integers(0, 99), neuron=st.sampled_from([integrate_and_fire(), signed_memory(), cascade(n=2)]),
    budget=st.sampled_from([1, 2**14, 2**17, 2**20]), cut=st.integers(1, 11),
)  # fmt: skip
def test_corrections_are_the_same_whatever_the_budget(correct, schedule, seed, neuron, budget, cut):
    model, x = skips(seed)
    state = pipe(model, trace, replace(neuron=neuron, threshold=fixed(0.5)))
    batches = [x[:cut], x[cut:]]
    whole, less = (correct(batches, T=4, schedule=schedule, budget=b)(state) for b in (2**40, budget))
    assert less.params.keys() == whole.params.keys() > state.params.keys()
    for key, value in whole.params.items():
        bound = 1e-9 * (1 + value.abs().max())  # convolutions of other sizes round in other orders, float64
        assert (less.params[key] - value).abs().max() <= bound, key


@settings(max_examples=max(2, settings().max_examples // 8))
@given(seed=st.integers(0, 99), budget=st.sampled_from([1, 2**14, 2**17]))
def test_balanced_thresholds_are_the_same_whatever_the_budget(seed, budget):
    model, x = skips(seed)
    state = pipe(model, trace, calibrate([x]), replace)
    whole, less = (balance([x], T=3, budget=b)(state) for b in (2**40, budget))
    for key, value in whole.params.items():
        assert (less.params[key] - value).abs().max() <= 1e-9 * (1 + value.abs().max()), key


def test_what_does_not_fit_is_written_and_gone_afterwards(monkeypatch, tmp_path):
    """With next to no budget all that waits is in files; the result is that of what waits in memory, to the bit."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    shelves = []

    class Watched(Shelf):
        def __init__(self, budget):
            super().__init__(budget)
            shelves.append(self)

        def __exit__(self, *error):
            self.found = len(list(tmp_path.glob("*/*")))
            super().__exit__(*error)

    model, x = skips(0)
    state = pipe(model, trace, replace(threshold=fixed(0.5)))
    monkeypatch.setattr(adjusting, "Shelf", Watched)
    less = correct_bias(x.split(1), T=4, budget=1)(state)
    monkeypatch.setattr(adjusting, "Shelf", lambda budget: Watched(2**40))
    whole = correct_bias(x.split(1), T=4, budget=1)(state)
    assert [shelf.written > 0 for shelf in shelves] == [True, False]
    assert shelves[0].found <= 5 * len(x)  # one layer's values, not all that were written
    assert shelves[0].written > 2 * shelves[0].found
    assert not list(tmp_path.iterdir())
    assert digest(less) == digest(whole)


@given(seed=st.integers(0, 99), dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.int64]))
def test_a_shelf_gives_back_what_it_was_given(seed, dtype):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-9, 9, (5, 64, 3, 8), generator=g).to(dtype)
    values = [x, x[1:3], x.permute(0, 3, 1, 2), x[:1].expand(4, -1, -1, -1), {"a": (x, 3, None)}, x[:0]]
    with Shelf(2 * x.numel() * x.element_size()) as shelf:
        room = shelf.room
        kept = Row([shelf.keep(value) for value in values])
        assert shelf.written > 0
        for _ in range(2):
            for value, found in zip(values[:4], kept, strict=False):
                assert torch.equal(found, value)
                assert found.dtype == value.dtype
                assert value.numel() == 4 * x[:1].numel() or found.stride() == value.stride()
        again = list(kept)[4]["a"]
        assert torch.equal(again[0], x)
        assert again[1:] == (3, None)
        del kept, found, again
        assert shelf.room == room


def test_a_full_disk_is_said(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with Shelf(1) as shelf, pytest.raises(CalibrationError, match=r"No space left .* budget=\.\.\.,"):
        shelf.keep(torch.zeros(2**12))


class Mixing(nn.Module):
    """Its first axis is no batch."""

    def __init__(self, mix):
        super().__init__()
        self.layer, self.mix = nn.Linear(4, 4), mix

    def forward(self, x):
        return self.layer(self.mix(x)).relu()


APART = {
    "samples": (lambda x: x, True),
    "their mean": (lambda x: x - x.mean(0), False),
    "their order": (lambda x: x.cumsum(0), False),
    "their number": (lambda x: x / x.shape[0], False),
    "pairs": (lambda x: x.reshape(x.shape[0] // 2, 2, -1).flip(1).reshape(x.shape), False),
    "nothing": (lambda x: 0 * x, True),
    "nobody knows": (lambda x: torch.nn.functional.pdist(x).sum() + x, False),
}


@pytest.mark.parametrize("case", APART)
def test_a_batch_is_cut_only_where_its_samples_are_apart(case):
    mix, apart = APART[case]
    torch.manual_seed(0)
    model, x = Mixing(mix).double().eval(), torch.randn(6, 4).double()
    state = pipe(model, trace, replace(threshold=fixed(1.0)))
    root = module_tree(state.graph, state.params)
    (name,) = (node["name"] for node in state.graph.inputs)
    found = parts([{name: x}, {name: x[:1]}], state.graph, root, 4, 1)
    assert [(part.number, len(part.given[name])) for part in found] == ([(0, 1)] * 6 if apart else [(0, 6)]) + [(1, 1)]
    assert torch.equal(torch.cat([part.given[name] for part in found[:-1]]), x)
    whole = correct_bias([x], T=4)(state)
    assert digest(correct_bias([x], T=4, budget=1)(state)) == digest(whole) or apart
    assert bool(torch.isfinite(to_snn(whole)(x, T=4)).all())


@given(seed=st.integers(0, 999), cuts=st.lists(st.integers(1, 19), max_size=5, unique=True))
def test_sums_do_not_depend_on_how_samples_are_batched(seed, cuts):
    rows = torch.randn(20, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    whole, total = added(torch.zeros(()), rows), torch.zeros(())
    for part in rows.tensor_split(sorted(cuts)):
        total = added(total, part)
    assert torch.equal(whole, total)


@pytest.mark.parametrize("stage", [*CORRECTIONS, balance])
@pytest.mark.parametrize("budget", [0, -1, 1.5, "1 GiB", True])
def test_a_budget_is_a_number_of_bytes(stage, budget):
    with pytest.raises((StageError, InputError), match=r"budget must be a whole number of bytes"):
        stage([torch.zeros(1, 2)], T=2, budget=budget)
