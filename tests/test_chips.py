"""What chips can take: each limit, exceeded by one step and met."""

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    AKIDA_1,
    LOIHI_2,
    SPECK_2E,
    Core,
    LayerLimits,
    SnnpipeError,
    StageError,
    Target,
    absorb,
    calibrate,
    check,
    correct_bias,
    fixed,
    fuse,
    pipe,
    quantise_weights,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.analysis.cores import memory
from snnpipe.analysis.shapes import shapes
from tests.models import Model

# a few samples do here
pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")


def x(size=16, channels=1):
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def cnn(kernel=3, stride=1, padding=1, width=4, pool=2, size=16):
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, kernel, stride, padding)
    second = nn.Conv2d(4, width, 3, padding=1)
    layers = [conv, nn.ReLU(), nn.AvgPool2d(pool), second, nn.ReLU(), nn.Flatten()]
    with torch.no_grad():
        features = nn.Sequential(*layers)(x(size)).shape[1]
    return nn.Sequential(*layers, nn.Linear(features, 10), nn.ReLU()).eval()


def said(model, target=SPECK_2E, **options):
    return [str(limit) for limit in check(model, target=target, **options).limits]


def test_a_network_that_fits_speck():
    found = check(cnn(), target=SPECK_2E, example=x())
    assert found.fits, str(found)
    assert "fits Speck 2e" in str(found)
    assert "biases" in str(found)
    assert not check(cnn()).fits  # nobody asked for a chip
    assert "Speck" not in str(check(cnn()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kernel": 17, "size": 32}, "0: its kernel is 17 x 17, it can be 1 to 16"),
        ({"kernel": (3, 5)}, "0: its kernel is 3 x 5, not square"),
        ({"stride": 3}, "0: its stride is 3 x 3, it can be 1, 2, 4 or 8"),
        ({"padding": 8}, "0: its padding is 8 x 8, it can be 0 to 7"),
        ({"width": 1025}, "3: it has 1025 outputs, at most 1024"),
        ({"pool": 3}, "2: it pools 3 x 3 by 3 x 3; windows can be 1, 2 or 4, side by side"),
    ],
)
def test_sizes_of_layers(change, words):
    found = said(cnn(**change))
    assert any(line.startswith(words) for line in found), found
    assert all("\n    -> " in line for line in found)


def test_sizes_of_maps_want_an_example():
    model = cnn(size=80, stride=1, pool=4)
    assert said(model) == []
    assert "sizes of maps are not known" in str(check(model, target=SPECK_2E))
    found = said(model, example=x(80))
    assert any(line.startswith("1: its neurons are 80 x 80, at most 64 x 64") for line in found)
    assert "sizes of maps are not known" not in str(check(model, target=SPECK_2E, example=x(80)))
    wide = nn.Sequential(nn.Conv2d(1, 1, 3, 4), nn.ReLU())
    assert any("it reads maps of 132 x 132" in line for line in said(wide, example=x(132)))
    assert said(wide, example=x(128)) == []


def test_memory_is_that_of_the_documentation():
    """The example of sinabs' overview: 16 -> 32 channels, 3 x 3, on 64 x 64: 8 Ki words, 128 Ki neurons."""
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()).eval()
    state = trace(model, example=x(64, 16))
    node = next(node for node in state.graph if node.op == "conv2d")
    assert memory(node, state.graph, state.params, shapes(state.graph, state.params)) == (8 * 1024, 128 * 1024)
    found = said(model, example=x(64, 16))
    assert found == [
        "0: it takes 8192 words of weights and 131072 neurons, which no core has\n"
        "    -> train it with fewer channels, or pool before it"
    ]


def test_a_linear_layer_is_as_large_a_convolution():
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 32), nn.ReLU())
    state = trace(model.eval(), example=x(4))
    linear = next(node for node in state.graph if node.op == "linear")
    assert memory(linear, state.graph, state.params, shapes(state.graph, state.params)) == (16 * 2 ** (4 + 5), 32)


def test_layers_that_fit_cores_but_not_together():
    layer = [nn.Conv2d(16, 16, 1), nn.ReLU()]
    target = attrs.evolve(SPECK_2E, cores=(Core(256, 1024), Core(128, 4096)))
    two = nn.Sequential(*layer, nn.Conv2d(16, 16, 1), nn.ReLU()).eval()
    assert said(two, target, example=x(8, 16)) == [
        "in all: its layers fit cores one by one, but not all at once\n    -> make the largest layers smaller"
    ]
    assert said(nn.Sequential(*layer).eval(), target, example=x(8, 16)) == []
    three = nn.Sequential(*two, nn.Conv2d(16, 16, 1), nn.ReLU()).eval()
    assert any("3 layers, on 2 cores" in line for line in said(three, target))


class Skip(Model):
    def forward(self, x):
        h = F.relu(self.a(x))
        return F.relu(self.b(h) + h)


class Cascaded(Model):
    def forward(self, x):
        return F.relu(self.b(self.a(x)))


class Wide(Model):
    def forward(self, x):
        h = F.relu(self.a(x))
        return F.relu(self.b(h)), F.relu(self.c(h)), F.relu(self.d(h))


class Gated(Model):
    def forward(self, x):
        return F.relu(self.b(torch.sigmoid(F.relu(self.a(x)))))


def conv(i, o):
    return nn.Conv2d(i, o, 3, padding=1)


def test_a_core_is_one_layer_and_its_neurons():
    for model in (Skip(a=conv(1, 2), b=conv(2, 2)), Cascaded(a=conv(1, 2), b=conv(2, 2))):
        assert any("its current is not what one layer gives" in line for line in said(model))
    assert any("3 layers read its events, 2 may" in line
               for line in said(Wide(a=conv(1, 2), b=conv(2, 2), c=conv(2, 2), d=conv(2, 2))))  # fmt: skip
    assert any("there is no sigmoid between neurons" in line for line in said(Gated(a=conv(1, 2), b=conv(2, 2))))
    assert any("there is no max_pool2d" in line for line in said(nn.Sequential(
        conv(1, 2), nn.ReLU(), nn.MaxPool2d(2), conv(2, 2), nn.ReLU())))  # fmt: skip
    assert any("there is no layer of its kind (conv1d, conv1d)" in line
               for line in said(nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU())))  # fmt: skip


def test_weights_and_thresholds_once_there_are_neurons():
    spiking = pipe(cnn(), trace(example=x()), fuse, calibrate([x()]), replace)
    found = said(spiking)
    assert sum("not on a grid of 8 bits" in line for line in found) == 3
    assert sum("thresholds of their own" in line for line in found) == 3
    absorbed = absorb(spiking)
    assert sum("not on a grid" in line for line in said(absorbed)) == 3
    assert not any("thresholds of their own" in line for line in said(absorbed))
    per_channel = quantise_weights(absorbed)
    assert sum('quantise_weights(bits=8, per="layer")' in line for line in said(per_channel)) == 3
    done = quantise_weights(per="layer")(absorbed)
    assert check(done, target=SPECK_2E).fits
    assert check(pipe(done, td_rewrite), target=SPECK_2E).fits
    snn = to_snn(done)
    assert check(snn, target=SPECK_2E).fits
    assert check(snn).nodes == check(done).nodes
    assert check(correct_bias([x()], T=4)(done), target=SPECK_2E).fits  # a bias, and no operator
    assert said(per_channel, LOIHI_2) == []
    signed = pipe(cnn(), trace, replace(threshold=fixed(1.0), neuron=signed_memory()))
    assert any("its events are signed, a neuron there sends binary ones" in line for line in said(signed))
    assert check(signed).fully_spiking


def test_a_residual_sum_keeps_its_thresholds_per_channel():
    model = Skip(a=conv(1, 2), b=conv(2, 2))
    state = pipe(model.eval(), trace, fuse, calibrate([x()]), replace, absorb)
    assert sum("thresholds of their own" in line for line in said(state)) == 1


def test_other_chips_have_other_limits():
    found = said(cnn(kernel=2, stride=4), AKIDA_1)
    assert any(line.startswith("0: its kernel is 2 x 2, it can be 3, 5 or 7") for line in found)
    assert any(line.startswith("0: its stride is 4 x 4, it can be 1, 2 or 3") for line in found)
    depthwise = nn.Sequential(conv(1, 4), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=4), nn.ReLU())
    assert any(line.startswith("2: its kernel is 1 x 1, it can be 3, 5 or 7") for line in said(depthwise, AKIDA_1))
    four = pipe(cnn(pool=1).eval(), trace, replace(threshold=fixed(1.0)), quantise_weights(bits=4))
    assert not any("grid" in line for line in said(four, AKIDA_1))
    eight = pipe(cnn(pool=1).eval(), trace, replace(threshold=fixed(1.0)), quantise_weights(bits=8))
    found = [line for line in said(eight, AKIDA_1) if "grid" in line]
    assert [line.split(":")[0] for line in found] == ["3", "6"]  # the first layer may have 8 bits
    assert "put quantise_weights(bits=4) behind absorb" in found[0]
    large = nn.Sequential(nn.Conv2d(1, 64, 1), nn.ReLU()).eval()
    assert any("1048576 neurons, at most 1000000" in line for line in said(large, LOIHI_2, example=x(128)))
    assert said(large, LOIHI_2, example=x(120)) == []


def test_ones_own_chip():
    mine = Target(name="mine", sources=("the bench",), layers={"linear": LayerLimits(inputs=4)}, weights=20)
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 1))
    assert said(model, mine) == [
        "0: it has 5 inputs, at most 4\n    -> train with fewer inputs",
        "in all: 25 weights, at most 20\n    -> make the network smaller",
    ]


def test_what_is_no_chip_and_no_network():
    with pytest.raises(StageError, match="check: target must be a Target, or None"):
        check(cnn(), target="speck")
    with pytest.raises(StageError, match="options are for trace, which a ConversionState is past"):
        check(trace(cnn()), example=x())
    for bad in ({"neurons": 0}, {"layers": {"linear": 8}}, {"pools": {"avg_pool2d": 2}}, {"units": ("loud",)}):
        with pytest.raises(SnnpipeError, match=f"Target: {next(iter(bad))}"):
            Target(name="mine", sources=(), **bad)
    assert not check(Gated(a=nn.LSTM(1, 1), b=nn.Linear(1, 1)), target=SPECK_2E).fits


@pytest.mark.parametrize("target", [SPECK_2E, AKIDA_1, LOIHI_2], ids=str)
def test_chips_say_where_their_limits_are_published(target):
    assert target.sources
    assert all(source.startswith("https://") for source in target.sources)
    assert target.unchecked
