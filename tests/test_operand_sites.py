"""Sites in front of products: where they stand, that nothing else changes, and that residual streams stay whole."""

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    BOTTLENECK_RULES,
    RATE,
    TD,
    Neuron,
    account,
    calibrate,
    cascade,
    fuse,
    instrument,
    maximum,
    pipe,
    replace,
    state_equal,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from snnpipe.graph import Ref, refs
from snnpipe.rules.operands import TRANSFORMER_RULES, operand_site, transformer_rules
from snnpipe.rules.sites import SITE_RULES, Match
from tests.helpers import assert_same, cnn, mlp, relative_error, settled, vectors

DIM, HEADS, TOKENS = 8, 2, 5


class Attention(nn.Module):
    """As timm writes it: one layer for queries, keys and values; ``kind`` says how they meet."""

    def __init__(self, kind="matmul"):
        super().__init__()
        self.kind, self.scale = kind, (DIM // HEADS) ** -0.5
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.matmul(self.drop(torch.matmul(q * self.scale, k.transpose(-2, -1)).softmax(-1)), v)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class Rotary(nn.Module):
    """Three layers, and a rotation of queries and keys."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(DIM, DIM, bias=False) for _ in range(4))
        angle = torch.arange(TOKENS)[:, None] * torch.tensor([1.0, 0.1, 1.0, 0.1])
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def turned(self, x):
        a, b = x.chunk(2, -1)
        return x * self.cos + torch.cat([-b, a], -1) * self.sin

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = (layer(x).view(b, n, HEADS, c // HEADS).transpose(1, 2) for layer in (self.q, self.k, self.v))
        p = torch.matmul(self.turned(q), self.turned(k).transpose(2, 3)).softmax(-1)
        return self.o(torch.matmul(p, v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, attention):
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(DIM), attention, nn.LayerNorm(DIM)
        self.fc1, self.act, self.fc2 = nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Patches, a class token, positions, two blocks, a head on the class token."""

    def __init__(self, *blocks):
        super().__init__()
        self.patches = nn.Conv2d(3, DIM, 4, 4)
        self.token, self.pos = nn.Parameter(torch.randn(1, 1, DIM)), nn.Parameter(torch.randn(1, TOKENS, DIM))
        self.blocks, self.norm, self.head = nn.Sequential(*blocks), nn.LayerNorm(DIM), nn.Linear(DIM, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit(kind="matmul"):
    torch.manual_seed(0)
    return settled(ViT(*(Block(Rotary() if kind == "rotary" else Attention(kind)) for _ in range(2))))


def pictures(batch=3):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def sites(model, rules=TRANSFORMER_RULES, **options):
    state = pipe(model, trace(**options), fuse, instrument(rules=rules))
    return state, {site.name: (site.axis, site.signed) for site in state.sites.values()}


FEATURES, LAYER = -1, None
IN_BLOCK = {
    "matmul": {
        "norm1": (FEATURES, True), "attn.qkv": (FEATURES, True), "attn.softmax": (LAYER, False),
        "attn.reshape": (FEATURES, True), "norm2": (FEATURES, True), "act": (FEATURES, True),
    },
    "fused": {
        "norm1": (FEATURES, True), "attn.qkv": (FEATURES, True), "attn.reshape": (FEATURES, True),
        "norm2": (FEATURES, True), "act": (FEATURES, True),
    },
    "rotary": {
        "norm1": (FEATURES, True), "attn.v": (FEATURES, True), "attn.add": (FEATURES, True),
        "attn.softmax": (LAYER, False), "attn.reshape": (FEATURES, True), "norm2": (FEATURES, True),
        "act": (FEATURES, True),
    },
}  # fmt: skip
KINDS = list(IN_BLOCK)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vision_transformer_has_a_site_in_front_of_every_product(kind):
    found = sites(vit(kind))[1]
    expected = {f"blocks.{k}.{name}": what for k in range(2) for name, what in IN_BLOCK[kind].items()}
    assert found == expected | {"getitem": (FEATURES, True)}  # the class token, which the head reads


@pytest.mark.parametrize("kind", KINDS)
def test_both_front_ends_find_as_many(kind):
    model = vit(kind)
    symbolic, exported = (sites(model, **options)[0] for options in ({}, {"example": pictures()}))
    described = [[(site.axis, site.signed) for site in state.sites.values()] for state in (symbolic, exported)]
    assert described[0] == described[1]


PRODUCTS = {"linear": 1, "matmul": 2, "scaled_dot_product_attention": 3}


def origin(name, graph):
    """The node a value comes from, but for what rearranges it or scales it."""
    node = graph[name]
    moved = {"reshape", "permute", "unbind", "getitem", "transpose", "mul", "view", "cat"}
    while node.op in moved:
        node = graph[next(ref for ref in refs(node.operands) if "token" not in ref)]
    return node


@pytest.mark.parametrize("kind", KINDS)
def test_every_product_reads_sites_and_nobody_else_does(kind):
    state, _ = sites(vit(kind))
    seen = 0
    for node in state.graph:
        if node.op in PRODUCTS:
            assert len(refs(node.operands)) == PRODUCTS[node.op]
            assert all(origin(ref, state.graph).name in state.sites for ref in refs(node.operands)), node
            seen += 1
        elif node.op in ("add", "layer_norm", "gelu", "softmax"):
            assert not set(refs(node.operands)) & set(state.sites)
    assert seen == {"matmul": 13, "fused": 11, "rotary": 17}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"example": pictures()}], ids=["symbolic", "export"])
def test_making_room_for_sites_is_exact_and_done_once(kind, options):
    model, x = vit(kind), pictures()
    state, _ = sites(model, **options)
    before = pipe(model, trace(**options), fuse)
    assert_same(to_module(state)(x), to_module(before)(x))
    assert instrument(rules=TRANSFORMER_RULES)(state) is state
    assert state_equal(instrument(rules=TRANSFORMER_RULES)(before), state)
    assert not before.sites


class Tanh(nn.Module):
    """Two linear layers in a row, and one behind a nonlinearity that is no site, whose input is read again."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = torch.tanh(self.b(self.a(x)))
        return self.c(y) + y


class Twice(nn.Module):
    """One value that two layers, a product with itself and a sum read."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

    def forward(self, x):
        y = torch.sigmoid(x)
        return self.a(y) + self.b(y) + torch.matmul(y, y.transpose(-2, -1)) + y


def test_stacks_of_linear_layers():
    assert sites(mlp())[1] == {"1": (-1, False), "3": (-1, False)}
    state, found = sites(Tanh())
    assert found == {"tanh": (-1, True)}  # not between a and b: a linear function of events is added up
    assert [ref for node in state.graph if node.op == "add" for ref in refs(node.operands)] == ["c", "tanh"]
    state, found = sites(Twice())
    assert found == {"sigmoid": (-1, False)}  # one site for four operands
    assert len([node for node in state.graph if node.op == "identity"]) == 1


class Gated(nn.Module):
    """A convolution behind a SiLU that a gate of its mean multiplies (squeeze and excite)."""

    def __init__(self):
        super().__init__()
        self.stem, self.out = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)
        self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        x = F.silu(self.stem(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.out(x * gate)


def test_networks_of_convolutions():
    """A ReLU network has the sites it had; any other gets those that its convolutions need."""
    model = cnn()
    assert state_equal(pipe(model, trace, fuse, instrument), sites(model)[0].evolve(threshold=None)) is False
    assert pipe(model, trace, fuse, instrument).sites == sites(model)[0].sites
    found = sites(Gated())[1]
    assert found == {"adaptive_avg_pool2d": (-3, True), "relu": (-3, False), "mul": (-3, True)}
    assert sites(Gated(), rules=SITE_RULES)[1] == {"relu": (-3, False)}


@pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")
def test_the_default_leaves_operands_alone():
    assert not pipe(vit(), trace, instrument).sites


def test_ones_own_neurons_count_as_neurons():
    def gelu_site(node, graph):
        return Match(Ref(refs(node.operands)[0]), signed=True) if node.path.endswith("act") else None

    found = sites(vit(), rules=transformer_rules((*SITE_RULES, gelu_site)))[0]
    assert [site.node for site in found.sites.values() if site.name == "blocks.0.act"] == ["blocks_0_act"]
    twice = sites(vit(), rules=(*SITE_RULES, gelu_site, operand_site))[0]
    assert len(twice.sites) == len(found.sites)  # the first rule counts
    assert set(found.sites) == set(twice.sites)


# conversion with a fine graded neuron: what is left is the quantisation


def start(theta, **options):
    return torch.zeros_like(theta), torch.zeros_like(theta)


def fine_step(state, z, theta, clock, *, bits, **options):
    """The greedy encoder of the decoded current itself, in steps of ``theta / 2**bits``."""
    before, said = state
    total, kept, step = clock.alpha * before + clock.a * z, clock.alpha * said, theta / 2**bits
    events = ((total - kept) / clock.a / step).round() * step
    return (total, kept + clock.a * events), events


BOTH_SIGNS = {"two_sided": True} if "two_sided" in {field.name for field in attrs.fields(Neuron)} else {}


BITS = (4, 8, 20)


def fine(bits):
    return Neuron("fine", start, fine_step, "graded", {"bits": bits}, **BOTH_SIGNS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", [RATE, TD], ids=str)
def test_with_fine_events_the_network_is_the_transformer(kind, code):
    """The error falls with the step, so residual streams, norms and attention see what the ANN's see."""
    model, x = vit(kind), pictures()
    state = pipe(model, trace, instrument(rules=TRANSFORMER_RULES, statistic=maximum()), calibrate([x]))
    errors = []
    for bits in BITS:
        snn = pipe(state, replace(neuron=fine(bits)), td_rewrite(code=code), to_snn)
        assert len(snn.neurons()) == len(state.sites)
        errors.append(relative_error(snn(x, T=3), model(x)))
    # a site is off by half a step, 2^-bits of its largest value, and norms keep what follows from growing
    assert all(error < len(state.sites) * 2.0**-bits for error, bits in zip(errors, BITS, strict=True))
    assert all(error > 2.0 ** (-bits - 8) for error, bits in zip(errors, BITS, strict=True))  # it is quantised


def test_the_residual_stream_is_not_quantised():
    """Where no product reads it, a value travels whole, and coarse events elsewhere do not touch it."""
    model, x = settled(Tanh()), vectors()
    state = pipe(model, trace, instrument(rules=TRANSFORMER_RULES, statistic=maximum()), calibrate([x]))
    nn.init.zeros_(model.c.weight)
    quiet = pipe(model, trace, instrument(rules=TRANSFORMER_RULES, statistic=maximum()), calibrate([x]))
    coarse = pipe(quiet, replace(neuron=fine(1)), to_snn)
    assert relative_error(coarse(x, T=1), model(x)) < 1e-12
    loud = pipe(state, replace(neuron=fine(1)), to_snn)
    assert relative_error(loud(x, T=1), to_module(state)(x)) > 1e-3


class Inverted(nn.Module):
    """MobileNet's block: expand, depthwise, gate, a linear bottleneck that the next block and a sum read."""

    def __init__(self, width, stride):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, stride, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU6())
        self.squeeze, self.excite = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.project = nn.Sequential(nn.Conv2d(8, width, 1, bias=False), nn.BatchNorm2d(width))
        self.adds = stride == 1

    def forward(self, x):
        y = self.depthwise(self.expand(x))
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        y = self.project(y)
        return x + y if self.adds else y


class Mobile(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 4, 3), nn.Sequential(Inverted(4, 1), Inverted(4, 2), Inverted(4, 1))
        self.last, self.head = nn.Conv2d(4, 6, 1), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.last(self.blocks(self.stem(x).relu())).relu().mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*never fired")
def test_bottlenecks_get_signed_encoders():
    torch.manual_seed(2)
    model, x = settled(Mobile()), pictures()
    ours, theirs = (sites(model, rules)[1] for rules in (BOTTLENECK_RULES, TRANSFORMER_RULES))
    more = {name: found for name, found in ours.items() if name not in theirs}
    # what a block's expansion or the last layer reads; not the averages that a gate and the head read, sums of events
    bottlenecks = {"blocks.0.add", "blocks.1.project.0", "blocks.2.add"}
    assert more == dict.fromkeys(bottlenecks, (-3, True))
    state = pipe(model, trace, fuse, instrument(rules=BOTTLENECK_RULES), calibrate([x]))
    snn = pipe(state, replace(neuron=cascade(n=8)), to_snn)
    assert (snn(x, T=64) - model(x)).norm() <= 0.05 * model(x).norm()
    for layer in account(snn, x, T=4).operators:
        if layer.op == "conv2d" and layer.name not in ("stem",) and "excite" not in layer.name:
            assert layer.mac == 0, layer
