"""Purity: whatever a stage does, on success or failure, what it was given stays as it was.

The nets are those of ``purity.py``; that each of them can catch something is tested in ``test_purity_nets.py``.
"""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from property_tests import purity
from property_tests.strategies import BLOCKS, Net, few, inputs, nets, relu_nets
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    ConversionState,
    SnnpipeError,
    SpikingNetwork,
    ThresholdWarning,
    absorb,
    balance,
    calibrate,
    correct_bias,
    correct_weights,
    ema,
    fixed,
    fuse,
    instrument,
    low_pass,
    maximum,
    percentile,
    quantise_weights,
    replace,
    signed_memory,
    state_equal,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)
from snnpipe.ops.lift import has_neurons

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")  # a drawn network may have no ReLU


def data_for(net: Net) -> list[torch.Tensor]:
    return [inputs(net, seed) for seed in (1, 2)]


def edit(state: ConversionState) -> ConversionState:
    return state.edit(lambda gm: None)


def stages(net: Net) -> dict[str, Any]:
    """Every stage, in a few configurations."""
    return {
        "fuse": fuse, "instrument": instrument, "instrument max": instrument(statistic="max"),
        "instrument ema": instrument(statistic=ema()), "calibrate": calibrate(data_for(net)),
        "replace": replace, "replace snm": replace(neuron=signed_memory()),
        "replace fixed": replace(threshold=fixed(1.0)),
        "replace percentile": replace(threshold=percentile(90.0)), "td": td_rewrite, "rate": td_rewrite(code=RATE),
        "differential": td_rewrite(code=DIFFERENTIAL), "low pass": td_rewrite(code=low_pass(4.0)),
        "bias": correct_bias(data_for(net), T=2), "weights": correct_weights(data_for(net), T=2, epochs=1),
        "balance": balance(data_for(net), T=2), "edit": edit, "absorb": absorb, "quantise": quantise_weights,
        "to_module": to_module, "to_snn": to_snn,
    }  # fmt: skip


def walks() -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(stages(Net(False, ("affine",), (0,), (0,), "none")))), max_size=6)


def reached(net: Net, names: list[str]) -> list[ConversionState]:
    """The states on the way; a stage that refuses is left out."""
    states = [trace(net)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ThresholdWarning)
        for name in names:
            try:
                result = stages(net)[name](states[-1])
            except SnnpipeError:
                continue
            if isinstance(result, ConversionState):
                states.append(result)
    return states


@given(net=nets(), training=st.booleans())
def test_trace_leaves_the_model_alone_and_shares_nothing_with_it(net, training):
    net.train(training)
    with purity.unchanged(net), purity.WriteGuard(net):
        state = trace(net)
    purity.assert_disjoint(net, state)
    assert purity.loose(state) == []
    assert state_equal(state, trace(net))


@given(net=nets(), names=walks())
def test_any_order_of_stages_works_or_gives_a_named_error_and_is_pure(net, names):
    with warnings.catch_warnings(), purity.unchanged(net):
        warnings.simplefilter("ignore", ThresholdWarning)
        value: Any = trace(net)
        for name in names:
            before, stage = value, stages(net)[name]
            with purity.unchanged(before), purity.WriteGuard(before, net):
                try:
                    value = stage(before)
                except SnnpipeError:
                    continue
            if not isinstance(value, ConversionState):
                purity.assert_disjoint(value, before)
                out = value(inputs(net, 3), T=2) if isinstance(value, SpikingNetwork) else value(inputs(net, 3))
                assert all(bool(torch.isfinite(leaf).all()) for leaf in tree_leaves(out))
                value = before
                continue
            assert purity.loose(value) == []
            kept = value.params.keys() & before.params.keys()
            assert all(value.params[key] is before.params[key] for key in kept), "an untouched parameter was copied"


LAST = st.sampled_from(["fuse", "instrument", "calibrate", "replace fixed", "absorb", "quantise", "td", "edit"])


@few(0.6)
@given(net=nets(), names=walks(), last=LAST)
def test_a_stage_run_twice_gives_the_same(net, names, last):
    state = reached(net, names)[-1]
    found = []
    for _ in range(2):
        try:
            found.append(stages(net)[last](state))
        except SnnpipeError as error:
            found.append(str(error))
    a, b = found
    assert a == b if isinstance(a, str) else state_equal(a, b)


@few(0.6)
@given(net=relu_nets(heads=("classes",)), names=walks())
def test_an_edit_that_changes_nothing_changes_nothing(net, names):
    """At any point of the way, neurons in place or not: the same network comes out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ThresholdWarning)
        for state in reached(net, [*names, "replace fixed"]):
            try:
                edited = edit(state)
            except SnnpipeError:
                continue
            a, b = (to_snn(s if has_neurons(s.graph) else replace(threshold=fixed(1.0))(s)) for s in (state, edited))
            x = inputs(net, 3)
            assert torch.equal(a(x, T=3), b(x, T=3))


@few(0.4)
@given(net=relu_nets())
def test_forks_of_one_state_are_independent(net):
    state = calibrate(data_for(net))(fuse(trace(net)))
    x = inputs(net, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ThresholdWarning)
        a, b = replace(state), replace(neuron=signed_memory(), threshold=maximum())(state)
        fresh = replace(calibrate(data_for(net))(fuse(trace(net))))
        assert state_equal(a, fresh)
        first, other = to_snn(a), to_snn(b)
        expected = [leaf.clone() for leaf in tree_leaves(first(x, T=3))]
        with torch.no_grad():
            for p in [*other.parameters(), *other.buffers()]:
                p.copy_(torch.ones_like(p))
        assert all(map(torch.equal, tree_leaves(first(x, T=3)), expected))
        assert all(map(torch.equal, tree_leaves(to_snn(a)(x, T=3)), expected))


@few(0.4)
@given(net=nets(heads=("classes",)), names=walks())
def test_the_users_later_changes_and_training_the_result_do_not_reach_the_state(net, names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ThresholdWarning)
        state = reached(net, names)[-1]
        try:
            snn = to_snn(state)
        except SnnpipeError:
            return
        before = purity.result_content(snn)
        with purity.unchanged(state), torch.no_grad():
            for p in [*net.parameters(), *net.buffers()]:
                p.zero_()
        assert purity.result_content(snn) == before
        with purity.unchanged(state, net):
            trained = snn.requires_grad_()
            trained(inputs(net, 3), T=2).sum().backward()
            torch.optim.SGD(trained.parameters(), lr=1.0).step() if list(trained.parameters()) else None


@few(0.6)
@given(net=nets(), steps=st.integers(1, 3))
def test_running_changes_neither_network_nor_inputs_nor_state(net, steps):
    snn = to_snn(td_rewrite(trace(net)))
    x = inputs(net, 3)
    with torch.no_grad(), purity.unchanged(snn, x), purity.WriteGuard(snn, x):
        snn(x, T=steps)
        first, _ = snn.step(snn.init(), x)
        held = tree_leaves([dict(first.cells), dict(first.statics), first.decoded])
        held = [leaf for leaf in held if isinstance(leaf, torch.Tensor)]
        with purity.unchanged(*held), purity.WriteGuard(held):
            a, b = snn.step(first, x), snn.step(first, x)
        assert all(map(torch.equal, tree_leaves(a[1]), tree_leaves(b[1])))


def broken_loader(net: Net):
    yield inputs(net, 1)
    raise OSError("the disk is gone")


FAILURES = {
    "nan": (lambda net: calibrate([inputs(net, 1), inputs(net, 2) * float("nan")]), SnnpipeError),
    "inf": (lambda net: calibrate([inputs(net, 1), inputs(net, 2) * float("inf")]), SnnpipeError),
    "empty": (lambda net: calibrate([]), SnnpipeError),
    "empty batch": (lambda net: calibrate([inputs(net, 1)[:0]]), SnnpipeError),
    "loader": (lambda net: calibrate(broken_loader(net)), OSError),
    "no tensor": (lambda net: calibrate([inputs(net, 1), object()]), SnnpipeError),
    "threshold rule": (lambda net: replace(threshold=lambda site, summary: torch.tensor([-1.0])), SnnpipeError),
    "rule raises": (lambda net: replace(rules=(lambda site, neuron: 1 / 0,), threshold=fixed(1.0)), ZeroDivisionError),
    "fuse rule": (lambda net: fuse(rules=(lambda node, graph, params: 1 / 0,)), ZeroDivisionError),
    "nothing measured": (lambda net: replace, SnnpipeError),
    "option": (lambda net: fuse(rule=()), SnnpipeError),
}


@pytest.mark.parametrize("failure", FAILURES)
@few(0.3)
@given(net=relu_nets().filter(lambda net: any("relu" in b for b in net.recipe[1])))
def test_nothing_changes_when_a_stage_fails(failure, net):
    make, expected = FAILURES[failure]
    state = instrument(trace(net))
    with purity.unchanged(net, state), purity.WriteGuard(net, state), pytest.raises(expected):
        make(net)(state)
    assert state_equal(state, instrument(trace(net)))


def test_every_block_can_be_drawn_and_traced():
    for name in BLOCKS:
        for image in (False, True):
            trace(Net(image, (name, name), (0, 1, 0), (0, 1, 2), "dict"))
