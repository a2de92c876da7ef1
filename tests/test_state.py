"""The record: frozen, shared cheaply, digested, edited, and held to its validity rules."""

import attrs
import pytest
import torch
from torch import nn

from snnpipe import (
    TD,
    ConversionState,
    Event,
    GraphError,
    StageError,
    calibrate,
    digest,
    fixed,
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
)  # fmt: skip
from tests.helpers import assert_close, cnn, images, mlp, vectors

READY = replace(threshold=fixed(1.0))


def test_states_share_with_each_other_but_not_with_model_or_network():
    model = cnn()
    state = trace(model)
    later = pipe(state, instrument, READY)
    kept = state.params.keys() & later.params.keys()
    assert kept == state.params.keys()
    assert all(state.params[key] is later.params[key] for key in kept)
    own = {tensor.data_ptr() for tensor in later.params.values()}
    for module in (model, to_snn(later), to_module(state)):
        assert not own & {tensor.data_ptr() for tensor in module.state_dict().values()}
    shared = trace(model, unsafe_share=True)
    assert shared.params["0.weight"].data_ptr() == model[0].weight.data_ptr()


def test_a_later_change_of_the_model_is_not_seen():
    model, x = mlp(), vectors()
    want = model(x).detach()
    state = trace(model)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert_close(to_module(state)(x), want)


def test_the_record_is_frozen():
    state = pipe(cnn(), trace, instrument)
    for change in (
        lambda: setattr(state, "graph", None),
        lambda: setattr(state.graph, "nodes", ()),
        lambda: setattr(state.graph.nodes[0], "op", "relu"),
        lambda: state.params.__setitem__("x", None),
        lambda: setattr(state.params, "a", 1),
        lambda: state.graph.nodes[1].operands.__setitem__("input", 1),
    ):
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError, TypeError)):
            change()


def test_history_says_what_happened():
    state = pipe(cnn(), trace, fuse, instrument, calibrate([images()]), READY, td_rewrite)
    seen = [event.stage for event in state.history]
    assert list(dict.fromkeys(seen)) == ["trace", "fuse", "instrument", "calibrate", "replace", "td_rewrite"]
    assert all(isinstance(event, Event) for event in state.history)
    assert any("folded into" in event.action for event in state.history)
    reused = trace(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    (reason,) = (event.detail for event in fuse(reused).history if event.action == "not folded")
    assert "axes" in reason


def without_relu(gm):
    for node in list(gm.graph.nodes):
        if node.target is torch.nn.functional.relu:
            node.replace_all_uses_with(node.args[0])
            gm.graph.erase_node(node)


def test_digest_sees_every_change():
    state = pipe(cnn(), trace, fuse, instrument, calibrate([images()]))
    key = next(iter(state.params))
    node = next(iter(state.statistics))
    others = [
        attrs.evolve(state, params=state.params | {key: state.params[key] + 1e-12}),
        attrs.evolve(state, params=state.params | {key: state.params[key].float()}),
        attrs.evolve(state, sites=state.sites.only([])),
        attrs.evolve(state, threshold=maximum()),
        attrs.evolve(state, code=TD),
        attrs.evolve(state, statistics=state.statistics.only([node])),
        state.edit(without_relu),
    ]
    digests = {digest(other) for other in others}
    assert len(digests) == len(others)
    assert digest(state) not in digests
    assert digest(attrs.evolve(state, history=())) == digest(state)
    assert state_equal(trace(mlp()), trace(mlp())) is False  # other weights
    model = mlp()
    assert state_equal(trace(model), trace(model))


def test_edit_gives_a_private_graph_module():
    model, x = mlp(), vectors()
    state = pipe(model, trace, instrument)
    before = digest(state)
    edited = state.edit(without_relu)
    assert digest(state) == before
    assert isinstance(edited, ConversionState)
    assert not edited.sites
    assert all(edited.params[key] is state.params[key] for key in edited.params)
    assert_close(to_module(edited)(x), model[4](model[2](model[0](x))))
    assert state_equal(state.edit(lambda gm: None), state)
    assert state.edit(lambda gm: gm).history[-1].stage == "edit"


def test_edit_may_change_weights_and_names_mistakes():
    def double_bias(gm):
        with torch.no_grad():
            gm.get_parameter("4.bias").mul_(2)

    model, x = mlp(), vectors()
    state = trace(model)
    assert_close(to_module(state.edit(double_bias))(x), model(x) + model[4].bias)
    assert_close(to_module(state)(x), model(x))
    with pytest.raises(StageError, match="GraphModule or None, got int"):
        state.edit(lambda gm: 3)
    with pytest.raises(StageError, match="before td_rewrite"):
        td_rewrite(state).edit(without_relu)


def test_a_stage_of_ones_own():
    def scaled_head(state):
        key = "4.weight"
        return state.evolve(Event("scaled_head", key, "doubled"), params=state.params | {key: 2 * state.params[key]})

    model, x = mlp(), vectors()
    with torch.no_grad():
        model[4].bias.zero_()
    snn = pipe(model, trace, scaled_head, instrument(statistic=maximum()), calibrate([x]), to_snn)
    plain = pipe(model, trace, instrument(statistic=maximum()), calibrate([x]), to_snn)
    assert_close(snn(x, T=5), 2 * plain(x, T=5))
    assert "scaled_head" in [event.stage for event in snn.history]


def test_an_invalid_graph_is_caught_after_the_stage_that_made_it():
    state = trace(mlp())
    broken = attrs.evolve(state, graph=attrs.evolve(state.graph, nodes=state.graph.nodes[1:]))
    with pytest.raises(GraphError, match=r"instrument left an invalid graph[\s\S]*does not come before it"):
        instrument(broken)
