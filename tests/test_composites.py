"""Attention and transformer modules are followed by both front ends, whatever their options."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    TraceError,
    UnsupportedError,
    instrument,
    pipe,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from snnpipe.frontend import attention_mask
from snnpipe.frontend.attention_mask import additive_mask
from snnpipe.frontend.composites import COMPOSITES, followed
from snnpipe.ops.functions import Opaque
from tests import helpers as h
from tests.models import Model

B, L, S, H, E = 3, 5, 4, 2, 8
#: Ours and torch's ways differ by rounding alone: at most some 64 sums lie on a path of the largest model here, which
#: ``bound`` turns into less than 5e-13 of the largest output.
DEPTH = 64


def test_the_tolerance_is_below_what_is_asked():
    assert h.bound(torch.float64, depth=DEPTH) < 1e-12


def random(model):
    """In float64 and evaluation mode, no parameter left at zero or one."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return model.double().eval()


def numbers(*shape):
    return torch.randn(shape, dtype=torch.float64)


def assert_close(got, want):
    """As in ``helpers``; weights that nobody asked for are ``None``."""
    (got_leaves, got_spec), (want_leaves, want_spec) = h.flat(got), h.flat(want)
    assert got_spec == want_spec
    assert [leaf is None for leaf in got_leaves] == [leaf is None for leaf in want_leaves]
    h.assert_close(h.tensors_of(got), h.tensors_of(want), depth=DEPTH)


# what every conversion must satisfy


def run_of(args, steps):
    """An event sequence for each float argument; the others do not change."""
    return [torch.randn(steps, *a.shape, dtype=a.dtype) if a.is_floating_point() else a for a in args]


def decoded(code, sequence):
    """X_t = alpha_t X_(t-1) + a_t x_t at every t."""
    value = torch.zeros_like(sequence[0])
    for t, events in enumerate(sequence, 1):
        clock = code.clock(t)
        value = clock.alpha * value + clock.a * events if t > 1 else clock.a * events
        yield value


def assert_converts(state, model, args):
    """The graph computes the model; its temporal networks do so at every step, under every code."""
    assert_close(to_module(state)(*args), model(*args))
    for code in (TD, RATE, DIFFERENTIAL):
        snn = pipe(state, td_rewrite(code=code), to_snn)
        assert_close(snn(*args, T=2), model(*args))
        for steps in (1, 3):
            given = run_of(args, steps)
            outputs = [list(decoded(code, y)) for y in h.tensors_of(snn.sequence(*given))]
            moving = [list(decoded(code, a)) if a.is_floating_point() else [a] * steps for a in given]
            for t in range(steps):
                want = h.tensors_of(model(*(a[t] for a in moving)))
                assert_close([y[t] for y in outputs], want)


def kept_whole(state):
    return [node.path for node in state.graph if isinstance(node.get("target"), Opaque)]


# nn.MultiheadAttention, all options

OPTIONS = {
    "layout": ("batch first", "batch second", "no batch"),
    "mask": (
        "no mask", "boolean", "float", "boolean per head", "float per head", "padding", "float padding",
        "boolean and padding", "causal", "causal and padding",
    ),
    "weights": ("no weights", "mean weights", "all weights"),
    "operands": ("self", "key is value", "all different", "kdim and vdim"),
    "keys": ("", "add_bias_kv", "add_zero_attn", "add_bias_kv add_zero_attn"),
    "bias": (True, False),
}  # fmt: skip


def pairs(row):
    return set(itertools.combinations(enumerate(row), 2))


def covering(options):
    """Few rows that hold every pair of values of two options together."""
    rows = list(itertools.product(*options.values()))
    missing = set().union(*map(pairs, rows))
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        yield best


def masks(kind, layout, queries):
    """Masks of one kind, by argument name; no query is left without a key."""
    heads = H if layout == "no batch" else B * H
    hidden, per_head = torch.rand(queries, S) < 0.4, torch.rand(heads, queries, S) < 0.4
    hidden[:, 0] = per_head[..., 0] = False
    padding = torch.arange(S) > (1 if layout == "no batch" else torch.tensor([[0], [1], [3]]))
    causal = {"attn_mask": torch.ones(queries, S).triu(1).bool(), "is_causal": True}
    return {
        "no mask": {},
        "boolean": {"attn_mask": hidden},
        "float": {"attn_mask": numbers(queries, S)},
        "boolean per head": {"attn_mask": per_head},
        "float per head": {"attn_mask": numbers(heads, queries, S)},
        "padding": {"key_padding_mask": padding},
        "float padding": {"key_padding_mask": numbers(*padding.shape)},
        "boolean and padding": {"attn_mask": hidden, "key_padding_mask": padding},
        "causal": causal,
        "causal and padding": causal | {"key_padding_mask": padding},
    }[kind]


class Attending(nn.Module):
    """Attention of one input to parts of itself, as the options say."""

    def __init__(self, layout, mask, weights, operands, keys, bias):
        super().__init__()
        self.operands, self.length = operands, 0 if layout == "batch second" else -2
        widths = {"kdim": 5, "vdim": 3} if operands == "kdim and vdim" else {}
        extra, first = dict.fromkeys(keys.split(), True), layout == "batch first"
        self.attn = nn.MultiheadAttention(E, H, dropout=0.3, bias=bias, batch_first=first, **widths, **extra)
        self.options = {"need_weights": weights != "no weights", "average_attn_weights": weights != "all weights"}
        given = masks(mask, layout, S if operands == "self" else L)
        self.options |= {name: given.pop(name) for name in ("is_causal",) if name in given}
        self.masks = tuple(given)
        for name in self.masks:
            self.register_buffer(name, given[name])

    def forward(self, x):
        part = 0.5 * x.narrow(self.length, 1, S)
        other = part.flip(self.length)
        operands = {
            "self": (part, part, part),
            "key is value": (x, part, part),
            "all different": (x, part, other),
            "kdim and vdim": (x, part[..., :5], other[..., 3:6]),
        }[self.operands]
        return self.attn(*operands, **{name: getattr(self, name) for name in self.masks}, **self.options)


def attending(*row):
    shape = {"batch first": (B, L, E), "batch second": (L, B, E), "no batch": (L, E)}[row[0]]
    return random(Attending(*row)), numbers(*shape)


@pytest.mark.parametrize("layout", OPTIONS["layout"])
@pytest.mark.parametrize("mask", OPTIONS["mask"])
def test_the_forward_to_follow_is_torchs(layout, mask):
    """Every combination but of the bias, without tracing."""
    rest = [OPTIONS[name] for name in ("weights", "operands", "keys")]
    for row in itertools.product(*rest):
        model, x = attending(layout, mask, *row, True)
        want = model(x)
        with followed():
            got = model(x)
        assert_close(got, want)


ROWS = list(covering(OPTIONS))


def test_the_rows_cover_every_pair_of_options():
    assert set().union(*map(pairs, ROWS)) == set().union(*map(pairs, itertools.product(*OPTIONS.values())))
    assert len(ROWS) < 50


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ", ".join(map(str, row)))
def test_attention_converts_whatever_its_options(row):
    model, x = attending(*row)
    before = h.snapshot(model)
    state = trace(model)
    assert not kept_whole(state)
    assert {key for key in state.params if key.startswith("attn.")} <= model.state_dict().keys()
    for found in (state, trace(model, example=x)):
        assert_converts(found, model, (x,))
    h.assert_untouched(before, model)


# what is built of it, and the function itself


class Attention(Model):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, **self.options)


class MaskedAttention(Attention):
    def forward(self, q, k, v, mask):
        return F.scaled_dot_product_attention(q, k, v, mask, **self.options)


class AttentionPool(Model):
    """CLIP's: the function is called, with separate projections."""

    def forward(self, x):
        x = torch.cat([x.mean(dim=0, keepdim=True), x], dim=0)
        pooled, _ = F.multi_head_attention_forward(
            query=x[:1], key=x, value=x, embed_dim_to_check=x.shape[-1], num_heads=H,
            q_proj_weight=self.q.weight, k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
            in_proj_weight=None, in_proj_bias=torch.cat([self.q.bias, self.k.bias, self.v.bias]),
            bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0, out_proj_weight=self.o.weight,
            out_proj_bias=self.o.bias, use_separate_proj_weight=True, training=self.training, **self.options,
        )  # fmt: skip
        return pooled.squeeze(0)


class Doubling(nn.MultiheadAttention):
    """Has a ``forward`` of its own."""

    def forward(self, query, key, value, **options):
        output, weights = super().forward(query, key, value, **options)
        return 2 * output, weights


class Inheriting(nn.MultiheadAttention):
    """Has none."""


class Gated(nn.TransformerEncoderLayer):
    """Overrides a part of the layer."""

    def _ff_block(self, x):
        return super()._ff_block(x) * x.sigmoid()


class MasksAsInputs(Model):
    def forward(self, x, padding, mask):
        return self.part(x, x, x, padding, attn_mask=mask)


class Masked(Model):
    """A part that is given buffers and options by name."""

    def __init__(self, part, options=None, **buffers):
        super().__init__(part=part)
        self.options, self.names = options or {}, tuple(buffers)
        for name, mask in buffers.items():
            self.register_buffer(name, mask)

    def given(self):
        return {name: getattr(self, name) for name in self.names} | self.options

    def forward(self, x):
        return self.part(x, **self.given())


class MaskedPair(Masked):
    def forward(self, x, y):
        return self.part(x, y, **self.given())


class MaskMadeInForward(Model):
    def forward(self, x):
        return self.part(x, mask=nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64))


class Padded(Model):
    def forward(self, x, padding):
        return self.part(x, src_key_padding_mask=padding)


def pool(**options):
    return AttentionPool(**{name: nn.Linear(E, E) for name in "qkvo"}, options=options)


def layer(kind=nn.TransformerEncoderLayer, **options):
    return kind(E, H, 12, **{"batch_first": True, "dropout": 0.2} | options)


def encoder(norm=None, **options):
    return nn.TransformerEncoder(layer(**options), 2, norm, enable_nested_tensor=False)


def decoder(norm=None, **options):
    return nn.TransformerDecoder(layer(nn.TransformerDecoderLayer, **options), 2, norm)


def transformer(**options):
    return nn.Transformer(E, H, 2, 1, 12, **{"batch_first": True} | options)


def hidden(*shape):
    """A boolean mask that leaves every query a key."""
    mask = torch.rand(shape) < 0.4
    mask[..., 0] = False
    return mask


def causal(size):
    return nn.Transformer.generate_square_subsequent_mask(size, dtype=torch.float64)


def words(length=L):
    return numbers(B, length, E)


def heads(length=L, n=H):
    return numbers(B, n, length, 4)


def self_attention():
    return nn.MultiheadAttention(E, H, batch_first=True)


#: build, inputs
FOLLOWED = {
    "sdpa": (Attention, lambda: (heads(), heads(S), heads(S))),
    "sdpa, boolean mask": (MaskedAttention, lambda: (heads(), heads(S), heads(S), ~hidden(L, S))),
    "sdpa, float mask": (MaskedAttention, lambda: (heads(), heads(S), heads(S), numbers(B, 1, L, S))),
    "sdpa, causal": (lambda: Attention(is_causal=True), lambda: (heads(), heads(), heads())),
    "sdpa, scale": (lambda: Attention(scale=0.3), lambda: (heads(), heads(), heads())),
    "sdpa, grouped": (lambda: Attention(enable_gqa=True), lambda: (heads(n=4), heads(), heads())),
    "function": (pool, lambda: (numbers(L, B, E),)),
    "function, no weights": (lambda: pool(need_weights=False), lambda: (numbers(L, B, E),)),
    "subclass": (lambda: Inheriting(E, H), lambda: (numbers(L, B, E), numbers(S, B, E), numbers(S, B, E))),
    "subclass with forward": (lambda: Doubling(E, H), lambda: (numbers(L, E), numbers(S, E), numbers(S, E))),
    "boolean inputs": (
        lambda: MasksAsInputs(part=self_attention()), lambda: (words(), hidden(B, L), hidden(B * H, L, L))
    ),
    "float inputs": (lambda: MasksAsInputs(part=self_attention()), lambda: (words(), numbers(B, L), numbers(L, L))),
    "layer": (layer, lambda: (words(),)),
    "layer, norm first": (lambda: layer(norm_first=True), lambda: (words(),)),
    "layer, batch second": (lambda: layer(batch_first=False, bias=False), lambda: (words(),)),
    "layer, no batch": (lambda: layer(activation="gelu"), lambda: (numbers(L, E),)),
    "layer, module": (lambda: layer(activation=nn.SiLU()), lambda: (words(),)),
    "layer, subclass": (lambda: layer(Gated), lambda: (words(),)),
    "layer, causal": (lambda: Masked(layer(), {"is_causal": True}, src_mask=causal(L)), lambda: (words(),)),
    "encoder": (lambda: encoder(nn.LayerNorm(E)), lambda: (words(),)),
    "encoder, boolean mask": (lambda: Masked(encoder(), {"is_causal": False}, mask=hidden(L, L)), lambda: (words(),)),
    "encoder, float mask": (
        lambda: Masked(encoder(norm_first=True), {"is_causal": False}, mask=numbers(L, L)), lambda: (words(),)
    ),
    "encoder, causal": (
        lambda: Masked(encoder(norm_first=True), {"is_causal": True}, mask=causal(L)), lambda: (words(),)
    ),
    "encoder, padding": (lambda: Padded(part=encoder(nn.LayerNorm(E))), lambda: (words(), hidden(B, L))),
    "encoder, padding, batch second": (
        lambda: Padded(part=encoder(norm_first=True, batch_first=False)), lambda: (numbers(L, B, E), hidden(B, L))
    ),
    "decoder layer": (lambda: layer(nn.TransformerDecoderLayer), lambda: (words(), words(S))),
    "decoder": (lambda: decoder(nn.LayerNorm(E)), lambda: (words(), words(S))),
    "decoder, masks": (
        lambda: MaskedPair(decoder(norm_first=True), {"tgt_is_causal": True}, tgt_mask=causal(L),
                           memory_mask=numbers(L, S), tgt_key_padding_mask=numbers(B, L),
                           memory_key_padding_mask=numbers(B, S)),
        lambda: (words(), words(S)),
    ),
    "transformer": (transformer, lambda: (words(S), words())),
    "transformer, no batch": (transformer, lambda: (numbers(S, E), numbers(L, E))),
    "transformer, masks": (
        lambda: MaskedPair(transformer(norm_first=True, activation=F.silu),
                           {"src_is_causal": False, "tgt_is_causal": True},
                           src_mask=hidden(S, S), tgt_mask=causal(L), memory_mask=hidden(L, S)),
        lambda: (words(S), words()),
    ),
    "transformer, padding": (
        lambda: MaskedPair(transformer(batch_first=False), src_key_padding_mask=hidden(B, S),
                           memory_key_padding_mask=hidden(B, S)),
        lambda: (numbers(S, B, E), numbers(L, B, E)),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_built_of_attention_converts(name):
    build, inputs = FOLLOWED[name]
    model, args = random(build()), inputs()
    before = h.snapshot(model)
    state = trace(model)
    assert not kept_whole(state)
    for found in (state, trace(model, example=args)):
        assert_converts(found, model, args)
    h.assert_untouched(before, model)


def recurrent(kind, bidirectional, batch_first, **options):
    """Symbols cannot follow it, and what cannot be followed must lie in something that can."""
    part = kind(E, 4, 2, bidirectional=bidirectional, batch_first=batch_first, dropout=0.2, **options)
    return nn.Sequential(part)


RECURRENT = {
    f"{kind.__name__}, {'both ways' if both else 'one way'}, batch {'first' if first else 'second'}": (
        lambda kind=kind, both=both, first=first: recurrent(kind, both, first), lambda: (words(),)
    )
    for kind in (nn.RNN, nn.LSTM, nn.GRU) for both in (False, True) for first in (False, True)
} | {
    "LSTM, projected, no batch": (lambda: recurrent(nn.LSTM, False, True, proj_size=3), lambda: (numbers(L, E),)),
    "RNNCell": (lambda: nn.Sequential(nn.RNNCell(E, 4, nonlinearity="relu")), lambda: (numbers(B, E),)),
    "LSTMCell": (lambda: nn.Sequential(nn.LSTMCell(E, 4)), lambda: (numbers(B, E),)),
    "GRUCell": (lambda: nn.Sequential(nn.Linear(E, E), nn.GRUCell(E, 4, bias=False)), lambda: (numbers(E),)),
}  # fmt: skip


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_modules_convert(name):
    build, inputs = RECURRENT[name]
    model, args = random(build()), inputs()
    for state in (trace(model), trace(model, example=args)):
        assert_converts(state, model, args)


# neurons, fallbacks, purity


def test_the_neurons_of_a_layer_are_found_without_an_example():
    assert len(instrument(trace(encoder())).sites) == 2


@pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
def test_a_spiking_encoder_converges():
    model, x = random(encoder(nn.LayerNorm(E))), words()
    h.assert_converges(h.spiking(model, x), (x,), model(x))


def test_a_mask_is_made_once(monkeypatch):
    calls = []

    def counting(**given):
        calls.append(given)
        return additive_mask(**given)

    monkeypatch.setattr(attention_mask, "additive_mask", counting)
    model = random(Masked(layer(), src_mask=hidden(L, L)))
    td = pipe(model, trace, td_rewrite, to_snn)
    td.sequence(numbers(4, B, L, E))
    assert len(calls) == 1


def test_a_network_with_a_mask_can_be_saved(tmp_path):
    model, x = random(Masked(layer(), src_mask=hidden(L, L))), words()
    snn = pipe(model, trace, td_rewrite, to_snn)
    torch.save(snn, tmp_path / "snn.pt")
    h.assert_same(torch.load(tmp_path / "snn.pt", weights_only=False)(x, T=2), snn(x, T=2))


def test_attention_is_seen():
    """Two products of events and a softmax; dropout is gone."""
    called = [node.op if node.op != "call" else node["target"].__name__ for node in trace(layer()).graph]
    assert called.count("linear") == 4
    assert called.count("scaled_dot_product_attention") == 1
    assert not [name for name in called if "dropout" in name]
    weighted = [node.op if node.op != "call" else node["target"].__name__ for node in trace(self_attention()).graph]
    assert weighted.count("matmul") == 2
    assert weighted.count("softmax") == 1


@pytest.mark.parametrize("build", [
    lambda: Masked(encoder(), mask=hidden(L, L)),
    lambda: Masked(encoder(), mask=causal(L)),
    lambda: MaskMadeInForward(part=encoder()),
    lambda: MaskMadeInForward(part=encoder(norm_first=True)),
], ids=["no causal mask", "causal mask", "causal mask made in forward", "norm first"])  # fmt: skip
def test_a_stack_need_not_look_whether_its_mask_is_causal(build):
    """``torch.export`` does, and fails."""
    model, x = random(build()), words()
    state = trace(model)
    assert not kept_whole(state)
    assert_converts(state, model, (x,))


def test_a_stack_whose_hint_matters_stays_whole():
    """Whether a mask is causal decides here whether the additional key is seen, and only its values can tell."""
    model = encoder(batch_first=False)
    for part in model.layers:
        part.self_attn = nn.MultiheadAttention(E, H, add_bias_kv=True)
    model, x = Masked(random(model), mask=causal(L)).eval(), numbers(L, B, E)
    state = trace(model)
    assert kept_whole(state) == ["part"]
    assert_close(to_module(state)(x), model(x))


def test_a_hint_without_a_mask_is_refused():
    with pytest.raises(TraceError, match="needs attn_mask"):
        trace(nn.MultiheadAttention(E, H), constants={"is_causal": True})


def test_queries_without_keys_are_torchs():
    """Their attention is zero, or nothing at all (nan) where torch was asked for weights."""
    model, x = random(Masked(layer(), src_mask=torch.ones(L, L).triu().flip(0, 1).bool())), words()
    got, want = to_module(trace(model))(x), model(x)
    assert torch.equal(got.isnan(), want.isnan())
    assert_close(got.nan_to_num(), want.nan_to_num())


class Static(Model):
    """Attention to keys and values that were projected before, H heads of one sequence."""

    def forward(self, x, k):
        a = self.part
        return F.multi_head_attention_forward(
            x, x, x, E, H, a.in_proj_weight, a.in_proj_bias, None, None, False, self.p, a.out_proj.weight,
            a.out_proj.bias, static_k=k, static_v=k, training=self.p > 0,
        )[0]  # fmt: skip


def test_static_keys_stay_one_call_and_dropout_is_random():
    model = random(Static(part=self_attention(), p=0.0))
    x, k = numbers(L, 1, E), numbers(H, S, E // H)
    assert_close(to_module(trace(model))(x, k), model(x, k))
    with pytest.raises(UnsupportedError, match="random"):
        trace(Static(part=self_attention(), p=0.5))


def torchs():
    return [getattr(owner, name) for owner, name, _ in COMPOSITES], torch.backends.mha.get_fastpath_enabled()


class Failing(Model):
    def forward(self, x):
        return self.part(x) if x.sum() > 0 else x


def test_torch_is_as_it_was_also_after_a_failure():
    before = torchs()
    trace(encoder())
    assert torchs() == before
    with pytest.raises(TraceError):
        trace(Failing(part=layer()))
    assert torchs() == before


def test_other_threads_run_torchs_own():
    original = nn.MultiheadAttention.forward
    model, x = random(self_attention()), words()
    want = model(x, x, x)
    with followed(), ThreadPoolExecutor(1) as other:
        assert nn.MultiheadAttention.forward is not original
        h.assert_same(other.submit(model, x, x, x).result(), want)
        with pytest.raises(RuntimeError, match="Need attn_mask"):  # torch's words, not ours
            other.submit(model, x, x, x, is_causal=True).result()
