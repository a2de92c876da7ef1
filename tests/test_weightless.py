"""Models on the meta device: shapes and no values are enough for a verdict, and for nothing that reads weights."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    SPECK_2E,
    TRANSFORMER_RULES,
    StageError,
    absorb,
    account,
    balance,
    calibrate,
    cascade,
    check,
    correct_bias,
    correct_weights,
    digest,
    fixed,
    fuse,
    instrument,
    pipe,
    quantise_weights,
    replace,
    roundings,
    suggest,
    sweep,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from snnpipe.frozen import leaves
from tests.catalogue import CASES, NAMES
from tests.helpers import assert_same

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 3)

    def forward(self, x):
        h = F.relu6(self.bn(self.conv(x)))
        return torch.softmax(self.head(h.flatten(1)), -1) * torch.sigmoid(h.mean((1, 2, 3))[:, None])


IMAGES = torch.rand(2, 1, 8, 8)


def empty(make=Norms):
    with torch.device("meta"):
        return make().eval()


@pytest.mark.parametrize("example", [None, IMAGES, IMAGES.to("meta")], ids=["fx", "cpu", "meta"])
def test_a_model_without_values_has_the_verdict_of_one_with(example):
    options = {} if example is None else {"example": example}
    verdict, want = check(empty(), **options), check(Norms().eval(), **dict.fromkeys(options, IMAGES))
    assert verdict.ok
    assert (verdict.nodes, verdict.front_end) == (want.nodes, want.front_end)
    assert set(verdict.notes) - set(want.notes) == {note for note in verdict.notes if "no values" in note}
    assert any("meta device" in note for note in verdict.notes)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_awkward_network_has_its_verdict_without_values(case):
    """But for one whose activation hangs on a slope, which a note names."""
    model, _ = case.ready()
    want, verdict = check(model, **case.options), check(copy.deepcopy(model).to("meta"), **case.options)
    named = [note for note in verdict.notes if note.startswith("with values, ")]
    assert (verdict.nodes == want.nodes) is not bool(named)
    assert named == ["with values, act (prelu) may be another operator, or a site"] * ("PReLU" in case.name)
    assert verdict.refusal == want.refusal


def test_a_cap_without_a_value_is_named():
    class Capped(nn.Module):
        def __init__(self):
            super().__init__()
            self.l, self.cap = nn.Linear(6, 6), nn.Parameter(torch.tensor(3.0))

        def forward(self, x):
            return self.l(self.l(x).relu().clamp(max=self.cap).minimum(self.cap))

    assert not any(note.startswith("with values") for note in check(Capped().eval()).notes)
    said = [note.split(" may")[0] for note in check(empty(Capped)).notes if note.startswith("with values")]
    assert said == ["with values, clamp (clamp)", "with values, minimum (minimum)"]


def test_multiplications_are_counted_from_shapes():
    unseen = ("P10 dict in, dict out", "P20 attention, einsum")  # numbers that are no tensors, and an equation
    for case in (case for number, case in enumerate(CASES) if number % 12 == 0 or case.name in unseen):
        model, x = case.ready()
        found = check(model, example=x, **case.options).ann
        assert check(copy.deepcopy(model).to("meta"), example=x, **case.options).ann == found
        if case.name in unseen:
            assert found is None
        elif case.sites:
            snn = pipe(model, trace(example=x, **case.options), fuse, calibrate([x]), to_snn)
            assert found == account(snn, *x, T=1).ann
    assert check(nn.Linear(8, 4)).ann is None
    assert check(nn.Sequential(Unseen()), example=X).ann == 8 * 8
    for kind in (Unseen, Asserting):
        assert check(nn.Sequential(kind()), example=X, leaves=(kind,)).ann is None


class Unseen(nn.Module):
    """Multiplies where nobody looks for it once it is kept whole."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(8, 8))

    def forward(self, x):
        return (x[:, None] * self.w).sum(-1)


class Asserting(nn.Module):
    """Wants values."""

    def forward(self, x):
        assert not x.is_meta
        return x


class Follows(nn.Module):
    """Takes what it makes to where its input is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.rand(8))

    def forward(self, x):
        made = torch.arange(8, device=x.device) + torch.zeros(8).to(x.device)
        return x * self.table.to(x.device) + made.to(device=x.device, dtype=x.dtype)


def test_an_exported_graph_follows_its_input_to_another_device():
    state = trace(Follows().eval(), example=X)
    assert not any(isinstance(leaf, torch.device) for node in state.graph for leaf in leaves(node.operands))
    assert to_module(state).to("meta")(X.to("meta")).shape == X.shape
    assert_same(to_module(state)(X), X * state.params["table"] + torch.arange(8))


def test_what_is_refused_is_refused_without_values_too():
    class Random(Norms):
        def forward(self, x):
            return super().forward(x) * torch.rand(())

    for options in ({}, {"example": IMAGES}):
        assert "random" in check(empty(Random), **options).refusal


def test_limits_of_a_chip_are_known_from_shapes():
    verdict, want = (check(m, target=SPECK_2E, example=IMAGES) for m in (empty(), Norms().eval()))
    assert verdict.limits == want.limits


class Half(Norms):
    """Weights without values, buffers with them, as ``accelerate`` makes it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.rand(3))
        self.plain = torch.rand(3)
        for module in (self.conv, self.bn, self.head):
            for name, p in module._parameters.items():
                module._parameters[name] = nn.Parameter(p.to("meta"))

    def forward(self, x):
        return super().forward(x) * self.scale + self.plain if x.shape[1] else x


def test_some_tensors_may_have_values():
    model = Half().eval()
    assert check(model, example=IMAGES).ok
    assert model.scale.device.type == model.plain.device.type == "cpu"


def without_values():
    return pipe(empty(), trace(example=IMAGES))


VALUED = {
    "calibrate": calibrate([IMAGES]), "to_snn": to_snn, "quantise_weights": quantise_weights,
    "absorb": absorb, "correct_bias": correct_bias([IMAGES], T=2), "balance": balance([IMAGES], T=2),
    "correct_weights": correct_weights([IMAGES], T=2),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUED)
def test_a_stage_that_needs_values_says_so(name):
    state = without_values()
    for given in (state, pipe(state, instrument, replace(threshold=fixed(1.0)))):
        with pytest.raises(StageError, match=rf"(?s)^{name}: .*meta device"):
            VALUED[name](given)


def test_other_stages_need_none():
    state = without_values()
    assert "without values" in state.history[0].detail
    assert "not held against the model" in state.history[0].detail
    assert {tensor.is_meta for tensor in pipe(state, fuse, td_rewrite).params.values()} == {True}
    assert to_module(state)(IMAGES.to("meta")).shape == (2, 3)
    assert digest(state.edit(lambda module: None)) == digest(state)
    with pytest.raises(StageError, match="meta device and has no values"):
        roundings(state)
    with pytest.raises(StageError, match=r"check= runs the model, and conv\.weight is on the meta device"):
        trace(empty(), check=IMAGES)
    for classify in (sweep, suggest):
        with pytest.raises(StageError, match=rf"{classify.__name__}: the weights are on the meta device"):
            classify(state, recipes=["opi"], batches=[IMAGES], data=[(IMAGES, torch.zeros(len(IMAGES)).long())])


def test_a_network_without_values_can_be_looked_at():
    snn = pipe(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), trace, calibrate([X]), to_snn).to("meta")
    assert "theta ?..?" in repr(snn)
    assert snn._repr_html_()
    assert any("meta device" in note for note in check(snn).notes)
    with pytest.raises(ValueError, match="meta"):
        account(snn, X.to("meta"), T=2)


def test_a_decoder_without_values():
    """The whole of it, with neurons before every product."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=11, use_cache=False, attn_implementation="eager",
    )  # fmt: skip

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.LlamaForCausalLM(config)

        def forward(self, x):
            return self.model(inputs_embeds=x, use_cache=False).logits

    x = torch.randn(2, 5, 16)
    put = (instrument(rules=TRANSFORMER_RULES), replace(neuron=cascade(n=4), threshold=fixed(1.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verdict, want = (check(pipe(m, trace(example=x), *put)) for m in (empty(Decoder), Decoder().eval()))
    assert verdict.ok
    assert verdict.nodes == want.nodes
