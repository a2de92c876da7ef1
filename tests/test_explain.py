"""Explanations, sensitivity, the bisection, and tolerances on small networks."""

from functools import partial

import attrs
import pytest
import torch
from torch import nn

from snnpipe import (
    SITE_RULES,
    TRANSFORMER_RULES,
    CalibrationError,
    Encoding,
    InputError,
    SnnpipeError,
    StageError,
    ToleranceError,
    absorb,
    calibrate,
    cascade,
    correct_bias,
    evaluate,
    events,
    every_fake_quantize_site,
    explain,
    first_fault,
    fuse,
    instrument,
    integrate_and_fire,
    leaky_integrate_and_fire,
    matching_levels,
    parse,
    pipe,
    poisson,
    quantise_weights,
    recipes,
    replace,
    sensitivity,
    suggest,
    td_rewrite,
    to_snn,
    trace,
    verify,
    wave,
)  # fmt: skip
from snnpipe.analysis.faults import RULES, findings

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning", "ignore::snnpipe.SiteWarning")


def mlp(depth=3, act=nn.ReLU):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(8, 8), act())]
    model = nn.Sequential(*layers, nn.Linear(8, 3)).eval()
    for layer in model:
        if isinstance(layer, nn.Linear):  # what a layer says is to matter
            layer.weight.data.mul_(2.5)
    return model


X = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))


def spoilt(model, factors, **options):
    """A network with some thresholds off."""
    state = replace(**options)(pipe(model, trace, fuse, calibrate([X])))
    keys = [node["threshold"].key for node in state.graph if node.op == "encode"]
    changed = {keys[k]: factor * state.params[keys[k]] for k, factor in factors.items()}
    return to_snn(state.evolve(params=state.params | changed)), [key.removesuffix(".threshold") for key in keys]


def test_labels_give_accuracies_which_add_up():
    model = mlp()
    labels = torch.randint(0, 3, (256,), generator=torch.Generator().manual_seed(1))
    found = explain(model, batches=[(X[:100], labels[:100]), (X[100:], labels[100:])], T=4)
    with torch.no_grad():
        right = 100 * (model(X).argmax(1) == labels).double().mean().item()
    assert found.accuracy_ann == pytest.approx(right)
    assert found.accuracy_ann + sum(c.accuracy for c in found.causes) == pytest.approx(found.accuracy_snn)
    assert found.samples == 256
    assert "accuracy" in str(found)
    assert "together" in str(found)


def test_without_classes_there_are_none():
    found = explain(nn.Sequential(nn.Linear(8, 4), nn.ReLU()).eval(), batches=[X], T=4)
    assert found.accuracy_ann is None
    squares = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Unflatten(1, (2, 2)))
    assert explain(squares, batches=[X], T=4).agreement is None


@pytest.mark.parametrize(("factor", "causes"), [
    (10.0, {"threshold too high", "dead layer"}), (0.05, {"threshold too low", "saturated layer"}),
])  # fmt: skip
@pytest.mark.parametrize("site", range(3))
def test_a_wrong_threshold_is_named_and_mended(factor, causes, site):
    model = mlp()
    snn, names = spoilt(model, {site: factor})
    found = explain(model, snn, batches=[X], T=16, try_advice=True)
    assert (found.findings[0].cause in causes, found.findings[0].site) == (True, names[site])
    assert found.findings[0].brought < 0.5
    with_it = parse(found.findings[0].advice, data=[X])(model)
    again = explain(model, with_it, batches=[X], T=16)
    assert again.error == pytest.approx(found.findings[0].brought * found.error, rel=1e-6)


def test_a_healthy_network_at_many_steps_has_no_findings():
    assert explain(mlp(), batches=[X], T=512).findings == ()


def test_options_of_the_run_are_advice_that_is_tried():
    found = explain(mlp(), batches=[X], T=2, try_advice=True)
    assert found.findings[0].advice == "T=4"
    assert 0 < found.findings[0].brought < 1
    late = explain(mlp(), batches=[X], T=16, delay=14, try_advice=True)
    assert [late.causes[-1].name, late.findings[0].cause, late.findings[0].advice] == ["readout", "readout delay",
                                                                                       "delay=0"]  # fmt: skip
    assert late.findings[0].brought < 0.5


def test_weights_that_are_not_the_models_are_named():
    model = mlp()
    state = replace(pipe(model, trace, fuse, calibrate([X])))
    snn = to_snn(state.evolve(params=state.params | {"2.bias": 2 * state.params["2.bias"]}))
    found = explain(model, snn, batches=[X], T=32)
    assert (found.findings[0].cause, found.findings[0].site) == ("weights", "2")
    assert first_fault(model, snn, batches=[X], T=32, tolerance=0.5 * found.causes[0].error).site == "2"


def test_corrections_are_told_apart():
    model = mlp()
    state = pipe(model, trace, fuse, calibrate([X]), replace, correct_bias([3 * X], T=4))
    found = explain(model, to_snn(state), batches=[X], T=32)
    assert found.causes[0].error > 1e-4
    assert found.findings[0].cause == "correction"


def test_absorbed_and_rounded_networks_are_still_the_models():
    model = mlp()
    state = replace(pipe(model, trace, fuse, calibrate([X])))
    plain, absorbed = (explain(model, to_snn(s), batches=[X], T=8) for s in (state, absorb(state)))
    assert absorbed.causes[0].error < 1e-10
    assert absorbed.error == pytest.approx(plain.error, rel=0.05)
    rounded = explain(model, to_snn(quantise_weights(bits=4)(state)), batches=[X], T=8)
    assert rounded.causes[0].error > 1e-4


def test_capped_and_quantised_activations_are_the_models():
    from snnpipe import QCFS

    for act in (nn.ReLU6, lambda: QCFS(levels=8, theta=2.0)):
        found = explain(mlp(act=act), batches=[4 * X], T=8, schedule="layer")
        assert found.causes[0].error < 1e-10
    assert found.error < 1e-10  # QCFS of as many levels as steps is what the neurons compute


def test_transformer_sites_and_graded_operators_appear():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    x = torch.randn(4, 5, 8)
    state = pipe(model, trace, fuse, instrument(rules=TRANSFORMER_RULES), calibrate([x]), replace(neuron=cascade(n=4)))
    found = explain(model, to_snn(state), batches=[x], T=8)
    assert len(found.sites) == 4
    assert [(one.path, one.op) for one in found.graded] == [
        ("self_attn", "scaled_dot_product_attention"), ("norm1", "layer_norm"),
    ]  # fmt: skip
    rounding = 1e3 * torch.finfo(torch.float32).eps  # a norm of 8 numbers, a softmax of 5, products of 8
    assert all(0 <= one.isolated < rounding**2 < one.accumulated for one in found.graded)
    assert "graded operators send floats and compute what the ANN does" in str(found)
    assert found.causes[0].error < 1e-9
    assert sum(cause.error for cause in found.causes) == pytest.approx(found.error)


class Rounded(nn.Module):
    def forward(self, x):
        return (4 * x).round().clamp(-8, 7) / 4


def test_a_quantised_input_is_a_site_with_an_error_of_its_own():
    model = nn.Sequential(Rounded(), *mlp(depth=1)).eval()
    state = pipe(model, trace, instrument(rules=(*SITE_RULES, every_fake_quantize_site)), calibrate([X]))
    snn = pipe(state, replace(rules=(matching_levels,)), td_rewrite, to_snn)
    found = explain(model, snn, batches=[X], T=2)
    assert [site.op for site in found.sites] == ["fake_quantize of input input", "relu"]
    assert found.causes[0].error < 1e-9  # what the neuron stands for is the model's own operator
    assert found.sites[0].isolated > 1e-3
    fault = first_fault(model, snn, batches=[X], T=2, tolerance=0.5 * found.sites[0].isolated)
    assert (fault.site, fault.error) == (found.sites[0].site, pytest.approx(found.sites[0].isolated, rel=1e-3))
    assert explain(model, snn, batches=[X], T=30).sites[0].isolated < 1e-9  # so many steps say every level


def test_a_recipe_says_itself_how_it_runs():
    model = mlp()
    made = recipes.wave(K=2)(model, [X], T=4)
    found = explain(model, made, batches=[X], try_advice=True)
    assert (found.T, found.schedule) == (4, "wave(2)")
    two_passes = explain(model, recipes.offset(tau=4)(model, [X], T=8), batches=[X])
    assert two_passes.T == 12


def test_a_leak_is_named():
    state = pipe(mlp(), trace, fuse, calibrate([X]), replace(neuron=leaky_integrate_and_fire(tau=4.0)))
    assert explain(mlp(), to_snn(state), batches=[X], T=16).findings[0].cause == "leak"


def test_rules_are_a_tuple_to_add_to():
    def mine(facts):
        yield 2.0, attrs.evolve(found.findings[0], cause="mine")

    found = explain(mlp(), batches=[X], T=2)
    from snnpipe.analysis.explain import _facts
    from snnpipe.analysis.ledger import Ledger
    from snnpipe.analysis.study import studied

    study = studied(mlp(), None, batches=[X], T=2, wave=wave(1), delay=0, forward=None, limit=None, where="test")
    ledger = Ledger(study)
    with torch.no_grad():
        study.each(ledger.add)
    assert findings(_facts(study, ledger, found), (*RULES, mine))[0].cause == "mine"


def test_sensitivity_ranks_and_says_what_is_left():
    model = mlp()
    snn, names = spoilt(model, {1: 0.05})
    found = sensitivity(model, snn, batches=[X], T=16)
    assert found.sites[0].site == names[1]
    assert min(found.sites, key=lambda site: site.kept).site == names[1]
    assert names[1] in str(found)


def test_other_neurons_are_measured_in_the_same_pass():
    """As in a pass of their own, of which each is what the site does alone."""
    model = mlp()
    state = pipe(model, trace, fuse, calibrate([X]))
    snn = to_snn(state)
    tenth, _ = spoilt(model, dict.fromkeys(range(3), 0.1))
    others = {"two wires": pipe(state, replace(neuron=cascade(n=2)), to_snn), "tenth": tenth}
    found = sensitivity(model, snn, batches=[X[:99], X[99:]], T=4, others=others)
    plain = sensitivity(model, snn, batches=[X[:99], X[99:]], T=4)
    assert [attrs.evolve(site, others={}) for site in found.sites] == [attrs.evolve(s, others={}) for s in plain.sites]
    for name, other in others.items():
        own = {site.site.partition("__")[0]: site.alone for site in sensitivity(model, other, batches=[X], T=4).sites}
        for site in found.sites:
            assert site.others[name] == pytest.approx(own[site.site.partition("__")[0]], rel=1e-4)
    assert all(site.others["two wires"] < site.alone < site.others["tenth"] for site in found.sites)
    assert "with two wires" in str(found)
    third = to_snn(state.evolve(params=state.params | {"2.bias": 2 * state.params["2.bias"]}))
    small = pipe(mlp(depth=2), trace, calibrate([X]), to_snn)
    for other, said in ((third, "its 2.bias is another"), (small, "its sites or operators are others")):
        with pytest.raises(InputError, match=rf"others\['other'\] is not the same network .*{said}"):
            sensitivity(model, snn, batches=[X], T=4, others={"other": other})
    with pytest.raises(InputError, match=r"others\['other'\] must be a converted network"):
        sensitivity(model, snn, batches=[X], T=4, others={"other": model})


@pytest.mark.parametrize("site", range(5))
def test_the_bisection_ends_at_the_culprit(site):
    model = mlp(depth=5)
    snn, names = spoilt(model, {site: 0.05})
    healthy, spoilt_ = explain(model, batches=[X], T=32).error, explain(model, snn, batches=[X], T=32).error
    fault = first_fault(model, snn, batches=[X], T=32, tolerance=(healthy * spoilt_) ** 0.5)
    assert fault.site == names[site]
    assert fault.runs <= 5
    assert first_fault(model, snn, batches=[X], T=32, tolerance=1e6) is None


def test_verify_lists_every_tolerance_that_is_broken():
    model = mlp()
    snn, names = spoilt(model, {1: 0.05})
    batches = [(X, model(X).argmax(1))]
    with pytest.raises(ToleranceError) as caught:
        verify(model, snn, batches=batches, T=16, error=0.01, agreement=99, accuracy=99, drop=1, saturated=0.5,
               causes={"clipping": 0.01, "unevenness": 1.0})  # fmt: skip
    said = str(caught.value)
    for part in ("6 tolerances", "error", "agreement", "accuracy", "drop", f"{names[1]}: saturated", "clipping"):
        assert part in said
    assert f"-> saturated layer at {names[1]}" in said or f"-> threshold too low at {names[1]}" in said
    assert verify(model, batches=batches, T=64, error=0.01, drop=3.0).error < 0.01


@pytest.mark.parametrize(("call", "said"), [
    (lambda: explain(mlp(), batches=[X]), "explain: T, the number of time steps, is missing"),
    (lambda: explain(mlp(), nn.ReLU(), batches=[X], T=2), "snn must be a converted network"),
    (lambda: explain(mlp(), batches=[X * torch.inf], T=2), "infinity"),
    (lambda: explain(mlp(), batches=[], T=2), "there was no batch"),
    (lambda: verify(mlp(), batches=[X], T=2), "nothing to hold"),
    (lambda: verify(mlp(), batches=[X], T=2, accuracy=90), "accuracy wants"),
    (lambda: verify(mlp(), batches=[X], T=2, causes={"magic": 1.0}), "shares by cause"),
    (lambda: first_fault(mlp(), batches=[X], T=2, tolerance=0), "tolerance must be a positive number"),
    (lambda: suggest(mlp(), batches=[X], data=[(X, X[:, 0].long())], accuracy=99), "share of the ANN's accuracy"),
])  # fmt: skip
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises((InputError, StageError, ValueError), match=said):
        call()


class Rotated:
    """Another tenth of the input at each step, and random numbers of a source of its own."""

    def __init__(self, generator=None, hidden=None):
        self.generator, self.hidden = generator, hidden

    def __call__(self, x, clock):
        noise = torch.rand(x.shape, generator=self.hidden or self.generator)
        return x.roll(clock.t, 0) + 0.1 * noise


def test_an_encoding_of_ones_own_is_a_cause_and_named():
    model = mlp()
    made = Encoding("rotated", Rotated(torch.Generator().manual_seed(0)))
    found = explain(model, batches=[X], T=16, encoding=made, try_advice=True)
    assert found.causes[-1].name == "encoding"
    assert (found.findings[0].cause, found.findings[0].advice) == ("encoding", "encoding=constant()")
    assert found.findings[0].brought == pytest.approx(explain(model, batches=[X], T=16).error / found.error)
    assert "rotated input" in str(found)


def test_the_same_seed_gives_the_same_explanation():
    model, x = mlp(), X.abs() / X.abs().max()

    def drawn(seed, **how):
        return explain(model, batches=[x], T=4, encoding=poisson(torch.Generator().manual_seed(seed)), **how)

    assert drawn(0, try_advice=True) == drawn(0, try_advice=True) != drawn(1, try_advice=True)
    source, again = (torch.Generator().manual_seed(0) for _ in range(2))
    pipe(model, trace, fuse, calibrate([x]), to_snn)(x, T=4, encoding=poisson(again))
    for call in (partial(explain, try_advice=True), sensitivity, partial(first_fault, tolerance=1e-9)):
        source.manual_seed(0)
        call(model, batches=[x], T=4, encoding=poisson(source))
        assert torch.equal(source.get_state(), again.get_state()), call
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, after = explain(model, batches=[x], T=4, encoding=poisson()), torch.rand(1)
        torch.manual_seed(0)
        assert explain(model, batches=[x], T=4, encoding=poisson()) == first
        assert torch.equal(torch.rand(1), after)


def test_events_that_cannot_be_had_again_are_refused():
    hidden = Encoding("hidden", Rotated(hidden=torch.Generator().manual_seed(0)))
    for call in (explain, sensitivity, partial(first_fault, tolerance=0.1), partial(verify, error=0.1)):
        with pytest.raises(CalibrationError, match="hidden makes other events of the same input each time"):
            call(mlp(), batches=[X], T=4, encoding=hidden)


def test_events_whose_meaning_nobody_knows_are_refused():
    own, frames = Encoding("frames", lambda x, clock: x[clock.t - 1]), X.expand(4, 256, 8)
    snn = pipe(mlp(), trace, calibrate([X]), to_snn)
    for call in (partial(explain, mlp(), batches=[frames]), partial(evaluate, snn, [frames], ann=mlp())):
        with pytest.raises(SnnpipeError, match=r"frames makes events of shape \(256, 8\).*encoding=events\(\)"):
            call(T=4, encoding=own)


@pytest.mark.parametrize("traced", [trace, trace(example=X)])
def test_event_sequences_are_explained(traced):
    """Sorted spikes of a half and of none: waiting for all of them mends what they add."""
    model, T = mlp(), 8
    x = (X.abs() > 1).float() / 2
    sent = torch.stack([x * 2] * (T // 2) + [0 * x] * (T // 2))
    snn = pipe(model, traced, calibrate([x]), to_snn)
    found = explain(model, snn, batches=[sent], T=T, encoding=events(), try_advice=True)
    assert found.samples == 256
    assert found.causes[:4] == explain(model, snn, batches=[x], T=T).causes
    (named,) = (one for one in found.findings if one.cause == "encoding")
    assert named.advice == 'schedule="layer"'
    assert found.causes[-1].error > 1e-3
    assert explain(model, snn, batches=[sent], T=T, encoding=events(), schedule="layer").causes[-1].error < 1e-9
    broken = first_fault(model, snn, batches=[sent], T=T, encoding=events(), tolerance=0.5 * found.error)
    assert broken.site in {site.site for site in found.sites}
    assert sensitivity(model, snn, batches=[sent], T=T, encoding=events()).error == pytest.approx(found.error)
    seen = evaluate(snn, [sent], T=T, encoding=events(), ann=model)
    assert seen.samples == 256
    assert seen.last.error**2 == pytest.approx(found.error, rel=1e-4)
    with pytest.raises(CalibrationError, match="8 steps, step 9"):
        explain(model, snn, batches=[sent], T=9, encoding=events())


def test_operators_are_graded_where_the_events_of_the_input_make_them_so():
    model, x = nn.Sequential(nn.MaxPool1d(2), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), X[:, None]
    snn = pipe(model, trace, calibrate([x]), to_snn)
    assert explain(model, snn, batches=[x], T=4).graded == ()
    (pool,) = explain(model, snn, batches=[x.expand(4, *x.shape)], T=4, encoding=events()).graded
    assert (pool.op, pool.isolated, pool.accumulated < 1e-12) == ("max_pool1d", 0.0, True)


def test_an_encoding_that_breaks_the_tolerance_alone_is_the_first_fault():
    made = Encoding("tenfold", lambda x, clock: 10 * x)
    found = first_fault(mlp(), batches=[X], T=64, encoding=made, tolerance=1.0)
    assert (found.site, found.runs) == ("encoding", 3)
    assert found.before < 1e-9 < 1.0 < found.error


def test_nothing_is_changed():
    model = mlp()
    snn = spoilt(model, {})[0]
    before = [tensor.clone() for tensor in (*model.state_dict().values(), *snn.state_dict().values())]
    first = explain(model, snn, batches=[X], T=4, try_advice=True)
    after = [*model.state_dict().values(), *snn.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert explain(model, snn, batches=[X], T=4, try_advice=True) == first
    assert integrate_and_fire() == next(iter(snn.neurons().values())).neuron
