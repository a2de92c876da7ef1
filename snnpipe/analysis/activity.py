"""Counting spikes.

A throwaway network is built around the same tensors, whose neurons count what they emit; the network one asks about
is only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import takes, valid
from snnpipe.emit import neuron_path
from snnpipe.errors import InputError, SnnpipeError
from snnpipe.graph import Graph, Node
from snnpipe.options import MAPPING, RUN, WHOLE, instance, whole
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.network import NETWORK, SpikingNetwork
from snnpipe.waves import SCHEDULE, STEP, Wave

_PER_STEP = instance(Tensor, "must be a tensor (T,)")
_SIZE = whole(0, most=2**62)


@attrs.frozen(eq=False)
class SpikeCount:
    """The events of one layer of neurons.

    Attributes:
        per_step: (T,) whole numbers: the spikes of step 1, 2, ... on all wires of all neurons, over all samples.
        size: number of neurons times number of samples.
        wires: the lines an event travels on; a neuron sends at most this many spikes in a step, unless it bursts.
    """

    per_step: Tensor = attrs.field(validator=valid(_PER_STEP))
    size: int = attrs.field(validator=valid(_SIZE))
    wires: int = attrs.field(default=1, validator=valid(WHOLE))


@takes(InputError, snn=NETWORK, T=RUN, encoding=ENCODING, schedule=SCHEDULE)
def spike_counts(
    snn: SpikingNetwork,
    *inputs: Any,
    T: int,
    encoding: Encoding = constant(),
    schedule: Wave | str = STEP,
    **named: Any,
) -> dict[str, SpikeCount]:
    """Count the spikes of every layer of neurons in ``snn(*inputs, T=T)``; the network is unchanged.

    Spikes are counted wire by wire: a spike of either sign counts once, a burst of k spikes k times, an event sent in
    binary digits as often as it has ones.  An event that carries a number (graded) counts once.

    Args:
        snn: a converted network.
        *inputs, **named: as the network takes them.
        T: number of steps.
        encoding, schedule: as the network takes them.

    Returns:
        The counts by name of the neuron, as in ``snn.neurons()``.

    Raises:
        InputError: what the network itself does not take.

    >>> from torch import nn
    >>> from snnpipe import fixed, integrate_and_fire, pipe, replace, to_snn, trace
    >>> neuron = replace(neuron=integrate_and_fire(v_init=0.0), threshold=fixed(1.0))
    >>> snn = pipe(nn.ReLU(), trace, neuron, to_snn)
    >>> counts = spike_counts(snn, torch.tensor([[0.25, 0.5, -1.0]]), T=4)
    >>> [(count.per_step.tolist(), count.size) for count in counts.values()]
    [([0, 1, 0, 2], 3)]
    """
    counter = Counter()
    with torch.no_grad():
        counter.twin(snn)(*inputs, T=T, encoding=encoding, schedule=schedule, **named)
    return counter.counts()


class Counter:
    """Counts what the neurons of a graph send, in every run of a network around it."""

    def __init__(self) -> None:
        self.found: dict[str, list[Tensor]] = {}
        self.sizes: dict[str, int] = {}
        self.wires: dict[str, int] = {}

    def watching(self, graph: Graph) -> Graph:
        """The graph, its neurons counting."""
        nodes = (self._counting(node) if node.op == "encode" else node for node in graph)
        return Graph(tuple(nodes), graph.output)

    def twin(self, snn: SpikingNetwork) -> SpikingNetwork:
        """A network around another's tensors that runs as it does and counts; the other is unchanged."""
        made = SpikingNetwork(self.watching(snn.graph), snn.state_dict(), snn.code)
        made.budget = snn.budget
        return made

    def sent(self) -> float:
        """The spikes since it was last asked."""
        found = sum(float(torch.stack(spikes).sum()) for spikes in self.found.values() if spikes)
        for spikes in self.found.values():
            spikes.clear()
        return found

    def counts(self) -> dict[str, SpikeCount]:
        """What was counted, by name of the neuron."""
        found = self.found.items()
        return {name: SpikeCount(torch.stack(count).cpu(), self.sizes[name], self.wires[name]) for name, count in found}

    def _counting(self, node: Node) -> Node:
        name, neuron = neuron_path(node), node["neuron"]
        self.found[name], self.wires[name] = [], neuron.wires

        def step(state: Any, z: Tensor, theta: Tensor, clock: Any, **options: Any) -> tuple[Any, Tensor]:
            state, events = neuron.step(state, z, theta, clock, **options)
            self.found[name].append(neuron.spikes(events, theta, **options).sum())
            self.sizes[name] = events.numel()
            return state, events

        return node.evolve(neuron=neuron.stepping(step))


@takes(counts=MAPPING)
def spikes_per_neuron(counts: Mapping[str, SpikeCount]) -> Tensor:
    """Spikes up to each step, averaged over all neurons of all layers and over the samples.

    ``r_t = (sum over layers and steps up to t of their events) / (sum over layers of neurons x samples)``

    Args:
        counts: what ``spike_counts`` found.

    Returns:
        (T,) float64.

    Raises:
        SnnpipeError: the network has no neurons.

    >>> spikes_per_neuron({"a": SpikeCount(torch.tensor([1, 3]), 4), "b": SpikeCount(torch.tensor([0, 2]), 4)})
    tensor([0.1250, 0.7500], dtype=torch.float64)
    """
    if not counts:
        raise SnnpipeError("spikes_per_neuron: counts is empty: the network has no neurons")
    shapes = {count.per_step.shape if isinstance(count, SpikeCount) else None for count in counts.values()}
    if None in shapes or len(shapes) > 1 or not sum(count.size for count in counts.values()):
        raise SnnpipeError("spikes_per_neuron: counts must be what spike_counts found in one run on some samples")
    total = torch.stack([count.per_step for count in counts.values()]).sum(0)
    return total.cumsum(0).double() / sum(count.size for count in counts.values())
