"""Which values of a graph hold the samples of a batch in their rows, none of which depends on another sample.

Where that holds of the whole graph, a batch may be cut: ``f(x[rows]) = f(x)[rows]``.  What has no rule
(``rules.row_rules``) is not known to keep samples apart.

Knows the ranks of the inputs; says nothing where it is not sure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.frozen import EMPTY, FrozenMap, leaves
from snnpipe.graph import Graph, Node, Param, Ref
from snnpipe.rules.row_kinds import Kind, Rows, Same
from snnpipe.rules.row_rules import RULES


def rows(graph: Graph, params: Mapping[str, Tensor], inputs: Mapping[str, Kind]) -> FrozenMap[str, Rows] | None:
    """The nodes whose values have to do with the number of samples, by name; ``None`` if samples may meet anywhere.

    Args:
        inputs: what each input is, by its name.

    >>> from torch import nn
    >>> import snnpipe
    >>> state = snnpipe.trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    >>> rows(state.graph, state.params, {"input": Rows(2)})["_1"]
    Rows(rank=2, of='')
    >>> rows(snnpipe.trace(nn.Softmax(0)).graph, {}, {"input": Rows(2)}) is None
    True
    """
    kinds: dict[str, Kind] = {}

    def kind(leaf: Any) -> Kind | None:
        if isinstance(leaf, Ref):
            return kinds[leaf.name]
        if isinstance(leaf, Param):
            tensor = params[leaf.key]
            return Same(tensor.ndim, tensor.shape[0] if tensor.ndim else None)
        return Same(0)

    for node in graph:
        found = inputs.get(node["name"]) if node.op == "input" else _kind(node, kind)
        if found is None:
            return None
        kinds[node.name] = found
    given = [kind(leaf) for leaf in leaves(graph.output)]
    if not all(isinstance(found, Rows) and not found.of for found in given):
        return None
    return FrozenMap({name: found for name, found in kinds.items() if isinstance(found, Rows)})


def of_batch(
    graph: Graph, params: Mapping[str, Tensor], given: Mapping[str, Any], count: int, axes: Mapping[str, int] = EMPTY
) -> FrozenMap[str, Rows]:
    """``rows`` for a batch of so many samples, its inputs by name; nothing if samples may meet.

    Args:
        axes: the axis of an input that counts the samples, where that is not the first.
    """
    inputs = dict[str, Kind]()
    for name, value in given.items():
        if isinstance(value, Tensor):
            shape = value.shape[axes.get(name, 0) :]
            inputs[name] = Rows(len(shape)) if shape[:1] == (count,) else Same(len(shape), *shape[:1])
        elif not tensors(value):
            inputs[name] = Same(0)
    return rows(graph, params, inputs) or EMPTY


def _kind(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    if not any(isinstance(kind(leaf), Rows) for leaf in leaves(node.operands) if isinstance(leaf, Ref)):
        return Same()
    rule = RULES.get(node.op)
    return None if rule is None else rule(node, kind)
