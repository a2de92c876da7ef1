"""What is saved is what is loaded, whatever the network; channels are counted right or not at all."""

import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies import few, inputs, relu_nets
from snnpipe import (
    SITE_RULES,
    TRANSFORMER_RULES,
    calibrate,
    instrument,
    load_statistics,
    maximum,
    merge_statistics,
    percentile,
    pipe,
    save_statistics,
    state_equal,
    threshold_iteration,
    trace,
)  # fmt: skip
from snnpipe.rules.channels import channels
from tests.catalogue import CASES, NAMES

RULES = [maximum(), maximum(per="neuron"), percentile(99.0), percentile(99.0, per="layer"), threshold_iteration(4)]


def stored(state, base):
    """The state that comes out of a file of the state's statistics."""
    with tempfile.TemporaryDirectory() as folder:
        save_statistics(state, f"{folder}/statistics.pt")
        return load_statistics(f"{folder}/statistics.pt")(base)


@few(0.6)
@given(relu_nets(), st.sampled_from(RULES), st.integers(0, 99))
def test_what_is_saved_is_what_is_loaded(net, rule, seed):
    base = pipe(net, trace, instrument(statistic=rule))
    state = calibrate([inputs(net, seed)])(base)
    if state.statistics:
        assert state_equal(stored(state, base), state)
        assert merge_statistics(state)(stored(state, base)).statistics.keys() == state.statistics.keys()


@pytest.mark.filterwarnings("ignore:no site for a neuron")
@pytest.mark.parametrize("rules", [SITE_RULES, TRANSFORMER_RULES], ids=["activations", "products"])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_channels_are_counted_right_or_not_at_all(case, rules):
    model, args = case.ready()
    base = pipe(model, trace(**case.options), instrument(rules=rules, statistic=maximum()))
    if not base.sites:
        pytest.skip("no sites")
    state = calibrate([args], forward=lambda run, given: run(*given))(base)
    found = channels(state.graph, state.params)
    known = {node: site.input for node, site in state.sites.items() if site.axis is not None and site.input in found}
    assert all(len(state.statistics[node].max) == found[value] for node, value in known.items())
    assert state_equal(stored(state, base), state)
