"""Rewriting a graph by rules.

A rule looks at one node and says what should stand there instead; this file knows how to carry that out and when to
stop, the rules know why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.errors import GraphError
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.graph import Graph, Node, Ref
from snnpipe.text import shown, written


@attrs.frozen(eq=False)
class Rewrite:
    """What a rule wants: ``nodes`` in place of the node it looked at, ``value`` for those who read that one.

    Attributes:
        nodes: new nodes, in order; they stand where the old one stood.
        value: what readers of the old node read from now on.
        params: new tensors under new keys.
        note: one line for the history.
    """

    nodes: tuple[Node, ...]
    value: Ref
    params: FrozenMap[str, Tensor] = EMPTY
    note: str = ""


@attrs.frozen
class Declined:
    """A rule matched but a guard forbids it; the reason goes to the history."""

    reason: str


#: ``rule(node, graph, params)``: ``None`` when it does not match.
RewriteRule = Callable[[Node, Graph, FrozenMap[str, Tensor]], Rewrite | Declined | None]


@attrs.frozen(eq=False)
class Rewritten:
    """A graph after rewriting, and what happened to which node."""

    graph: Graph
    params: FrozenMap[str, Tensor]
    done: tuple[tuple[str, str], ...]
    declined: tuple[tuple[str, str], ...]


def rewrite(graph: Graph, params: FrozenMap[str, Tensor], rules: Iterable[RewriteRule]) -> Rewritten:
    """Apply the first matching rule to each node, again and again until none matches; the inputs are unchanged.

    A rule may look at any node but replaces only its own, so the matches of one pass are independent.
    """
    rules = tuple(rules)
    done: list[tuple[str, str]] = []
    while True:
        outcomes = {node.name: _outcome(node, graph, params, rules) for node in graph}
        changes = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Rewrite)}
        declined = tuple((name, o.reason) for name, o in outcomes.items() if isinstance(o, Declined))
        if not changes:
            return Rewritten(graph, params, tuple(done), declined)
        done += [(name, change.note) for name, change in changes.items()]
        params = _joined(params, changes)
        graph = _replaced(graph, changes)


def _joined(params: FrozenMap[str, Tensor], changes: dict[str, Rewrite]) -> FrozenMap[str, Tensor]:
    """The parameters with the new ones; a key is written once."""
    new: dict[str, Tensor] = {}
    for name, change in changes.items():
        for key, tensor in change.params.items():
            known = new.get(key, params.get(key))
            if known is not None and not torch.equal(known, tensor):
                raise GraphError(f"the rule at {name} wrote another tensor under the key {key!r}; use a new key")
            new.setdefault(key, tensor)
    return params | new


def _outcome(
    node: Node, graph: Graph, params: FrozenMap[str, Tensor], rules: tuple[RewriteRule, ...]
) -> Rewrite | Declined | None:
    """What the first rule that has an opinion says."""
    for rule in rules:
        said: Any = rule(node, graph, params)
        if said is not None and not isinstance(said, Rewrite | Declined):
            raise GraphError(
                f"the rule {written(rule)} said {shown(said)} of {node.name}: a Rewrite, a Declined or None"
            )
        if said is not None:
            return said
    return None


def _replaced(graph: Graph, changes: dict[str, Rewrite]) -> Graph:
    nodes: list[Node] = []
    for node in graph:
        nodes += changes[node.name].nodes if node.name in changes else (node,)
    moved = {name: change.value.name for name, change in changes.items() if change.value.name != name}
    return Graph(tuple(nodes), graph.output).redirect(moved).live()
