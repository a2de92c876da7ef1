"""The second front end: what symbolic tracing cannot follow, and the same graph where it can."""

import copy
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    InputError,
    TraceError,
    UnsupportedError,
    fuse,
    instrument,
    pipe,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from snnpipe.errors import StageError
from tests import helpers as h
from tests.catalogue import CASES
from tests.models import Counting, DictInDictOut, Model, SqueezeExcite, Tied

pytestmark = [
    pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning"),
    pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning"),
]


class BranchOnShape(Model):
    def forward(self, x, return_feat=False):
        if x.shape[-1] > 4:
            x = F.avg_pool2d(x, 2)
        y = self.r(self.c(x))
        return (y, y) if return_feat else y


class ModuleInForward(Model):
    def forward(self, x):
        _n, c = x.shape
        y = sum(nn.ReLU()(self.a(x)) * (i + 1) for i in range(c // 2))
        return y + torch.arange(8, device=x.device)


class ViewByTail(Model):
    def forward(self, x):
        return self.a(x).view(*x.shape[:-1], 2, -1).relu().flatten(1)


class WritesIntoView(Model):
    def forward(self, x):
        y = self.a(x)
        y[:, 0] = 0
        y[:, 1:3].mul_(2)
        y.view(-1, 2).add_(1)
        return self.r(y), x


class NoGradInside(Model):
    def forward(self, x):
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            scale = torch.arange(x.shape[0], dtype=x.dtype).cos()
        return self.r(self.a(x)) * scale.unsqueeze(1)


class Output(OrderedDict):
    """Stands for the outputs of transformers."""


torch.utils._pytree.register_pytree_node(
    Output, lambda o: (list(o.values()), list(o)), lambda values, keys: Output(zip(keys, values, strict=True))
)


class Classifier(Model):
    def forward(self, ids=None, x=None, mask=None, labels=None, return_dict=True):
        y = self.e(ids) + x if mask is None else (self.e(ids) + x) * mask
        return Output(logits=self.a(self.r(y)), hidden=y) if return_dict else (y,)


class Pools(Model):
    def forward(self, x):
        y = F.adaptive_max_pool2d(self.r(x), 2) + F.max_pool2d(x, 3, 2, 1, ceil_mode=True)[..., :2, :2]
        y = F.interpolate(y, scale_factor=2.0, mode="bilinear") + F.interpolate(y, size=(4, 4))
        y = F.pad(y, (1, 1), value=0.5).roll(1, -1)
        y = torch.where(y > 0, y, 0.0) + y.clamp(max=1) + torch.maximum(y, torch.zeros(()))
        return F.fold(F.unfold(y, 2), y.shape[-2:], 2), y.std((2, 3)), y[:, torch.tensor([1, 0])], y.T.sum()


class Recurrent(Model):
    def forward(self, x):
        y, _ = self.rnn(x)
        return torch.einsum("bld,bmd->blm", y, F.normalize(y, dim=-1)).softmax(-1)


class AsksWhetherCompiled(Model):
    """Makes a mask of its own, unless it is compiled."""

    def forward(self, x, mask=None):
        if mask is None and not torch.compiler.is_compiling():
            mask = torch.ones(len(x), 1, dtype=x.dtype)
        return self.r(self.a(x)) * mask[:, :1]


def linear():
    return {"a": nn.Linear(6, 8), "r": nn.ReLU()}


def conv(k=3):
    return {"c": nn.Conv2d(2, 4, k), "r": nn.ReLU()}


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)


def words(batch=3):
    return torch.randn(batch, 5, 8, dtype=torch.float64)


def squeezed():
    return SqueezeExcite(**conv(), fc=nn.Conv2d(4, 4, 1), d=nn.Conv2d(4, 2, 1))


#: build, example, sites; what symbolic tracing cannot follow, and what is easily lost in ATEN
MODELS = {
    "P9 branch on shape": (lambda: BranchOnShape(**conv(1)), h.images, 1),
    "P12 module made in forward": (lambda: ModuleInForward(**linear()), h.vectors, 3),
    "view by the tail of a shape": (lambda: ViewByTail(**linear()), h.vectors, 1),
    "P17 squeeze and excite": (squeezed, h.images, 1),
    "writes into views": (lambda: WritesIntoView(**linear()), h.vectors, 1),
    "asks whether it is compiled": (lambda: AsksWhetherCompiled(**linear()), h.vectors, 1),
    "regions": (lambda: NoGradInside(**linear()), h.vectors, 1),
    "TransformerEncoderLayer": (encoder, words, 1),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(encoder(), 2), words, 2),
    "many spellings": (lambda: Pools(r=nn.ReLU()), h.images, 3),
    "LSTM": (lambda: Recurrent(rnn=nn.LSTM(8, 4, batch_first=True)), words, 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_follows_and_is_exact(name):
    build, example, sites = MODELS[name]
    model, x = h.settled(build()), example()
    before = h.snapshot(model)
    state = trace(model, example=x)
    assert len(instrument(state).sites) == sites
    assert state.history[0].action == "traced by torch.export"
    want = model(x)
    h.assert_close(pipe(state, fuse, to_module)(x), want)
    assert_exact(pipe(model, trace(example=x), td_rewrite, to_snn), model, x)
    if "batch sizes: any" in state.history[0].detail:
        more = torch.cat([x, x.flip(0)])
        h.assert_close(to_module(state)(more), model(more))
    h.assert_untouched(before, model)


def assert_exact(td, model, x):
    """The temporal-difference network equals the model at every prefix."""
    x_seq = torch.stack([x * 0.3, -x * 0.9, x * 1.6])
    y_seq = h.tensors_of(td.sequence(x_seq))
    for t, decoded in enumerate(x_seq.cumsum(0)):
        h.assert_close([y[: t + 1].sum(0) for y in y_seq], h.tensors_of(model(decoded)), depth=16)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_front_ends_agree(case):
    model, args = case.ready()
    state = trace(model, example=args)
    assert len(instrument(state).sites) == case.sites
    h.assert_close(to_module(state)(*args), model(*args))
    h.assert_close(pipe(state, fuse, to_module)(*args), model(*args))
    symbolic = trace(model, **case.options)
    ops = [{node.op for node in s.graph if node.op.startswith(("conv", "linear", "batch_norm", "relu", "clamp"))}
           for s in (state, symbolic)]  # fmt: skip
    assert ops[0] == ops[1]
    keys = model.state_dict().keys()
    assert symbolic.params.keys() & keys <= state.params.keys() & keys


@pytest.mark.parametrize("name", ["P9 branch on shape", "P12 module made in forward", "P17 squeeze and excite"])
def test_the_rate_network_converges(name):
    build, example, _ = MODELS[name]
    model, x = h.settled(build()), example()
    h.assert_converges(h.spiking(model, x, example=x), (x,), model(x))


def test_inputs_by_name_constants_and_outputs():
    model = h.settled(Classifier(e=nn.Embedding(11, 6), **linear()))
    given = {"ids": torch.randint(0, 11, (3,)), "x": h.vectors(3)}
    state = trace(model, example=given)
    assert [node["name"] for node in state.graph.inputs] == ["ids", "x"]
    got, want = to_module(state)(**given), model(**given)
    h.assert_close(got, want)
    flagged = trace(model, example=given, constants={"return_dict": False})
    h.assert_close(to_module(flagged)(**given), model(**given, return_dict=False))
    batch = {"x": h.vectors()}
    nested = h.settled(DictInDictOut(**linear(), b=nn.Linear(8, 3)))
    h.assert_close(to_module(trace(nested, example=(batch,)))(batch), nested(batch))


def test_the_batch_of_a_single_example_may_grow():
    model = h.settled(ViewByTail(**linear()))
    state = trace(model, example=h.vectors(1))
    for batch in (1, 5):
        x = h.vectors(batch)
        h.assert_close(to_module(state)(x), model(x))


class Length(Model):
    def forward(self, x):
        return self.a(x) / len(x)


def test_a_batch_that_forward_counts_is_fixed_and_said_so():
    assert "the batch size is fixed" in trace(Length(a=nn.Linear(6, 2)), example=torch.randn(3, 6)).history[0].detail


def test_tied_weights_counters_and_places():
    model = Tied(a=nn.Linear(6, 6), b=nn.Linear(6, 6), bn=nn.BatchNorm1d(6), r=nn.ReLU())
    model.b.weight = model.a.weight
    state = trace(h.settled(model), example=h.vectors())
    assert state.params["a.weight"] is state.params["b.weight"]
    relu = next(node for node in state.graph if node.op == "relu")
    assert relu.path == "r"
    assert relu.where.endswith(h.line_of(Tied.forward, "return"))
    assert pipe(state, fuse).graph.by_name.keys() < state.graph.by_name.keys()
    counting = Counting(**linear(), b=nn.Linear(8, 2))
    counting.calls = 0
    trace(counting, example=torch.randn(2, 6))
    assert counting.calls == 0


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_programs_and_graph_modules_as_they_are():
    model, x = h.settled(squeezed()), h.images()
    batch = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(model, (x,), dynamic_shapes=batch, strict=False)
    decomposed = (program.run_decompositions({}), program.run_decompositions())
    for given in (program, *decomposed, torch.fx.symbolic_trace(model)):
        state = trace(given)
        assert len(instrument(state).sites) == 1
        h.assert_close(to_module(state)(x[:3]), model(x[:3]))
        assert_exact(pipe(state, td_rewrite, to_snn), model, x)
        assert not {t.data_ptr() for t in state.params.values()} & {t.data_ptr() for t in model.state_dict().values()}


def test_a_network_can_be_copied_and_pickled(tmp_path):
    x = words()
    snn = pipe(h.settled(encoder()), trace(example=x), td_rewrite, to_snn)
    torch.save(snn, tmp_path / "snn.pt")
    again = torch.load(tmp_path / "snn.pt", weights_only=False)
    h.assert_close(again(x, T=2), snn(x, T=2))
    h.assert_close(copy.deepcopy(snn)(x, T=2), snn(x, T=2))


class BranchOnData(Model):
    def forward(self, x):
        return self.r(self.a(x)) if x.sum() > 0 else self.r(-self.a(x))  # here


class Noise(Model):
    def forward(self, x):
        return self.r(self.a(x)) + torch.randn_like(self.a(x))


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.Sequential(m, nn.ReLU())], ids=["alone", "inside"])
def test_a_branch_on_data_names_the_line_and_the_fix(wrap):
    with pytest.raises(TraceError) as caught:
        trace(wrap(BranchOnData(**linear())), example=torch.randn(2, 6))
    text = str(caught.value)
    assert h.line_of(BranchOnData.forward, "# here") in text
    assert "trace(leaves=(BranchOnData,))" in text


@pytest.mark.parametrize("model", [
    Noise(**linear()),
    nn.Sequential(nn.Linear(6, 8), type("Drop", (nn.Module,), {"forward": lambda s, x: F.dropout(x, 0.5)})()),
], ids=["randn_like", "dropout"])  # fmt: skip
def test_random_operators_are_refused(model):
    with pytest.raises(UnsupportedError, match="random"):
        trace(model, example=torch.randn(2, 6))


def test_wrong_options_are_refused():
    model = nn.Linear(6, 2)
    with pytest.raises(StageError, match="symbolic"):
        trace(model, example=torch.randn(2, 6), inputs=("input",))
    with pytest.raises(StageError, match="symbolic"):
        trace(model, example=torch.randn(2, 6), check=torch.randn(2, 6))
    with pytest.raises(TraceError, match="no tensor"):
        trace(model, example=3)
    with pytest.raises(TraceError, match=r"trace\(example=x\)"):
        trace(BranchOnShape(**conv(1)))


def test_a_size_the_program_was_not_exported_for_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    snn = pipe(model, trace(example=torch.rand(2, 1, 8, 8)), td_rewrite, to_snn)
    assert snn(torch.rand(5, 1, 8, 8), T=2).shape == (5, 4, 6, 6)
    assert snn.sequence(torch.rand(3, 5, 1, 8, 8)).shape == (3, 5, 4, 6, 6)
    for wrong in (torch.rand(5, 1, 9, 8), torch.rand(1, 8, 8)):
        with pytest.raises(InputError, match=r"traced for \(B, 1, 8, 8\)"):
            snn(wrong, T=2)


def test_an_attempt_with_free_sizes_leaves_no_mark():
    """``angle(out=)`` takes no free size, so the batch is fixed; torch keeps which sizes are free on the tensor."""

    class Angle(nn.Module):
        def forward(self, x):
            b = torch.zeros(4, 6)
            torch.angle(x, out=b)
            return b

    x = torch.randn(4, 6)
    before = dict(vars(x))
    assert torch.equal(pipe(Angle(), trace(example=x), to_module)(x), torch.angle(x))
    assert vars(x) == before
