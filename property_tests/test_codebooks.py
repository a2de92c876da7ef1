"""Codebooks: closed forms, alphabets, wires, the published recursions, bounds, gradients."""

import math
import re
from fractions import Fraction

import attrs
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import nn

from property_tests import tolerances
from property_tests.strategies import CODEBOOKS, codes, decode, few, run, soft
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    StageError,
    fixed,
    geometric,
    instrument,
    integrate_and_fire,
    leaky_integrate_and_fire,
    pipe,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.multilevel import burst, cascade, graded, group, one_of_n, st_bif
from snnpipe.kernels.neuron import check_code, check_signed, encoder
from snnpipe.rules.sites import Match
from snnpipe.stages.replace import settle

GRID = st.integers(-64, 64).map(lambda k: k / 8)
LEVELS = st.sampled_from([0.125, 0.5, 1.0, 2.0])
ONE = torch.ones(1, dtype=torch.float64)


def book(neuron):
    return neuron.options["codebook"]


def normal(steps, size, seed, scale=2.0):
    return scale * torch.randn(steps, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*, two_sided=False):
    """Neurons whose levels are all whole numbers of the smallest event and whose output has no bounds of its own."""
    return soft(two_sided=two_sided).filter(lambda neuron: neuron.name not in ("one_of_n", "st_bif"))


# what is said in all


@given(neuron=uniform(), z=st.lists(GRID, min_size=1, max_size=6), theta=LEVELS, steps=st.integers(1, 16))
@example(neuron=cascade(n=3), z=[-8.0, -0.125, 0.0, 0.125, 0.875, 8.0], theta=1.0, steps=5)
def test_a_constant_current_in_closed_form(neuron, z, theta, steps):
    """Under RATE: ``clip(floor((z T + v0) / smallest), 0, high T)`` smallest events, exactly."""
    out, _ = run(neuron, torch.tensor(z).double().expand(steps, -1), theta * ONE, RATE)
    smallest, start = theta / book(neuron).parts, neuron.options["v_init"]
    expected = [min(max(math.floor(c * steps / smallest + start), 0), steps * book(neuron).high) for c in z]
    assert (out.sum(0) / smallest).tolist() == expected


@given(neuron=uniform(two_sided=True), z=st.lists(GRID, min_size=1, max_size=6), theta=LEVELS, steps=st.integers(1, 16))
def test_a_constant_current_of_either_sign_in_closed_form(neuron, z, theta, steps):
    """The same from ``low T`` upwards where the value has both signs."""
    out, _ = run(neuron, torch.tensor(z).double().expand(steps, -1), theta * ONE, RATE, signed=True)
    smallest, start = theta / book(neuron).parts, neuron.options["v_init"]
    low, high = book(neuron).low * steps, book(neuron).high * steps
    expected = [min(max(math.floor(c * steps / smallest + start), low), high) for c in z]
    assert (out.sum(0) / smallest).tolist() == expected


def literal_cascade(m, theta, n):
    """The published loop: for each level, largest first, emit it and subtract it if the rest reaches it."""
    wires = []
    for i in range(n):
        level = theta / 2**i
        wires.append(level if m >= level else 0.0)
        m -= wires[-1]
    return wires


@given(m=GRID, theta=LEVELS, n=st.integers(1, 5))
def test_the_cascade_is_the_published_loop(m, theta, n):
    """Value and number of wires; below zero nothing, or the same with the sign turned at the smallest events."""
    neuron = cascade(n=n, two_sided=False, v_init=0.0)
    (s,), _ = run(neuron, torch.tensor([[m]]).double(), theta * ONE, RATE)
    wires = literal_cascade(m, theta, n)
    assert s.item() == sum(wires)
    assert neuron.spikes(s, theta * ONE, **neuron.options).item() == sum(wire != 0 for wire in wires)


@given(m=st.integers(1, 8), theta=st.floats(0.1, 3.0), code=codes(), seed=st.integers(0, 999))
def test_a_group_is_a_burst_of_smaller_events(m, theta, code, seed):
    """``group(m)`` at theta and ``burst(cap=m)`` at theta / m say the same, bit for bit, on m wires and on one."""
    currents, theta = normal(8, 5, seed), theta * ONE
    members, _ = run(group(m=m), currents, theta, code)
    bursts, _ = run(burst(cap=m), currents, theta / m, code)
    assert torch.equal(members, bursts)
    assert (group(m=m).wires, burst(cap=m).wires) == (m, 1)


@given(neuron=uniform(), z=st.lists(GRID, min_size=1, max_size=6), theta=LEVELS, steps=st.sampled_from([1, 2, 4, 8]))
def test_an_initial_potential_is_a_bias_spread_over_the_steps(neuron, z, theta, steps):
    """v0 and a current of v0 / T at each step give the same sum after T steps (RTS = OPI)."""
    start = neuron.options["v_init"] * theta / book(neuron).parts
    plain = attrs.evolve(neuron, options=neuron.options | {"v_init": 0.0})
    currents = torch.tensor(z).double().expand(steps, -1)
    shifted, _ = run(plain, currents + start / steps, theta * ONE, RATE)
    assert torch.equal(run(neuron, currents, theta * ONE, RATE)[0].sum(0), shifted.sum(0))


# what is said at each step


def parsed(text, theta):
    """The events an alphabet names, with ``k`` up to 10000 where it has no bound."""
    if match := re.fullmatch(r"\{k theta/?(\d*): k (?:= (-?\d+)\.\.(\d+)|whole)\}", text):
        parts, low, high = (int(group) if group else None for group in match.groups())
        return {k * (theta / (parts or 1)) for k in range(-10000 if low is None else low, (high or 10000) + 1)}
    if match := re.fullmatch(r"\{0, \+-theta/2\^k: k = 0\.\.(\d+)\}", text):
        return {0.0} | {sign * theta / 2**k for k in range(int(match[1]) + 1) for sign in (-1, 1)}
    match = re.fullmatch(r"\{(?:-theta/?(\d*), )?0, theta/?(\d*)\}", text)
    assert match, text
    return {0.0, theta / int(match[2] or 1), *([] if match[1] is None else [-theta / int(match[1] or 1)])}


@pytest.mark.parametrize("name", CODEBOOKS)
@given(data=st.data(), theta=LEVELS, code=codes(), seed=st.integers(0, 999), steps=st.integers(1, 12))
def test_every_event_is_in_the_alphabet(name, data, theta, code, seed, steps):
    neuron = data.draw(CODEBOOKS[name])
    facts = data.draw(st.sampled_from([{}, {"cap": 1.5}, *[{"signed": True}] * neuron.two_sided]))
    out, _ = run(neuron, normal(steps, 16, seed, theta), theta * ONE, code, **facts)
    assert set(out.flatten().tolist()) <= parsed(neuron.alphabet, theta)


@pytest.mark.parametrize(
    "neuron",
    [integrate_and_fire(), signed_memory(), burst(), burst(two_sided=True), group(), one_of_n(), cascade(),
     cascade(two_sided=False), st_bif(levels=8), graded(levels=7)],
    ids=str,
)  # fmt: skip
def test_every_letter_of_the_alphabet_is_used(neuron):
    sweep = torch.linspace(-16, 16, 1025, dtype=torch.float64).expand(2, -1)
    out, _ = run(neuron, sweep, ONE, RATE, **({"signed": True} if neuron.two_sided else {}))
    assert set(out.flatten().tolist()) == parsed(neuron.alphabet, 1.0)
    two_sided = out.min() < 0
    assert neuron.two_sided == two_sided


COUNTED = {
    "if": lambda q: q,
    "snm": abs,
    "burst": abs,
    "group": lambda q: sum(q >= k for k in range(1, 100)),  # the member with threshold k fires
    "one_of_n": lambda q: int(q != 0),
    "cascade": lambda q: bin(abs(q)).count("1"),
    "st_bif": abs,
    "graded": lambda q: int(q != 0),
}


@pytest.mark.parametrize("name", CODEBOOKS)
@given(data=st.data(), seed=st.integers(0, 999), theta=st.floats(0.1, 3.0), dtype=st.sampled_from([32, 64]))
def test_spikes_are_counted_wire_by_wire(name, data, seed, theta, dtype):
    neuron = data.draw(CODEBOOKS[name])
    dtype = {32: torch.float32, 64: torch.float64}[dtype]
    facts = {"signed": True} if neuron.two_sided else {}
    theta = torch.tensor([theta], dtype=dtype)
    out, _ = run(neuron, normal(6, 5, seed, 6.0).to(dtype), theta, RATE, **facts)
    levels = (out.double() * book(neuron).parts / theta.double()).flatten().tolist()
    found = neuron.spikes(out, theta, **neuron.options)
    assert not found.is_floating_point()
    assert found.flatten().tolist() == [COUNTED[name](round(q)) for q in levels]
    wires = 10**6 if name == "burst" else neuron.wires
    assert found.max() <= wires


def nearest(m, n):
    """One of 1, 1/2, ... by distance to |m|, 0 below three quarters of the last; upwards in the middle."""
    levels = [Fraction(1, 2**k) for k in range(n)]
    if abs(m) < levels[-1] * Fraction(3, 4):
        return 0
    return math.copysign(min(levels, key=lambda level: (abs(abs(m) - level), -level)), m)


@given(m=st.integers(-200, 200).map(lambda k: k / 64), n=st.integers(1, 5))
def test_one_of_n_takes_the_nearest_level(m, n):
    (s,), _ = run(one_of_n(n=n), torch.tensor([[m]]).double(), ONE, RATE, signed=True)
    assert s.item() == nearest(Fraction(m), n)


# the published recursions


def differential_neuron(currents, bias, theta, n, gated):
    """DCGS, as published, on plain numbers: the membrane, what came in and what went out, both decoded.

    Returns the events, and whether a comparison was too close to call: within far more than two ways of summing up
    may differ.
    """
    v, e_in, e_out, said, close = 0.0, bias, 0.0, [], False
    scale = sum(abs(current) + abs(bias) for current in currents) + theta * len(currents)
    margin = 1e3 * tolerances.membrane(DIFFERENTIAL, len(currents), scale, torch.float64)
    for t, current in enumerate(currents, 1):
        m = v + (current - bias) + e_in - e_out
        s = 0.0
        for k in range(n):
            level = theta / 2**k
            close |= abs(abs(m) - 0.75 * level) < margin or (gated and abs(t * e_out - level) < margin)
            if abs(m) >= 0.75 * level and (m > 0 or not gated or t * e_out >= level):
                s = math.copysign(level, m)
                break
        v = m - s
        e_in, e_out = e_in + (current - bias) / t, e_out + s / t
        said.append(s)
        assert abs(v - t * (e_in - e_out)) < margin  # the identity
    return said, close


@pytest.mark.parametrize("gated", [True, False])
@given(seed=st.integers(0, 9999), steps=st.integers(1, 24), n=st.integers(1, 6), theta=st.floats(0.2, 2.0))
def test_one_of_n_under_differential_is_the_dcgs_neuron(gated, seed, steps, n, theta):
    currents = normal(steps + 1, 1, seed, 1.0).flatten()
    bias, currents = currents[0].item(), currents[1:]
    currents[: steps // 2] += 2 * theta  # so that there is something to take back
    expected, close = differential_neuron(currents.tolist(), bias, theta, n, gated)
    assume(not close)
    kappa = torch.tensor([DIFFERENTIAL.clock(t).kappa for t in range(1, steps + 1)]).double()
    z = (currents - bias + kappa * bias)[:, None]  # a bias comes once
    out, _ = run(one_of_n(n=n), z, theta * ONE, DIFFERENTIAL, **({} if gated else {"signed": True}))
    assert out.flatten().tolist() == expected


@given(
    levels=st.sampled_from([1, 2, 3, 8, 15]), step=st.sampled_from([0.125, 0.5, 1.0]), signed=st.booleans(),
    x=st.lists(GRID, min_size=1, max_size=5), seed=st.integers(0, 99), over=st.integers(1, 6),
)  # fmt: skip
def test_st_bif_ends_at_the_quantised_activation(levels, step, signed, x, seed, over):
    """TD, the input in any portions, and then time to climb: ``clamp(floor(x / s + 1/2), low, levels) s``, exactly."""
    g = torch.Generator().manual_seed(seed)
    portions = torch.randint(-64, 65, (over - 1, len(x)), generator=g).double() / 8
    x = torch.tensor(x).double()
    rest = torch.zeros(2 * levels + 1, len(x)).double()  # from one bound to the other, one event in a step
    currents = torch.cat([portions, (x - portions.sum(0))[None], rest])
    out, _ = run(st_bif(levels=levels), currents, levels * step * ONE, TD, **({"signed": True} if signed else {}))
    low = -levels if signed else 0
    assert torch.equal(out.sum(0), torch.floor(x / step + 0.5).clamp(low, levels) * step)
    assert (out.cumsum(0) / step).max() <= levels
    assert (out.cumsum(0) / step).min() >= low


def test_st_bif_with_the_bounds_of_an_eight_bit_integer():
    out, _ = run(st_bif(levels=127, low=-128, parts=1), torch.tensor([[-500.0, 500.0]] + [[0.0, 0.0]] * 128), ONE, TD,
                 signed=True)  # fmt: skip
    assert out.sum(0).tolist() == [-128.0, 127.0]


@given(beta=st.sampled_from([2.0, 4.0]), seed=st.integers(0, 999), steps=st.integers(1, 8), theta=LEVELS)
def test_a_graded_neuron_is_never_further_off_than_half_a_step(beta, seed, steps, theta):
    """Progressive TD: enough levels for the input, then the error is at most ``theta beta^-t / 2``, and exponentially
    small; the sigma-delta neuron under TD keeps to theta / 2."""
    x = normal(1, 5, seed, 0.25 * theta * (beta - 1))
    assume(x.abs().max() <= theta * (beta - 1))
    for code, levels in ((geometric(beta), int(2 * beta * beta)), (TD, None)):
        kappa = torch.tensor([code.clock(t).kappa for t in range(1, steps + 1)]).double()[:, None]
        Y = decode(run(graded(levels=levels), kappa * x, theta * ONE, code, signed=True)[0], code)
        worth = torch.tensor([code.a(t) for t in range(1, steps + 1)]).double()[:, None]
        slack = tolerances.summed(torch.float64, steps, x.abs().max().item() + theta)
        assert ((Y - x).abs() <= theta * worth / 2 + slack).all()


@given(neuron=soft(), theta=LEVELS, code=codes(), seed=st.integers(0, 999), steps=st.integers(1, 12))
def test_it_is_the_encoder_with_the_relu_inside(neuron, theta, code, seed, steps):
    """``e_t = max(Z_t, 0) - alpha_t Y_{t-1}`` asks for the same events: a negative Z piles up no debt of its own."""
    currents, (codebook, start) = normal(steps, 5, seed), (book(neuron), neuron.options["v_init"])
    assume(codebook.bounds[1] == math.inf)
    smallest = theta / codebook.parts * ONE
    Z, sent, expected = torch.zeros(5).double(), torch.zeros(5).double(), []
    for t, z in enumerate(currents, 1):
        gain = code.clock(t).gain
        Z, sent = gain * Z + z, gain * sent  # both in events
        m = start * smallest + Z.clamp(min=0.0) - sent * smallest
        low = (-sent).clamp(codebook.low, 0.0) if neuron.two_sided else codebook.low
        q = codebook.quantise(m, smallest, low, codebook.high)
        sent = sent + q
        expected.append(q * smallest)
    assert torch.equal(run(neuron, currents, theta * ONE, code)[0], torch.stack(expected))


# bounds


@given(neuron=soft(), theta=LEVELS, code=codes(), seed=st.integers(0, 999), steps=st.integers(1, 16),
       cap=st.sampled_from([None, 0.5, 1.0, 6.0]))  # fmt: skip
def test_where_it_stands_for_a_relu_it_decodes_to_nothing_negative_and_to_nothing_above_the_cap(
    neuron, theta, code, seed, steps, cap
):
    out, _ = run(neuron, normal(steps, 5, seed, 4.0), theta * ONE, code, **({} if cap is None else {"cap": cap}))
    Y = decode(out, code)
    slack = tolerances.summed(torch.float64, steps, 1.0 + Y.abs().max().item())
    assert Y.min() >= -slack
    assert cap is None or Y.max() <= cap + slack


@given(neuron=soft(two_sided=True), seed=st.integers(0, 99), code=st.sampled_from([RATE, TD, DIFFERENTIAL]))
def test_where_the_value_has_both_signs_it_follows_below_zero(neuron, seed, code):
    currents = -1.0 - normal(12, 5, seed, 0.25).abs()
    gated, free = (run(neuron, currents, ONE, code, **facts)[0] for facts in ({}, {"signed": True}))
    assert (gated == 0).all()
    assert (decode(free, code)[-1] < 0).all()


@given(neuron=soft(), z=st.floats(0.1, 20.0), code=st.sampled_from([RATE, TD]))
def test_a_cap_is_reached(neuron, z, code):
    """A constant above the cap ends at the largest multiple of its smallest event that the cap allows."""
    steps, cap = 96, 1.0
    assume(book(neuron).bounds[1] == math.inf and neuron.name != "one_of_n" and (code is TD or book(neuron).top >= cap))
    kappa = torch.tensor([code.clock(t).kappa for t in range(1, steps + 1)]).double()[:, None]
    Y = decode(run(neuron, kappa * (z + cap), ONE, code, cap=cap)[0], code)[-1].item()
    assert abs(Y - cap) <= tolerances.summed(torch.float64, steps, cap)


@pytest.mark.parametrize(
    "neuron", [integrate_and_fire(), burst(two_sided=True), cascade(n=3), one_of_n(), graded(parts=8)], ids=str
)
@pytest.mark.parametrize("code", [RATE, TD, DIFFERENTIAL, geometric(2.0)], ids=str)
def test_a_relu6_stays_a_relu6(neuron, code):
    """Under every code, whatever the neuron could say in a step."""
    model = nn.Sequential(nn.ReLU6(), nn.Identity()).double()
    x = torch.tensor([[-3.0, 1.0, 5.0, 7.0, 40.0]]).double()
    snn = pipe(model, trace, replace(neuron=neuron), td_rewrite(code=code), to_snn)
    every = snn(x, T=32, readout="every")
    assert every.max() <= 6.0 + tolerances.summed(torch.float64, 32, 6.0)
    if neuron.two_sided and (neuron.name != "one_of_n" or code is TD):  # to within the smallest event
        assert (every[-1] - model(x)).abs().max() <= code.a(32) * 6.0 / book(neuron).parts


def test_a_cap_that_an_average_keeps_anyway_costs_nothing():
    state = pipe(nn.Sequential(nn.ReLU6()), trace, replace)
    (node,) = [node for node in state.graph if node.op == "encode"]
    assert node["cap"] == 6.0
    assert "cap" not in settle(state.graph, state.params, RATE)[node.name].operands
    assert settle(state.graph, state.params, TD) is state.graph
    bursting = pipe(nn.Sequential(nn.ReLU6()), trace, replace(neuron=burst(cap=2)))
    assert settle(bursting.graph, bursting.params, RATE) is bursting.graph
    x = torch.linspace(-1, 9, 21)[None]
    spared = state.evolve(graph=settle(state.graph, state.params, RATE))
    assert torch.equal(to_snn(spared)(x, T=13), to_snn(state)(x, T=13))


# sites of either sign


def signed_relu(node, graph):
    """A site of either sign where the network has a ReLU."""
    return Match(node["input"], signed=True) if node.op == "relu" else None


def with_signed_sites(model):
    return pipe(model, trace, instrument(rules=(signed_relu,)))


@given(neuron=soft(two_sided=True), code=codes(), seed=st.integers(0, 99))
@few(0.5)
def test_a_site_of_either_sign_tells_its_neuron(neuron, code, seed):
    assume(not neuron.objection(code))
    state = with_signed_sites(nn.Sequential(nn.ReLU(), nn.Identity()).double())
    snn = pipe(state, replace(neuron=neuron, threshold=fixed(1.0)), td_rewrite(code=code), to_snn)
    x_seq = normal(5, 4, seed)[:, None]
    expected = decode(run(neuron, x_seq, ONE, code, signed=True)[0], code)
    scale = 1.0 + expected.abs().max().item()
    assert (decode(snn.sequence(x_seq), code) - expected).abs().max() <= tolerances.summed(torch.float64, 5, scale)
    assert "two-sided" in repr(snn)


@pytest.mark.parametrize("neuron", [integrate_and_fire(), burst(), group(), cascade(two_sided=False)], ids=str)
def test_a_site_of_either_sign_refuses_events_of_one(neuron):
    state = with_signed_sites(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(StageError, match=r"1  .*\n.*3  (.|\n)*write cascade\(n=4\)"):
        replace(state, neuron=neuron, threshold=fixed(1.0))
    with pytest.raises(StageError, match="says nothing below zero"):
        check_signed(neuron)
    with pytest.raises(StageError, match="says nothing below zero"):
        neuron.init(ONE, **neuron.options, signed=True)
    for other in (signed_memory(), cascade(), one_of_n(), graded(), st_bif(), burst(two_sided=True)):
        check_signed(other)


def test_a_neuron_that_forgets_is_refused_where_nothing_is_repeated():
    for neuron in (leaky_integrate_and_fire(tau=2.0), integrate_and_fire(v_reset=0.0)):
        check_code(neuron, RATE)
        for code in (TD, DIFFERENTIAL, geometric(2.0)):
            with pytest.raises(StageError, match=r"cannot run under .*forgets charge.*td_rewrite\(code=RATE\)"):
                check_code(neuron, code)
            state = pipe(nn.Sequential(nn.ReLU(), nn.ReLU()), trace, replace(neuron=neuron, threshold=fixed(1.0)))
            with pytest.raises(StageError, match=r"(?s)\(0\): .*\(1\): "):
                settle(state.graph, state.params, code)
    for neuron in (integrate_and_fire(), signed_memory(), cascade(), st_bif()):
        check_code(neuron, TD)


def test_st_bif_is_refused_where_its_events_cannot_add_up():
    for code in (RATE, DIFFERENTIAL, geometric(2.0)):
        with pytest.raises(StageError, match=r"st_bif\(levels=15, v_init=0.5\) cannot run under .*code=TD"):
            check_code(st_bif(), code)


@pytest.mark.parametrize("make", [burst, group, one_of_n, cascade, st_bif, graded], ids=lambda make: make.__name__)
@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_a_size_is_a_whole_number(make, count):
    option = {burst: "cap", group: "m", one_of_n: "n", cascade: "n", st_bif: "levels", graded: "levels"}[make]
    with pytest.raises(ValueError, match=rf"{make.__name__}: {option} must be a whole number of at least 1"):
        make(**{option: count})


def test_equal_neurons_are_equal():
    for make in (integrate_and_fire, signed_memory, burst, group, one_of_n, cascade, st_bif, graded):
        assert make() == make()
        assert hash(make()) == hash(make())
    assert cascade(n=3) != cascade(n=4)


# gradients


@given(neuron=soft(), theta=LEVELS, code=codes(), seed=st.integers(0, 999), steps=st.integers(1, 6))
def test_events_with_a_gradient_are_the_same_events(neuron, theta, code, seed, steps):
    currents = normal(steps, 5, seed)
    found, _ = run(neuron, currents.clone().requires_grad_(), theta * ONE, code)
    assert found.requires_grad
    assert torch.equal(found, run(neuron, currents, theta * ONE, code)[0])


@given(theta=LEVELS, parts=st.sampled_from([1, 8]), code=codes(), seed=st.integers(0, 999), steps=st.integers(1, 6))
def test_what_never_saturates_has_the_gradient_of_what_it_encodes(theta, parts, code, seed, steps):
    """Straight through, under every code: dY_T / dz_t = dZ_T / dz_t."""
    currents = normal(steps, 5, seed).requires_grad_()
    out, _ = run(graded(parts=parts), currents, theta * ONE, code, signed=True)
    found, expected = (torch.autograd.grad(decode(x, code)[-1].sum(), currents)[0] for x in (out, currents * 1.0))
    scale = expected.abs().max().item()
    assert (found - expected).abs().max() <= tolerances.summed(torch.float64, steps, scale)


@given(neuron=uniform(), share=st.integers(1, 15).map(lambda k: k / 16), steps=st.integers(1, 8))
def test_under_rate_the_gradient_is_that_of_the_clipped_relu(neuron, share, steps):
    """1 between 0 and the largest event, 0 below and far above."""
    top = 4.0 if math.isinf(book(neuron).top) else book(neuron).top
    z = torch.tensor([share * top, -0.75 - share, 3 * top]).double().requires_grad_()
    Y = decode(run(neuron, z.expand(steps, -1), ONE, RATE)[0], RATE)[-1]
    (slope,) = torch.autograd.grad(Y.sum(), z)
    expected = torch.tensor([1.0, 0.0, 1.0 if math.isinf(book(neuron).top) else 0.0])
    assert (slope - expected).abs().max() <= tolerances.summed(torch.float64, steps, 1.0)


@given(neuron=uniform(), z=st.floats(-3.0, 12.0), theta=st.floats(0.25, 2.0))
def test_the_threshold_learns_as_in_lsq(neuron, z, theta):
    """``ds / d smallest = q - z / smallest`` in range and q outside (the start moves with the threshold)."""
    codebook, start = book(neuron), neuron.options["v_init"]
    t = torch.tensor([theta], dtype=torch.float64, requires_grad=True)
    (s,), _ = run(neuron, torch.tensor([[z]], dtype=torch.float64), t, RATE)
    (slope,) = torch.autograd.grad(s, t)
    smallest = theta / codebook.parts
    u, q = z / smallest + start, s.item() / smallest
    assume(all(abs(u - k) > tolerances.summed(torch.float64, 4, 1.0 + abs(u)) for k in (0, codebook.high + 1)))
    inside = 0 < u < codebook.high + 1  # nothing was sent yet, so nothing can be taken back
    expected = (q - z / smallest * inside) / codebook.parts
    assert abs(slope.item() - expected) <= tolerances.summed(torch.float64, 4, 1.0 + abs(u) + q)


@pytest.mark.parametrize(
    ("neuron", "code"),
    [(neuron, code) for neuron in (integrate_and_fire(), signed_memory(), cascade(), one_of_n(), burst(), st_bif())
     for code in (RATE, TD, DIFFERENTIAL) if not neuron.objection(code)], ids=str,
)  # fmt: skip
def test_a_converted_network_can_be_fine_tuned(neuron, code):
    """Ordinary training, of weights and thresholds, on a task of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
        x = torch.randn(128, 6)
    snn = pipe(model, trace, replace(neuron=neuron, threshold=fixed(1.0)), td_rewrite(code=code), to_snn)
    snn.requires_grad_()
    thresholds = [made.threshold.requires_grad_() for made in snn.neurons().values()]
    optimiser = torch.optim.Adam([*snn.parameters(), *thresholds], lr=1e-2)
    target = x[:, :3].abs() + x[:, 3:]
    losses = []
    for _ in range(40):
        loss = (snn(x, T=4) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(theta.grad is not None and theta.grad.abs().sum() > 0 for theta in thresholds)
    assert all(weight.grad.abs().sum() > 0 for weight in snn.parameters())
    assert min(losses[-5:]) < 0.6 * losses[0]


def test_without_a_gradient_no_graph_is_kept():
    theta = ONE.clone().requires_grad_()
    with torch.no_grad():
        out, potentials = run(cascade(), normal(3, 4, 0), theta, RATE)
    assert not out.requires_grad
    assert not potentials.requires_grad


def test_a_codebook_of_ones_own():
    """Levels that are not evenly spaced, as in non-uniform one-step conversion, need a function and a line of data."""

    def nearest_square(m, smallest, low, high):
        return torch.floor((m / smallest).clamp(min=0.0).sqrt() + 0.5).square().clamp(low, high)

    squares = encoder(Codebook("squares", nearest_square, "multi-level", 0, 9, 9, 3, "{k^2 theta/9: k = 0..3}"))
    currents = torch.randint(-16, 17, (9, 5), generator=torch.Generator().manual_seed(1)).double() / 2
    out, potentials = run(squares, currents, 9 * ONE, RATE)
    assert set(out.flatten().tolist()) == {0.0, 1.0, 4.0, 9.0}
    assert torch.equal(out.sum(0) + potentials[-1] - 0.5, currents.sum(0))
