"""The network cut at its neurons, so that all the data can reach one neuron before any of it goes on to the next.

A *stretch* computes a neuron's current from what the neurons before it have sent.  What a batch has met on its way
and somebody further on reads is carried along; everything else is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from operator import or_
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.codes import Clock, Code
from snnpipe.emit import module_tree
from snnpipe.generated import compiled
from snnpipe.graph import Graph, Node, Ref, refs
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.runtime.window import Window
from snnpipe.sharing import tied


@attrs.frozen(eq=False)
class Stretch:
    """The way to one neuron.

    Attributes:
        neuron: its ``encode`` node.
        part: the nodes on the way, and the neuron.
        timed: whether its current has a leading time axis, (T, B, ...), or is the same at every step, (B, ...).
        reads: the values that it is given, by node name.
        carried: those that somebody further on reads, of all that was met before this neuron has sent anything.
        run: the generated function.
    """

    neuron: Node
    part: Graph
    timed: bool
    reads: frozenset[str]
    carried: frozenset[str]
    run: Callable[..., Any]

    def __call__(
        self, root: nn.Module, clocks: Sequence[Clock], values: Mapping[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        """The neuron's current, and what of ``carried`` was made on the way, by node name.

        Args:
            root: the module that holds the tensors.
            clocks: the code at each step.
            values: what it reads.
        """
        current, made = self.run(root, clocks, {}, {}, values)
        return current, made


def lent(params: Mapping[str, Tensor], device: torch.device | None, *ways: Stretch) -> nn.Module:
    """The module that holds the tensors of some stretches and no others, on a device, or where they are.

    Whoever lets go of it before it asks for the next has no more on the device than one neuron's way at a time.
    """
    part = Graph(tuple(node for way in ways for node in way.part), None)
    needed = {key: params[key] for key in sorted(part.param_keys())}
    return module_tree(part, tied(needed, lambda tensor: brought(tensor.detach(), device)))


def brought(value: Any, device: torch.device | None) -> Any:
    """A value, its tensors on a device, or where they are."""
    return value if device is None else zip_leaves(lambda x: x.to(device) if isinstance(x, Tensor) else x, value)


def stretches(graph: Graph, code: Code, *, over_time: bool) -> tuple[Stretch, ...]:
    """The ways from neuron to neuron, in the order of the graph.

    Args:
        graph: of the ANN, or lifted for inputs that do not change.
        code: the neural code.
        over_time: whether neurons send events, (T, B, ...), or, as the ANN's activations do, one value, (B, ...).
    """
    known = {node.name for node in graph.inputs}
    parts: list[tuple[Node, list[Node], set[str]]] = []
    for neuron in [node for node in graph if node.op == "encode"]:
        wanted = graph.ancestors(refs(neuron["input"])) - known
        part = [node for node in graph if node.name in wanted]
        parts.append((neuron, part, set(refs([neuron["input"], *(node.operands for node in part)]))))
        known |= wanted | {neuron.name}
    later = list(accumulate((reads for _, _, reads in reversed(parts)), or_, initial=set[str]()))[-2::-1]
    known, timed, found = {node.name for node in graph.inputs}, set[str](), list[Stretch]()
    for (neuron, part, read), read_later in zip(parts, later, strict=True):
        section = Window(graph, {name: ("inputs", name) for name in known}, timed, code)
        section.add(part)
        made = {node.name for node in part}
        known |= made
        answer = {name: section.value(Ref(name)) for name in sorted(made & read_later)}
        section.target.output((section.value(neuron["input"]), answer))
        is_timed = any(name in timed for name in refs(neuron["input"]))
        run, reads, carried = compiled(section.target), frozenset(read - made), frozenset(known & read_later)
        found.append(Stretch(neuron, Graph((*part, neuron), None), is_timed, reads, carried, run))
        known.add(neuron.name)
        timed |= {neuron.name} if over_time else set()
    return tuple(found)
