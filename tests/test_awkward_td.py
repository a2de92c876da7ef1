"""Every awkward model in every form: exact in time under each code, spiking to within K / T, honestly labelled.

One table of rows, patterns P1 to P25 of the behaviour list, and one law per test.  A row is followed symbolically, or
by ``torch.export`` where symbols cannot follow; the exact laws are held against both.
"""

import copy
import re
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from property_tests.strategies import with_wires
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    ThresholdWarning,
    TraceError,
    calibrate,
    check,
    digest,
    fuse,
    instrument,
    maximum,
    pipe,
    state_equal,
    td_rewrite,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.frozen import FrozenMap
from tests import models as m
from tests.catalogue import CASES, C, Case, L, class_token, im, language_block, named, tokens, words, x
from tests.helpers import assert_converges, images, line_of, mlp, relative_error, settled, snapshot, spiking, vectors
from tests.helpers import assert_untouched as untouched
from tests.models import Model
from tests.test_export import MODELS, BranchOnShape
from tests.test_refusals import BranchOnData
from tests.test_spellings import SPELLINGS
from tests.test_statistic import BIN

# small nets may have dead units; that they are handled is test_replace's business
pytestmark = [
    pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning"),
    pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning"),
]

CODES = (TD, RATE, DIFFERENTIAL)
#: Relative to the largest output of the ANN, in float64: the bound of the law, some 4500 units of roundoff.
EXACT = 1e-12
#: Odd, because with T a multiple of its levels a quantised activation has no error at all.
SEED = 3
STEPS = (7, 15, 31, 61, 509)


class Row(NamedTuple):
    """A network, its inputs, how it is followed, and what must be said of it.

    ``graded`` names the operators between neurons that are not linear.
    """

    name: str
    build: Any
    inputs: Any
    sites: int
    options: dict[str, Any] = {}  # noqa: RUF012
    graded: tuple[str, ...] = ()
    fronts: tuple[str, ...] = ("symbolic", "export")


class MaskedAttention(Model):
    def forward(self, x, padding=None):
        return self.head(self.mha(x, x, x, attn_mask=self.mask, key_padding_mask=padding)[0])


class TiedLanguageModel(Model):
    def forward(self, ids):
        return F.linear(self.block(ids), self.block.e.weight)


class SoftmaxFunction(Model):
    def forward(self, x):
        return F.softmax(self.c(self.r(self.a(x))), -1)


class Collision(Model):
    def forward(self, x):
        return self.history(F.relu(self.voltage_hook_0(F.relu(self.input(x)))))


def clip_floor(y, levels=4, theta=1.5):
    """QCFS: theta clip(floor(y L / theta + 1/2) / L, 0, 1)."""
    return theta * torch.clamp(torch.floor(y * levels / theta + 0.5) / levels, 0, 1)


def masked(mask):
    def build():
        model = MaskedAttention(mha=nn.MultiheadAttention(8, 2, batch_first=True), head=L(8, 3))
        model.register_buffer("mask", mask)
        return model

    return build


def padded_words():
    return *words(), torch.tensor([[False, False, True], [False] * 3, [False, True, True]])


def between(build):
    """The network with a neuron before and one behind it: what it holds is graded."""
    return lambda: nn.Sequential(nn.ReLU(), build(), nn.ReLU())


LATER = torch.ones(3, 3, dtype=torch.bool).triu(1)
INF = torch.zeros(3, 3, dtype=torch.float64).masked_fill(LATER, -torch.inf)
P1 = ("F.relu", "torch.relu", "x.relu()", "x.relu_()", "clamp(min=0)", "maximum(x, zeros)", "subclass",
      "nn.ReLU(inplace)")  # fmt: skip
ATTENTION = ("sdpa", "causal", "by hand", "einsum")
SDPA = "scaled_dot_product_attention"
#: Operators whose result is one tensor of floats: an encoder may follow them.
ALWAYS_FLOAT = frozenset({"conv2d", "linear", "batch_norm", "relu", "clamp", "matmul", "softmax", "max_pool2d"})
#: Operators between neurons of rows that the catalogue has already.
GRADED = {"P17 gate before a neuron": ("sigmoid", "mul")}


def same(case: Case) -> Row:
    return Row(*case[:4], case.options, GRADED.get(case.name, ()))


def exported(name: str, build: Any, inputs: Any, sites: int, **constants: Any) -> Row:
    options = {"constants": constants} if constants else {}
    return Row(name, build, inputs, sites, options, fronts=("export",))


def branch():
    return BranchOnShape(c=C(2, 4, 1), r=nn.ReLU())


def capped(act):
    return lambda: m.Clamped(a=L(6, 8), b=L(8, 3), act=act)


ROWS = (
    *(Row(f"P1 {name}", capped(SPELLINGS[name]), x, 1) for name in P1),
    *map(same, CASES),
    Row("P7 F.max_pool2d", lambda: m.PoolThenHead(c=C(2, 4), pool=lambda y: F.max_pool2d(y, 2), head=L(16, 3)), im, 1),
    exported("P9 branch on shape, taken", branch, im, 1),
    exported("P9 branch on shape, not taken", branch, lambda: (images(size=4),), 1),
    exported("P9 flag set", branch, im, 1, return_feat=True),
    exported("P12 module made in forward", MODELS["P12 module made in forward"][0], x, 3),
    Row("P11 C2f between neurons", between(named("P11")[0].build), im, 2, graded=("silu",)),
    *(Row(f"P20 {kind} between neurons", between(named(f"P20 attention, {kind}")[0].build), words, 2,
          graded=graded) for kind, graded in zip(ATTENTION, ((SDPA,), (SDPA,), ("matmul", "softmax", "matmul"),
                                                             ("einsum", "softmax", "einsum")), strict=True)),
    Row("P21 class token, MHA between neurons", between(class_token), words, 2, graded=("matmul", "softmax", "matmul")),
    Row("P21 boolean mask", masked(LATER), words, 0),
    Row("P21 mask of -inf", masked(INF), words, 0),
    Row("P21 padding mask given", masked(LATER), padded_words, 0, {"inputs": ("x", "padding")}),
    Row("P22 tied head", lambda: TiedLanguageModel(block=language_block()), tokens, 0),
    Row("P22 before a neuron", lambda: nn.Sequential(language_block(), nn.ReLU(), L(8, 3)), tokens, 1),
    Row("P23 F.softmax", lambda: SoftmaxFunction(a=L(6, 8), r=nn.ReLU(), c=L(8, 3)), x, 1),
    Row("P24 more colliding names", lambda: Collision(input=L(6, 8), voltage_hook_0=L(8, 8), history=L(8, 2)), x, 2),
    Row("P25 QCFS", capped(clip_floor), x, 1),
)  # fmt: skip


class Ready(NamedTuple):
    """A row made: the model with random weights and statistics, its inputs, and the state ``trace`` gives."""

    model: nn.Module
    inputs: tuple
    options: dict[str, Any]
    state: Any


@cache
def made(row: int, front: str) -> Ready:
    with torch.random.fork_rng(devices=[]):  # what a test draws does not depend on whether it is the first to ask
        torch.manual_seed(SEED)
        model, inputs = settled(copy.deepcopy(ROWS[row].build())), ROWS[row].inputs()
    given = {key: value for key, value in ROWS[row].options.items() if key != "inputs"}
    options = ROWS[row].options if front == "symbolic" else given | {"example": inputs}
    before = snapshot(model)
    ready = Ready(model, inputs, options, trace(model, **options))
    untouched(before, model)
    return ready


def wanted(row: int, *inputs: Any) -> Any:
    """What the ANN gives: flags that the network was traced with are arguments of ``forward``."""
    with torch.no_grad():
        return made(row, ROWS[row].fronts[0]).model(*inputs, **ROWS[row].options.get("constants", {}))


def batch_of(inputs: tuple) -> Any:
    return inputs if len(inputs) > 1 else inputs[0]


each_row = pytest.mark.parametrize("row", range(len(ROWS)), ids=lambda k: ROWS[k].name)
each_front = pytest.mark.parametrize(
    ("row", "front"), [pytest.param(k, front, id=f"{row.name}, {front}") for k, row in enumerate(ROWS)
                       for front in row.fronts],
)  # fmt: skip


def assert_exact(got: Any, want: Any, limit: float = EXACT) -> None:
    """One structure, shapes and dtypes; each tensor within ``limit`` of its largest value."""
    (got, spec), (want, expected) = pytree.tree_flatten(got), pytree.tree_flatten(want)
    assert spec == expected
    for g, w in zip(got, want, strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        assert (g - w).abs().max() <= limit * w.abs().max()


def decode(events: Any, code: Any, t: int) -> Any:
    """``X_t = alpha_t X_{t-1} + a_t x_t``, of trees of (T, ...); what is no float is no event and stays."""

    def one(leaf):
        if not leaf.is_floating_point():
            return leaf
        value = torch.zeros_like(leaf[0])
        for s in range(1, t + 1):
            clock = code.clock(s)
            value = clock.alpha * value + clock.a * leaf[s - 1]
        return value

    return pytree.tree_map(one, events)


def split(value: Any, code: Any, T: int) -> Any:
    """Random, unequal events that decode to unrelated values on the way, and to ``value`` at step T; what is no float
    stays as it is."""

    def one(leaf):
        if not leaf.is_floating_point():
            return leaf
        path = torch.cat([torch.randn(T - 1, *leaf.shape, dtype=leaf.dtype), leaf[None]])
        steps = [(code.clock(t), path[t - 1], path[t - 2] if t > 1 else 0 * leaf) for t in range(1, T + 1)]
        return torch.stack([(now - clock.alpha * then) / clock.a for clock, now, then in steps])

    return pytree.tree_map(one, value)


def hold_events(inputs: tuple) -> bool:
    return any(leaf.is_floating_point() for leaf in pytree.tree_leaves(inputs))


def test_every_pattern_has_a_row():
    """P13 is refused, P14 and P15 are ways of calibrating; they have tests of their own below and in
    ``test_calibration`` and ``test_replace``."""
    found = {int(re.match(r"P(\d+) ", row.name)[1]) for row in ROWS}
    assert found == set(range(1, 27)) - {13, 14, 15}
    assert len({row.name for row in ROWS}) == len(ROWS)


def on_events(state: Any) -> Any:
    """The state with encoders that pass events on, so that what is linear cannot stay on decoded values."""
    after = {node.name for node in state.graph if node.op in ALWAYS_FLOAT}
    graph, params = with_wires(state.graph, state.params, after)
    return state.evolve(graph=graph, params=FrozenMap(params))


WAYS = {"on decoded values": lambda state: state, "on events": on_events}


#: Under every code, on decoded values and on events; and what the other front end gives, under TD.  The only output of
#: the row left out is a named tuple, behind which no encoder can stand; its other front end takes it apart.
CARRIED = [
    *((k, row.fronts[0], way, code) for k, row in enumerate(ROWS) for way in WAYS for code in CODES
      if (row.name, way) != ("P10 NamedTuple out", "on events")),
    *((k, front, "on decoded values", TD) for k, row in enumerate(ROWS) for front in row.fronts[1:]),
    *((k, "export", "on events", code) for k, row in enumerate(ROWS) if "NamedTuple" in row.name for code in CODES),
]  # fmt: skip


@pytest.mark.parametrize(("row", "front", "way", "code"), CARRIED,
                         ids=lambda value: ROWS[value].name if isinstance(value, int) else str(value))  # fmt: skip
def test_exact_at_every_prefix_of_any_split(row, front, way, code):
    _, inputs, _, state = made(row, front)
    snn = pipe(WAYS[way](state), td_rewrite(code=code), to_snn)
    want = wanted(row, *inputs)
    for T in (1, 2, 5):
        assert_exact(snn(*inputs, T=T), want)
        if hold_events(inputs):
            events = tuple(split(value, code, T) for value in inputs)
            y_seq = snn.sequence(*events)
            expected = [wanted(row, *(decode(value, code, t) for value in events)) for t in range(1, T + 1)]
            for t, now in enumerate(expected, 1):
                assert_exact(decode(y_seq, code, t), now)
            assert_exact(expected[-1], want)
            assert T == 1 or relative_error(expected[0], want) > 0.01  # there was something to follow


@each_row
def test_the_spiking_error_falls_as_one_over_t(row):
    """T error(T) stays bounded.  The decoded output of a neuron is that of its current up to its residual potential,
    which lies within about one threshold of where it began, over T; hence error(T) = K(T) / T, where K depends on
    T by where in that range the potentials happen to stand.  K is measured at small T; twice it bounds any phase.
    A constant error, a bias or a clipped activation, would give 509 / 61 = 8 times K."""
    case, (_, inputs, _, state) = ROWS[row], made(row, ROWS[row].fronts[0])
    snn = pipe(state, fuse, instrument(statistic=maximum()), calibrate([batch_of(inputs)]), to_snn)
    want = wanted(row, *inputs)
    assert len(snn.neurons()) == case.sites
    if case.sites == 0:
        return assert_exact(snn(*inputs, T=3), want)
    if case.name == "P25 QCFS":  # quantised: exact in as many steps as it has levels; more tell more of the current
        return assert_exact(snn(*inputs, T=4, schedule="layer"), want)
    *early, late = (relative_error(snn(*inputs, T=T), want) for T in STEPS)
    K = max(T * error for T, error in zip(STEPS, early, strict=False))
    assert 0 < late <= 2 * K / STEPS[-1] < 0.02
    return None


@each_row
def test_what_is_said_of_each_unit(row):
    """Neurons are binary; what lies between neurons and is not linear is graded, and is named."""
    case, (model, inputs, options, state) = ROWS[row], made(row, ROWS[row].fronts[0])
    verdict = check(model, **options)
    graded = [node for node in verdict.nodes if node.unit == "graded"]
    assert tuple(node.op for node in graded) == case.graded
    assert sum(node.unit == "binary" for node in verdict.nodes) == case.sites
    assert verdict.fully_spiking == (case.sites > 0 and not graded)
    snn = pipe(state, fuse, calibrate([batch_of(inputs)]), to_snn)
    assert [neuron.neuron.unit for neuron in snn.neurons().values()] == ["binary"] * case.sites
    line = re.search(r"not fully spiking, graded \(float\) units: (.*)", repr(snn))
    assert (line[1].split(", ") if line else []) == [node.path for node in graded]
    assert len([event for event in snn.history if event.action == "graded unit"]) == len(graded)


@each_front
def test_the_front_ends_say_the_same(row, front):
    model, _, options, _ = made(row, front)
    verdict = check(model, **options)
    assert verdict.front_end == {"symbolic": "torch.fx", "export": "torch.export"}[front]
    assert sum(node.unit == "binary" for node in verdict.nodes) == ROWS[row].sites
    assert verdict.fully_spiking == (ROWS[row].sites > 0 and not ROWS[row].graded)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: nn.Sequential(L(6, 6), m)], ids=["alone", "inside"])
@pytest.mark.parametrize("options", [{}, {"example": torch.zeros(2, 6)}], ids=["symbolic", "export"])
def test_p13_is_refused_with_the_line_and_the_hint(options, wrap):
    model = wrap(BranchOnData(a=L(6, 6), r=nn.ReLU()))
    before = snapshot(model)
    with pytest.raises(TraceError) as caught:
        pipe(model, trace(**options), td_rewrite, to_snn)
    assert line_of(BranchOnData.forward, "# here") in str(caught.value)
    assert "trace(leaves=(BranchOnData,))" in str(caught.value)
    assert line_of(BranchOnData.forward, "# here") in check(model, **options).refusal
    untouched(before, model)


FIRING = [k for k, row in enumerate(ROWS) if row.sites]


@pytest.mark.parametrize("statistic", [None, maximum()], ids=["percentile", "maximum"])
@pytest.mark.parametrize("row", FIRING, ids=lambda k: ROWS[k].name)
def test_p15_order_and_batching_change_nothing(row, statistic):
    """In order: bit by bit.  In one batch: a matrix product may round otherwise, and a value may cross into the next
    bin of a histogram, so thresholds agree to rounding for the maximum and to a bin for a percentile."""
    _, inputs, _, state = made(row, ROWS[row].fronts[0])
    first, second = (batch_of(pytree.tree_map(lambda leaf, part=part: leaf[part], inputs))
                     for part in (slice(1), slice(1, None)))  # fmt: skip
    measure = pipe(state, fuse, instrument if statistic is None else instrument(statistic=statistic))
    one, other = calibrate([first, second])(measure), calibrate([second, first])(measure)
    assert state_equal(one, other)
    if "no running statistics" in ROWS[row].name:
        return
    whole = calibrate([batch_of(inputs)])(measure)
    limit = BIN if statistic is None else EXACT
    for a, b in zip(to_snn(one).neurons().values(), to_snn(whole).neurons().values(), strict=True):
        assert_exact(a.threshold, b.threshold, limit)


def test_p14_a_dead_last_layer_gives_exactly_zero():
    model, x = settled(nn.Sequential(L(6, 8), nn.ReLU(), L(8, 4), nn.ReLU())), vectors()
    nn.init.constant_(model[2].bias, -100.0)
    assert not model(x).any()
    with pytest.warns(ThresholdWarning, match=r"never fired.*\b3\b"):
        snn = spiking(model, x)
    for T in (1, 8, 64):
        assert not snn(x, T=T).any()
    assert not pipe(model, trace, td_rewrite, to_snn).sequence(split(x, TD, 5)).any()


def test_p14_a_unit_that_first_fires_after_calibration_still_converges():
    """It has the largest threshold of its site, so what it can say is at most that."""
    model = settled(nn.Sequential(L(6, 3), nn.ReLU(), L(3, 4)))
    with torch.no_grad():
        model[0].weight[:] = torch.eye(3, 6)
        model[0].bias.zero_()
    silent, awake = vectors().abs(), torch.rand(16, 6, dtype=torch.float64)
    silent[:, 0] *= -1
    highest = silent.amax(0)
    highest[0] = highest[1:3].max()
    awake *= highest
    with pytest.warns(ThresholdWarning, match="1 of 3 channels"):
        snn = spiking(model, silent)
    assert model[:2](awake)[:, 0].all()
    assert_converges(snn, (awake,), model(awake))


@pytest.mark.parametrize("row", [k for k, row in enumerate(ROWS) if row.name[:4] in ("P3 r", "P16 ")],
                         ids=lambda k: ROWS[k].name)  # fmt: skip
def test_p16_a_model_in_training_mode_is_taken_in_evaluation_mode(row):
    model, inputs, _, state = made(row, "symbolic")
    training = copy.deepcopy(model).train()
    before = snapshot(training)
    assert digest(trace(training)) == digest(state)
    td = pipe(training, trace, td_rewrite, to_snn)
    assert_exact(td(*inputs, T=2), wanted(row, *inputs))
    untouched(before, training)


def test_what_these_tests_find_wrong():
    """The exact law notices the eleventh digit, another structure, and the classic bug, a bias at every step."""
    want = {"y": torch.randn(3, 2, dtype=torch.float64)}
    assert_exact(want, want)
    for wrong in ({"y": want["y"] * (1 + 1e-11)}, {"z": want["y"]}, {"y": want["y"].float()}, [want["y"]]):
        with pytest.raises(AssertionError):
            assert_exact(wrong, want)
    model, x = mlp(), vectors()
    at_every_step = pipe(model, trace, td_rewrite(code=RATE), to_snn).sequence(split(x, TD, 3))
    with pytest.raises(AssertionError):
        assert_exact(at_every_step.sum(0), model(x))


def test_events_decode_to_what_was_split():
    x = vectors()
    for code in CODES:
        events = split({"x": x}, code, 5)
        assert_exact(decode(events, code, 5), {"x": x})
        assert relative_error(decode(events, code, 4), {"x": x}) > 0.1
