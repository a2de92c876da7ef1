"""A drawn network in NIR: by NIR's own equations it sends the same spikes, and what is read back is the network."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests import nir_reference as reference
from property_tests.strategies import few, inputs, nets
from snnpipe import (
    RATE,
    SiteWarning,
    ThresholdWarning,
    UnsupportedError,
    burst,
    calibrate,
    cascade,
    from_nir,
    fuse,
    group,
    instrument,
    integrate_and_fire,
    maximum,
    pipe,
    replace,
    td_rewrite,
    to_nir,
    to_snn,
    trace,
)

pytest.importorskip("nir")

BLOCKS = ("affine", "affine_relu", "residual_relu", "relu6", "relu_0", "relu_3", "leaky_relu")
START = st.sampled_from([0.0, 0.25, 0.5])
NEURONS = st.one_of(
    st.builds(lambda v: integrate_and_fire(v_init=v), START),
    st.builds(lambda v: integrate_and_fire(v_init=v, v_reset=v), START),
    st.builds(lambda n, v: burst(cap=n, v_init=v), st.integers(1, 3), START),
    st.builds(lambda n, v: group(m=2**n, v_init=v), st.integers(0, 2), START),
    st.builds(lambda n, v: cascade(n=n, two_sided=False, v_init=v), st.integers(1, 3), START),
)


def converted(net, x, neuron, per):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ThresholdWarning)
        warnings.simplefilter("ignore", SiteWarning)
        measured = pipe(net, trace, fuse, instrument(statistic=maximum(per=per)), calibrate([x]))
        return reference.on_grid(pipe(measured, replace(neuron=neuron), td_rewrite(code=RATE), to_snn))


def written(snn, x, **options):
    """The graph, or why there is none."""
    try:
        return to_nir(snn, x, **options), ""
    except UnsupportedError as error:
        return None, str(error)


@few(0.6)
@given(
    net=nets(kinds=BLOCKS, heads=("none", "classes"), max_blocks=3), neuron=NEURONS, seed=st.integers(0, 99),
    profile=st.sampled_from(["exact", "exact", "hardware"]), T=st.integers(1, 8), dt=st.sampled_from([1.0, 0.25]),
)  # fmt: skip
def test_the_graph_sends_the_same_spikes_and_is_the_network(net, neuron, seed, profile, T, dt):
    x = inputs(net, seed, grid=True)
    snn = converted(net, x, neuron, "layer" if profile == "hardware" else "channel")
    graph, refused = written(snn, x, profile=profile, dt=dt)
    if graph is None:
        chips = ("NIR's IF", "NIR's layers", "place to place") if profile == "hardware" else ()
        assert any(words in refused for words in (*chips, "remembers what it sent"))  # a burst may exceed a cap
        return
    again = to_snn(from_nir(graph, dt=dt))
    want = reference.trains(snn, x, T)
    sent, outputs = reference.run(graph, x, T, dt)
    assert want.keys() == sent.keys()
    assert all(torch.equal(train, sent[name]) for name, train in want.items())
    y = snn(x, T=T)
    bound = 8 * T * torch.finfo(y.dtype).eps * (1 + y.abs().max())  # the mean of T outputs, added in another order
    assert (outputs.mean(0) - y).abs().max() <= bound
    assert (again(x, T=T) - y).abs().max() <= bound
    assert len(again.neurons()) == len(snn.neurons())
