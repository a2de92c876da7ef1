"""The frozen graph: a tuple of nodes whose operands are references, parameter keys or plain literals.

Knows structure only; what an op computes is the operator table's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import attrs

from snnpipe.frozen import EMPTY, FrozenMap, leaves, map_leaves


@attrs.frozen
class Ref:
    """The value computed by the node called ``name``."""

    name: str


@attrs.frozen
class Param:
    """The tensor stored under ``key`` in the state's parameters."""

    key: str


@attrs.frozen
class Traced:
    """What a tensor of an input was traced for: its sizes (or the range of one, or ``None`` for any) and its dtype."""

    shape: tuple[int | range | None, ...]
    dtype: Any


@attrs.frozen
class Node:
    """One operation: ``name = op(**operands)``, written by the user at ``where``.

    Attributes:
        name: unique in its graph, a valid Python identifier.
        op: a row of the operator table, or ``"input"``.
        operands: values by name; each is a tree with leaves ``Ref``, ``Param`` or literal.
        path: what people call it: ``layer1.0.act`` for the module of that name, ``layer1.0.relu`` for a function
            called in the ``forward`` of ``layer1.0``.
        where: ``file:line`` of the user's code, ``""`` if unknown.
    """

    name: str
    op: str
    operands: FrozenMap[str, Any] = EMPTY
    path: str = ""
    where: str = ""

    def __getitem__(self, operand: str) -> Any:
        return self.operands[operand]

    def get(self, operand: str, default: Any = None) -> Any:
        """The operand called so, or ``default`` when the node does not carry it."""
        return self.operands.get(operand, default)

    def evolve(self, **operands: Any) -> Node:
        """A copy with some operands changed; the node itself is unchanged."""
        return attrs.evolve(self, operands=self.operands | operands)


def refs(tree: Any) -> list[str]:
    """Names of the nodes a tree of operands reads, in order, with repetitions.

    >>> refs((Ref("a"), FrozenMap(k=Ref("b")), 3, Ref("a")))
    ['a', 'b', 'a']
    """
    return [leaf.name for leaf in leaves(tree) if isinstance(leaf, Ref)]


def param_keys(tree: Any) -> list[str]:
    """Keys of the parameters a tree of operands reads."""
    return [leaf.key for leaf in leaves(tree) if isinstance(leaf, Param)]


@attrs.frozen(eq=False)
class Graph:
    """Nodes in execution order and the tree of references that is the result.

    >>> g = Graph((Node("x", "input"), Node("y", "relu", FrozenMap(input=Ref("x")))), Ref("y"))
    >>> print(g)
    x = input()
    y = relu(input=x)
    return y
    """

    nodes: tuple[Node, ...]
    output: Any

    @cached_property
    def by_name(self) -> FrozenMap[str, Node]:
        return FrozenMap({node.name: node for node in self.nodes})

    @cached_property
    def users(self) -> FrozenMap[str, tuple[str, ...]]:
        """For each node the names of the nodes that read it, once each; ``"output"`` stands for the result."""
        readers: dict[str, dict[str, None]] = {node.name: {} for node in self.nodes}
        for node in self.nodes:
            for name in refs(node.operands):
                readers[name][node.name] = None
        for name in refs(self.output):
            readers[name]["output"] = None
        return FrozenMap({name: tuple(found) for name, found in readers.items()})

    @property
    def inputs(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.op == "input")

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __str__(self) -> str:
        lines = [f"{node.name} = {node.op}({_operands_text(node.operands)})" for node in self.nodes]
        return "\n".join([*lines, f"return {_text(self.output)}"])

    def producer(self, operand: Any) -> Node | None:
        """The node behind an operand, ``None`` when the operand is no reference."""
        return self.by_name[operand.name] if isinstance(operand, Ref) else None

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """The named nodes and everything they are computed from."""
        wanted = set(names)
        for node in reversed(self.nodes):
            if node.name in wanted:
                wanted.update(refs(node.operands))
        return wanted

    def descendants(self, names: Iterable[str]) -> set[str]:
        """The named nodes and everything that is computed from them."""
        found = set(names)
        for node in self.nodes:
            if any(name in found for name in refs(node.operands)):
                found.add(node.name)
        return found

    def live(self) -> Graph:
        """Without the nodes that the result does not need (inputs stay); ``self`` when all are needed."""
        needed = self.ancestors(refs(self.output))
        kept = tuple(node for node in self.nodes if node.name in needed or node.op == "input")
        return self if len(kept) == len(self.nodes) else attrs.evolve(self, nodes=kept)

    def param_keys(self) -> set[str]:
        """Keys of the parameters that the nodes or the result read."""
        return {key for tree in (self.output, *(node.operands for node in self.nodes)) for key in param_keys(tree)}

    def renamed(self, keys: Mapping[str, str], inputs: Mapping[str, str]) -> Graph:
        """Read the parameter ``keys[key]`` instead of ``key``, and call the input ``name`` ``inputs[name]``."""

        def swap(leaf: Any) -> Any:
            return Param(keys.get(leaf.key, leaf.key)) if isinstance(leaf, Param) else leaf

        def call(node: Node) -> Node:
            name = inputs.get(node["name"]) if node.op == "input" else None
            return node if name is None else attrs.evolve(node.evolve(name=name), path=name)

        nodes = tuple(attrs.evolve(call(node), operands=map_leaves(swap, call(node).operands)) for node in self.nodes)
        return Graph(nodes, map_leaves(swap, self.output))

    def redirect(self, moved: Mapping[str, str]) -> Graph:
        """Let every reader of ``old`` read ``moved[old]`` instead."""
        swap = redirecting(moved)
        nodes = tuple(attrs.evolve(node, operands=map_leaves(swap, node.operands)) for node in self.nodes)
        return Graph(nodes, map_leaves(swap, self.output))


def redirecting(moved: Mapping[str, str]) -> Callable[[Any], Any]:
    """A function on leaves that follows ``moved`` from reference to reference."""

    def swap(leaf: Any) -> Any:
        while isinstance(leaf, Ref) and leaf.name in moved:
            leaf = Ref(moved[leaf.name])
        return leaf

    return swap


def unique_name(base: str, taken: Iterable[str]) -> str:
    """``base``, or ``base_1``, ``base_2``, ... when it is taken.

    >>> unique_name("relu", {"relu", "relu_1"})
    'relu_2'
    """
    if base not in taken:
        return base
    return next(name for name in (f"{base}_{k}" for k in range(1, len(list(taken)) + 2)) if name not in taken)


def _text(leaf: Any) -> str:
    plain = map_leaves(lambda v: _Plain(v.name if isinstance(v, Ref) else _param_text(v)), leaf)
    return repr(plain)


def _param_text(leaf: Any) -> str:
    if isinstance(leaf, Param):
        return f"%{leaf.key}"
    plain = isinstance(leaf, str | bool | int | float | None) or not callable(getattr(leaf, "step", None))
    return repr(leaf) if plain else str(leaf)


def _operands_text(operands: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in operands.items())


class _Plain(str):
    def __repr__(self) -> str:
        return str(self)
