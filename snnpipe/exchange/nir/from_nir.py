"""From a NIR graph to a state that every later stage reads."""

from __future__ import annotations

import keyword
import re
from graphlib import CycleError, TopologicalSorter
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.checks import Check, takes
from snnpipe.errors import Problem, UnsupportedError, listing
from snnpipe.exchange.nir.integrators import Integrator, Net, integrator, net
from snnpipe.exchange.nir.parts import STEP, NotSaidError
from snnpipe.exchange.nir.reading import READING, Reading, integrates
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Param, Ref, unique_name
from snnpipe.state import ConversionState, Event


def _is_graph(value: Any) -> Any:
    if type(value).__name__ != "NIRGraph" or not hasattr(value, "nodes") or not hasattr(value, "edges"):
        raise TypeError
    return value


_GRAPH = Check("must be a nir.NIRGraph", _is_graph, "write from_nir(nir.read(path))")


@takes(UnsupportedError, graph=_GRAPH, dt=STEP)
def from_nir(graph: Any, *, dt: float = 1.0) -> ConversionState:
    """Read a ``nir.NIRGraph`` as a state; the graph is unchanged.

    A state, because that is what goes on: ``to_snn`` makes the spiking network of it, ``to_module`` an ANN of a graph
    without neurons, and every stage in between may be put there.  An ``I`` whose thresholds lead back to it is a neuron
    with soft reset, ``IF`` one with hard reset; all else is the operator of the same name.  ``to_snn(from_nir(graph))``
    under RATE with a constant input is the graph run step by step, its output the mean over the steps.

    Args:
        graph: as ``nir.read(path)`` gives it.
        dt: the length of a step: a neuron adds ``r dt`` times its current.

    Raises:
        UnsupportedError: lists the nodes that have no exact counterpart.

    >>> import nir
    >>> import numpy as np
    >>> one = np.ones(2, np.float32)
    >>> graph = nir.NIRGraph.from_list(nir.Input([3]), nir.Affine(np.ones((2, 3), np.float32), one), nir.IF(one, one))
    >>> from snnpipe import to_snn
    >>> to_snn(from_nir(graph))
    SpikingNetwork(code=RATE, 1 neuron layers)
      n_if__if0: if(v_init=0.0, v_reset=0.0), binary, theta 1..1, from NIR's if
    """
    problems: list[Problem] = []
    unknown = {name for edge in graph.edges for name in edge} - graph.nodes.keys()
    if unknown:
        raise UnsupportedError(f"from_nir: edges lead to nodes that are not there: {', '.join(sorted(unknown))}")
    reader = _reader(net(graph.nodes, graph.edges), dt, problems)
    for name in _order(reader, problems):
        try:
            reader.read(name)
        except NotSaidError as error:
            problems.append(Problem(name, reader.graph.kind(name), "", error.reason, error.fix))
    outputs = {name: reader.values[name] for name in reader.outputs if name in reader.values}
    if not outputs and not problems:
        problems.append(Problem("output", "", "", "the graph has no Output that an Input reaches"))
    if problems:
        raise UnsupportedError(listing("from_nir: this graph cannot be read exactly", problems))
    made = Graph(tuple(reader.nodes), next(iter(outputs.values())) if len(outputs) == 1 else FrozenMap(outputs)).live()
    event = Event("from_nir", "graph", "read", f"{len(graph.nodes)} nodes of NIR")
    return ConversionState(made, FrozenMap(reader.params).only(made.param_keys()), history=(event,))


@attrs.define
class _Reader:
    """The graph being built.

    Attributes:
        graph: NIR's.
        dt: the length of a step.
        neurons: by their ``I`` node.
        owners: the neuron of each node that sends spikes.
        inner: nodes that lead back in neurons.
        outputs: the ``Output`` nodes that were reached.
        nodes, params, taken: of the graph being built.
        values: of NIR's nodes; of a neuron its events.
        thetas: what a spike of a neuron is worth in its events.
        counts: the spikes of a neuron, where somebody reads those.
        halves: the neuron whose events of one sign a node sends.
    """

    graph: Net
    dt: float
    neurons: dict[str, Integrator]
    owners: dict[str, str]
    inner: frozenset[str]
    outputs: list[str] = attrs.field(factory=list)
    nodes: list[Node] = attrs.field(factory=list)
    params: dict[str, Tensor] = attrs.field(factory=dict)
    values: dict[str, Ref] = attrs.field(factory=dict)
    thetas: dict[str, Tensor] = attrs.field(factory=dict)
    counts: dict[str, Ref] = attrs.field(factory=dict)
    halves: dict[str, str] = attrs.field(factory=dict)
    taken: set[str] = attrs.field(factory=set)

    def read(self, name: str) -> None:
        """Read one node of NIR, or what makes a neuron.

        Raises:
            NotSaidError: it has no exact counterpart.
        """
        kind, sources = self.graph.kind(name), self.sources(name)
        if not all(self.owners.get(source, source) in self.values for source in sources):
            return  # behind something that could not be read
        if kind == "Input":
            made = self._free(name)
            self.values[name] = self.add(Node(made, "input", FrozenMap(name=made), name))
            return
        whole = self._events_of(name, sources)
        if whole is not None:
            self.values[name] = whole
            return
        if kind == "Output":
            self.values[name] = self._sum(name, sources)
            self.outputs.append(name)
            return
        if name not in self.neurons and kind not in READING:
            raise NotSaidError(f"{kind} has no exact counterpart", _KINDS)
        reading = Reading(self.graph, name, self._sum(name, sources), self._free(name), self.dt)
        read = integrates(reading, self.neurons[name].levels) if kind == "I" else READING[kind](reading)
        self.params |= read.params
        if read.size is not None:
            self.thetas[name] = read.size
        for node in read.nodes:
            self.values[name] = self.add(node)

    def add(self, node: Node) -> Ref:
        """Add a node, and read it."""
        self.nodes.append(node)
        self.taken.add(node.name)
        return Ref(node.name)

    def sources(self, name: str) -> tuple[str, ...]:
        """What a node reads; of a neuron only its current."""
        return self.neurons[name].current if name in self.neurons else self.graph.sources[name]

    def _events_of(self, name: str, sources: tuple[str, ...]) -> Ref | None:
        """A neuron's events, where a ``Scale`` makes them of its spikes; negative ones come with the others."""
        owner = self.owners.get(sources[0]) if sources and self.graph.kind(name) == "Scale" else None
        if owner is None or self.graph.kind(owner) != "I":
            return None
        neuron, scale = self.neurons[owner], self.graph.array(name, "scale")
        up = set(sources) == set(neuron.spikes) and torch.equal(scale, neuron.levels.size)
        down = set(sources) == set(neuron.negative) and torch.equal(scale, -neuron.levels.size)
        if neuron.negative and (up or down):
            self.halves[name] = owner
        return self.values[owner] if up or down else None

    def _sum(self, name: str, sources: tuple[str, ...]) -> Ref:
        """What a node reads: the sum of its sources, a neuron's taken together."""
        terms: dict[str, Ref] = {}
        for source in sources:
            owner = self.owners.get(source)
            if owner is not None:
                terms[owner] = self._spikes(owner, sources)
            elif source in self.halves:
                terms[self.halves[source]] = self._both(self.halves[source], sources)
            else:
                terms[source] = self.values[source]
        if not terms:
            raise NotSaidError("it reads nothing")
        total, *others = terms.values()
        for other in others:
            total = self.add(Node(self._free(f"{name}_sum"), "add", FrozenMap(a=total, b=other), name))
        return total

    def _spikes(self, owner: str, sources: tuple[str, ...]) -> Ref:
        """The number of spikes that a neuron sends in a step: its events over what one is worth."""
        neuron = self.neurons.get(owner)
        theta = self.thetas[owner]
        if neuron is not None and (neuron.negative or not set(neuron.spikes) <= set(sources)):
            raise NotSaidError(f"it reads some of the thresholds of {owner}, and not all of what that sends", _ALL)
        if owner not in self.counts:
            key = unique_name(f"{self.values[owner].name}_size", self.params)
            self.params[key] = theta
            operands: FrozenMap[str, Any] = FrozenMap(a=self.values[owner], b=Param(key))
            self.counts[owner] = self.add(Node(self._free(f"{owner}_spikes"), "div", operands, owner))
        return self.counts[owner]

    def _both(self, owner: str, sources: tuple[str, ...]) -> Ref:
        halves = {name for name, of in self.halves.items() if of == owner}
        if len(halves) != 2 or not halves <= set(sources):
            raise NotSaidError(f"it reads the events of one sign of {owner}, and not those of the other", _ALL)
        return self.values[owner]

    def _free(self, name: str) -> str:
        """A free identifier that looks like a name of NIR."""
        made = re.sub(r"\W", "_", name, flags=re.ASCII)
        plain = made.isidentifier() and not keyword.iskeyword(made)
        return unique_name(made if plain else f"n_{made}", self.taken)


_KINDS = f"it reads {', '.join((*READING, 'I with Threshold and Scale'))}"
_ALL = "let it read all of them"


def _reader(graph: Net, dt: float, problems: list[Problem]) -> _Reader:
    """A reader that knows the neurons; what only looks like one is a problem."""
    neurons: dict[str, Integrator] = {}
    for name in graph.nodes:
        if graph.kind(name) != "I":
            continue
        try:
            neurons[name] = integrator(graph, name)
        except NotSaidError as error:
            problems.append(Problem(name, "I", "", error.reason, "write it as to_nir does"))
    owners = {spike: name for name, found in neurons.items() for spike in (*found.spikes, *found.negative)}
    owners |= {name: name for name in graph.nodes if graph.kind(name) == "IF"}
    inner = frozenset().union(*(found.inner for found in neurons.values()))
    return _Reader(graph, dt, neurons, owners, inner)


def _order(reader: _Reader, problems: list[Problem]) -> list[str]:
    """The nodes to read, each behind what it reads; the insides of neurons are left out."""
    graph, owners = reader.graph, reader.owners
    skipped = reader.inner | (owners.keys() - owners.values())
    needs = {name: {owners.get(s, s) for s in reader.sources(name)} for name in graph.nodes if name not in skipped}
    try:
        return [name for name in TopologicalSorter(needs).static_order() if name in needs]
    except CycleError as error:
        loop = " -> ".join(error.args[1])
        lost = {problem.node for problem in problems}
        if not lost.intersection(error.args[1]):
            problems.append(Problem(error.args[1][0], "", "", f"it reads what depends on it: {loop}", "cut the loop"))
        return []
