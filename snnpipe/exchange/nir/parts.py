"""What a NIR graph is made of, as data: primitives with their fields, and the values that travel between them.

Knows shapes and sums; neither NIR's package nor any operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Node, Param, Ref, refs, unique_name
from snnpipe.ops.modules import SpikingNeuron
from snnpipe.options import number


@attrs.frozen(eq=False)
class Part:
    """The primitive ``kind(**fields)`` under a name; it reads the sum of what its ``sources`` send."""

    name: str
    kind: str
    fields: Mapping[str, Any]
    sources: tuple[str, ...]


@attrs.frozen(eq=False)
class Wire:
    """A value of the network: ``factor`` times the sum of what the parts called ``sources`` send.

    Attributes:
        sources: names of parts.
        shape: of the value, without the batch axis.
        factor: what a spike is still worth where no primitive has multiplied it yet.
    """

    sources: tuple[str, ...]
    shape: tuple[int, ...]
    factor: float = 1.0


@attrs.frozen(eq=False)
class Made:
    """The parts that stand for an operator, in order, and its value."""

    parts: tuple[Part, ...]
    wire: Wire


class NotSaidError(Exception):
    """What NIR cannot say, or snnpipe cannot read: the reason and what to do, for the list of all of them."""

    def __init__(self, reason: str, fix: str = "") -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


@attrs.frozen(eq=False)
class Given:
    """What a row is told of the node that it translates.

    Attributes:
        node: the node.
        shape: of its value, without the batch axis.
        wires: the values that travel, by node.
        values: the values that do not, by node, computed.
        params: tensors by key.
        neuron: the module of an ``encode`` node.
        taken: names that are no longer free.
        times: ``times(name, wire, scale) -> Part``, the product with numbers, element by element, in the profile.
        dt: length of a step.
    """

    node: Node
    shape: tuple[int, ...]
    wires: Mapping[str, Wire]
    values: Mapping[str, Any]
    params: Mapping[str, Tensor]
    neuron: SpikingNeuron | None
    taken: frozenset[str]
    times: Callable[[str, Wire, Tensor], Part]
    dt: float

    def name(self, of: str = "") -> str:
        """A free name: the node's own, or that of a part of it."""
        return unique_name(f"{self.node.name}_{of}" if of else self.node.name, self.taken)

    def travels(self, operand: str) -> bool:
        """Whether an operand changes in time."""
        return any(name in self.wires for name in refs(self.node.get(operand)))

    def wire(self, operand: str) -> Wire:
        """An operand that travels."""
        value = self.node[operand]
        if not isinstance(value, Ref) or value.name not in self.wires:
            raise NotSaidError(f"its {operand} is no value of the network")
        return self.wires[value.name]

    def static(self, operand: str, default: Any = None) -> Any:
        """An operand that is the same at every step, its tensors looked up."""
        if self.travels(operand):
            raise NotSaidError(f"its {operand} changes from step to step")

        def found(leaf: Any) -> Any:
            if isinstance(leaf, Param):
                return self.params[leaf.key].detach()
            return self.values[leaf.name] if isinstance(leaf, Ref) else leaf

        return map_leaves(found, self.node.get(operand, default))


#: ``row(given) -> Made``; raises ``NotSaidError`` for what it cannot say.
Row = Callable[[Given], Made]


def alone(part: Part, shape: tuple[int, ...]) -> Made:
    """One part, whose output is the value."""
    return Made((part,), Wire((part.name,), shape))


def joined(*made: Made) -> Made:
    """The parts of several, and the value of the last."""
    return Made(tuple(part for each in made for part in each.parts), made[-1].wire)


def settled(given: Given, wire: Wire, of: str) -> Made:
    """A value whose factor is multiplied in; nothing is added where there is none."""
    if wire.factor == 1.0:
        return Made((), wire)
    return alone(given.times(given.name(of), wire, torch.ones(())), wire.shape)


def numel(shape: tuple[int, ...]) -> int:
    """How many numbers a value of this shape has."""
    return math.prod(shape)


#: For arguments that are the length of a step.
STEP = number("is the length of a step, from 1e-12 to 1e12", lambda value: 1e-12 <= value <= 1e12)
#: A table of rows by op.
Rows = FrozenMap[str, Row]
