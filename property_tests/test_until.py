"""Samples that stop: each says what it would have said at that step, and the others do not notice."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from property_tests.strategies import codes
from property_tests.test_runs import EPS, network
from property_tests.test_waves import NEURONS
from snnpipe import (
    RATE,
    InputError,
    confident,
    events,
    fixed,
    integrate_and_fire,
    pipe,
    poisson,
    replace,
    to_snn,
    trace,
    wave,
)  # fmt: skip
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.ops.table import OPS, STRUCTURAL
from snnpipe.rules.row_kinds import Rows, Same
from snnpipe.rules.row_rules import RULES
from snnpipe.rules.rows import rows
from tests.catalogue import CASES
from tests.helpers import bound


class Total(nn.Module):
    """One number for the whole batch."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).sum()


def at(stops):
    """The rule that stops sample b at readout ``stops[b]``, whatever it says; it remembers rows, as a rule should."""

    def rule(memory, output):
        count, left = (torch.zeros_like(stops), stops) if memory is None else memory
        return (count + 1, left), count + 1 >= left

    return rule


def held_to_the_steps(snn, x, stops, **options):
    """What a run with stops says against the readouts one by one, float64."""
    stops = torch.tensor(stops)
    every = [*snn.iterate(x, **options)]
    ends = [clock.t for clock in options.get("schedule", wave(1)).clocks(snn.code, options["T"])]
    output, steps = snn(x, until=at(stops), **options)
    which = (stops.clamp(1, len(ends)) - 1).tolist()
    assert steps.tolist() == [ends[k] for k in which]
    size = sum(abs(w) for w in snn.code.worth(options["T"])) + 1
    for leaf, *found in zip(output, *every, strict=True):
        want = torch.stack([found[k][b] for b, k in enumerate(which)])
        assert (leaf - want).abs().max() <= 2**14 * options["T"] * EPS * size * (1 + want.abs().max())


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@given(
    seed=st.integers(0, 999), code=codes(), T=st.integers(1, 7), K=st.sampled_from([1, 1, 2, 3]), data=st.data(),
)  # fmt: skip
def test_each_sample_says_what_it_says_at_its_step(neuron, seed, code, T, K, data):
    if neuron.objection(code):
        return
    snn, x = network(neuron, code, seed)
    stops = data.draw(st.lists(st.integers(1, 9), min_size=3, max_size=3))
    snn.budget = data.draw(st.sampled_from([1, 3 * 4 * 4 * 4 * 8 * 4 * 2, None]))
    with torch.no_grad():
        held_to_the_steps(snn, x, stops, T=T, schedule=wave(K))


@pytest.mark.parametrize("budget", [1, None])
@pytest.mark.parametrize("schedule", [wave(1), wave(2)], ids=str)
def test_sequences_are_cut_along_their_batch(budget, schedule):
    snn, x = network(integrate_and_fire(), RATE, 7)
    snn.budget = budget
    given = torch.stack([x, -x, 2 * x, 0 * x, x, x, 3 * x])
    held_to_the_steps(snn, given, [1, 7, 3], T=7, encoding=events(), schedule=schedule)


def test_random_spikes_are_drawn_for_all():
    """The samples that go on get the spikes they would have got."""
    torch.manual_seed(0)
    snn = pipe(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double(), trace, UNIT, to_snn)
    x = torch.rand(4, 6, dtype=torch.float64)

    def drawn():
        return poisson(torch.Generator().manual_seed(3))

    for budget in (1, None):
        snn.budget = budget
        every = [*snn.iterate(x, T=9, encoding=drawn())]
        output, _ = snn(x, T=9, encoding=drawn(), until=at(torch.tensor([2, 9, 2, 2])))
        want = torch.stack([every[k][b] for b, k in enumerate([1, 8, 1, 1])])
        torch.testing.assert_close(output, want, rtol=1e-12, atol=1e-12)


def sizes_run(snn, x, stops, **options):
    """The batch sizes that the first neuron saw."""
    seen = []
    neuron = next(iter(snn.neurons().values()))
    handle = neuron.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    snn.budget = 1
    snn(x, until=at(torch.tensor(stops)), **options)
    handle.remove()
    return seen


def test_who_has_stopped_is_run_no_longer():
    snn, x = network(integrate_and_fire(), RATE, 7)
    assert sizes_run(snn, x, [2, 5, 2], T=6) == [3, 3, 1, 1, 1]


UNIT = replace(threshold=fixed(1.0))


class Mixing(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.a, self.b, self.mix = nn.Linear(4, 4), nn.Linear(4, 3), mix

    def forward(self, x):
        return self.b(torch.relu(self.mix(torch.relu(self.a(x)))))


MIXING = [
    lambda x: x - x.mean(0), lambda x: x.softmax(0), lambda x: x.flip(0), lambda x: x.cumsum(0), lambda x: x.roll(1),
    lambda x: x.sum() + x, lambda x: x.reshape(-1, 2).flip(1).reshape(-1, 4), lambda x: x @ x.T @ x,
    lambda x: x.T.softmax(-1).T, lambda x: x[[1, 2, 0]], lambda x: x + x[:1], lambda x: torch.cat([x[1:], x[:1]]),
    lambda x: x.unsqueeze(0).transpose(0, 1).mean(1) + x.mean(-2), lambda x: F.layer_norm(x, x.shape),
    lambda x: F.batch_norm(x, None, None, training=True), lambda x: x.permute(1, 0).relu().cumsum(1).permute(1, 0),
    lambda x: x[None].conv1d(torch.ones(3, 3, 1).to(x))[0], lambda x: F.pad(x, (0, 0, 1, 0))[:-1],
]  # fmt: skip


@pytest.mark.parametrize("k", range(len(MIXING)))
def test_where_samples_meet_all_are_run_on(k):
    torch.manual_seed(k)
    model, x = Mixing(MIXING[k]).double(), torch.rand(3, 4, dtype=torch.float64)
    snn = pipe(model, trace, UNIT, to_snn)
    assert rows(snn.graph, snn.state_dict(), {"x": Rows(2)}) is None
    for budget in (1, None):
        snn.budget = budget
        every = [*snn.iterate(x, T=8)]
        output, steps = snn(x, T=8, until=at(torch.tensor([2, 8, 2])))
        assert steps.tolist() == [2, 8, 2]
        want = torch.stack([every[1][0], every[7][1], every[1][2]])
        torch.testing.assert_close(output, want, rtol=1e-9, atol=1e-9)


def test_rules_are_of_rows_of_the_table():
    assert not RULES.keys() - OPS.keys() - STRUCTURAL


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_said_to_keep_samples_apart_does(case):
    """A network that is known by its rules, on some of a batch and on all of it; in float64, to rounding."""
    model, inputs = case.ready()
    state = trace(model, **case.options)
    names = [node["name"] for node in state.graph.inputs]
    count = len(inputs[0]) if all(isinstance(x, torch.Tensor) for x in inputs) else 0
    kinds = {name: Same(0) for name in names} | {
        name: Rows(x.ndim) for name, x in zip(names, inputs, strict=False) if count
    }
    if count < 2 or {len(x) for x in inputs} != {count} or rows(state.graph, state.params, kinds) is None:
        pytest.skip("not known")
    some = torch.arange(count)[1:]
    with torch.no_grad():
        whole, part = model(*inputs), model(*(x[some] for x in inputs))

    def close(a, b):
        torch.testing.assert_close(a[some], b, rtol=0, atol=bound(b.dtype, scale=float(b.abs().max()) + 1))

    zip_leaves(close, whole, part)


def test_confident_waits_for_the_same_class_so_many_times():
    rule = confident(0.0, steady=3)
    memory = None
    said = []
    for scores in ([2.0, 1.0], [1.0, 2.0], [1.0, 2.0], [0.0, 1.0], [1.0, 0.0]):
        memory, done = rule(memory, torch.tensor([scores]))
        said.append(bool(done))
    assert said == [False, False, False, True, False]


def test_gradients_reach_each_sample_through_its_own_steps():
    snn, x = network(integrate_and_fire(), RATE, 3)
    x.requires_grad_()
    (output, _), _ = snn(x, T=6, until=at(torch.tensor([1, 6, 3])))
    output.sum().backward()
    assert x.grad.abs().sum((1, 2, 3)).min() > 0


def test_what_does_not_fit_is_said():
    snn, x = network(integrate_and_fire(), RATE, 3)
    with pytest.raises(InputError, match=r"one tensor \(B, classes\), and the network gives a tuple"):
        snn(x, T=2, until=confident())
    with pytest.raises(InputError, match="leave out readout"):
        snn(x, T=2, until=confident(), readout="every")
    with pytest.raises(InputError, match="delay"):
        snn(x, T=2, until=confident(), delay=1)
    with pytest.raises(InputError, match=r"booleans \(3,\), and gave torch.float64 \(3,\)"):
        snn(x, T=2, until=lambda memory, output: (memory, output[0][:, 0]))
    total = pipe(Total(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), trace, UNIT, to_snn)
    with pytest.raises(InputError, match="a row for each sample"):
        total(torch.ones(1, 2), T=2, until=lambda memory, output: (memory, output > 0))
    with pytest.raises(InputError, match="until must be a function"):
        snn(x, T=2, until=0.9)
    with pytest.raises(InputError, match="probability must be a probability"):
        confident(90)
