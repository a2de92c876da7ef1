"""Absorbing thresholds: the network in other scales is the network; what is called whole is whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._pytree import tree_leaves

from property_tests import tolerances
from property_tests.strategies import codes, few, inputs, nets, neurons, soft
from snnpipe import (
    AKIDA_1,
    LOIHI_2,
    SPECK_2E,
    TD,
    ConversionState,
    SnnpipeError,
    absorb,
    calibrate,
    check,
    correct_threshold,
    fuse,
    pipe,
    quantise_weights,
    replace,
    td_rewrite,
    to_snn,
    trace,
    wave,
    wires,
)
from snnpipe.ops.lift import has_neurons
from snnpipe.ops.modules import SpikingNeuron

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning", "ignore::snnpipe.ThresholdWarning")
STEPS = st.integers(1, 6)


def spiking(net: Any, x: Tensor, neuron: Any) -> ConversionState:
    """The network with neurons; a drawn one that cannot have them does not count."""
    try:
        state = pipe(net.double().eval(), trace, fuse, calibrate([x]), replace(neuron=neuron))
    except SnnpipeError:
        assume(False)
    assume(has_neurons(state.graph))
    return state


def in_powers_of_two(state: ConversionState) -> ConversionState:
    return state.evolve(params={key: 2.0 ** value.log2().round() if key.endswith(".threshold") else value
                                for key, value in state.params.items()})  # fmt: skip


@contextmanager
def sent() -> Iterator[dict[SpikingNeuron, list[Tensor]]]:
    """What each neuron sends while this is open."""
    found: dict[SpikingNeuron, list[Tensor]] = {}
    whole = {name: getattr(SpikingNeuron, name) for name in ("forward", "scan")}

    def watched(name: str) -> Any:
        def run(self: SpikingNeuron, *args: Any, **options: Any) -> Any:
            answer = whole[name](self, *args, **options)
            found.setdefault(self, []).append(answer[0].clone())
            return answer
        return run

    for name in whole:
        setattr(SpikingNeuron, name, watched(name))
    try:
        yield found
    finally:
        for name, fn in whole.items():
            setattr(SpikingNeuron, name, fn)


def outputs(snn: Any, x: Tensor, **options: Any) -> list[Tensor]:
    with torch.no_grad():
        return tree_leaves(snn(x, **options))


@few(0.8)
@given(net=nets(), neuron=neurons(), code=codes(), T=STEPS, K=st.integers(1, 3), seed=st.integers(0, 999))
def test_units_that_are_powers_of_two_change_no_bit(net, neuron, code, T, K, seed):
    x = inputs(net, seed, dtype=torch.float64)
    state = in_powers_of_two(spiking(net, x, neuron))
    absorbed = absorb(state)
    try:
        snns = [pipe(made, td_rewrite(code=code), to_snn) for made in (state, absorbed)]
    except SnnpipeError:
        return  # the code has no use for the neuron
    for a, b in zip(*(outputs(snn, x, T=T, schedule=wave(K)) for snn in snns), strict=True):
        assert torch.equal(a, b) or (a.isnan() & b.isnan()).any()


@few(0.4)
@given(net=nets(), neuron=soft(), T=STEPS, seed=st.integers(0, 999))
def test_other_units_change_no_more_than_rounding(net, neuron, T, seed):
    x = inputs(net, seed, dtype=torch.float64)
    state = spiking(net, x, neuron)
    first, second = (pipe(made, td_rewrite(code=TD), to_snn) for made in (state, absorb(state)))
    bound = tolerances.absorbing(first, x, T)
    for a, b in zip(outputs(first, x, T=T), outputs(second, x, T=T), strict=True):
        assert (a - b).abs().nan_to_num(0.0).max() <= bound


@few(0.5)
@given(net=nets(), neuron=soft(), T=STEPS, seed=st.integers(0, 999))
def test_whole_wires_carry_whole_numbers(net, neuron, T, seed):
    x = inputs(net, seed)
    absorbed = absorb(spiking(net, x.double(), neuron))
    snn = pipe(absorbed, td_rewrite(code=TD), to_snn)
    by_path = dict(snn.named_modules())
    with sent() as found:
        outputs(snn, x.double(), T=T)
    for wire in wires(snn):
        said = found.get(by_path[wire.path], [])
        assert wire.whole != bool(wire.reason)
        if wire.whole:
            assert all(torch.equal(events, events.round()) for events in said)
            assert all((events >= wire.low).all() and (events <= wire.high).all() for events in said)


@few(0.5)
@given(net=nets(), neuron=soft(), seed=st.integers(0, 999))
def test_absorbing_again_changes_nothing(net, neuron, seed):
    x = inputs(net, seed, dtype=torch.float64)
    absorbed = absorb(spiking(net, x, neuron))
    assert absorb(absorbed) is absorbed
    assert wires(absorbed) == wires(pipe(absorbed, td_rewrite(code=TD), to_snn))
    told = {event.subject: event.action for event in absorbed.history if event.stage == "absorb"}
    assert all(told.get(wire.path) == "not absorbed" for wire in wires(absorbed) if not wire.whole)


@few(0.3)
@given(net=nets(), neuron=soft(), seed=st.integers(0, 999))
def test_corrections_before_and_after_do_the_same(net, neuron, seed):
    x = inputs(net, seed, dtype=torch.float64)
    state = in_powers_of_two(spiking(net, x, neuron))
    correct = correct_threshold([x], T=4, code=TD)
    lifted = (td_rewrite(code=TD), to_snn)
    before, after = pipe(state, correct, absorb, *lifted), pipe(state, absorb, correct, *lifted)
    for a, b in zip(outputs(before, x, T=4), outputs(after, x, T=4), strict=True):
        assert torch.equal(a, b) or (a.isnan() & b.isnan()).any()


@few(0.4)
@given(net=nets(), neuron=soft(), target=st.sampled_from([SPECK_2E, AKIDA_1, LOIHI_2]), seed=st.integers(0, 999))
def test_a_chip_takes_a_network_as_it_takes_its_state(net, neuron, target, seed):
    x = inputs(net, seed, dtype=torch.float64)
    state = quantise_weights(per="layer")(absorb(spiking(net, x, neuron)))
    found = check(state, target=target)
    assert found.limits == check(pipe(state, td_rewrite(code=TD), to_snn), target=target).limits
    assert all(limit.what and limit.fix for limit in found.limits)
    assert found.fits == (not found.limits)
