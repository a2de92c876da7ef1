r"""Lifting: carrying a graph of ANN operators to a temporal code.

**The law.** Decoding is linear.  So an operator that is jointly linear in all its temporal operands may be applied to
events as it stands (a constant of the same group becomes events too), and every other operator is applied to decoded
values, between an ``accumulate`` and a ``difference``.  Both are exact at every step, for every code.

Each value of the graph is therefore in one of three *forms*:

* ``STATIC``: the same at every step (parameters, shapes, whatever is computed from these alone);
* ``EVENTS``: what travels, ``x_t``;
* ``DECODED``: what it stands for, ``X_t``.

A neuron reads events and emits events.  A linear operator whose operands are events stays with events, so that it
costs additions only where something fired; what comes after the last neuron, and everything downstream of an operator
that needs decoded values, is kept decoded up to the next neuron.  No value changes form more often than it must.

Knows the operator table; nothing of tensors.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import attrs

from snnpipe.errors import Problem, UnsupportedError, listing
from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, redirecting, refs, unique_name
from snnpipe.ops.dtypes import is_float
from snnpipe.ops.table import OPS

#: The three ops that change the form of a value; for the ANN each is the identity.
TEMPORAL = frozenset({"constant", "accumulate", "difference"})


class Form(Enum):
    """How a value travels through time."""

    STATIC = auto()
    EVENTS = auto()
    DECODED = auto()


def is_lifted(graph: Graph) -> bool:
    """Whether the graph has been carried to a code already."""
    return any(node.op in TEMPORAL for node in graph)


def unlift(graph: Graph) -> Graph:
    """The graph as it was before ``lift``: without the three temporal ops, each an identity for the ANN."""
    if not is_lifted(graph):
        return graph
    moved: dict[str, str] = {}
    literals: dict[str, Any] = {}
    for node in graph:
        if node.op in TEMPORAL:
            if isinstance(node["input"], Ref):
                moved[node.name] = node["input"].name
            else:
                literals[node.name] = node["input"]
    swap = redirecting(moved)

    def inlined(leaf: Any) -> Any:
        leaf = swap(leaf)
        return literals.get(leaf.name, leaf) if isinstance(leaf, Ref) else leaf

    nodes = (
        attrs.evolve(node, operands=map_leaves(inlined, node.operands)) for node in graph if node.op not in TEMPORAL
    )
    return Graph(tuple(nodes), map_leaves(inlined, graph.output))


class Case(Enum):
    """Why an operator has the form it has; what a report calls it."""

    SOURCE = "source"
    STATIC = "static"
    LINEAR = "linear"
    BILINEAR = "bilinear"
    GENERAL = "general"
    NEURON = "neuron"


@attrs.frozen
class Placement:
    """What the law says of one node: its form, why, and the operands that are turned into events with it."""

    form: Form
    case: Case
    group: frozenset[str] = frozenset()


def is_source(node: Node, temporal_inputs: bool | frozenset[str]) -> bool:
    """Whether an input is an event sequence: all are but those traced as static, none is, or those of these names."""
    if node.op != "input" or node.get("static", False):
        return False
    return temporal_inputs if isinstance(temporal_inputs, bool) else node["name"] in temporal_inputs


def place(graph: Graph, *, temporal_inputs: bool | frozenset[str]) -> FrozenMap[str, Placement]:
    """Apply the law to every node of an ANN graph with neurons; see ``lift`` for the arguments."""
    before_neuron = graph.ancestors(node.name for node in graph if node.op == "encode")
    placed: dict[str, Placement] = {}
    for node in graph:
        if node.op == "input":
            form = Form.EVENTS if is_source(node, temporal_inputs) else Form.STATIC
            placed[node.name] = Placement(form, Case.SOURCE)
        elif node.op == "encode":
            placed[node.name] = Placement(Form.EVENTS, Case.NEURON)
        else:
            placed[node.name] = _place_operator(node, graph, placed, node.name in before_neuron)
    return FrozenMap(placed)


def _place_operator(node: Node, graph: Graph, placed: dict[str, Placement], before_neuron: bool) -> Placement:
    op = OPS[node.op]
    forms = {
        name: {placed[ref].form for ref in refs(value)} - {Form.STATIC}
        for name, value in node.operands.items()
        if name not in op.shape_only
    }
    temporal = {name for name, found in forms.items() if found}
    if not temporal:
        return Placement(Form.STATIC, Case.STATIC)
    group = next((group for group in op.groups if temporal <= group), None)
    if group is None:
        product = temporal <= frozenset().union(*op.groups)
        return Placement(Form.DECODED, Case.BILINEAR if product else Case.GENERAL)
    if not before_neuron or any(Form.DECODED in found for found in forms.values()):
        return Placement(Form.DECODED, Case.LINEAR)
    if not all(is_float(node.get(name), graph, lambda ref: placed[ref].form is Form.EVENTS) for name in op.typed_by):
        return Placement(Form.DECODED, Case.GENERAL)
    return Placement(Form.EVENTS, Case.LINEAR, group)


def graded_units(graph: Graph, *, temporal_inputs: bool | frozenset[str]) -> tuple[Node, ...]:
    """The operators between neurons that are not linear, so that their output is float-valued at every step."""
    placed = place(graph, temporal_inputs=temporal_inputs)
    before_neuron = graph.ancestors(node.name for node in graph if node.op == "encode")
    nonlinear = (Case.BILINEAR, Case.GENERAL)
    return tuple(node for node in graph if placed[node.name].case in nonlinear and node.name in before_neuron)


#: Methods that make a Python number, or a list of them, of a tensor.
_NUMBERS = frozenset({"item", "tolist", "numpy", "_local_scalar_dense"})


def check_numbers_stand(graph: Graph, *, temporal_inputs: bool | frozenset[str]) -> None:
    """Refuse Python numbers made of values that change in time: what is computed with them is the same at every step.

    Raises:
        UnsupportedError: lists them.
    """
    placed = place(graph, temporal_inputs=temporal_inputs)
    problems = [
        Problem(node.name, node.path, node.where, f"`{name}` makes a number of a value that depends on the input",
                "keep it a tensor: x * x.sum(), not x * x.sum().item()")
        for node in graph if node.op == "call" and placed[node.name].form is not Form.STATIC
        and (name := getattr(node["target"], "__name__", "")) in _NUMBERS
    ]  # fmt: skip
    if problems:
        raise UnsupportedError(listing("the network cannot run through time", problems))


def lift(graph: Graph, *, temporal_inputs: bool | frozenset[str]) -> Graph:
    """Carry ``graph`` to a code; the input is unchanged.

    Args:
        graph: ANN operators and ``encode`` nodes (neurons).
        temporal_inputs: whether the inputs are event sequences, or which of them; the others are the same at every
            step, and all that depends on them alone is static, to be computed once.

    Returns:
        A graph with the nodes ``constant`` (a static value turned into events), ``accumulate`` and ``difference``
        added.  Every temporal value of the result is decoded.
    """
    placed = place(graph, temporal_inputs=temporal_inputs)
    lifted = _Lifted(graph)
    for node in graph:
        placement = placed[node.name]
        if placement.case is Case.NEURON:
            node = node.evolve(input=lifted.events(node["input"], None))
        elif placement.case in (Case.LINEAR, Case.BILINEAR, Case.GENERAL):
            node = attrs.evolve(node, operands=_converted_operands(node, placement, lifted))
        lifted.add(node, placement.form)
    output = lifted.decoded(graph.output)  # may add nodes
    return Graph(tuple(lifted.nodes), output).live()


def _converted_operands(node: Node, placement: Placement, lifted: _Lifted) -> FrozenMap[str, Any]:
    kept = OPS[node.op].shape_only
    if placement.form is Form.DECODED:
        return FrozenMap({k: value if k in kept else lifted.decoded(value) for k, value in node.operands.items()})
    group = {name: value for name, value in node.operands.items() if name in placement.group}
    like = next(Ref(name) for name in refs(tuple(group.values())) if lifted.form[name] is Form.EVENTS)
    return node.operands | {name: lifted.events(value, like) for name, value in group.items()}


@attrs.define
class _Lifted:
    """The graph being built, and the one conversion node of each value that needed one."""

    source: Graph
    nodes: list[Node] = attrs.field(factory=list)
    form: dict[str, Form] = attrs.field(factory=dict)
    made: dict[tuple[Any, ...], Ref] = attrs.field(factory=dict)
    taken: set[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.taken = set(self.source.by_name)

    def add(self, node: Node, form: Form) -> None:
        self.nodes.append(node)
        self.form[node.name] = form

    def events(self, tree: Any, like: Ref | None) -> Any:
        return map_leaves(lambda leaf: self._event(leaf, like), tree)

    def decoded(self, tree: Any) -> Any:
        return map_leaves(self._decode, tree)

    def _event(self, leaf: Any, like: Ref | None) -> Any:
        if isinstance(leaf, Ref) and self.form[leaf.name] is Form.EVENTS:
            return leaf
        if isinstance(leaf, Ref) and self.form[leaf.name] is Form.DECODED:
            return self._converted("difference", leaf, Form.EVENTS)
        given = {} if like is None else {"like": like}
        if isinstance(leaf, Ref | Param):
            return self._converted("constant", leaf, Form.EVENTS, **given)
        number = isinstance(leaf, int | float | complex) and leaf != 0
        return self._converted("constant", leaf, Form.EVENTS, **given) if number else leaf

    def _decode(self, leaf: Any) -> Any:
        if isinstance(leaf, Ref) and self.form[leaf.name] is Form.EVENTS:
            return self._converted("accumulate", leaf, Form.DECODED)
        return leaf

    def _converted(self, op: str, leaf: Any, form: Form, **extra: Ref) -> Ref:
        made = (op, type(leaf), leaf, *extra.values())
        if made not in self.made:
            base = leaf.name if isinstance(leaf, Ref) else _identifier(leaf)
            name = unique_name(f"{base}_{_SUFFIX[op]}", self.taken)
            self.taken.add(name)
            origin = self.source.producer(leaf)
            path, where = (origin.path, origin.where) if origin else ("", "")
            self.add(Node(name, op, FrozenMap(input=leaf, **extra), path, where), form)
            self.made[made] = Ref(name)
        return self.made[made]


_SUFFIX = {"constant": "events", "accumulate": "decoded", "difference": "events"}


def _identifier(leaf: Any) -> str:
    return leaf.key.replace(".", "_") if isinstance(leaf, Param) else "constant"


def has_neurons(graph: Graph) -> bool:
    """Whether somebody has put neurons into the graph."""
    return any(node.op == "encode" for node in graph)
