"""From the frozen graph back to torch.fx: nodes become calls, parameter keys become attributes of a module tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from snnpipe.frozen import FrozenList, FrozenMap, Packed, is_namedtuple, map_leaves
from snnpipe.generated import packaged
from snnpipe.graph import Graph, Node, Param, Ref, param_keys
from snnpipe.ops.functions import Opaque, events_of
from snnpipe.ops.modules import OpaqueModule, SpikingNeuron, assign, clone
from snnpipe.ops.table import OPS
from snnpipe.sharing import tied

#: A function on leaves of operands: references and parameters become fx nodes.
Value = Callable[[Any], Any]


def graph_module(graph: Graph, params: Mapping[str, Tensor]) -> fx.GraphModule:
    """An ANN graph as a plain ``GraphModule`` around the very tensors of ``params``.

    Neurons become ``SpikingNeuron`` modules, modules kept whole become ``OpaqueModule``.
    """
    return packaged(ann_code(graph), module_tree(graph, params))


def ann_code(graph: Graph) -> fx.Graph:
    """An ANN graph as an fx graph over its ``module_tree``."""
    target = fx.Graph()
    env: dict[str, Any] = {}
    value = reader(target, env)
    for node in graph:
        env[node.name] = placeholder(target, node) if node.op == "input" else emit(target, node, value)
        if node.op == "encode":
            env[node.name] = target.call_function(events_of, (env[node.name],))
    target.output(value(graph.output))
    return target


def placeholder(target: fx.Graph, node: Node) -> fx.Node:
    """The fx placeholder of an input node."""
    default = (node["default"],) if "default" in node.operands else ()
    made = target.create_node("placeholder", node["name"], default, name=node.name)
    made.meta.update({key: node[key] for key in ("shape", "static") if key in node.operands})
    return described(made, node)


def emit(target: fx.Graph, node: Node, value: Value, *extra: Any) -> fx.Node:
    """Add the call of one node; ``extra`` arguments follow (a neuron's state and clock)."""

    def given(tree: Any) -> Any:
        return argument(target, map_leaves(value, tree))

    if node.op == "encode":
        arguments = (given(node["input"]), *extra)
        return described(target.create_node("call_module", neuron_path(node), arguments, name=node.name), node)
    if node.op == "call":
        args, kwargs = given((node["args"], node["kwargs"]))
        if isinstance(node["target"], Opaque):
            return described(target.create_node("call_module", opaque_path(node), args, kwargs, node.name), node)
        return described(_calling(target, node, node["target"], args, kwargs), node)
    op = OPS[node.op]
    args, kwargs = given(op.signature.call_arguments(node.operands))
    return described(_calling(target, node, op.fn, args, kwargs), node)


def _calling(target: fx.Graph, node: Node, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    """The call of a function, or of a method of tensors by its name, as symbols can be given to it."""
    name = getattr(fn, "__name__", "")
    if args and isinstance(args[0], fx.Node) and not name.startswith("__") and fn is getattr(Tensor, name, None):
        return target.create_node("call_method", name, args, kwargs, node.name)
    return target.create_node("call_function", fn, args, kwargs, node.name)


def reader(target: fx.Graph, env: Mapping[str, Any]) -> Value:
    """A ``Value`` that looks references up in ``env`` and fetches each parameter once; it takes whole trees too."""
    fetched: dict[str, fx.Node] = {}

    def value(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            return env[leaf.name]
        if isinstance(leaf, Param):
            if leaf.key not in fetched:
                fetched[leaf.key] = target.get_attr(leaf.key)
            return fetched[leaf.key]
        return leaf

    return lambda tree: argument(target, map_leaves(value, tree))


def argument(target: fx.Graph, tree: Any) -> Any:
    """A frozen tree of fx nodes and literals as the argument of an fx call; other containers are built by a call."""

    def of(tree: Any) -> Any:
        return argument(target, tree)

    if isinstance(tree, Packed):
        return target.call_function(tree.kind, tuple(map(of, tree.children)))
    if is_namedtuple(tree):
        return target.call_function(type(tree), tuple(map(of, tree)))
    if isinstance(tree, FrozenList):
        return [of(item) for item in tree]
    if type(tree) is tuple:
        return tuple(map(of, tree))
    if isinstance(tree, FrozenMap | dict):
        return {key: of(item) for key, item in tree.items()}
    return tree


def module_tree(graph: Graph, params: Mapping[str, Tensor]) -> nn.Module:
    """A module that holds the graph's tensors under their keys, and its neurons and whole modules."""
    root = nn.Module()
    modules = {neuron_path(node): node for node in graph if node.op == "encode"}
    modules |= {opaque_path(node): node for node in graph if _is_opaque(node)}
    for path, node in modules.items():
        assign(root, path, _as_module(node, params))
    owned = {key for node in modules.values() if node.op == "encode" for key in param_keys(node.operands)}
    for key in sorted(graph.param_keys() - owned):
        assign(root, key, params[key])
    return root


def described(made: fx.Node, node: Node) -> fx.Node:
    """Attach where a node comes from, so that printed code says it."""
    made.meta["snnpipe"] = (node.path, node.where, node.name)
    file, _, line = node.where.rpartition(":")
    if file:
        made.stack_trace = f'  File "{file}", line {line}, in forward\n    {node.path}: {node.op}'
    return made


def neuron_path(node: Node) -> str:
    """Where the module of an ``encode`` node sits in the tree."""
    return str(node["threshold"].key).removesuffix(".threshold")


def opaque_path(node: Node) -> str:
    """Where a module kept whole sits in the tree; its weights sit under their own keys."""
    return f"{node.path}__whole"


def _as_module(node: Node, params: Mapping[str, Tensor]) -> nn.Module:
    if node.op == "call":
        return OpaqueModule(node["target"])
    key = node["threshold"].key
    facts = {fact: node[fact] for fact in ("signed", "cap") if fact in node.operands}
    facts = {fact: params[value.key] if isinstance(value, Param) else value for fact, value in facts.items()}
    charge = params[node["charge"].key] if "charge" in node.operands else None
    return SpikingNeuron(node["neuron"], params[key], node["axis"], node["origin"], key, charge, **facts)


def _is_opaque(node: Node) -> bool:
    return node.op == "call" and isinstance(node["target"], Opaque)


def cloned(params: Mapping[str, Tensor], *, requires_grad: bool | None = None) -> dict[str, Tensor]:
    """Copies of the tensors, tied ones still tied; ``requires_grad`` overrides the parameters' own flag."""
    return tied(params, lambda x: clone(x, requires_grad=x.requires_grad if requires_grad is None else requires_grad))
