"""Running a lifted graph node by node and tallying what each node does.

The second value of each node is how many spikes every element of it stands for; where an element is not zero and
stands for no spikes, it is a float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.analysis.fan_out import DENSE, MERGED, OFFSETS, ROUTED, SCALED, SUMMED, added_up, called, fan_out, support
from snnpipe.analysis.multiplications import multiplications
from snnpipe.analysis.trains import elements, no_spikes, numbers, sends_numbers, total, unit_spikes
from snnpipe.codes import Clock
from snnpipe.emit import neuron_path
from snnpipe.frozen import leaves, map_leaves, thaw
from snnpipe.graph import Graph, Node, Param, Ref, refs
from snnpipe.kernels import temporal
from snnpipe.ops.lift import TEMPORAL, Case, Form, Placement
from snnpipe.ops.modules import SpikingNeuron
from snnpipe.ops.table import OPS
from snnpipe.runtime.section import STATEFUL


@attrs.define
class Tally:
    """What one node did in a run, over all samples."""

    runs: int = 0
    events: float = 0.0
    neurons: int = 0
    itemsize: int = 0
    ac: float = 0.0
    mac: float = 0.0
    graded: float = 0.0
    ann: int = 0
    unseen: bool = False

    @property
    def costs(self) -> bool:
        """Whether it did anything that counts."""
        return any((self.ac, self.mac, self.graded, self.ann, self.unseen))


def depends_on_inputs(graph: Graph) -> frozenset[str]:
    """The nodes whose values depend on the inputs; what depends on shapes and parameters alone costs nothing to run."""
    found: set[str] = set()
    for node in graph:
        shape_only = OPS[node.op].shape_only if node.op in OPS else ()
        read = [value for name, value in node.operands.items() if name not in shape_only]
        if node.op == "input" or not found.isdisjoint(refs(tuple(read))):
            found.add(node.name)
    return frozenset(found)


@attrs.define
class Run:
    """A lifted graph at some step of its run; ``perform`` goes on.

    Attributes:
        placed: what the law says of the nodes.
        fed: the nodes whose values depend on the inputs.
        cells: what each stateful node remembers.
        tallies: what each node did so far.
    """

    params: Mapping[str, Tensor]
    neurons: Mapping[str, SpikingNeuron]
    placed: Mapping[str, Placement]
    fed: Collection[str]
    values: dict[str, Any] = attrs.field(factory=dict)
    spikes: dict[str, Any] = attrs.field(factory=dict)
    cells: dict[str, Any] = attrs.field(factory=dict)
    fans: dict[str, Tensor] = attrs.field(factory=dict)
    tallies: dict[str, Tally] = attrs.field(factory=dict)

    def present(self, node: Node, value: Any, moves: bool) -> None:
        """Give an input its value; events that are all -1, 0 or 1 are spikes."""
        self.values[node.name] = value
        if moves:
            self.spikes[node.name] = temporal.zip_leaves(unit_spikes, value)

    def perform(self, node: Node, clock: Clock, current: Tensor | None = None) -> None:
        """Compute a node and add to its tally; a neuron that waited gets another ``current`` than what arrives now."""
        tally = self.tallies.setdefault(node.name, Tally())
        tally.runs += 1
        if node.op == "encode":
            self._encode(node, tally, clock, self.value(node["input"]) if current is None else current)
        elif node.op in TEMPORAL:
            self._convert(node, tally, clock)
        else:
            self._operate(node, tally)

    def value(self, tree: Any) -> Any:
        """A tree of operands, its references and parameters replaced by their values."""
        return thaw(map_leaves(self._read, tree))

    def _read(self, leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            return self.values[leaf.name]
        return self.params[leaf.key] if isinstance(leaf, Param) else leaf

    def spikes_of(self, tree: Any) -> Any:
        """The same tree with numbers of spikes; what is no train of spikes has none."""
        return thaw(map_leaves(self._spikes, tree))

    def _spikes(self, leaf: Any) -> Any:
        if isinstance(leaf, Ref) and leaf.name in self.spikes:
            return self.spikes[leaf.name]
        return temporal.zip_leaves(no_spikes, self._read(leaf)) if isinstance(leaf, Ref | Param) else leaf

    def _encode(self, node: Node, tally: Tally, clock: Clock, z: Tensor) -> None:
        module, spikes = self.neurons[neuron_path(node)], torch.empty(0)

        def step(*given: Any, **options: Any) -> tuple[Any, Tensor]:
            nonlocal spikes
            state, sent = module.neuron.step(*given, **options)
            spikes = module.neuron.spikes(sent, given[2], **options).double()
            return state, sent

        twin = copy(module)
        twin.neuron = module.neuron.stepping(step)
        events, self.cells[node.name] = twin(z, self.cells.get(node.name), clock)
        tally.events += float(spikes.sum())
        tally.neurons, tally.itemsize = events.numel(), events.element_size()
        tally.ac += total(self.spikes_of(node["input"]))
        self.values[node.name] = events
        self.spikes[node.name] = torch.zeros_like(spikes) if sends_numbers(module.neuron) else spikes

    def _convert(self, node: Node, tally: Tally, clock: Clock) -> None:
        given = self.value(node["input"])
        if node.op == "constant":
            self.values[node.name] = temporal.constant(given, clock, self.value(node.get("like")))
            return
        if node.op == "accumulate":
            tally.ac += total(self.spikes_of(node["input"]))
        made = STATEFUL[node.op](self.cells.get(node.name), given, clock)
        self.values[node.name], self.cells[node.name] = made

    def _operate(self, node: Node, tally: Tally) -> None:
        op, place, given = OPS[node.op], self.placed[node.name], self.value(node.operands)
        y = self.values[node.name] = called(op, given)
        if node.name not in self.fed:
            return
        quotient = node.op == "div" and place.case is Case.GENERAL
        if tally.runs == 1 and not quotient:  # shapes stay the same
            tally.ann = multiplications(node.op, given, y)
            weights = [leaf for leaf in leaves(node.operands) if isinstance(leaf, Param)]
            tally.unseen = node.op == "call" and tally.ann == 0 and any(self._read(w).ndim > 1 for w in weights)
        if place.form is Form.EVENTS:
            self._travel(node, tally, place, given, y)
        else:
            tally.mac += tally.ann
        if node.op == "scaled_dot_product_attention":
            tally.graded += given["query"].shape[:-1].numel() * given["key"].shape[-2]
        elif not op.groups or place.case is Case.GENERAL:
            tally.graded += max(map(elements, (y, *(self.values[ref] for ref in self._moving(node)))))

    def _moving(self, node: Node) -> list[str]:
        return [ref for ref in refs(node.operands) if ref in self.fed]

    def _travel(self, node: Node, tally: Tally, place: Placement, given: dict[str, Any], y: Any) -> None:
        """A linear operator on events: what every event costs, and which spikes are still spikes afterwards."""
        op = OPS[node.op]
        if node.op in ROUTED or (node.op == "interpolate" and tally.ann == 0):
            moved = {name: self.spikes_of(node[name]) for name in place.group if name in node.operands}
            self.spikes[node.name] = called(op, given | moved)
        elif node.op in MERGED:
            a, b = (self.spikes_of(node[name]) for name in ("a", "b"))
            self._join(node, tally, a + b, numbers(given["a"], a) + numbers(given["b"], b))
        elif node.op in DENSE:
            tally.mac += tally.ann
        else:
            (main,) = (name for name in place.group - OFFSETS if name in node.operands)
            spikes = self.spikes_of(node[main])
            floats = numbers(given[main], spikes)
            if node.op in SUMMED:
                reached = added_up(op, given, y, floats)
                tally.ac += float(reached.sum())
                self._join(node, tally, added_up(op, given, y, spikes), reached)
                return
            if node.name not in self.fans:
                self.fans[node.name] = fan_out(op, given, main)
            tally.mac += float((floats * self.fans[node.name]).sum())
            if node.op in SCALED:
                self.spikes[node.name] = spikes * support(given["b" if main == "a" else "a"])
            else:
                tally.ac += float((spikes * self.fans[node.name]).sum())

    def _join(self, node: Node, tally: Tally, spikes: Tensor, floats: Tensor) -> None:
        """Spikes that meet are sent on one by one; where they meet a float, they are added to it."""
        tally.ac += float((spikes * (floats != 0)).sum())
        self.spikes[node.name] = spikes * (floats == 0)
