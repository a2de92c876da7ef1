"""Writing networks as NIR graphs: the same spikes by NIR's own equations, and refusals by name."""

import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from property_tests import nir_reference as reference
from snnpipe import (
    BOTTLENECK_RULES,
    RATE,
    TD,
    InputError,
    SnnpipeError,
    UnsupportedError,
    burst,
    calibrate,
    cascade,
    correct_bias,
    correct_potential,
    correct_threshold,
    fixed,
    from_nir,
    fuse,
    graded,
    instrument,
    integrate_and_fire,
    leaky_integrate_and_fire,
    one_of_n,
    percentile,
    pipe,
    replace,
    signed_memory,
    td_rewrite,
    to_nir,
    to_snn,
    trace,
)
from tests import catalogue

nir = pytest.importorskip("nir")
np = pytest.importorskip("numpy")
pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")  # a few samples do here
EXACT = {"Input", "Output", "Conv1d", "Conv2d", "AvgPool2d", "Flatten", "Affine", "Scale", "I", "Threshold", "IF"}
HARDWARE = {"Input", "Output", "Conv2d", "IF", "SumPool2d", "Flatten", "Affine"}
HARD = integrate_and_fire(v_reset=0.5)


class Branches(nn.Module):
    """A residual sum, a concatenation, a strided and padded shortcut, a difference and a mean."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.a(x))
        y = F.relu(self.b(x) + x)
        z = torch.cat([x, 0.5 * y], 1)
        z = F.relu(self.c(z) - F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + 0.25)
        return self.head(z.mean((2, 3)))


def conv(*activation):
    layers = (nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), *activation, nn.AvgPool2d(2))
    return nn.Sequential(*layers, nn.Conv2d(4, 4, (3, 1), padding="same"), *activation, nn.Flatten(), nn.Linear(36, 3))


def signal():
    layers = (nn.Conv1d(2, 4, 3, stride=2), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(4, 4, 3, groups=4), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))


def image():
    return torch.randint(0, 9, (3, 2, 6, 6)) / 8


def wave():
    return torch.randint(0, 9, (3, 2, 18)) / 8


def converted(model, x, *stages, statistic=None):
    """On the grid, so that no sum rounds."""
    measured = pipe(model.eval(), trace, fuse, instrument(statistic=statistic or percentile(99.9)), calibrate([x]))
    return reference.on_grid(pipe(measured, *(stages or [replace]), td_rewrite(code=RATE), to_snn))


def same_spikes(snn, x, graph, T=12, dt=1.0):
    """Spike for spike, after the graph was in a file; and again in the network that is read back."""
    want = reference.trains(snn, x, T)
    sent, outputs = reference.run(graph, x, T, dt)
    assert want.keys() == sent.keys()
    assert all(torch.equal(sent[name], train) for name, train in want.items())
    assert any(bool(train.any()) for train in want.values())
    y, again = snn(x, T=T), to_snn(from_nir(graph, dt=dt))
    assert [tuple(each.shape) for each in (y, again(x, T=T))] == [tuple(outputs[0].shape)] * 2
    bound = 8 * T * torch.finfo(y.dtype).eps * (1 + y.abs().max())  # the mean of T outputs, added in another order
    assert (outputs.mean(0) - y).abs().max() <= bound
    assert (again(x, T=T) - y).abs().max() <= bound


def written(graph, folder):
    nir.write(folder / "graph.nir", graph)
    return nir.read(folder / "graph.nir")


def kinds(graph):
    return {type(node).__name__ for node in graph.nodes.values()}


@pytest.mark.parametrize("neuron", [
    integrate_and_fire(), integrate_and_fire(v_init=0.0), integrate_and_fire(v_init=0.25), HARD, burst(cap=3),
    cascade(n=2, two_sided=False),
], ids=str)  # fmt: skip
@pytest.mark.parametrize(("build", "draw"), [
    (lambda: conv(nn.ReLU()), image), (Branches, image), (signal, wave), (lambda: conv(nn.ReLU6()), image),
], ids=["conv", "branches", "1-d", "ReLU6"])  # fmt: skip
def test_exact_profile(build, draw, neuron, tmp_path):
    x = draw()
    snn = converted(build(), x, replace(neuron=neuron))
    if any("cap" in module.facts for module in snn.neurons().values()):  # its largest event exceeds a ReLU6
        with pytest.raises(UnsupportedError, match="remembers"):
            to_nir(snn, x)
        return
    graph = to_nir(snn, x)
    assert kinds(graph) <= EXACT
    assert not any(node.metadata for node in [graph, *graph.nodes.values()])
    same_spikes(snn, x, written(graph, tmp_path))


@pytest.mark.parametrize("build", [lambda: conv(nn.ReLU()), Branches, lambda: conv(nn.ReLU6())])
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_hardware_profile(build, start, tmp_path):
    x, neuron = image(), integrate_and_fire(v_init=start, v_reset=start)
    snn = converted(build(), x, replace(neuron=neuron), statistic=percentile(99.0, per="layer"))
    graph = to_nir(snn, x, profile="hardware")
    assert kinds(graph) <= HARDWARE
    same_spikes(snn, x, written(graph, tmp_path))
    for node in graph.nodes.values():
        if isinstance(node, nir.IF):
            assert len(set(node.v_threshold.flatten().tolist())) == 1
            assert not node.v_reset.any()


@pytest.mark.parametrize("dt", [1.0, 0.5, 1e-3, 3.0])
def test_the_length_of_a_step_is_in_r(dt):
    x, soft = image(), converted(Branches(), image())
    graph = to_nir(soft, x, dt=dt)
    assert {float(node.r.max()) for node in graph.nodes.values() if isinstance(node, nir.I)} == {
        torch.tensor(1 / dt).item()
    }
    assert str(from_nir(graph, dt=dt).graph) == str(from_nir(to_nir(soft, x)).graph)  # no factor is left
    if dt in (1.0, 0.5):  # r dt is 1 to the bit
        same_spikes(soft, x, graph, dt=dt)


def test_two_sided_neurons_have_thresholds_for_either_sign(tmp_path):
    x = torch.randint(-8, 9, (3, 2, 6, 6)) / 8
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1))
    state = pipe(model, trace, instrument(rules=BOTTLENECK_RULES), calibrate([x]))
    signed = [site.name for site in state.sites.values() if site.signed]
    assert signed

    def either(site, neuron):
        return signed_memory() if site.signed else neuron

    snn = reference.on_grid(pipe(state, replace(rules=(either,)), td_rewrite(code=RATE), to_snn))
    graph = to_nir(snn, x)
    assert any(name.endswith("_minus") for name in graph.nodes)
    same_spikes(snn, x, written(graph, tmp_path))


@pytest.mark.parametrize("correct", [correct_bias, correct_potential, correct_threshold])
def test_corrections_are_written(correct, tmp_path):
    x = torch.randint(0, 9, (64, 2, 6, 6)) / 8
    snn = converted(conv(nn.ReLU()), x, replace, correct([x], T=4))
    same_spikes(snn, x, written(to_nir(snn, x), tmp_path))


#: Patterns of the catalogue with operators that are not linear, sequences, transposed convolutions or several outputs.
NOT_SAID = (
    "P7", "P10 optional input given", "P10 dict", "P10 NamedTuple", "P11", "P16 no running",
    "P16 Linear, norm on (N, L", "P16 ConvTranspose", "P17", "P20", "P21", "P22", "P23 softmax", "P23 sigmoid",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")
@pytest.mark.parametrize("case", catalogue.CASES, ids=catalogue.NAMES)
def test_the_catalogue(case):
    """As drawn, in float64: what lies between a potential and its threshold is more than rounding."""
    model, inputs = case.ready()
    snn = pipe(model, trace(**case.options), fuse, calibrate([inputs if inputs[1:] else inputs[0]]), to_snn)
    if case.name.startswith(NOT_SAID):
        with pytest.raises(UnsupportedError, match="NIR cannot say this network"):
            to_nir(snn, inputs)
    else:
        same_spikes(snn, *inputs, to_nir(snn, inputs), T=6)


def test_a_site_that_never_fires_is_silent(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.fill_(-1.0)
    x = torch.randint(0, 9, (5, 3)) / 8
    snn = converted(model, x)
    assert snn.neurons()["3__if0"].threshold.min() > 1e37
    same_spikes(snn, x, written(to_nir(snn, x), tmp_path))
    with torch.no_grad():
        model[4].weight.fill_(64.0)
    hard = converted(model, x, replace(neuron=HARD), statistic=percentile(99.9, per="layer"))
    with pytest.raises(UnsupportedError, match="no longer finite"):
        to_nir(hard, x, profile="hardware")


def test_threshold_is_the_next_float_below_and_v0_is_in_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    snn = pipe(model, trace, replace(threshold=fixed(1.0), neuron=integrate_and_fire(v_init=0.25)), to_snn)
    snn.neurons()["1__if0"].threshold = torch.tensor([1.0, 0.75])
    graph = to_nir(snn, torch.zeros(1, 2))
    (threshold,) = (node.threshold for node in graph.nodes.values() if isinstance(node, nir.Threshold))
    want = torch.tensor([0.75, 0.5625])
    assert torch.equal(torch.nextafter(torch.tensor(threshold), torch.tensor(torch.inf)), want)
    assert [node.scale.tolist() for node in graph.nodes.values() if isinstance(node, nir.Scale)] == [
        [-1.0, -0.75], [1.0, 0.75],
    ]  # fmt: skip


def test_doubles_stay_doubles(tmp_path):
    x = image().double()
    snn = converted(conv(nn.ReLU()).double(), x)
    graph = written(to_nir(snn, x), tmp_path)
    assert {node.weight.dtype.name for node in graph.nodes.values() if hasattr(node, "weight")} == {"float64"}
    same_spikes(snn, x, graph)


def test_nodes_have_names_that_modules_can_have():
    model = nn.Module()
    model.add_module("pop", nn.Linear(2, 2))
    model.forward = lambda x: model.pop(F.relu(model.pop(x)))
    graph = to_nir(pipe(model, trace, replace(threshold=fixed(1.0)), to_snn), torch.zeros(1, 2))
    assert not {"pop", "x_y"} & graph.nodes.keys()
    assert not any(hasattr(nn.ModuleDict(), name) for name in graph.nodes)


def test_everything_that_cannot_be_said_is_said_at_once():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(16, 3)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.a(x)), 2)
            x = F.interpolate(F.relu(self.b(x)), scale_factor=1.0) * x
            return torch.softmax(self.c(x.flatten(1)), 1)

    x = image()
    snn = pipe(Odd(), trace, replace(neuron=one_of_n(), threshold=fixed(1.0)), td_rewrite(code=TD), to_snn)
    with pytest.raises(UnsupportedError) as caught:
        to_nir(snn, x)
    said = str(caught.value)
    for words in ("events under TD", "max_pool2d is not linear", "one_of_n", "interpolate", "mul is not", "softmax"):
        assert words in said
    assert "test_nir.py" in said  # where it was written
    assert said.count("->") == said.count("\n") / 2  # each with what to do


@pytest.mark.parametrize(("neuron", "words"), [
    (graded(), "graded"), (signed_memory(), "remembers"), (leaky_integrate_and_fire(tau=4.0), "leaks"),
    (burst(cap=100), "100 levels"), (one_of_n(), "do not lie evenly"),
    (integrate_and_fire(v_init=0.5, v_reset=0.0), "not reset to where it starts"),
], ids=str)  # fmt: skip
def test_neurons_that_cannot_be_said(neuron, words):
    x = image()
    snn = converted(conv(nn.ReLU()), x, replace(neuron=neuron))
    with pytest.raises(UnsupportedError, match=words):
        to_nir(snn, x)


def test_what_a_chip_has_not_is_refused():
    x = image()
    with pytest.raises(UnsupportedError, match="thresholds from") as caught:
        to_nir(converted(conv(nn.ReLU()), x, replace(neuron=HARD)), x, profile="hardware")
    assert 'per="layer"' in str(caught.value)
    with pytest.raises(UnsupportedError, match="subtracts theta"):
        to_nir(converted(conv(nn.ReLU()), x, statistic=percentile(99.9, per="layer")), x, profile="hardware")
    hard = converted(signal(), wave(), replace(neuron=HARD), statistic=percentile(99.9, per="layer"))
    with pytest.raises(UnsupportedError, match="Conv1d, which the hardware profile has not"):
        to_nir(hard, wave(), profile="hardware")


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("layer", "words"), [
    (nn.Conv2d(2, 2, (3, 2)), "square kernels"), (nn.AvgPool2d(3, ceil_mode=True, stride=2), "stand out"),
    (nn.AvgPool2d(3, padding=1, count_include_pad=False), "padding out of the mean"),
    (nn.AdaptiveAvgPool2d(4), "differ in size"), (nn.Upsample(scale_factor=2), "interpolate"),
    (nn.ConstantPad2d((1, 0, 0, 0), 0.0), "one side more"), (nn.ConstantPad2d(1, 1.0), "something else than zeros"),
    (nn.Unflatten(1, (1, 2)), "unflatten"), (nn.Linear(6, 6), "last axis"),
    (nn.Conv2d(2, 2, 2, padding="same"), "same"),
])  # fmt: skip
def test_layers_that_cannot_be_said(layer, words):
    snn = pipe(nn.Sequential(nn.ReLU(), layer), trace, replace(threshold=fixed(1.0)), to_snn)
    with pytest.raises(UnsupportedError, match=words):
        to_nir(snn, image())


@pytest.mark.parametrize("layer", [
    nn.ZeroPad2d((2, 2, 1, 1)), nn.ZeroPad2d(0), nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(2),
    nn.Conv2d(2, 4, (1, 3), dilation=2), nn.Conv2d(2, 4, 3, padding="same", bias=False), nn.BatchNorm2d(2),
    nn.Conv2d(2, 4, (5, 3), padding=(2, 1), stride=2, groups=2), nn.AvgPool2d((2, 3)), nn.Dropout(),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("profile", ["exact", "hardware"])
def test_layers(layer, profile, tmp_path):
    model, x = nn.Sequential(nn.ReLU(), layer).eval(), image()
    neuron = HARD if profile == "hardware" else integrate_and_fire()
    snn = reference.on_grid(pipe(model, trace, replace(threshold=fixed(0.75), neuron=neuron), to_snn))
    if profile == "hardware" and getattr(layer, "padding", 0) == 1:
        with pytest.raises(UnsupportedError, match="ZeroPad2d"):
            to_nir(snn, x, profile=profile)
        return
    same_spikes(snn, x, written(to_nir(snn, x, profile=profile), tmp_path))


def test_the_example_decides_no_value():
    """What is static but comes with the input would be written as a constant."""
    class Scaled(nn.Module):
        def forward(self, x, scale=None):
            return F.relu(x) if scale is None else F.relu(x) * scale

    model = Scaled()
    alone = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    assert "scale" not in to_nir(alone, image()).nodes
    both = pipe(model, trace(inputs=("x", "scale"), static=("scale",)), replace(threshold=fixed(1.0)), to_snn)
    with pytest.raises(UnsupportedError, match="one float input, it reads x, scale"):
        to_nir(both, (image(), torch.tensor(2.0)))


def test_one_input_and_one_output():
    class Two(nn.Module):
        def forward(self, a, b):
            return F.relu(a + b), b

    snn = pipe(Two(), trace, replace(threshold=fixed(1.0)), to_snn)
    with pytest.raises(UnsupportedError, match=r"(?s)one float input, it reads a, b.*one tensor"):
        to_nir(snn, (image(), image()))
    with pytest.raises(InputError, match="takes 2 inputs"):
        to_nir(snn, image())


def test_an_example_that_does_not_fit():
    snn = converted(conv(nn.ReLU()), image())
    with pytest.raises(InputError):
        to_nir(snn, torch.zeros(1, 3, 6, 6))


def test_the_network_and_what_it_read_stay_as_they_are():
    x = image()
    snn = converted(Branches(), x)
    before, y = {key: tensor.clone() for key, tensor in snn.state_dict().items()}, snn(x, T=5)
    graph = to_nir(snn, x)
    for node in graph.nodes.values():
        for array in vars(node).values():
            if isinstance(array, np.ndarray) and array.dtype.kind == "f":
                array[...] = 7.0
    assert all(torch.equal(tensor, before[key]) for key, tensor in snn.state_dict().items())
    assert torch.equal(snn(x, T=5), y)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    snn = pipe(nn.ReLU(), trace, replace(threshold=fixed(1.0)), to_snn)
    with pytest.raises(SnnpipeError, match=re.escape('pip install "nir>=1.0.8"')):
        to_nir(snn, torch.zeros(1, 2))


def test_the_page_runs(tmp_path, monkeypatch):
    """The code of the page on shipping, its NIR section, in a folder of its own."""
    page = (Path(__file__).parents[1] / "docs" / "shipping.md").read_text(encoding="utf-8")
    section = page.split("## To other simulators: NIR")[1].split("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(code, names)
    assert (tmp_path / "network.nir").exists()
