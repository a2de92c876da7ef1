"""Thresholds in weights: which wires carry whole numbers, where the scales go, and what says no."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    Codebook,
    StageError,
    absorb,
    calibrate,
    cascade,
    correct_bias,
    encoder,
    fixed,
    fuse,
    instrument,
    integrate_and_fire,
    leaky_integrate_and_fire,
    percentile,
    pipe,
    replace,
    report,
    spike_counts,
    td_rewrite,
    to_snn,
    trace,
    wires,
)
from tests.catalogue import CASES
from tests.models import Model

# a few samples do here
pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning", "ignore::snnpipe.SiteWarning")


def in_powers_of_two(state):
    return state.evolve(params={key: 2.0 ** value.log2().round() if key.endswith(".threshold") else value
                                for key, value in state.params.items()})  # fmt: skip


def measured(model, x, *stages, **options):
    """The model with neurons whose thresholds are powers of two, so that other scales change no bit."""
    torch.manual_seed(0)
    return pipe(model.double().eval(), trace, fuse, calibrate([x]), replace(**options), in_powers_of_two, *stages)


def same(first, second, x, T=6):
    with torch.no_grad():
        a, b = to_snn(first)(x, T=T), to_snn(second)(x, T=T)
    assert torch.equal(a, b)
    assert a.abs().max() > 0


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


class Residual(Model):
    def forward(self, x):
        h = F.relu(self.a(x))
        return self.head(F.relu(self.b(h) + h).flatten(1))


class Joined(Model):
    def forward(self, x):
        a, b = F.relu(self.a(x)), F.relu(self.b(x))
        return self.head(F.relu(self.c(F.avg_pool2d(torch.cat([a, b], 1), 2))).mean((2, 3)))


class Added(Model):
    def forward(self, x):
        return self.c(F.relu(self.a(x)) + F.relu(self.b(x)))


class Gated(Model):
    def forward(self, x):
        return self.b(F.relu(self.a(torch.sigmoid(F.relu(self.c(x))) * x)))


class Padded(Model):
    def forward(self, x):
        h = F.relu(self.a(x))
        y = self.b(h)
        y += F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2))
        return self.head(F.relu(y).flatten(1))


class Cropped(Model):
    def forward(self, x):
        return self.b(F.pad(F.relu(self.a(x)), (0, 0, 0, 0, -1, 0), value=0.0))


def conv(i, o, **options):
    return nn.Conv2d(i, o, 3, padding=1, **options)


def test_a_residual_sum_takes_the_unit_of_the_skip():
    x = images(4, 2, 4, 4)
    model = Residual(a=conv(2, 3), b=conv(3, 3), head=nn.Linear(48, 2))
    state = measured(model, x)
    absorbed = absorb(state)
    same(state, absorbed, x)
    assert all(wire.whole for wire in wires(absorbed))
    told = [event.detail for event in absorbed.history if event.stage == "absorb"]
    assert ["by a constant on its current" in detail for detail in told] == [False, True]
    first, second = (key for key in state.params if key.endswith("threshold"))
    scale = (state.params[first] / state.params[second]).reshape(-1, 1, 1)
    assert torch.equal(absorbed.params[second.replace(".threshold", "__absorbed.current")], scale)
    theta = state.params[first]
    skip = state.params["b.weight"] * theta.reshape(1, -1, 1, 1) / theta.reshape(-1, 1, 1, 1)
    assert torch.equal(absorbed.params["b__absorbed.weight"], skip)


def test_a_concatenation_keeps_the_unit_of_each_channel():
    x = images(4, 2, 4, 4)
    model = Joined(a=conv(2, 3), b=conv(2, 2), c=conv(5, 4), head=nn.Linear(4, 2))
    for options in ({}, {"threshold": percentile(99.0, per="layer")}):
        state = measured(model, x, **options)
        absorbed = absorb(state)
        same(state, absorbed, x)
        assert all(wire.whole for wire in wires(absorbed))


def test_a_skip_may_leave_out_places_and_add_channels_of_zeros():
    x = images(4, 2, 4, 4)
    state = measured(Padded(a=conv(2, 3), b=conv(3, 6, stride=2), head=nn.Linear(24, 2)), x)
    absorbed = absorb(state)
    same(state, absorbed, x)
    assert all(wire.whole for wire in wires(absorbed))
    state = measured(Cropped(a=conv(2, 3), b=conv(2, 2)), x)
    same(state, absorb(state), x)
    assert "does not keep channels" in wires(absorb(state))[0].reason


def test_events_of_two_scales_are_not_added():
    x = images(4, 6)
    model = Added(a=nn.Linear(6, 5), b=nn.Linear(6, 5), c=nn.Linear(5, 2))
    state = measured(model, x)
    absorbed = absorb(state)
    same(state, absorbed, x)
    assert [wire.whole for wire in wires(absorbed)] == [False, False]
    assert "whose thresholds are others" in str(wires(absorbed)[0])
    assert "not absorbed" in report(absorbed)
    alike = measured(model, x, threshold=fixed(0.5))
    assert all(wire.whole for wire in wires(absorb(alike)))
    same(alike, absorb(alike), x)


def test_what_is_not_linear_wants_events_as_they_were():
    x = images(4, 6)
    absorbed = absorb(measured(Gated(a=nn.Linear(6, 5), b=nn.Linear(5, 2), c=nn.Linear(6, 6)), x))
    gate, other = wires(absorbed)
    assert not gate.whole
    assert "sigmoid" in gate.reason
    assert other.whole


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_kind_of_convolution(dims, transposed, groups):
    kind = getattr(nn, f"Conv{'Transpose' * transposed}{dims}d")
    x, layers = images(3, 2, *[4] * dims), (kind(2, 4, 3), nn.ReLU(), kind(4, 6, 2, groups=groups), nn.ReLU())
    size = nn.Sequential(*layers).double()(x)[0].numel()
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 3))
    state = measured(model, x)
    absorbed = absorb(state)
    same(state, absorbed, x)
    assert all(wire.whole for wire in wires(absorbed))


def test_a_layer_called_twice_has_weights_for_each_pair_of_units():
    x = images(4, 5)
    layer = nn.Linear(5, 5)
    state = measured(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(5, 2)), x)
    absorbed = absorb(state)
    same(state, absorbed, x)
    assert sum(key.endswith("weight") and key.startswith("0") for key in absorbed.params) == 3
    alike = absorb(measured(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(5, 2)), x,
                            threshold=fixed(0.5)))  # fmt: skip
    assert sum(key.endswith("weight") and key.startswith("0") for key in alike.params) == 2  # of the input, and between


def test_levels_become_whole_numbers():
    x = images(4, 6)
    state = measured(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), x, neuron=cascade(n=3))
    absorbed = absorb(state)
    same(state, absorbed, x)
    assert absorbed.params["1__cascade0__absorbed.threshold"].tolist() == [4.0]
    assert str(wires(absorbed)[0]) == "1__cascade0__absorbed: whole events -7..7"


def test_caps_and_charges_go_with_the_threshold():
    x = 9 * images(4, 6)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU6(), nn.Linear(5, 2))
    for stages in ((), (td_rewrite,)):
        state = measured(model, x, correct_bias([x], T=4))
        first, second = pipe(state, *stages, to_snn), pipe(absorb(state), *stages, to_snn)
        a, b = first(x, T=4), second(x, T=4)
        assert torch.equal(a, b)
        assert a.abs().max() > 0


def test_a_neuron_that_leaks_scales_too():
    x = images(4, 6)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    for neuron in (leaky_integrate_and_fire(tau=4.0), integrate_and_fire(v_reset=0.0)):
        state = measured(model, x, neuron=neuron)
        same(state, absorb(state), x)
        assert wires(absorb(state))[0].whole


def odd(m, smallest, low, high):
    return (m > 1.0) * 1.0  # knows of no scale


def test_ones_own_codebook_is_left_alone():
    x = images(4, 6)
    state = measured(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), x,
                     neuron=encoder(Codebook("odd", odd, "binary", 0, 1)))  # fmt: skip
    absorbed = absorb(state)
    assert absorbed.graph is state.graph
    assert "one's own" in wires(absorbed)[0].reason
    assert absorb(absorbed) is absorbed


def test_thresholds_per_neuron_stay():
    x = images(4, 2, 4, 4)
    model = nn.Sequential(conv(2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    measure = instrument(statistic=percentile(99.0, per="neuron"))
    state = pipe(model.double().eval(), trace, fuse, measure, calibrate([x]), replace)
    assert "for each neuron" in wires(absorb(state))[0].reason


def test_an_axis_that_was_moved_keeps_one_unit_but_not_many():
    class Moved(Model):
        def forward(self, x):
            return self.b(F.relu(self.a(x)).transpose(1, 2))

    x = images(4, 5, 5)
    model = Moved(a=nn.Linear(5, 5), b=nn.Linear(5, 2))
    state = measured(model, x)
    assert "does not keep channels" in wires(absorb(state))[0].reason
    state = measured(model, x, threshold=percentile(99.0, per="layer"))
    assert wires(absorb(state))[0].whole
    same(state, absorb(state), x)


def test_silent_sites_stay():
    x = images(4, 6)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    nn.init.constant_(model[0].weight, -1.0)
    assert "never fires" in wires(absorb(measured(model, x)))[0].reason


def test_weights_that_overflow_are_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).half()
    model[0].weight.data.fill_(1e3)
    state = pipe(model, trace, replace(threshold=fixed(1e-2)))
    with pytest.raises(StageError, match=r"0__absorbed.weight .* not finite in torch.float16"):
        absorb(state)


def test_it_wants_neurons_and_no_code():
    traced = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(StageError, match="put replace before it"):
        absorb(traced)
    with pytest.raises(StageError, match="before td_rewrite"):
        pipe(traced, replace(threshold=fixed(1.0)), td_rewrite, absorb)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_catalogue_in_other_units_is_the_catalogue(case):
    model, inputs = case.ready()
    state = pipe(model, trace(**case.options), fuse, calibrate([inputs]), replace, in_powers_of_two)
    if not any(node.op == "encode" for node in state.graph):
        return
    first, second = to_snn(state), to_snn(absorb(state))
    for a, b in zip(*(torch.utils._pytree.tree_leaves(snn(*inputs, T=5)) for snn in (first, second)), strict=True):
        assert not isinstance(a, torch.Tensor) or torch.equal(a, b)


def test_activity_is_what_it_was():
    x = images(4, 2, 4, 4)
    state = measured(Residual(a=conv(2, 3), b=conv(3, 3), head=nn.Linear(48, 2)), x)
    before, after = (spike_counts(to_snn(made), x, T=5) for made in (state, absorb(state)))
    assert list(after) == [f"{name}__absorbed" for name in before]
    assert all(torch.equal(a.per_step, b.per_step) for a, b in zip(before.values(), after.values(), strict=True))
