"""A bill against counting by hand: spikes of neurons written out, weights looked at one by one."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from property_tests.strategies import few
from snnpipe import Device, account, energy, fixed, integrate_and_fire, pipe, replace, to_snn, trace
from snnpipe.analysis.bill import joules

PRICES = st.floats(0.0, 100.0)
SIZES = st.lists(st.integers(1, 5), min_size=3, max_size=5)


def by_hand(layers, x, T, theta):
    """Amounts for one sample: IF neurons of soft reset behind each layer but the last, everything on the grid k / 8."""
    found = dict.fromkeys(("first", "spikes", "decoded", "last", "updates", "ann"), 0)
    found["first"] = layers[0].weight.numel()
    found["last"] = layers[-1].weight.numel()
    found["ann"] = sum(layer.weight.numel() for layer in layers)
    potentials = [torch.full((layer.out_features,), theta / 2, dtype=torch.float64) for layer in layers[:-1]]
    for _ in range(T):
        arriving = x
        for k, layer in enumerate(layers[:-1]):
            potentials[k] = potentials[k] + layer.weight @ arriving + layer.bias
            fired = potentials[k] >= theta
            potentials[k] = potentials[k] - theta * fired
            arriving = theta * fired.double()
            found["updates"] += len(fired)
            if k + 1 < len(layers) - 1:  # the next layer adds one weight for each of its outputs, if it is not zero
                weight = layers[k + 1].weight
                found["spikes"] += sum(int(weight[row, column] != 0) for column in fired.nonzero().flatten().tolist()
                                       for row in range(len(weight)))  # fmt: skip
            else:
                found["decoded"] += int(fired.sum())
        found["updates"] += layers[-2].out_features  # the accumulator that the last layer reads
    return found


def exactly(amount):
    return pytest.approx(amount, rel=1e-12, abs=0)


@few(0.6)
@given(SIZES, st.integers(1, 6), st.integers(0, 2**16), st.tuples(PRICES, PRICES, PRICES))
def test_a_bill_is_what_is_counted_by_hand(sizes, T, seed, prices):
    (ac, mac, update), generator = prices, torch.Generator().manual_seed(seed)

    def grid(*shape):
        return torch.randint(-4, 6, shape, generator=generator).double() / 8

    layers = [nn.Linear(a, b).double() for a, b in itertools.pairwise(sizes)]
    for layer in layers:
        layer.weight.data, layer.bias.data = grid(*layer.weight.shape), grid(*layer.bias.shape)
    stack = [part for layer in layers[:-1] for part in (layer, nn.ReLU())] + [layers[-1]]
    neuron = replace(neuron=integrate_and_fire(v_init=0.5), threshold=fixed(0.5))
    snn, x = pipe(nn.Sequential(*stack).eval(), trace, neuron, to_snn), grid(3, sizes[0])
    device = Device("mine", ac=ac, mac=mac, update=update)
    bill = energy(account(snn, x, T=T), devices=(device,))
    each = [by_hand(layers, sample, T, 0.5) for sample in x]
    mean = {name: sum(found[name] for found in each) / len(each) for name in each[0]}
    amounts = {item.name: item.amount for item in bill.spiking}
    assert amounts == pytest.approx({
        "before the first neuron, AC": 0, "before the first neuron, MAC": mean["first"],
        "between neurons, AC": mean["spikes"], "between neurons, MAC": 0,
        "behind the last neuron, AC": mean["decoded"], "behind the last neuron, MAC": mean["last"],
        "state, numbers x steps": mean["updates"], "graded units, elements": 0,
    })  # fmt: skip
    want = ac * (mean["spikes"] + mean["decoded"]) + mac * (mean["first"] + mean["last"]) + update * mean["updates"]
    assert bill.joules(device) == exactly(1e-12 * want)
    neurons = sum(layer.out_features for layer in layers[:-1])
    assert bill.joules(device, ann=True) == exactly(1e-12 * (mac * mean["ann"] + update * neurons))


@given(st.floats(1e-12, 1e3))
def test_an_energy_reads_back(amount):
    number, unit = joules(amount).split()
    size = {"J": 1.0, "mJ": 1e-3, "µJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12}[unit]
    assert float(number) * size == pytest.approx(amount, rel=1e-3)
