"""Reports as pages: well formed, without network, escaped, and of what was given."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from snnpipe import (
    TRANSFORMER_RULES,
    ConversionState,
    Event,
    StageError,
    account,
    calibrate,
    cascade,
    check,
    energy,
    evaluate,
    explain,
    fixed,
    fuse,
    instrument,
    pipe,
    recipes,
    replace,
    report,
    sensitivity,
    suggest,
    sweep,
    td_rewrite,
    to_snn,
    trace,
)  # fmt: skip

VOID = {"meta", "line", "rect", "polyline", "polygon", "circle", "path"}
HOSTILE = "<script>alert(1)</script> & \"x\" '\x00\ud800"


class Reader(HTMLParser):
    """Elements must end in the order they began."""

    def __init__(self, page):
        super().__init__()
        self.open, self.seen, self.attributes, self.words = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


def test_the_reader_can_fail():
    with pytest.raises(AssertionError):
        Reader("<div><b></div></b>")
    with pytest.raises(AssertionError):
        Reader("<div>")


def held(page):
    """A page or piece without anything that fetches or runs."""
    read = Reader(page)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(read.seen)
    assert not [name for name, _ in read.attributes if name in ("src", "srcset") or name.startswith("on")]
    assert all(value.startswith("#") for name, value in read.attributes if name == "href")
    assert not re.search(r"@import|url\(|expression\(", page)
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in read.attributes if name == "href"} <= set(ids)
    return read


def explanation(sites, hostile=""):
    return SimpleNamespace(
        T=8, schedule="step", error=0.02,
        causes=[SimpleNamespace(name=f"clipping{hostile}", error=0.03), SimpleNamespace(name="readout", error=-0.01)],
        sites=[
            SimpleNamespace(site=site, path=site, op="relu", isolated=0.1 * k, accumulated=0.1, correlation=0.9,
                            dead=0.0, saturated=0.0, rate=0.1) for k, site in enumerate(sites)
        ],
        findings=[SimpleNamespace(cause=f"T too small{hostile}", site="", what="few steps", advice="T=16")],
    )  # fmt: skip


@pytest.fixture(scope="module")
def things():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    model = nn.Sequential(block, nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).eval()
    x = torch.rand(10, 1, 8, 8)
    state = pipe(model, trace, fuse, replace(threshold=fixed(0.5)))
    snn = to_snn(state)
    found = evaluate(snn, [(x, model(x).argmax(1))], T=8, ann=model)
    return SimpleNamespace(model=model, x=x, state=state, snn=snn, found=found, costs=account(snn, x, T=8))


def test_a_page_holds_all_that_was_given(things, tmp_path):
    path = tmp_path / "report.html"
    why = explanation(things.snn.neurons())
    said = report(things.snn, html=path, evaluation=things.found, explanation=why, account=things.costs)
    assert said.startswith(report(things.snn))
    assert str(things.found) in said
    assert str(energy(things.costs)) in said
    page = path.read_text(encoding="utf-8")
    read = held(page)
    for title in ("Accuracy", "Why it is not the ANN's", "The graph", "Thresholds", "Spike rates", "Operations",
                  "Energy", "What the check says", "What each stage did"):  # fmt: skip
        assert read.text.count(title) == 2, title  # once as a link
    assert "prefers-color-scheme:dark" in page
    assert ("name", "viewport") in read.attributes
    assert len(page) < 100_000
    for name in things.snn.neurons():
        assert name in read.text
    assert "graded units when the input is events: 0.3 (max_pool2d)" in read.text
    assert "clipping" in read.text and "T=16" in read.text  # noqa: PT018
    assert f"{things.found.last.accuracy.mean:.2f}" in read.text


def test_a_page_without_extras_has_no_empty_sections(things, tmp_path):
    for name, subject in (("state", things.state), ("traced", trace(things.model)), ("network", things.snn)):
        path = tmp_path / f"{name}.html"
        assert report(subject, html=path) == report(subject)
        read = held(path.read_text(encoding="utf-8"))
        assert "Accuracy" not in read.text
        assert ("Thresholds" in read.text) == (name != "traced")
        assert "The graph" in read.text


def test_bars_of_a_waterfall_go_on_from_each_other(things, tmp_path):
    path = tmp_path / "page.html"
    report(things.snn, html=path, explanation=explanation(()))
    styles = re.findall(r"margin-left:([\d.]+)%;width:([\d.]+)%", path.read_text(encoding="utf-8"))[:3]
    assert [tuple(map(float, style)) for style in styles] == [(0.0, 100.0), (66.67, 33.33), (0.0, 66.67)]


def test_everything_is_escaped(things, tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("<b>layer</b>", nn.Linear(4, 3))

        def forward(self, x):
            return torch.relu(getattr(self, "<b>layer</b>")(x))

    state = trace(Odd().eval())
    state = state.evolve(Event(HOSTILE, HOSTILE, HOSTILE, HOSTILE), graph=state.graph)
    snn = pipe(state, replace(threshold=fixed(1.0)), to_snn)
    path = tmp_path / "page.html"
    report(snn, html=path, explanation=explanation(snn.neurons(), HOSTILE))
    for page in (path.read_text(encoding="utf-8"), state._repr_html_(), snn._repr_html_()):
        read = held(page)
        assert "<script>alert(1)</script> & \"x\" '" in read.text
        assert "\x00" not in page
        assert "<b>layer</b>" not in page


@pytest.mark.filterwarnings("ignore:never fired")
def test_pieces_for_notebooks(things):
    data = [(things.x, things.model(things.x).argmax(1))]
    found = sweep(things.model, ["opi", "snm"], batches=[things.x], data=data, T=(1,))
    state: ConversionState = things.state
    for thing in (state, things.snn, things.found, things.costs, energy(things.costs), check(things.model), found,
                  check(nn.LSTM(2, 2))):  # fmt: skip
        read = held(thing._repr_html_())
        assert read.seen[:2] == ["div", "style"]
    text = held(things.costs._repr_html_()).text
    assert all(layer.name in text for layer in things.costs.layers)
    assert "opi" in held(found._repr_html_()).text
    assert "no neurons" in held(pipe(nn.Linear(2, 2), trace, td_rewrite, to_snn)._repr_html_()).text


@pytest.mark.filterwarnings("ignore:never fired")
def test_answers_for_notebooks(things):
    """What was asked for is a piece of a page too, with the same figures as its text."""
    torch.manual_seed(0)
    x = torch.rand(600, 1, 8, 8)
    batches, data = [(x, things.model(x).argmax(1))], [(x, things.model(x).argmax(1))]
    found = explain(things.model, batches=batches, T=4)
    ranked = sensitivity(things.model, batches=[x], T=4)
    made = recipes.opi()(things.model, [x], T=2)
    few = suggest(things.model, batches=[x], data=data, recipes=["opi", "snm"], T=(1, 2))
    pages = [held(thing._repr_html_()) for thing in (found, ranked, made, few)]
    assert all(page.seen[:2] == ["div", "style"] for page in pages)
    why, sites, network, pipelines = (page.text for page in pages)
    assert all(cause.name in why for cause in found.causes)
    assert pages[0].seen.count("desc") == len(found.sites) == 2
    assert all(f"correlation {site.correlation:.3f}" in str(pages[0].attributes) for site in found.sites)
    assert all(f"{100 * site.kept:.3g} %" in sites for site in ranked.sites)
    assert "opi" in network
    assert all(one.call in pipelines for one in few.found)


def test_the_page_of_a_transformer_names_its_graded_operators(tmp_path):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    x = torch.randn(40, 5, 8)
    snn = pipe(model, trace, instrument(rules=TRANSFORMER_RULES), calibrate([x]), replace(neuron=cascade(n=4)), to_snn)
    found = explain(model, snn, batches=[x], T=4)
    report(snn, html=tmp_path / "page.html", explanation=found)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    read = held(page)
    assert len(page) < 300_000
    assert [one.op for one in found.graded] == ["scaled_dot_product_attention", "layer_norm"]
    for one in found.graded:
        assert one.path in read.text
        assert f"{100 * one.accumulated:.3g}" in read.text


def test_silent_layers_do_not_hide_the_others(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU()).eval()
    model[2].bias.data.fill_(-100.0)
    with pytest.warns(Warning, match="never fired"):
        snn = pipe(model, trace, calibrate([torch.rand(600, 4)]), to_snn)
    report(snn, html=tmp_path / "page.html")
    read = held((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "silent, for they never fired in calibration: 3__if0" in read.text


def test_what_is_refused(things, tmp_path):
    with pytest.raises(StageError, match=r"write explain\(model"):
        report(things.snn, explanation="because")
    with pytest.raises(StageError, match=r"write evaluate\(snn"):
        report(things.snn, evaluation=things.costs)
    with pytest.raises(OSError, match="nowhere"):
        report(things.snn, html=tmp_path / "nowhere" / "page.html")
    with pytest.raises(StageError, match="html must be a path"):
        report(things.snn, html=3)


def test_a_calibrated_state_shows_what_lies_above_theta(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(2000, 4)
    theta = torch.tensor([0.25, 0.5, 0.75, 1.0])
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()).eval()
    model[0].weight.data.copy_(torch.eye(4))
    state = pipe(model, trace, calibrate([x]), replace(threshold=lambda site, summary: theta))
    report(state, html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    (said,) = re.findall(r"([0-9.]+) % above theta", page)
    above = (x > theta).double().mean().item()
    near = ((x / theta - 1).abs() < 1 / 32).double().mean().item()
    assert abs(float(said) / 100 - above) <= near + 0.005
    assert held(page).text.count("What was measured") == 2
