"""Which values of a graph are whole numbers or truth values: places, counts, masks.  No neuron can stand for those.

Decided by the operators alone: a value is whole for what it is made of, or for what reads it.  Of the network's inputs
the graph knows no type; what is left calibration finds, which sees the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch
from torch import Tensor

from snnpipe.frontend.overloads import Overload
from snnpipe.frozen import leaves
from snnpipe.graph import Graph, Node, Param, Ref, refs
from snnpipe.ops.table import OPS, STRUCTURAL
from snnpipe.rules.signals import torch_name

#: What compares, counts, or looks for a place.
_MAKE = frozenset({
    "all", "any", "argmax", "argmin", "argsort", "argwhere", "attribute", "bincount", "bool", "bucketize", "byte",
    "char", "count_nonzero", "dim", "eq", "equal", "ge", "greater", "greater_equal", "gt", "histc", "int", "isclose",
    "isfinite", "isin", "isinf", "isnan", "isneginf", "isposinf", "isreal", "le", "less", "less_equal", "logical_and",
    "logical_not", "logical_or", "logical_xor", "long", "lt", "ne", "nonzero", "not_equal", "numel", "one_hot",
    "randint", "randperm", "searchsorted", "short", "signbit", "size", "tril_indices", "triu_indices",
})  # fmt: skip
#: What makes floats of whole numbers.
_FLOATS = frozenset({
    "acos", "asin", "atan", "atan2", "celu", "cos", "cosh", "deg2rad", "div", "divide", "elu", "empty", "encode", "erf",
    "erfc", "exp", "exp2", "expm1", "eye", "gelu", "hardsigmoid", "hardswish", "lgamma", "linspace", "log", "log10",
    "log1p", "log2", "log_softmax", "logit", "logsigmoid", "logspace", "logsumexp", "mean", "mish", "norm", "ones",
    "rand", "randn", "reciprocal", "rsqrt", "selu", "sigmoid", "silu", "sin", "sinh", "softmax", "softplus", "sqrt",
    "std", "tan", "tanh", "true_divide", "truediv", "var", "zeros",
})  # fmt: skip
#: What has the type of its first operand.
_LIKE = frozenset({
    "filled_like", "full_like", "index_add", "index_copy", "index_fill", "masked_fill", "masked_scatter", "new_empty",
    "new_full", "new_ones", "new_zeros", "ones_like", "scatter", "scatter_add", "set_item", "zeros_like",
})  # fmt: skip
#: What gives values, and second where they were found.
_FOUND = frozenset({"cummax", "cummin", "kthvalue", "max", "median", "min", "mode", "nanmedian", "sort", "topk"})
_CASTS = frozenset({"bool", "byte", "char", "int", "long", "short"})

#: The operands that are read as places: by name, of a call without a row by position.
_PLACES: dict[str, tuple[str | int, ...]] = {
    "getitem": ("index",), "index_select": ("index",), "set_item": ("index",), "bincount": (0,), "embedding": (0,),
    "embedding_bag": (0, 2), "gather": (2,), "index_add": (2,), "index_copy": (2,), "index_fill": (2,), "one_hot": (0,),
    "scatter": (2,), "scatter_add": (2,), "take": (1,), "take_along_dim": (1,),
}  # fmt: skip

#: Calls whose table comes before the places.
_WEIGHT_FIRST = (torch.embedding, torch.embedding_bag)


def wholes(graph: Graph, params: Mapping[str, Tensor]) -> frozenset[str]:
    """The nodes whose values surely are whole numbers, or are floats that only become such."""
    places, becoming = _read_as_whole(graph)
    made = set(places)
    for node in graph:
        if _makes_whole(node, graph, params, made):
            made.add(node.name)
    return frozenset(made | becoming)


def _makes_whole(node: Node, graph: Graph, params: Mapping[str, Tensor], found: Set[str]) -> bool:
    name = torch_name(node)

    def whole(leaf: Any) -> bool:
        if isinstance(leaf, Param):
            return not (params[leaf.key].is_floating_point() or params[leaf.key].is_complex())
        return leaf.name in found if isinstance(leaf, Ref) else not isinstance(leaf, float | complex)

    dtype = _operand(node, "dtype")
    if name == "type_as":
        dtype = Ref(refs(node.operands)[-1])
    if isinstance(dtype, torch.dtype):
        return not (dtype.is_floating_point or dtype.is_complex)
    told = graph.producer(dtype)
    if told is not None:  # the type of another value
        return whole(told["input"] if told.op == "attribute" else dtype)
    if name in _MAKE or _is_place(node, graph):
        return True
    if name in _FLOATS or node.op in STRUCTURAL or name == "call":
        return False
    operands = [leaf for leaf in leaves(_values(node)) if leaf is not None]
    if name in _LIKE:
        return bool(operands) and whole(operands[0])
    return all(map(whole, operands)) and any(isinstance(leaf, Ref | Param | int) for leaf in operands)


def _is_place(node: Node, graph: Graph) -> bool:
    """Whether a node is the second of two results, which says where the first was found."""
    if node.op == "getitem":
        before, second = graph.producer(node["a"]), node["index"] == 1
    elif node.op == "call" and node["target"] is getattr:
        before, second = graph.producer(node["args"][0]), node["args"][1] == "indices"
    else:
        return False
    if before is None or not second or before.op != "call":
        return False
    return torch_name(before) in _FOUND or _operand(before, "return_indices") is True


def _read_as_whole(graph: Graph) -> tuple[set[str], set[str]]:
    """What is read as a place, and what only for a cast to whole numbers; with what either is made of."""
    places: set[str] = set()
    becoming: set[str] = set()
    users: dict[str, list[Node]] = {}
    results = set(refs(graph.output))
    for node in reversed(graph.nodes):
        readers = users.get(node.name, [])
        for name in set(refs(node.operands)):
            users.setdefault(name, []).append(node)
        if any(
            _reads_place(reader, node) or (reader.name in places and _hands_on(reader, graph)) for reader in readers
        ):
            places.add(node.name)
        elif (
            readers
            and node.name not in results
            and all(_casts(reader) or (reader.name in becoming and _hands_on(reader, graph)) for reader in readers)
        ):
            becoming.add(node.name)
    return places, becoming


def _reads_place(reader: Node, node: Node) -> bool:
    target = reader.get("target")
    weight_first = target in _WEIGHT_FIRST or (isinstance(target, Overload) and "embedding" in torch_name(reader))
    at = (1, 2) if weight_first else _PLACES.get(torch_name(reader), ())
    args = reader.get("args", ())
    read = [
        reader.get(key) if isinstance(key, str) else args[key] for key in at if isinstance(key, str) or key < len(args)
    ]
    read += [value for name, value in _keywords(reader).items() if at and name in ("index", "indices")]
    return node.name in refs(tuple(read))


def _casts(reader: Node) -> bool:
    dtype = _operand(reader, "dtype")
    if isinstance(dtype, torch.dtype):
        return not (dtype.is_floating_point or dtype.is_complex)
    return torch_name(reader) in _CASTS


def _hands_on(reader: Node, graph: Graph) -> bool:
    """Whether the result of an op is whole only if all it reads is."""
    name = torch_name(reader)
    aside = _MAKE | _FLOATS | _CASTS | {"call", "type_as"}
    item = reader.op == "getitem" and isinstance(reader["index"], int | str)  # perhaps of a container
    return name not in aside and not item and _operand(reader, "dtype") is None and not _is_place(reader, graph)


def _values(node: Node) -> Any:
    """The operands that have a say in the type of the result."""
    if node.op == "call":
        return node["args"], node["kwargs"]
    aside = {"condition", "dim", "index", *OPS[node.op].shape_only} - ({"input"} if node.op in _LIKE else set())
    return tuple(value for name, value in node.operands.items() if name not in aside)


def _operand(node: Node, name: str) -> Any:
    """An operand by name; of a method ``to``, its second too."""
    if node.op != "call":
        return node.get(name)
    args = node["args"]
    if name == "dtype" and torch_name(node) == "to" and len(args) > 1:
        return args[1]
    return _keywords(node).get(name)


def _keywords(node: Node) -> Mapping[str, Any]:
    found: Mapping[str, Any] = node.get("kwargs") or {}
    return found
