"""What a run costs, against counting by hand, by Jacobians, and by what the network itself remembers."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from snnpipe import (
    CMOS_FLOAT32,
    LOIHI,
    RATE,
    TD,
    Device,
    Neuron,
    SnnpipeError,
    constant,
    energy,
    events,
    fixed,
    fuse,
    geometric,
    integrate_and_fire,
    pipe,
    poisson,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.analysis.activity import spike_counts
from snnpipe.analysis.energy import account, latency
from snnpipe.analysis.fan_out import DENSE, MERGED, ROUTED, SCALED, SUMMED, WEIGHTED
from snnpipe.analysis.multiplications import MULTIPLICATIONS
from snnpipe.emit import neuron_path
from snnpipe.errors import InputError
from snnpipe.frozen import leaves
from snnpipe.graph import Graph
from snnpipe.kernels.multilevel import burst, cascade, graded, group
from snnpipe.ops.table import OPS, TABLE
from snnpipe.runtime.network import SpikingNetwork
from tests.catalogue import CASES, NAMES
from tests.helpers import images, settled, vectors


def seen(snn, *inputs, **options):
    """What the neurons sent at each step, by name: (T, B, ...), watched from outside."""
    found = {name: [] for name in snn.neurons()}

    def watched(node):
        neuron, name = node["neuron"], neuron_path(node)

        def step(*given, **facts):
            state, sent = neuron.step(*given, **facts)
            found[name].append(sent.clone())
            return state, sent

        return node.evolve(neuron=neuron.stepping(step))

    nodes = tuple(watched(node) if node.op == "encode" else node for node in snn.graph)
    SpikingNetwork(Graph(nodes, snn.graph.output), snn.state_dict(), snn.code)(*inputs, **options)
    return {name: torch.stack(sent) for name, sent in found.items()}


def by_path(costs, path):
    (found,) = [operator for operator in costs.operators if operator.name == path]
    return found


IF = integrate_and_fire()


def converted(model, *, neuron=IF, code=RATE, theta=1.0):
    return pipe(model, trace, replace(neuron=neuron, threshold=fixed(theta)), td_rewrite(code=code), to_snn)


def between(*layers):
    """ReLU, the layers, ReLU: what the layers see are events and what they make is a current."""
    return nn.Sequential(nn.ReLU(), *layers, nn.ReLU())


def paths(x, *layers):
    """For each element of ``x`` the ways to an output: nonzero Jacobian entries, multiplied from layer to layer."""
    ways = torch.eye(x[0].numel(), dtype=torch.float64)
    for layer in layers:
        jacobian = torch.autograd.functional.jacobian(lambda v, f=layer: f(v[None])[0], torch.rand_like(x[0]))
        x = layer(x)
        ways = (jacobian.reshape(x[0].numel(), -1) != 0).double() @ ways
    return ways.sum(0)


def sparse(layer):
    """Some weights are exactly zero: nothing travels there."""
    for parameter in layer.parameters():
        parameter.data.masked_fill_(torch.rand_like(parameter) < 0.3, 0.0)
    return layer


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, 0.0, -1.0]).view(3, 1, 1))

    def forward(self, x):
        return self.weight * x / 4


class Static(nn.Module):
    """A matrix from the left."""

    def __init__(self, formula):
        super().__init__()
        self.weight, self.formula = nn.Parameter(torch.randn(5, 6)), formula

    def forward(self, x):
        return self.formula(self.weight, x)


def cat_with_itself(x):
    return torch.cat([x, x.flip(-1)], 1)


class Function(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x)


LAYERS = {
    "conv": lambda: [nn.Conv2d(3, 4, 3)],
    "conv, padding and stride": lambda: [nn.Conv2d(3, 4, 3, stride=2, padding=1)],
    "conv, groups and dilation": lambda: [nn.Conv2d(3, 6, 2, groups=3, dilation=2)],
    "reflection, conv": lambda: [nn.ReflectionPad2d(1), nn.Conv2d(3, 2, 3)],
    "transposed": lambda: [nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)],
    "flatten, linear": lambda: [nn.Flatten(), nn.Linear(3 * 6 * 6, 5)],
    "one axis": lambda: [nn.Flatten(2), nn.Conv1d(3, 2, 5, stride=3)],
    "linear on the last axis": lambda: [nn.Linear(6, 4)],
    "matrix product": lambda: [Static(torch.matmul)],
    "einsum": lambda: [Static(lambda w, x: torch.einsum("oi,bcij->bcjo", w, x))],
    "pool, conv": lambda: [nn.AvgPool2d(2), nn.Conv2d(3, 4, 2)],
    "overlapping pool, conv": lambda: [nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(3, 4, 2)],
    "padding left out": lambda: [nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(3, 4, 2)],
    "adaptive pool, linear": lambda: [nn.AdaptiveAvgPool2d((4, 5)), nn.Linear(5, 2)],
    "pool of one axis": lambda: [nn.Flatten(2), nn.AvgPool1d(5, 3, 2), nn.Linear(12, 2)],
    "mean, linear": lambda: [Function(lambda x: x.mean((2, 3))), nn.Linear(3, 2)],
    "cumulative, linear": lambda: [Function(lambda x: x.cumsum(-1)), nn.Linear(6, 2)],
    "scaled, conv": lambda: [Scaled(), nn.Conv2d(3, 4, 3)],
    "copies, conv": lambda: [Function(cat_with_itself), nn.Conv2d(6, 2, 3)],
    "nearest neighbour, conv": lambda: [nn.Upsample(scale_factor=2), nn.Conv2d(3, 2, 3)],
    "nothing": lambda: [nn.Identity()],
    "pool alone": lambda: [nn.AvgPool2d(3, 2)],
}


@pytest.mark.parametrize("neuron", [IF, signed_memory()], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_additions_are_spikes_times_nonzero_jacobian_entries(name, neuron):
    """What is behind the last neuron adds one for each of its spikes: they are decoded."""
    layers = [sparse(layer).double() for layer in LAYERS[name]()]
    snn, x = converted(between(*layers), neuron=neuron), images(channels=3)
    first, last = seen(snn, x, T=3).values()
    expected = ((first != 0).sum((0, 1)).flatten() * paths(x, *layers)).sum() + (last != 0).sum()
    costs = account(snn, x, T=3)
    assert costs.ac * len(x) == pytest.approx(expected.item(), rel=1e-12)
    assert (costs.sop, costs.mac) == (costs.ac, 0)
    assert (first != 0).any()


def test_a_convolution_counted_by_hand():
    """Padding 1, stride 2, one weight 0: walk from each spike to each output it reaches."""
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1).double()
    conv.weight.data[1, 0, 2, 2] = 0.0
    snn, x = converted(between(conv)), images(channels=2, size=5)
    first, last = (sent != 0 for sent in seen(snn, x, T=4).values())
    additions = int(last.sum())
    for _, _, c, i, j in first.nonzero().tolist():
        for o, oi, oj in itertools.product(range(3), repeat=3):
            ki, kj = i + 1 - 2 * oi, j + 1 - 2 * oj
            additions += 0 <= ki < 3 and 0 <= kj < 3 and (o, c, ki, kj) != (1, 0, 2, 2)
    costs = account(snn, x, T=4)
    assert costs.ac * len(x) == additions
    assert costs.mac == costs.graded == 0
    assert costs.ann == 3 * 3 * 3 * 2 * 9


def test_every_linear_operator_has_a_rule():
    kinds = (WEIGHTED, SCALED, SUMMED, MERGED, DENSE, ROUTED)
    assert sum(map(len, kinds)) == len(frozenset().union(*kinds))
    assert frozenset().union(*kinds) == {op.name for op in TABLE if op.groups}
    assert WEIGHTED | SCALED | DENSE == MULTIPLICATIONS.keys() <= OPS.keys()


def binary_ones(q):
    return bin(abs(q)).count("1")


@pytest.mark.parametrize(
    ("neuron", "wires", "bits", "count"),
    [
        (burst(cap=4), 1, 3, abs), (group(m=4), 4, 1, abs), (cascade(n=4), 4, 2, binary_ones),
        (cascade(n=3, two_sided=False), 3, 1, binary_ones),
    ],
    ids=lambda value: str(value) if isinstance(value, Neuron) else None,
)  # fmt: skip
def test_each_spike_of_a_multilevel_event_is_added(neuron, wires, bits, count):
    linear = nn.Linear(6, 5).double()
    snn, x = converted(between(linear), neuron=neuron), 3 * vectors()
    parts = neuron.options["codebook"].parts
    first, last = (
        sum(count(round(level)) for level in (parts * sent).flatten().tolist()) for sent in seen(snn, x, T=3).values()
    )
    costs = account(snn, x, T=3)
    assert costs.ac * len(x) == 5 * first + last
    assert costs.mac == 0
    assert [(layer.wires, layer.bits, layer.events * len(x)) for layer in costs.layers] == [
        (wires, bits, first), (wires, bits, last)
    ]  # fmt: skip
    assert "a shift and an addition" in str(costs)


@pytest.mark.parametrize("neuron", [graded(), graded(levels=7)], ids=str)
def test_numbers_are_multiplied(neuron):
    """An event that is a number costs a multiplication at each output it reaches, and where it is none nothing."""
    snn, x = converted(between(nn.Linear(6, 5).double()), neuron=neuron), 3 * vectors()
    first, _ = seen(snn, x, T=3).values()
    costs = account(snn, x, T=3)
    assert (costs.ac, costs.mac * len(x)) == (0, 5 * (first != 0).sum().item())
    assert costs.sop == costs.mac
    assert [layer.bits for layer in costs.layers] == [4 if "levels=7" in str(neuron) else 64] * 2


def test_levels_that_nobody_counts_are_numbers():
    def step(v, z, theta, clock):
        s = (v + z).clamp(0, 3)
        return v + z - s, s

    own = Neuron("own", torch.zeros_like, step, "multi-level")
    snn, x = converted(between(nn.Linear(6, 5).double()), neuron=own), vectors()
    first, _ = seen(snn, x, T=3).values()
    costs = account(snn, x, T=3)
    assert (costs.ac, costs.mac * len(x)) == (0, 5 * (first != 0).sum().item())
    assert [layer.bits for layer in costs.layers] == [64, 64]


class Gate(nn.Module):
    """A gate between neurons: y = h sigmoid(b h)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = F.relu(self.a(x))
        return self.c(F.relu(h * torch.sigmoid(self.b(h))))


@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("code", [RATE, TD])
def test_a_gate_shows_its_price(code, T):
    snn, x = converted(settled(Gate()), code=code, theta=0.5), vectors()
    first, last = (int((sent != 0).sum()) for sent in seen(snn, x, T=T).values())
    costs = account(snn, x, T=T)
    assert costs.ac * len(x) == first * 8 + first + last  # the layer b, decoding h, decoding the output
    assert costs.mac == 6 * 8 + 8 * T + 8 * 3  # a once, the product at every step, c once
    assert costs.graded == 8 * T
    assert costs.ann == 6 * 8 + 8 * 8 + 8 + 8 * 3
    # accumulators: h, b h and the output; the product is turned back to events
    assert costs.state == {"neurons": 16, "accumulators": 24, "differences": 8}
    assert [(o.op, o.runs) for o in costs.operators if o.mac or o.graded] == [
        ("linear", 1), ("sigmoid", T), ("mul", T), ("linear", 1)
    ]  # fmt: skip
    assert {o.name: o.part for o in costs.operators if o.mac} == {"a": "before", "mul": "between", "c": "behind"}
    bill = energy(costs)
    amounts = {item.name: item.amount for item in bill.spiking}
    assert amounts["before the first neuron, MAC"] == 6 * 8
    assert amounts["between neurons, MAC"] == 8 * T
    assert amounts["behind the last neuron, MAC"] == 8 * 3
    assert amounts["state, numbers x steps"] == T * (16 + 24 + 8)
    assert amounts["graded units, elements"] == costs.graded
    assert bill.joules(CMOS_FLOAT32) == joules(0.9 * costs.ac + 4.6 * costs.mac + 10 * costs.updates)
    assert bill.joules(CMOS_FLOAT32, ann=True) == joules(4.6 * costs.ann + 10 * costs.neurons)
    assert bill.joules(LOIHI) is None  # it does not multiply
    assert bill.joules(LOIHI, ann=True) is None
    assert bill.priced(LOIHI) == joules(23.6 * costs.ac + 81 * costs.updates)


def joules(pico):
    return pytest.approx(1e-12 * pico, rel=1e-12, abs=0)


class Streams(nn.Module):
    """The product of two streams of events."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.o = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(5, 2)

    def forward(self, x):
        return self.o(F.relu(F.relu(self.q(x)) @ F.relu(self.k(x)).transpose(-1, -2)))


@pytest.mark.parametrize("T", [1, 4])
def test_a_product_of_streams_is_multiplied_at_every_step(T):
    snn, x = converted(settled(Streams()), code=TD), torch.randn(3, 5, 8, dtype=torch.float64)
    q, k, last = (int((sent != 0).sum()) for sent in seen(snn, x, T=T).values())
    costs = account(snn, x, T=T)
    assert costs.mac == 2 * 5 * 8 * 6 + T * 5 * 5 * 6 + 5 * 5 * 2
    assert costs.ac * len(x) == q + k + last  # each spike is decoded
    assert costs.graded == 0
    assert costs.state == {"neurons": 2 * 30 + 25, "accumulators": 2 * 30 + 25, "differences": 25}


class Sum(nn.Module):
    """A shortcut: spikes and a current meet in the second neuron."""

    def __init__(self):
        super().__init__()
        self.b = nn.Linear(6, 6)

    def forward(self, x):
        h = F.relu(x)
        return F.relu(self.b(h) + h)


def test_a_spike_on_a_shortcut_is_one_addition():
    snn, x = converted(Sum().double()), vectors()
    first, last = (int((sent != 0).sum()) for sent in seen(snn, x, T=4).values())
    assert account(snn, x, T=4).ac * len(x) == 6 * first + first + last


def test_spikes_that_meet_are_sent_on_one_by_one():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = nn.Linear(6, 5)

        def forward(self, x):
            return F.relu(self.c(F.relu(x) - F.relu(1 - x)))

    snn, x = converted(Both().double()), vectors()
    one, other, last = (int((sent != 0).sum()) for sent in seen(snn, x, T=4).values())
    costs = account(snn, x, T=4)
    assert (costs.ac * len(x), costs.mac) == (5 * (one + other) + last, 0)


def test_a_current_is_multiplied():
    """Two linear layers without a neuron in between: the second sees floats at every step."""
    snn, x = converted(between(nn.Linear(6, 7).double(), nn.Linear(7, 4).double()), code=TD), vectors()
    costs = account(snn, x, T=5)
    operator = by_path(costs, "2")
    assert operator.ac == 0
    assert 0 < operator.mac <= 5 * 7 * 4
    assert by_path(account(snn, x, T=1), "2").mac == 7 * 4  # at first the bias is everywhere


def test_input_events_are_spikes_or_floats():
    snn, x = converted(nn.Sequential(nn.Linear(6, 5).double(), nn.ReLU())), vectors().clamp(-1, 1)
    static, spikes = account(snn, x, T=7), account(snn, x, T=7, encoding=poisson(torch.Generator().manual_seed(0)))
    floats = account(snn, x.expand(7, -1, -1), T=7, encoding=events())
    assert (static.mac, by_path(static, "0").runs) == (30, 1)
    assert (by_path(floats, "0").mac, by_path(floats, "0").ac) == (7 * 30, 0)
    operator, clock = by_path(spikes, "0"), RATE.clock(1)
    encode = poisson(torch.Generator().manual_seed(0)).encode
    assert operator.ac * len(x) == 5 * sum(int((encode(x, clock) != 0).sum()) for _ in range(7))
    assert spikes.mac == 0


def test_usual_formulas():
    model = settled(nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.ReLU(),
                                  nn.ConvTranspose2d(6, 4, 2, stride=2), nn.ReLU(), nn.Flatten(),
                                  nn.Linear(4 * 12 * 12, 3)))  # fmt: skip
    x = images()
    costs = account(pipe(model, trace, fuse, replace(threshold=fixed(1.0)), to_snn), x, T=2)
    conv, transposed, linear = 6 * 36 * 9, 6 * 36 * 4 * 4, 4 * 144 * 3
    assert costs.ann == conv + transposed + linear
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert costs.ann * len(x) == counter.get_total_flops() / 2
    unfused = account(pipe(model, trace, replace(threshold=fixed(1.0)), to_snn), x, T=2)
    assert unfused.ann - costs.ann == 6 * 36  # one for each element, where the norm is not folded


def test_attention_is_counted_whole():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x):
            qkv = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            return F.relu(F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]))

    x = torch.randn(3, 5, 8, dtype=torch.float64)
    snn = converted(Attention().double(), code=TD)
    streamed = account(snn, x.expand(4, -1, -1, -1), T=4, encoding=events())
    attention = next(o for o in streamed.operators if o.op == "scaled_dot_product_attention")
    assert streamed.sop - streamed.ac == by_path(streamed, "qkv").mac == 4 * 5 * 8 * 24  # the numbers of the input
    assert (attention.mac, attention.ann) == (4 * 2 * 2 * 5 * 5 * 4, 2 * 2 * 5 * 5 * 4)  # T x (Q K + P V) x heads
    assert attention.graded == 4 * 2 * 5 * 5
    assert next(o.runs for o in account(snn, x, T=4).operators if o.op == "scaled_dot_product_attention") == 1


def events_of(costs):
    return {layer.name: (layer.events * costs.batch, layer.neurons * costs.batch) for layer in costs.layers}


def counted(counts):
    return {name: (count.per_step.sum().item(), count.size) for name, count in counts.items()}


@pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")
@pytest.mark.parametrize("name", NAMES)
def test_events_are_those_that_spike_counts_counts(name):
    """On awkward networks; floats of state are those that the network itself carries from step to step."""
    case = CASES[NAMES.index(name)]
    model, inputs = case.ready()
    snn = pipe(model, trace(**case.options), fuse, replace(threshold=fixed(0.5)), to_snn)
    costs, counts = account(snn, *inputs, T=3), spike_counts(snn, *inputs, T=3)
    assert events_of(costs) == counted(counts)
    waiting = {"T": 3, "schedule": "layer"}
    assert events_of(account(snn, *inputs, **waiting)) == counted(spike_counts(snn, *inputs, **waiting))
    assert costs.per_neuron == costs.events / max(costs.neurons, 1)
    if all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in inputs):
        state, _ = snn.step(snn.init(*inputs), *inputs)
        floats = sum(leaf.numel() for cell in state.cells.values() for leaf in leaves(cell) if hasattr(leaf, "numel"))
        streamed = account(snn, *(x.expand(3, *x.shape) for x in inputs), T=3, encoding=events())
        assert sum(streamed.state.values()) * streamed.batch == pytest.approx(floats)
    assert costs.ann > 0 or not list(model.parameters())


@pytest.mark.parametrize("neuron", [IF, cascade(n=3), graded(parts=4)], ids=str)
@pytest.mark.parametrize("code", [RATE, TD, geometric(2.0)], ids=str)
def test_a_sample_costs_the_same_in_any_batch(code, neuron):
    snn, x = converted(settled(Gate()), neuron=neuron, code=code), vectors(batch=4)

    def figures(costs):
        layers = [figure for layer in costs.layers for figure in (layer.neurons, layer.events, layer.state)]
        return [*layers, *costs.state.values(), costs.ac, costs.mac, costs.graded, costs.ann]

    whole = figures(account(snn, x, T=4))
    assert figures(account(snn, x.repeat(3, 1), T=4)) == pytest.approx(whole, rel=1e-12)
    single = torch.tensor([figures(account(snn, sample[None], T=4)) for sample in x], dtype=torch.float64)
    assert single.mean(0).tolist() == pytest.approx(whole, rel=1e-12)


def test_what_grows_with_the_number_of_steps():
    """A constant current of k/4 from an empty membrane: k spikes every four steps."""
    model = nn.Sequential(nn.ReLU(), nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 2)).double()
    nn.init.constant_(model[1].weight, -1.0)  # the second layer never fires
    snn = converted(model, neuron=integrate_and_fire(v_init=0.0))
    x = torch.randint(0, 5, (7, 6)) / torch.tensor(4.0, dtype=torch.float64)
    short, long = account(snn, x, T=4), account(snn, x, T=12)
    assert short.layers[0].events == 4 * x.sum(1).mean()
    assert (long.events, long.ac) == pytest.approx((3 * short.events, 3 * short.ac))
    assert short.ac == pytest.approx(5 * short.events)
    assert (long.mac, long.ann, long.state) == (short.mac, short.ann, short.state)
    assert long.mac == 5 * 2


def test_what_parameters_alone_decide_is_free():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.v, self.g = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.rand(5, 1))

        def forward(self, x):
            return F.relu(F.linear(x, self.g * self.v / self.v.norm(dim=1, keepdim=True)))

    costs = account(converted(Normed().double()), vectors(), T=2)
    assert (costs.mac, costs.ann, costs.graded) == (30, 30, 0)


def test_a_quotient_of_signals_is_a_graded_unit():
    class Share(nn.Module):
        def forward(self, x):
            h = F.relu(x)
            return F.relu(h / (1 + h.sum(-1, keepdim=True)))

    snn, x = converted(Share()), vectors()
    costs = account(snn, x, T=3)
    assert (costs.mac, costs.ann, costs.graded) == (0, 0, 3 * 6)
    first, last = (int((sent != 0).sum()) for sent in seen(snn, x, T=3).values())
    assert costs.ac * len(x) == first + first + last  # decoded, added up with the constant, decoded at the end


def test_a_module_kept_whole():
    class Whole(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.head = layer, nn.Linear(6, 2)

        def forward(self, x):
            return self.head(F.relu(self.layer(x)[0] if isinstance(self.layer, nn.LSTM) else self.layer(x, x)))

    x = vectors(batch=5)
    for layer, ann, unseen in ((nn.LSTM(6, 6), 4 * 6 * (6 + 6), False), (nn.Bilinear(6, 6, 6), 0, True)):
        snn = pipe(Whole(layer).double(), trace(leaves=(type(layer),)), replace(threshold=fixed(1.0)), to_snn)
        given = x if unseen else x[:, None]  # (time, batch, features)
        costs = account(snn, given, T=2)
        assert by_path(costs, "layer").ann == ann
        assert ("MACs not seen inside layer" in str(costs)) == unseen


def test_the_table_says_it_all():
    model, x = settled(Gate()), vectors()
    costs = account(converted(model, neuron=cascade(n=4), code=TD), x, T=8)
    text = str(costs)
    lines = text.splitlines()
    assert lines[0] == "8 steps under TD, constant input; per sample and run, mean of 16 samples"
    assert all(len([line for line in lines if line.startswith(layer.name)]) == 1 for layer in costs.layers)
    assert "{k theta/8: k = -15..15}         4 x 2" in text
    assert "floats of state: 32 in neurons, 24 in accumulators, 8 in differences" in text
    assert "multiplications (MAC)" in text
    assert "mul (mul, x 8) 64; a (linear, once) 48; c (linear, once) 24" in text
    assert "print(energy(account(...)))" in text
    none = str(account(pipe(model, trace, td_rewrite(code=RATE), to_snn), x, T=1))
    assert "1 step under" in none
    assert "no neurons" in none


@pytest.mark.parametrize("code", [RATE, TD, geometric(2.0)], ids=str)
def test_layers_that_wait_cost_what_their_spikes_cost(code):
    """Neurons fire at other times, a spike costs the same: its nonzero weights, counted one by one."""
    model = settled(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), sparse(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 2)))
    snn, x = converted(model, code=code, theta=0.3), vectors(batch=4)
    costs = account(snn, x, T=6, schedule="layer")
    sent = seen(snn, x, T=6, schedule="layer")
    first, last = ((events != 0).double().sum((0, 1)) for events in sent.values())
    fan_out = (model[2].weight != 0).double().sum(0)
    assert by_path(costs, "2").ac * 4 == pytest.approx(float(first @ fan_out))
    assert costs.ac * 4 == pytest.approx(float(first @ fan_out + last.sum()))  # and one for each at the accumulator
    assert (by_path(costs, "0").mac, by_path(costs, "4").mac) == (30, 8)
    assert str(costs).startswith(f"6 steps under {code}, constant input, schedule layer; per sample")
    assert costs.state == account(snn, x, T=6).state
    if code is not RATE:  # a first layer has nobody to wait for
        return
    together = account(snn, x, T=6)
    assert costs.layers[0] == together.layers[0]
    assert by_path(costs, "2") == by_path(together, "2")


def test_latency():
    snn = converted(settled(Gate()))
    assert (latency(snn, 8), latency(snn, 8, "layer"), latency(snn, 3, schedule="layer")) == (8, 16, 6)
    assert latency(converted(Sum()), 5, "layer") == 10
    assert latency(pipe(Gate(), trace, td_rewrite(code=RATE), to_snn), 5, "layer") == 5
    with pytest.raises(InputError, match='"step", "layer" or a wave'):
        latency(snn, 8, "other")
    with pytest.raises(InputError, match="number of time steps"):
        latency(snn, 0)


def test_the_network_is_only_read(x, snn):
    before, weights = snn(x, T=4), {key: tensor.clone() for key, tensor in snn.state_dict().items()}
    account(snn, x, T=4, encoding=constant())
    assert torch.equal(snn(x, T=4), before)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in snn.state_dict().items())
    assert not any(module._forward_hooks for module in snn.modules())


@pytest.mark.parametrize("T", [0, -1, 2.0, True])
def test_refuses_what_the_network_refuses(T, x, snn):
    with pytest.raises(InputError, match="number of time steps"):
        account(snn, x, T=T)
    with pytest.raises(InputError, match="takes 1 input"):
        account(snn, x, x, T=2)
    with pytest.raises(InputError, match='"step", "layer" or a wave'):
        account(snn, x, T=2, schedule="both")


def test_a_bill_says_what_it_leaves_out_and_never_one_number():
    snn, x = converted(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), theta=0.1), vectors()
    mine = Device("mine", ac=1.0, mac=None, update=2.0)
    text = str(energy(account(snn.float(), x.float(), T=4), devices=(CMOS_FLOAT32, mine)))
    lines = {line.split("  ")[0].strip() or line.split("  ")[1].strip(): line for line in text.splitlines() if line}
    assert lines["before the first neuron, MAC"].split()[-1] == "?"  # no price, so no number
    assert lines["spiking network"].split()[-3] == ">="
    assert lines["ANN"].split()[-1] == "-"
    assert "not in these numbers: reading weights" in text
    assert "45 nm, float32: ac 0.9 pJ, mac 4.6 pJ, update 10 pJ" in text
    assert "Horowitz 2014" in text
    assert "nobody measured" in text
    with pytest.raises(SnnpipeError, match="neither the price of an addition"):
        Device("nothing", ac=None, mac=None, update=1.0)
    with pytest.raises(InputError, match="write account"):
        energy(snn)
