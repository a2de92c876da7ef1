"""Whether a graph that comes from a file is one that this package could have made.

The text of programs is made of names of nodes and inputs, and tensors are looked up by key, so both are checked here;
and nodes call nothing but what ``exchange.torch_functions`` and the operator table list, and the user has given.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from snnpipe.errors import Problem, SnnpipeError, listing
from snnpipe.exchange import known
from snnpipe.exchange.torch_functions import class_name, is_method, name_of
from snnpipe.frozen import FrozenMap, Packed, leaves
from snnpipe.graph import Graph, Node, Param, Ref
from snnpipe.kernels.neuron import Neuron
from snnpipe.ops.functions import OnCopies, Opaque, WriteThrough, call_method
from snnpipe.ops.table import OPS
from snnpipe.rules.spec import SPEC

#: The operands of the ops that are in no table.
_OPERANDS: FrozenMap[str, frozenset[str]] = FrozenMap(
    input=frozenset({"name", "default", "shape", "static"}),
    encode=frozenset({"input", "threshold", "neuron", "axis", "origin", "signed", "cap", "charge"}),
    constant=frozenset({"input", "like"}), accumulate=frozenset({"input"}), difference=frozenset({"input"}),
)  # fmt: skip
_NEEDED: FrozenMap[str, frozenset[str]] = FrozenMap(
    input=frozenset({"name"}), encode=frozenset({"input", "threshold", "neuron", "axis", "origin"}),
    constant=frozenset({"input"}), accumulate=frozenset({"input"}), difference=frozenset({"input"}),
)  # fmt: skip
#: What is read of a tensor by name.
_ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "layout"})
_GETATTR = _ATTRIBUTES | {"T", "mT", "H", "mH", "real", "imag", "data", "itemsize", "nbytes", "is_sparse", "is_cpu",
                          "is_quantized", "requires_grad", "values", "indices"}  # fmt: skip


def check_graph(graph: Any, params: Mapping[str, Tensor]) -> None:
    """Refuse a graph that is none of this package's; all that is wrong with it is listed.

    Raises:
        SnnpipeError: lists the nodes and what is wrong with each.
    """
    if not isinstance(graph, Graph) or not all(isinstance(node, Node) for node in graph.nodes):
        raise SnnpipeError("its graph is none")
    nameless = [node for node in graph if not isinstance(node.name, str) or not f"_{node.name}".isidentifier()]
    nameless += [node for node in graph if not isinstance(node.operands, FrozenMap)]
    problems = [Problem(repr(node.name), "", "", "a node's name is of letters, digits and _") for node in nameless]
    problems = problems or [problem for rule in SPEC for problem in rule(graph, params)]
    problems = problems or [problem for node in graph for problem in _unlike(node, params)]
    if problems:
        raise SnnpipeError(listing("its graph cannot be used", problems))


def _is_identifier(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)


def _unlike(node: Node, params: Mapping[str, Tensor]) -> Iterator[Problem]:
    """What of a node no stage would have written."""
    if node.op in _OPERANDS:
        allowed, needed = _OPERANDS[node.op], _NEEDED[node.op]
    else:
        signature = OPS[node.op].signature
        optional = {*signature.defaults, signature.variadic}
        allowed, needed = frozenset(signature.names), frozenset(signature.names) - optional
    found = node.operands.keys()
    odd = [f"`{node.op}` has no operand {name!r}" for name in found - allowed]
    odd += [f"`{node.op}` needs the operand {name!r}" for name in sorted(needed - found)]
    if odd:
        yield Problem(node.name, str(node.path), str(node.where), odd[0])
    reason = _CHECKS[node.op](node, params) if node.op in _CHECKS and not odd else ""
    called = node.get("target")  # what a function of the user's own is given is theirs
    own = node.op == "call" and not _is_listed(called) and not (isinstance(called, type) and class_name(called))
    operands = () if own else node.operands.only(node.operands.keys() - {"target", "neuron"})
    reason = reason or next((f"it is given the function {leaf!r}" for leaf in leaves(operands) if _is_listed(leaf)), "")
    if reason:
        yield Problem(node.name, str(node.path), str(node.where), reason)


def _is_listed(leaf: Any) -> bool:
    """Whether a value is a function that the user did not give; an operator might call it."""
    if not callable(leaf) or isinstance(leaf, type):
        return False
    made = isinstance(leaf, Opaque | OnCopies | WriteThrough) or hasattr(leaf, "func")
    return made or bool(known.name_of(leaf) or name_of(leaf))


def _input(node: Node, params: Mapping[str, Tensor]) -> str:
    return "" if _is_identifier(node["name"]) else f"an input cannot be called {node['name']!r}"


def _encode(node: Node, params: Mapping[str, Tensor]) -> str:
    if not isinstance(node["threshold"], Param) or not node["threshold"].key.endswith(".threshold"):
        return "its threshold is no parameter of that name"
    axis = node["axis"] is None or type(node["axis"]) is int
    return "" if isinstance(node["neuron"], Neuron) and axis else "it has no neuron, or an axis that is none"


def _attribute(node: Node, params: Mapping[str, Tensor]) -> str:
    return "" if node["name"] in _ATTRIBUTES else f"it reads the attribute {node['name']!r}"


def _field(node: Node, params: Mapping[str, Tensor]) -> str:
    name = node["name"]
    plain = isinstance(name, str) and name.isidentifier() and not name.startswith("_")
    return "" if (plain and not hasattr(torch.Tensor, name)) or name == "data" else f"it reads the field {name!r}"


def _call(node: Node, params: Mapping[str, Tensor]) -> str:
    target, args, kwargs = node["target"], node["args"], node["kwargs"]
    if not isinstance(args, tuple) or not isinstance(kwargs, FrozenMap):
        return "its arguments are none"
    if isinstance(target, Opaque):
        return _opaque(target, args, params)
    called = target.target if isinstance(target, OnCopies) else target
    name = called if isinstance(called, str) and target is not called else ""
    name = args[1] if called is call_method and len(args) > 1 else name
    if called is call_method or isinstance(called, str):
        return "" if is_method(name) else f"it calls the method {name!r}, which is none of those that a file may name"
    if called is getattr:
        name = args[1] if len(args) > 1 else ""
        return "" if name in _GETATTR else f"it reads the attribute {name!r}"
    ours = known.name_of(called) and called not in known.OPERATIONS.values()
    odd = isinstance(called, Ref | Param | Neuron | Packed) or not callable(called) or hasattr(called, "func")
    if isinstance(called, WriteThrough):
        return _views(called.views, args[2:])
    return f"it calls {called!r}" if ours or odd else ""


def _views(views: Any, given: tuple[Any, ...]) -> str:
    """Whether what makes a view of a tensor, each with its arguments, does no more than that."""
    for view, argument in zip(views, given, strict=True):
        name = argument[0][0] if argument[0] else ""
        named = (view is getattr and name in _GETATTR) or (view is call_method and is_method(name))
        if not callable(view) or hasattr(view, "func") or (view in (getattr, call_method) and not named):
            return "it writes through a view that is none"
    return ""


def _opaque(target: Opaque, args: tuple[Any, ...], params: Mapping[str, Tensor]) -> str:
    """Whether a module kept whole is given the weights it has."""
    skeleton, given = target._skeleton[0], args[0] if args else None
    wanted = {name: tensor.shape for name, tensor in (*skeleton.named_parameters(), *skeleton.named_buffers())}
    keys = dict(given) if isinstance(given, FrozenMap) else {}
    there = {name: params[key.key].shape for name, key in keys.items() if isinstance(key, Param)}
    return "" if there == wanted else f"its weights are not those of {type(skeleton).__name__}"


_CHECKS = {"input": _input, "encode": _encode, "attribute": _attribute, "field": _field, "call": _call}
