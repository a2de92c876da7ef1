"""What ``evaluate`` finds in one pass, against a plain loop over whole runs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from property_tests.strategies import few, inputs, relu_nets
from snnpipe import confident, evaluate, fixed, pipe, replace, spike_counts, to_snn, trace, wave
from snnpipe.analysis.interval import Sums
from snnpipe.analysis.scores import ranked
from snnpipe.frozen import leaves
from tests.helpers import relative_error

SCHEDULES = st.sampled_from(["step", "layer", wave(2), wave(3)])


def spiking(net):
    return pipe(net, trace, replace(threshold=fixed(0.5)), to_snn)


@st.composite
def tasks(draw):
    """A classifier, its spiking network, and labelled batches."""
    seed = draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    width, classes = draw(st.integers(2, 6)), draw(st.integers(2, 5))
    layers = [nn.Linear(4, width), nn.ReLU()] + [nn.Linear(width, width), nn.ReLU()] * draw(st.integers(0, 2))
    model = nn.Sequential(*layers, nn.Linear(width, classes)).double().eval()
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    batches = [(torch.randn(n, 4).double(), torch.randint(classes, (n,))) for n in sizes]
    return model, spiking(model), batches


@few(0.6)
@given(tasks(), st.integers(1, 7), SCHEDULES, st.integers(1, 3))
def test_a_pass_is_a_plain_loop(task, T, schedule, top):
    model, snn, batches = task
    found = evaluate(snn, batches, T=T, schedule=schedule, ann=model, top=top)
    assert found.samples == sum(len(y) for _, y in batches)
    clocks = (wave(T) if schedule == "layer" else wave(1) if schedule == "step" else schedule).clocks(snn.code, T)
    assert [r.t for r in found.readouts] == [clock.t for clock in clocks]
    for k, readout in enumerate(found.readouts):
        right = same = off = size = events = 0.0
        for x, y in batches:
            out, ann = [*snn.iterate(x, T=T, schedule=schedule)][k], model(x).detach()
            best = out.sort(dim=1, descending=True, stable=True).indices[:, :top]
            right += float((best == y[:, None]).any(1).sum())
            same += float((out.argmax(1) == ann.argmax(1)).sum())
            off, size = off + float((out - ann).square().sum()), size + float(ann.square().sum())
            counted = spike_counts(snn, x, T=T, schedule=schedule).values()
            events += sum(int(count.per_step[: readout.t].sum()) for count in counted)
        assert readout.accuracy.mean == pytest.approx(100 * right / found.samples, rel=1e-12)
        assert readout.agreement.mean == pytest.approx(100 * same / found.samples, rel=1e-12)
        assert readout.error == pytest.approx(math.sqrt(off / size), rel=1e-9)
        assert readout.events == pytest.approx(events / found.samples, rel=1e-12)
    truth = sum(float((model(x).argmax(1) == y).sum()) for x, y in batches)
    assert top > 1 or found.ann.mean == pytest.approx(100 * truth / found.samples, rel=1e-12)


@few(0.4)
@given(tasks(), st.integers(2, 7), st.sampled_from(["step", wave(2)]), st.integers(1, 3), st.floats(0, 0.9))
def test_samples_that_stop_say_what_the_network_says(task, T, schedule, steady, p):
    _, snn, batches = task
    rule = confident(p, steady=steady)
    found = evaluate(snn, batches, T=T, schedule=schedule, until=rule)
    runs = [snn(x, T=T, schedule=schedule, until=rule) for x, _ in batches]
    steps = torch.cat([run.steps for run in runs])
    right = torch.cat([run.output.argmax(1) == y for run, (_, y) in zip(runs, batches, strict=True)])
    assert found.stopped.steps == tuple(torch.bincount(steps, minlength=T + 1)[1:].tolist())
    assert found.stopped.mean == pytest.approx(steps.double().mean().item())
    assert found.stopped.accuracy.mean == pytest.approx(100 * right.double().mean().item())


@few(0.4)
@given(relu_nets(), st.integers(0, 2**16), st.integers(1, 4))
def test_any_network_is_evaluated(net, seed, T):
    net, x = net.eval(), inputs(net, seed)
    snn = spiking(net)
    found, want = evaluate(snn, [x], T=T, ann=net), net(x)
    if any(leaf.count_nonzero() for leaf in leaves(want)):
        assert found.last.error == pytest.approx(relative_error(snn(x, T=T), want), rel=1e-3, abs=1e-6)
    assert found.last.accuracy is None


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.integers(0, 20), st.floats(0.5, 0.99))
def test_parts_add_up_and_intervals_hold_the_mean(scores, cut, confidence):
    x = torch.tensor(scores)
    parts, whole = Sums.of(x[:cut]) + Sums.of(x[cut:]), Sums.of(x)
    assert (parts.count, parts.binary) == (whole.count, whole.binary)
    assert parts.total == pytest.approx(whole.total, abs=1e-9)
    found = whole.interval(confidence)
    assert found.low <= found.mean <= found.high
    assert found.mean == pytest.approx(x.double().mean().item(), abs=1e-9)


@few(0.2)
@given(st.integers(5, 80), st.floats(0.02, 0.98), st.integers(0, 2**16))
def test_wilsons_bounds_are_where_the_score_test_turns(n, p, seed):
    """At a bound b the mean lies z standard deviations, sqrt(b (1 - b) / n), from it: the equation Wilson solved."""
    x = (torch.rand(n, generator=torch.Generator().manual_seed(seed)) < p).double()
    found, mean, z = Sums.of(x).interval(0.95), x.mean().item(), 1.959963984540054
    for bound in (found.low, found.high):
        if 0 < bound < 1:
            assert abs(mean - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), rel=1e-9)


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 2**16))
def test_the_label_is_among_the_k_first_of_a_stable_sort(classes, k, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(3, (5, classes, 2), generator=generator).double()  # many ties
    labels = torch.randint(classes, (5, 2), generator=generator)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    want = (best == labels[:, None]).any(1).double().mean(1)
    assert torch.equal(ranked(scores, labels, k), want)
    if k == 1:
        assert torch.equal(want, (scores.argmax(1) == labels).double().mean(1))
