"""Models of which memory holds one copy: who shares it, what is added to it, what is brought elsewhere."""

import copy

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from property_tests import purity
from snnpipe import (
    StageError,
    TraceError,
    balance,
    calibrate,
    correct_bias,
    correct_potential,
    correct_threshold,
    fuse,
    instrument,
    load,
    maximum,
    percentile,
    pipe,
    replace,
    report,
    save,
    state_equal,
    td_rewrite,
    threshold_iteration,
    to_module,
    to_snn,
    trace,
)
from snnpipe.frontend import selfcheck
from snnpipe.frontend.spellings import KNOWN
from snnpipe.kernels import histogram
from snnpipe.kernels.histogram import HISTOGRAM
from snnpipe.runtime import stretches
from snnpipe.sharing import aliased, marks, size_of, written
from tests.catalogue import CASES, NAMES
from tests.helpers import assert_close, assert_same

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
SHARED = trace(unsafe_share=True)

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")


class Tied(nn.Module):
    """A weight that two layers read, a table, and a norm; each weight has a size of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(8, 23), nn.LayerNorm(23), nn.Linear(23, 29), nn.Linear(29, 8)
        self.d = nn.Linear(8, 23)
        self.d.weight = self.a.weight
        self.register_buffer("table", torch.rand(23))

    def forward(self, x):
        h = self.norm(self.a(x).relu()) * self.table
        return self.d(self.c(self.b(h).relu())).relu() + h


def tied():
    torch.manual_seed(0)
    return Tied().eval()


def addresses(tensors):
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def spiking(model, **options):
    return pipe(model, trace(**options), calibrate([X]), replace)


# one copy


def test_a_network_may_be_made_of_the_models_own_tensors():
    model = tied()
    with purity.unchanged(model), purity.WriteGuard(model):
        snn = pipe(model, SHARED, calibrate([X]), to_snn(unsafe_share=True))
        y = snn(X, T=4)
    assert addresses(snn.get_parameter(name) for name, _ in snn.named_parameters()) == addresses(model.parameters())
    assert snn.get_buffer("table").data_ptr() == model.table.data_ptr()
    assert snn.get_parameter("a.weight") is snn.get_parameter("d.weight")
    assert not any(p.requires_grad for p in snn.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert_same(y, pipe(model, trace, calibrate([X]), to_snn)(X, T=4))
    snn.double()
    assert model.a.weight.dtype == torch.float32


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_sharing_writes_to_no_model_and_changes_no_answer(case):
    model, x = case.ready()
    put = (calibrate([x]), replace) if case.sites else (td_rewrite,)
    with purity.unchanged(model), purity.WriteGuard(model):
        snn = pipe(model, trace(unsafe_share=True, **case.options), fuse, *put, to_snn(unsafe_share=True))
        y = snn(*x, T=2)
    assert_close(y, pipe(model, trace(**case.options), fuse, *put, to_snn)(*x, T=2))


class Large(TorchDispatchMode):
    """Finds tensors with values that are as large as a weight and lie elsewhere."""

    def __init__(self, model):
        super().__init__()
        self.sizes = {p.numel() for p in model.parameters() if p.ndim > 1}
        self.own, self.found = addresses(model.parameters()), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(made):
            real = isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor) and leaf.is_floating_point()
            if real and leaf.numel() in self.sizes and leaf.untyped_storage().data_ptr() not in self.own:
                self.found.append(f"{func} {leaf.dtype}")
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("by_example", [False, True])
def test_no_stage_makes_a_copy_of_a_weight(dtype, by_example):
    model, x = tied().to(dtype), X.to(dtype)
    front = {"example": x} if by_example else {"check": x}
    put, exact = (calibrate([x]), replace), (td_rewrite,)
    with Large(model) as large:
        for more in ((balance([x], T=2), correct_bias([x], T=2)), (correct_threshold([x], T=2),), None):
            stages = exact if more is None else (fuse, *put, *more)
            snn = pipe(model, trace(**front, unsafe_share=True), *stages, to_snn(unsafe_share=True))
            assert snn(x, T=2).dtype == dtype
    assert not large.found
    with Large(model) as large:
        pipe(model, trace, td_rewrite, to_snn)
    assert sum("clone" in found for found in large.found) == 2 * 3


def test_weights_of_convolutions_stay_as_they_lie():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU()).eval()
    x = torch.rand(2, 3, 8, 8)
    for kept in (model, copy.deepcopy(model).to(memory_format=torch.channels_last)):
        strides = kept[0].weight.stride()
        snn = pipe(kept, SHARED, calibrate([x]), to_snn(unsafe_share=True))
        assert kept[0].weight.stride() == snn.get_parameter("0.weight").stride() == strides
        assert_close(snn(x, T=4), pipe(kept, trace, calibrate([x]), to_snn)(x, T=4))


def test_who_shares_is_said():
    model = tied()
    snn = pipe(model, SHARED, td_rewrite, to_snn(unsafe_share=True))
    said = [(event.stage, event.subject) for event in snn.history if event.action == "shared"]
    size = sum(p.numel() for p in model.parameters()) + model.table.numel()
    words = f"{len(snn.state_dict())} tensors, {4 * size / 2**20:.1f} MiB"
    assert said == [("trace", words), ("to_snn", words)]
    assert "shared" in str(report(snn))
    assert snn.made == ("trace(unsafe_share=True)", "td_rewrite", "to_snn(unsafe_share=True)")
    assert not [event for event in pipe(model, trace, td_rewrite, to_snn).history if event.action == "shared"]


def test_what_is_made_of_a_weight_is_not_shared():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), nn.Linear(4, 3))
    state = SHARED(model.eval())
    assert set(state.shared) == {"0.bias", "1.weight", "1.bias"}
    with torch.no_grad():
        model[0].parametrizations.weight.original1.mul_(2)
    assert pipe(state, td_rewrite, to_snn)


def test_a_state_in_a_file_shares_with_nobody(tmp_path):
    model = tied()
    save(SHARED(model), tmp_path / "state")
    state = load(tmp_path / "state")
    assert state_equal(state, SHARED(model))
    assert not state.shared


def test_networks_of_one_state_may_share_with_it():
    state = spiking(tied())
    one, other = to_snn(state, unsafe_share=True), to_snn(state, unsafe_share=True)
    with torch.no_grad():
        one.get_parameter("b.weight").zero_()
    assert not other.get_parameter("b.weight").any()
    assert not state.params["b.weight"].any()


STAGES = {
    "calibrate": calibrate([X]), "fuse": fuse, "to_module": to_module, "td_rewrite": td_rewrite,
    "instrument": instrument,
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_weights_written_to_since_trace_are_refused(name):
    model = tied()
    state = SHARED(model)
    STAGES[name](state)
    with torch.no_grad():
        model.b.weight.mul_(2)
        model.table.add_(1)
    with pytest.raises(StageError, match=rf"^{name}: (b.weight, table|table, b.weight): written to or moved"):
        STAGES[name](state)
    STAGES[name](SHARED(model))


def test_weights_that_were_moved_are_refused():
    model = tied()
    state = SHARED(model)
    model.b.weight.data = model.b.weight.data.clone()
    with pytest.raises(StageError, match=r"b\.weight: written to or moved"):
        to_snn(state)


class Clipped(nn.Module):
    """Writes to its weights whenever it runs."""

    def __init__(self):
        super().__init__()
        self.a, self.limits = nn.Linear(8, 4), {}

    def forward(self, x):
        self._buffers["seen"].clamp_(max=1.0)
        return self.a(x).relu() * self._buffers["seen"]


def test_a_model_that_writes_to_what_it_would_share_is_refused():
    model = Clipped()
    model.register_buffer("seen", torch.ones(4))
    trace(model.eval())
    with pytest.raises(TraceError, match=r"forward writes to seen.*Leave that out"):
        SHARED(model)


def test_what_cannot_be_shared_is_refused_in_the_same_words():
    for model in (nn.LazyLinear(3), torch.jit.script(nn.Linear(2, 2))):
        with pytest.raises(TraceError) as wanted:
            trace(model)
        with pytest.raises(TraceError) as found:
            SHARED(model)
        assert str(found.value) == str(wanted.value)


def test_inference_tensors_and_tensors_without_memory_have_marks():
    with torch.inference_mode():
        tensors = {"a": torch.ones(2), "b": torch.ones(2, device="meta")}
    assert written(tensors, marks(tensors)) == []
    assert size_of(tensors.values()) == "2 tensors, 0.0 MiB"
    with torch.inference_mode():
        assert aliased(tensors)["a"].data_ptr() == tensors["a"].data_ptr()


# what the graph is held against


@pytest.mark.parametrize("share", [False, True])
def test_a_look_in_float64_leaves_the_weights_alone(share, monkeypatch):
    """Whatever differs by rounding is looked at again in float64; ``.double()`` of a copy wrote to what it shares."""
    model = tied()
    calls = []

    def mismatch(want, got, bound):
        """Says of the graph in float32 that it differs, and of nothing else."""
        calls.append(want.dtype)
        return "differs" if len(calls) == 2 else ""

    monkeypatch.setattr(selfcheck, "mismatch", mismatch)
    state = trace(model, check=X, unsafe_share=share)
    assert calls == [torch.float32, torch.float32, torch.float64]
    assert {tensor.dtype for tensor in (*state.params.values(), *model.state_dict().values())} == {torch.float32}
    assert_same(to_module(state)(X), model(X))


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(20))

    def forward(self, x):
        for layer in self.layers:
            x = x + F.softsign(torch.tanh(layer(x)))
        return x


def test_a_wrong_graph_in_bfloat16_is_found_however_deep(monkeypatch):
    torch.manual_seed(0)
    model, x = Deep().bfloat16().eval(), X.bfloat16()
    trace(model, check=x)
    monkeypatch.setitem(KNOWN, torch.tanh, KNOWN[torch.sigmoid])
    with pytest.raises(TraceError, match="relative difference"):
        trace(model, check=x)


# few digits


@pytest.mark.parametrize("rule", [maximum(), percentile(99.0), threshold_iteration(4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("signed", [False, True])
def test_statistics_of_few_digits_are_those_of_the_same_numbers_in_float32(rule, dtype, signed):
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    found, want = (rule.statistic.of(value, 1, signed) for value in (x, x.float()))
    for field, value in attrs.asdict(want, recurse=False).items():
        assert_same(torch.as_tensor(getattr(found, field)), torch.as_tensor(value))


def test_counts_have_the_shortest_type_that_holds_them_in_any_order():
    parts = [HISTOGRAM.summarise(torch.linspace(0.1, 1.0, 2 * n).view(n, 2), 1) for n in (9, 3 * 10**4, 5000)]
    assert [part.counts.dtype for part in parts] == [torch.uint8, torch.int16, torch.int16]
    a, b, c = parts
    merged = [HISTOGRAM.merge(HISTOGRAM.merge(a, b), c), HISTOGRAM.merge(a, HISTOGRAM.merge(c, b))]
    assert [whole.counts.dtype for whole in merged] == [torch.int32] * 2
    assert_same(merged[0].counts, merged[1].counts)
    assert merged[0].counts.sum(1).tolist() == [35009] * 2


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_few_values_are_counted_as_many_are(axis, monkeypatch):
    drawn = torch.randn(6, 5, 7) * torch.logspace(-9, 3, 7)
    drawn[0, :2] = torch.tensor([0.0, -0.0, 1e-40, 1e38, -3.0, 2.0, 1.0])
    for x in (drawn, drawn.double(), drawn.bfloat16(), drawn.transpose(0, 2)):
        few = HISTOGRAM.summarise(x, axis)
        with monkeypatch.context() as patched:
            patched.setattr(histogram, "_count_few", histogram._count)
            many = HISTOGRAM.summarise(x, axis)
        assert x.numel() < few.counts.numel()
        assert_same(few.counts, many.counts)


# one layer at a time


@pytest.mark.parametrize(
    "stage", [correct_bias, correct_potential, correct_threshold, balance], ids=lambda stage: stage.__name__
)
def test_a_correction_brings_one_layer_at_a_time(stage, monkeypatch):
    """Another device is played by copies: of weights, those of one layer are there at once, each comes once."""
    state = spiking(tied())
    weights = {p.untyped_storage().data_ptr(): key for key, p in state.params.items() if p.ndim > 1}
    alive, most, came = set(), set(), []

    class There:
        def __init__(self, key):
            self.key = key
            alive.add(key)
            most.add(frozenset(alive))
            came.append(key)

        def __del__(self):
            alive.discard(self.key)

    def brought(value, device):
        if not isinstance(value, torch.Tensor) or device is None:
            return value
        made, key = value.clone(), weights.get(value.untyped_storage().data_ptr())
        if key is not None:
            made.there = There(key)
        return made

    want = stage([X], T=2)(state)
    assert not came
    monkeypatch.setattr(stretches, "brought", brought)
    found = stage([X], T=2, device="cpu")(state)
    assert state_equal(found, want)
    assert sorted(came) == ["b.weight", "c.weight", "d.weight", "d.weight"]  # a.weight is d.weight
    assert most == {frozenset(held) for held in (("d.weight",), ("b.weight",), ("c.weight",), ("c.weight", "d.weight"))}
    assert not alive
