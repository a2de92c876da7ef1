"""Which of a model's own tensors it writes to and reads, so that a run depends on those before."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from snnpipe.errors import Problem
from snnpipe.frontend.overloads import outs
from snnpipe.graph import Graph, Node, param_keys
from snnpipe.ops import functions
from snnpipe.ops.table import OPS


def remembered(graph: Graph, written: Collection[str], places: Mapping[str, Node]) -> Iterator[Problem]:
    """The model's own tensors that it writes to and whose value from the run before counts."""
    read = {key for node in graph for key in param_keys(_read_by(node))} | set(param_keys(graph.output))
    for key in sorted(read & set(written)):
        node = places.get(key)
        module, _, name = key.rpartition(".")
        yield Problem(
            key, module, node.where if node is not None else "",
            f"`{name}` is the model's own memory: forward writes to it and reads it, so a run depends on those before",
            "give the value as an input and return the new one, or keep the module as one call: "
            "trace(leaves=(ThatModule,))",
        )  # fmt: skip


def _read_by(node: Node) -> Any:
    """The operands whose values count; of what is overwritten whole only the shape does."""
    if node.op == "call" and isinstance(node["target"], functions.OnCopies):
        whole = outs(node["target"].target)
        return node["args"], tuple(value for key, value in node["kwargs"].items() if key not in whole)
    shape_only = OPS[node.op].shape_only if node.op in OPS else frozenset()
    return tuple(value for name, value in node.operands.items() if name not in shape_only)
