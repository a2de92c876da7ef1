"""The report's words, and spikes counted against brute force."""

from functools import partial

import pytest
import torch
from torch import nn

from snnpipe import (
    TD,
    Neuron,
    SnnpipeError,
    calibrate,
    events,
    fixed,
    fuse,
    integrate_and_fire,
    pipe,
    replace,
    signed_memory,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.analysis.activity import SpikeCount, spike_counts, spikes_per_neuron
from snnpipe.analysis.report import report
from snnpipe.errors import InputError
from snnpipe.kernels.multilevel import burst, cascade, graded, group, one_of_n
from snnpipe.kernels.statistic import fitted


def plain_net():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4),
    )  # fmt: skip


def pooled_net():
    """The second max-pool lies between neurons, so it is a graded unit; what the first reads never changes."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 1),
    )  # fmt: skip


@pytest.fixture
def x():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def model_of(net):
    """Positive biases, so that every channel fires."""
    torch.manual_seed(0)
    model = net()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, 0.2, 0.5)
    return model


def converted(net, x, **options):
    return pipe(model_of(net), trace, fuse, calibrate([x]), replace(**options), to_snn)


def spikes_of(level):
    return int(level != 0)


def counted_by_hooks(snn, *inputs, count=spikes_of, **options):
    """Brute force: watch the neuron modules themselves and count one by one, in whole smallest events."""
    found = {name: [] for name in snn.neurons()}

    def watch(module, _inputs, out, name):
        theta = fitted(module.threshold, out[0].shape, module.axis)
        levels = (out[0] / module.neuron.options["codebook"].smallest(theta)).flatten().tolist()
        found[name].append(sum(count(round(level)) for level in levels))

    handles = [module.register_forward_hook(partial(watch, name=name)) for name, module in snn.neurons().items()]
    snn(*inputs, **options)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("neuron", [integrate_and_fire(), integrate_and_fire(v_init=0.0), signed_memory()], ids=str)
@pytest.mark.parametrize("net", [plain_net, pooled_net])
def test_spike_counts_equal_brute_force(net, neuron, x):
    snn = converted(net, x, neuron=neuron)
    counts = spike_counts(snn, x, T=9)
    assert {name: count.per_step.tolist() for name, count in counts.items()} == counted_by_hooks(snn, x, T=9)
    assert sum(int(count.per_step.sum()) for count in counts.values()) > 0
    assert all(int(count.per_step.max()) <= count.size for count in counts.values())


def binary_ones(q):
    return bin(abs(q)).count("1")


@pytest.mark.parametrize(
    ("neuron", "wires", "count"),
    [
        (burst(cap=4), 1, abs), (burst(cap=4, two_sided=True), 1, abs), (group(m=4), 4, abs),
        (cascade(n=4), 4, binary_ones), (one_of_n(n=4), 4, spikes_of), (graded(parts=8), 1, spikes_of),
    ],
    ids=lambda value: str(value) if isinstance(value, Neuron) else None,
)  # fmt: skip
def test_spikes_are_counted_on_every_wire(neuron, wires, count, x):
    snn = converted(plain_net, x, neuron=neuron)
    counts = spike_counts(snn, x, T=5)
    assert {name: c.per_step.tolist() for name, c in counts.items()} == counted_by_hooks(snn, x, count=count, T=5)
    assert [c.wires for c in counts.values()] == [wires, wires]
    assert [c.size for c in counts.values()] == [5 * 3 * 6 * 6, 5 * 3 * 3 * 3]
    if count is not spikes_of:  # somewhere an event was more than one spike
        assert counted_by_hooks(snn, x, T=5) != counted_by_hooks(snn, x, count=count, T=5)


def test_units_are_labelled_with_their_wires(x):
    labels = {cascade(n=4): "multi-level (4 wires)", burst(): "multi-level (1 wire)", graded(): "graded",
              signed_memory(): "signed", integrate_and_fire(): "binary"}  # fmt: skip
    for neuron, label in labels.items():
        assert f"{neuron}, {label}, theta" in repr(converted(plain_net, x, neuron=neuron))
    assert "not fully spiking" in repr(converted(plain_net, x, neuron=graded()))


def test_spike_counts_of_an_event_sequence(x):
    snn = converted(plain_net, x)
    x_seq = x * torch.tensor([1.0, 0.0, 2.0]).view(3, 1, 1, 1, 1)
    counts = spike_counts(snn, x_seq, T=3, encoding=events())
    expected = counted_by_hooks(snn, x_seq, T=3, encoding=events())
    assert {name: count.per_step.tolist() for name, count in counts.items()} == expected


def test_spike_counts_follow_the_closed_form():
    """IF, constant z, theta = 1, soft reset from 0: clip(floor(z T), 0, T) spikes after T steps."""
    z = torch.tensor([[-0.5, 0.0, 0.125, 0.5, 0.75, 1.0, 3.0]])
    snn = pipe(nn.ReLU(), trace, replace(neuron=integrate_and_fire(v_init=0.0), threshold=fixed(1.0)), to_snn)
    (count,) = spike_counts(snn, z, T=16).values()
    T = torch.arange(1, 17).view(-1, 1)
    assert torch.equal(count.per_step.cumsum(0), torch.minimum((z * T).floor().clamp(min=0), T).sum(1).long())
    assert count.size == 7


def test_counting_changes_nothing(x):
    snn = converted(plain_net, x)
    before, weights = snn(x, T=6), {key: tensor.clone() for key, tensor in snn.state_dict().items()}
    spike_counts(snn, x, T=6)
    assert torch.equal(snn(x, T=6), before)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in snn.state_dict().items())
    assert not any(module._forward_hooks for module in snn.modules())


@pytest.mark.parametrize("T", [0, -1, 2.0, True])
def test_spike_counts_refuses_what_the_network_refuses(T, x):
    with pytest.raises(InputError, match="number of time steps"):
        spike_counts(converted(plain_net, x), x, T=T)


def test_spikes_per_neuron_is_total_over_neurons_and_samples(x):
    snn = converted(plain_net, x)
    counts = spike_counts(snn, x, T=5)
    total = sum(sum(steps) for steps in counted_by_hooks(snn, x, T=5).values())
    neurons = 3 * 6 * 6 + 3 * 3 * 3
    assert spikes_per_neuron(counts)[-1].item() == total / (neurons * len(x))
    halves = [spike_counts(snn, half, T=5) for half in (x[:2], x[2:])]
    for name, count in counts.items():
        assert torch.equal(count.per_step, halves[0][name].per_step + halves[1][name].per_step)
        assert count.size == halves[0][name].size + halves[1][name].size


def test_spikes_per_neuron_without_neurons():
    with pytest.raises(SnnpipeError, match="no neurons"):
        spikes_per_neuron({})
    assert spikes_per_neuron({"a": SpikeCount(torch.zeros(3, dtype=torch.int64), 4)}).tolist() == [0.0, 0.0, 0.0]


def test_report_groups_events_by_stage_and_aligns_columns(x):
    snn = converted(plain_net, x)
    table, _, summary = report(snn).partition("\n\n")
    first, *lines = table.splitlines()
    assert first == "pipeline: trace | fuse | calibrate | replace | to_snn"
    stages = [line for line in lines if not line.startswith(" ")]
    assert stages == ["trace", "fuse", "instrument", "calibrate", "replace", "td_rewrite"]
    assert len(lines) == len(stages) + len(snn.history)
    columns = set()
    for event in snn.history:
        (row,) = [line for line in lines if line.split()[:1] == [event.subject] and event.action in line]
        assert row.startswith("  ")
        assert row.endswith(event.detail)
        columns.add(row.index(event.action))
    assert len(columns) == 1
    assert summary.splitlines() == ["units: 2 binary neuron layers", "fully spiking"]


def test_report_is_the_same_for_a_state_and_its_network(x):
    state = pipe(model_of(plain_net), trace, fuse, calibrate([x]), replace)
    assert report(state).splitlines()[-2:] == report(to_snn(state)).splitlines()[-2:]
    lifted = td_rewrite(state)
    assert report(lifted).splitlines()[-2:] == report(to_snn(lifted)).splitlines()[-2:]


def test_a_max_pool_between_neurons_is_graded(x):
    text = report(converted(pooled_net, x, neuron=signed_memory()))
    units, verdict = text.splitlines()[-2:]
    assert units == "units: 2 signed neuron layers, 1 graded (float) operator"
    assert verdict == "not fully spiking: graded units 5 (max_pool2d)"


def test_a_general_operator_between_neurons_is_never_called_fully_spiking(x):
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Softmax(-1), nn.Linear(8, 8), nn.ReLU())
    state = pipe(net, trace, replace(threshold=fixed(1.0)))
    units, verdict = report(state).splitlines()[-2:]
    assert units == "units: 2 binary neuron layers, 1 graded (float) operator"
    assert verdict.startswith("not fully spiking: graded units 2")


def test_a_graded_neuron_is_never_called_fully_spiking():
    def step(state, z, theta, clock):
        return state, z.clamp(min=0)

    analog = Neuron("analog", lambda theta: theta, step, "graded")
    snn = pipe(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), trace, replace(neuron=analog, threshold=fixed(1.0)), to_snn)
    units, verdict = report(snn).splitlines()[-2:]
    assert units == "units: 1 graded neuron layer"
    assert verdict == "not fully spiking: graded units 1 (analog())"


def test_what_only_event_inputs_make_graded_is_said(x):
    def net():
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(2, 2, 1))

    last = report(converted(net, x)).splitlines()[-1]
    assert last == "fully spiking for a constant input; graded units when the input is events: 1 (max_pool2d)"


def test_report_without_neurons():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU())
    assert report(trace(model)).splitlines()[-1].startswith("not spiking yet: no neurons, 0 sites")
    exact = pipe(model, trace, td_rewrite(code=TD), to_snn)
    last = report(exact).splitlines()[-1]
    assert last == "not spiking: there are no neurons; every value is graded (float), carried by TD"
