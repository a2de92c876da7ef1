"""Selectors: which sites they select, what they are as text, and what is done with the sites."""

import warnings

import pytest
import torch
from torch import nn

from snnpipe import (
    SiteWarning,
    SnnpipeError,
    StageError,
    at,
    calibrate,
    cascade,
    fixed,
    instrument,
    integrate_and_fire,
    load,
    maximum,
    of_op,
    parse,
    pipe,
    pipeline,
    replace,
    report,
    save,
    such_that,
    td_rewrite,
    to_module,
    to_snn,
    trace,
)  # fmt: skip


def block():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU6())


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    model = nn.Sequential()
    model.stem, model.layer1, model.layer2, model.head = block(), block(), block(), nn.Linear(4, 2)
    for name, bias in model.named_parameters():  # so that every channel fires
        if name.endswith("bias"):
            nn.init.constant_(bias, 1.0)
    return pipe(model, trace, calibrate([torch.randn(2000, 4)]))


def names(selector, state):
    return [site.name for site in state.sites.values() if selector(site)]


ALL = ["stem.1", "stem.3", "layer1.1", "layer1.3", "layer2.1", "layer2.3"]


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        (at("stem"), ALL[:2]),
        (at("layer*"), ALL[2:]),
        (at("layer?.1"), ["layer1.1", "layer2.1"]),
        (at("*.3"), ["stem.3", "layer1.3", "layer2.3"]),
        (at("stem.1", "layer2"), ["stem.1", "layer2.1", "layer2.3"]),
        (of_op("clamp"), ALL[1::2]),
        (of_op("relu", "clamp"), ALL),
        (such_that(lambda site: site.cap == 6.0), ALL[1::2]),
        (at("layer1") & of_op("relu"), ["layer1.1"]),
        (~at("layer*"), ALL[:2]),
        (at("stem") | at("layer*") & ~of_op("relu"), ["stem.1", "stem.3", "layer1.3", "layer2.3"]),
        ((at("stem") | at("layer*")) & ~of_op("relu"), ALL[1::2]),
    ],
    ids=repr,
)
def test_which_sites_are_selected(selector, wanted, state):
    assert names(selector, state) == wanted


def test_a_path_is_no_prefix_of_text(state):
    assert names(at("layer"), state) == [] == names(at("tem"), state)


def even(site):
    return len(site.name) % 2 == 0


A, B, C = at("a"), of_op("relu"), such_that(even)
TEXTS = [
    A, at("a", "b.*"), ~A, ~~A, A | B, A & B, A | B | C, A | (B | C), A & (B & C), A | B & C, (A | B) & C, ~(A & B),
    ~A & ~B, (~(A | B) & C) | A, A & B | C & A,
]  # fmt: skip


@pytest.mark.parametrize("selector", TEXTS, ids=repr)
def test_the_text_is_read_back(selector):
    rule, keeping = selector.use(cascade(n=3)), replace(keep=selector, rules=(selector.use(maximum()),))
    for value in (selector, rule, keeping, pipeline(trace, keeping)):
        again = parse(str(value), own={"even": even})
        assert again == value
        assert str(again) == str(value)


@pytest.mark.parametrize(
    "text", ["at()", "at('')", "of_op(3)", "~3", "replace(keep=at('a') | 3)", "such_that(at)", "at('a').use(cascade)",
             "at('a').use(-1)", "replace(keep=relu_site)", "maximum().use(cascade())", "at('a') | trace"]
)  # fmt: skip
def test_texts_of_no_selector_are_refused(text, state):
    with pytest.raises(SnnpipeError):
        parse(text)(state)


def test_kept_sites_are_the_anns(state):
    """What is kept is an operator on decoded values: with all kept but one, the rest of the network is exact."""
    made = replace(keep=~at("stem.1"))(state)
    assert sum(node.op == "encode" for node in made.graph) == 1
    kept = [node.op for node in made.graph if node.op in ("relu", "clamp")]
    assert kept == ["clamp", "relu", "clamp", "relu", "clamp"]
    x = torch.randn(16, 4)
    snn = to_snn(made)
    fired = torch.relu(state_of(x, made))  # what the one neuron can say is a multiple of theta / T
    theta = snn.state_dict()["stem.1__if0.threshold"]
    said = (fired / theta * 8 + 0.5).floor().clamp(0, 8) * theta / 8
    assert torch.allclose(snn(x, T=8), tail_of(said, state), rtol=1e-5, atol=1e-6)


def state_of(x, made):
    weight, bias = made.params["stem.0.weight"], made.params["stem.0.bias"]
    return nn.functional.linear(x, weight, bias)


def tail_of(hidden, state):
    for layer in ("stem.2", "layer1.0", "layer1.2", "layer2.0", "layer2.2"):
        hidden = nn.functional.linear(hidden, state.params[f"{layer}.weight"], state.params[f"{layer}.bias"])
        hidden = hidden.clamp(0, 6) if layer.endswith("2") else hidden.relu()
    return nn.functional.linear(hidden, state.params["head.weight"], state.params["head.bias"])


def test_all_kept_is_the_ann_and_says_so(state):
    with pytest.warns(SiteWarning, match="nothing will spike"):
        made = replace(keep=at("*"))(state)
    x = torch.randn(5, 4)
    assert torch.allclose(to_snn(made)(x, T=3), to_module(state)(x), rtol=1e-5, atol=1e-6)


def test_a_string_is_a_path(state):
    assert replace(keep="layer*") == replace(keep=at("layer*"))


def test_rules_choose_neurons_and_thresholds(state):
    mine = (at("stem").use(cascade(n=3)), (at("stem") | of_op("clamp")).use(maximum()), at("layer2").use(fixed(0.25)))
    made, plain = replace(rules=mine)(state), replace(state)
    neurons = {node.path: str(node["neuron"]) for node in made.graph if node.op == "encode"}
    assert neurons == {name: str(cascade(n=3) if name in ALL[:2] else integrate_and_fire()) for name in ALL}
    theta = {node.path: made.params[node["threshold"].key] for node in made.graph if node.op == "encode"}
    usual = {node.path: plain.params[node["threshold"].key] for node in plain.graph if node.op == "encode"}
    top = {site.name: state.statistics[node].max for node, site in state.sites.items()}
    assert torch.allclose(theta["stem.1"], top["stem.1"].float())
    assert torch.allclose(theta["layer1.3"], top["layer1.3"].float())
    assert torch.equal(theta["layer1.1"], usual["layer1.1"])
    assert torch.equal(theta["layer2.1"], torch.tensor([0.25]))
    assert torch.allclose(theta["layer2.3"], top["layer2.3"].float())  # the first answer counts


@pytest.mark.parametrize("where", ["keep", "rules", "report"])
@pytest.mark.parametrize(
    ("selector", "says"),
    [
        (at("layr1.*"), "nearest are layer1"),
        (at("qqq"), "the sites are stem.1, stem.3"),
        (of_op("gelu"), "they are of clamp, relu"),
        (at("stem") | at("hed"), "at('hed') selects no site"),
        (~at("hed"), "at('hed') selects no site"),
        (at("stem", "hed"), "at('hed') selects no site"),
        (at("stem.1") & of_op("clamp"), "selects none of 6 sites"),
    ],
    ids=repr,
)
def test_what_selects_nothing_is_an_error(where, selector, says, state):
    run = {
        "keep": lambda: replace(keep=selector)(state),
        "rules": lambda: replace(rules=(selector.use(cascade(n=2)),))(state),
        "report": lambda: report(replace(state), only=selector),
    }[where]
    with pytest.raises(StageError) as error:
        run()
    assert says in str(error.value)


def test_a_predicate_that_says_neither(state):
    with pytest.raises(StageError, match="say True or False"):
        replace(keep=such_that(lambda site: site.cap))(state)


@pytest.mark.parametrize("wrong", ["", 3, None])
def test_words_are_checked(wrong):
    for make in (at, of_op):
        with pytest.raises(StageError):
            make(wrong)
    with pytest.raises(StageError):
        replace(keep=lambda site: True)


def test_reports_of_some_sites(state, tmp_path):
    for subject in (state, replace(state), to_snn(state)):
        text = report(subject, only=at("layer1") & of_op("relu"))
        assert "layer1.1" in text
        assert "stem" not in text
        assert "layer1.3" not in text
    save(to_snn(state), tmp_path / "snn")
    assert report(load(tmp_path / "snn"), only="layer1") == report(to_snn(state), only="layer1")


def test_kept_sites_are_in_the_history(state):
    assert "kept" in report(replace(keep="stem")(state))


def test_sites_behind_layers_have_the_layers_operator():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    from snnpipe import TRANSFORMER_RULES

    marked = pipe(model, trace, instrument(rules=TRANSFORMER_RULES))
    assert [site.op for site in marked.sites.values()] == ["gelu"]


def test_a_kept_activation_under_td_is_exact(state):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SiteWarning)
        td = pipe(state, replace(keep=of_op("relu", "clamp")), td_rewrite, to_snn)
    x = torch.randn(3, 5, 4)
    assert torch.allclose(td.sequence(x).sum(0), to_module(state)(x.sum(0)), rtol=1e-4, atol=1e-5)
