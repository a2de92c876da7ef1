"""From an fx graph to the frozen graph: spellings become ops, in-place operations become functional.

Every fx value is a *cell*: the tensor it names and what has been written to it since.  An in-place op replaces the
value in its cell, so whoever reads the cell later sees the result.  Cells that share memory without being the same
tensor (a view and its base) cannot be followed that way: a read after such a write is a problem, and is reported.
"""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from snnpipe.errors import Problem
from snnpipe.frontend import overloads
from snnpipe.frontend.aten import ATEN
from snnpipe.frontend.shadow import shadow
from snnpipe.frontend.spellings import INPLACE_OPERATORS, KNOWN, RANDOM
from snnpipe.frozen import EMPTY, FrozenMap, freeze, is_namedtuple, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, unique_name
from snnpipe.ops import functions
from snnpipe.ops.modules import OpaqueModule, SpikingNeuron, weightless
from snnpipe.ops.table import OPS


@attrs.define(eq=False)
class _Cell:
    """A tensor of the traced program: its present value and the memory it lies in."""

    value: Any
    storage: _Storage
    stale: str = ""


@attrs.define(eq=False)
class _Storage:
    cells: list[_Cell] = attrs.field(factory=list)


@attrs.frozen(eq=False)
class Lowered:
    """What a front end hands over: the graph, its parameters, and what cannot be converted."""

    graph: Graph
    params: FrozenMap[str, Tensor]
    problems: tuple[Problem, ...]


def lower(fx_graph: fx.Graph, root: nn.Module, tensors: Mapping[str, Tensor] = EMPTY) -> Lowered:
    """Lower an fx graph over ``root``; neither is changed.

    Args:
        fx_graph: nodes may carry ``meta["snnpipe"] = (module path, file:line, name)``; the name is ``None`` for a
            function called in that module's forward, and "" for the module itself.
        root: holds the tensors and modules the graph names.
        tensors: values that take precedence over the root's.
    """
    lowering = _Lowering(root, tensors)
    for node in fx_graph.nodes:
        lowering.visit(node)
    graph = Graph(tuple(lowering.nodes), lowering.output).live()
    problems = tuple(p for p in lowering.problems if p.node in graph.by_name or p.node == "output")
    params: FrozenMap[str, Tensor] = FrozenMap(lowering.params)
    return Lowered(graph, params.only(graph.param_keys()), problems)


class _Lowering:
    """The graph being built; implements ``spellings.Seen``."""

    def __init__(self, root: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self.root, self.tensors = root, tensors
        self.nodes: list[Node] = []
        self.taken: dict[str, Node] = {}
        self.params: dict[str, Tensor] = {}
        self.cells: dict[fx.Node, _Cell] = {}
        self.attributes: dict[str, _Cell] = {}
        self.problems: list[Problem] = []
        self.output: Any = None
        self.place: tuple[str, str, str | None] = ("", "", None)

    # what adapt functions may use

    def node(self, operand: Any) -> Node | None:
        return self.taken[operand.name] if isinstance(operand, Ref) else None

    def tensor(self, operand: Any) -> Tensor | None:
        return self.params[operand.key] if isinstance(operand, Param) else None

    def emit(self, op: str, **operands: Any) -> Ref:
        module, where, known = self.place
        called = _name(operands["target"]) if op == "call" else op
        path = ".".join(filter(None, (module, called))) if known is None else module
        name = unique_name(known or _identifier(path), self.taken)
        node = Node(name, op, FrozenMap({key: freeze(value) for key, value in operands.items()}), path, where)
        self.nodes.append(node)
        self.taken[name] = node
        return Ref(name)

    # one fx node

    def visit(self, node: fx.Node) -> None:
        self.place = _place(node)
        if node.op == "placeholder":
            self.place = (str(node.target), "", self.place[2] or "")
            known = {"default": node.args[0]} if node.args else {}
            known |= {key: node.meta[key] for key in ("shape", "static") if key in node.meta}
            self.cells[node] = self._fresh(self.emit("input", name=str(node.target), **known))
        elif node.op == "get_attr":
            self.cells[node] = self._attribute(str(node.target))
        elif node.op == "output":
            self.output = freeze(self._read(node.args[0], node))
        elif node.op == "call_module":
            self.cells[node] = self._module(node)
        else:
            self._call(node)

    def _attribute(self, key: str) -> _Cell:
        if key not in self.attributes:
            value: Any = self.tensors[key] if key in self.tensors else _attribute(self.root, key)
            if isinstance(value, Tensor):
                self._check_key(key)
                self.params[key] = value
                self.attributes[key] = self._fresh(Param(key))
            else:
                self.attributes[key] = self._fresh(value)
        return self.attributes[key]

    def _check_key(self, key: str) -> None:
        """Generated code reads a parameter as ``self.a.b.weight``."""
        reserved = [part for part in key.split(".") if keyword.iskeyword(part)]
        if reserved:
            reason, fix = f"`{key}` has the Python keyword `{reserved[0]}` as a name", "call that module something else"
            self.problems.append(Problem("output", key, "", reason, fix))

    def _module(self, node: fx.Node) -> _Cell:
        path = str(node.target)
        module = self.root.get_submodule(path)
        args, kwargs = self._read(node.args, node), self._read(node.kwargs, node)
        if isinstance(module, SpikingNeuron):
            self.params[module.key] = module.threshold
            encoder = {"neuron": module.neuron, "axis": module.axis, "origin": module.origin, **module.facts}
            if module.capped_by:
                cap = f"{module.key.removesuffix('threshold')}{module.capped_by}"
                encoder["cap"], self.params[cap] = Param(cap), getattr(module, module.capped_by)
            if module.charge is not None:
                encoder["charge"] = self._attribute(f"{path}.charge").value
            return self._fresh(self.emit("encode", input=args[0], threshold=Param(module.key), **encoder))
        if isinstance(module, OpaqueModule):
            return self._alias(self.emit("call", target=module.opaque, args=args, kwargs=kwargs), node)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.params |= {f"{path}.{name}": tensor for name, tensor in tensors.items()}
        weights: FrozenMap[str, Param] = FrozenMap({name: Param(f"{path}.{name}") for name in tensors})
        opaque = functions.Opaque(weightless(shadow(module, share=True)))
        return self._alias(self.emit("call", target=opaque, args=(weights, *args), kwargs=kwargs), node)

    def _call(self, node: fx.Node) -> None:
        target, args, kwargs, inplace = _functional_form(node)
        cell = self.cells[node.args[0]] if inplace and isinstance(node.args[0], fx.Node) else None
        found = len(self.problems)
        read_args, read_kwargs = self._read(args, node), self._read(kwargs, node)
        op, operands = self._recognise(target, read_args, read_kwargs)
        if op == "identity" and cell is None and isinstance(node.args[0], fx.Node):
            self.cells[node] = self.cells[node.args[0]]
            return
        self._refuse(node, op, target, args, kwargs)
        value = self.emit(op, **operands)
        self.problems[found:] = [attrs.evolve(problem, node=value.name) for problem in self.problems[found:]]
        if cell is None:
            self.cells[node] = self._alias(value, node) if _may_alias(op, target) else self._fresh(value)
            return
        cell.value = value
        self.cells[node] = cell
        for other in cell.storage.cells:
            if other is not cell:
                other.stale = f"{value.name} wrote to the same memory" + (f" at {self.place[1]}" * bool(self.place[1]))

    def _recognise(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        spelling = (KNOWN.get(target) or ATEN.get(target)) if _hashable(target) else None
        if spelling is not None:
            bound = spelling.signature.bind(args, kwargs)
            if bound is not None:
                bound.pop("inplace", None)
                if spelling.adapt is None:
                    return spelling.op, bound
                adapted = spelling.adapt(bound, self)
                if adapted is not None:
                    return adapted[0] or spelling.op, adapted[1]
        if isinstance(target, OpOverload):
            target = overloads.as_function(target)
        if isinstance(target, str):
            method = getattr(Tensor, target, None)
            if method is None:
                return "call", {"target": functions.call_method, "args": (args[0], target, *args[1:]), "kwargs": kwargs}
            target = method
        return "call", {"target": target, "args": args, "kwargs": kwargs}

    def _refuse(self, node: fx.Node, op: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if kwargs.get("out") is not None:
            self._problem(node, "writes to `out=`", "use the value the function returns")
        random = op == "call" and _name(target).rstrip("_") in RANDOM and kwargs.get("training") is not False
        if isinstance(target, OpOverload):
            kwargs = overloads.named_arguments(target, args, kwargs)
            random = op == "call" and overloads.is_random(target, kwargs)
            if op == "call" and target._schema.is_mutable:
                self._problem(node, f"`{_name(target)}` writes to its argument", "use the functional form")
        if random or kwargs.get("dropout_p"):
            drops = "drop" in _name(target) or kwargs.get("dropout_p")
            self._problem(
                node,
                f"`{_name(target)}` is random, so the network computes no function of its input",
                "let dropout depend on the mode: training=self.training, or p if self.training else 0.0"
                if drops
                else "draw the noise outside the model and pass it as an input",
            )

    # cells

    def _fresh(self, value: Any) -> _Cell:
        cell = _Cell(value, _Storage())
        cell.storage.cells.append(cell)
        return cell

    def _alias(self, value: Any, node: fx.Node) -> _Cell:
        """A cell that may share memory with every tensor the node reads."""
        cell = self._fresh(value)
        for source in node.all_input_nodes:
            if source in self.cells and isinstance(self.cells[source].value, Ref | Param):
                _join(cell.storage, self.cells[source].storage)
        return cell

    def _read(self, tree: Any, reader: fx.Node) -> Any:
        def read(leaf: Any) -> Any:
            if not isinstance(leaf, fx.Node):
                return leaf
            cell = self.cells[leaf]
            if cell.stale:
                self._problem(
                    reader,
                    f"reads `{leaf.name}` after {cell.stale}",
                    "write to a copy instead: y = x.clone(), or use the functional form (y = x + 1, not x += 1)",
                )
            return cell.value

        return map_leaves(read, _plain(tree))

    def _problem(self, node: fx.Node, reason: str, fix: str) -> None:
        module, where, _ = _place(node)
        problem = Problem(node.name, module, where, reason, fix)
        if problem not in self.problems:
            self.problems.append(problem)


def _functional_form(node: fx.Node) -> tuple[Any, tuple[Any, ...], dict[str, Any], bool]:
    """The functional twin of a call, its arguments, and whether the call wrote to its first argument."""
    target: Any = node.target
    kwargs = dict(node.kwargs)
    inplace = bool(kwargs.pop("inplace", False))
    name = _name(target)
    if isinstance(target, OpOverload):
        target, inplace = overloads.functional(target)
        return target, node.args, kwargs, inplace
    if target in INPLACE_OPERATORS:
        return INPLACE_OPERATORS[target], node.args, kwargs, True
    if name == "setitem":
        return target, node.args, kwargs, True
    if name.endswith("_") and not name.endswith("__"):
        return name[:-1], node.args, kwargs, True
    spelling = KNOWN.get(target) if _hashable(target) else None
    bound = spelling.signature.bind(node.args, kwargs) if spelling is not None else None
    return target, node.args, kwargs, inplace or bool(bound and bound.get("inplace"))


_VIEWS = frozenset({
    "T", "as_strided", "call_method", "cpu", "cuda", "diagonal", "dsplit", "getattr", "hsplit", "imag", "indices",
    "ravel", "real", "squeeze", "t", "tensor_split", "to", "type", "type_as", "unfold", "values", "view_as_complex",
    "view_as_real", "vsplit",
})  # fmt: skip


def _may_alias(op: str, target: Any) -> bool:
    """Whether the result may share memory with an operand; of functions nobody knows, we assume it."""
    if op != "call":
        return OPS[op].aliases
    if isinstance(target, OpOverload):
        return overloads.may_alias(target)
    module = getattr(target, "__module__", None) or "torch"
    return _name(target) in _VIEWS or not (isinstance(target, str) or module.startswith(("torch", "_operator")))


def _place(node: fx.Node) -> tuple[str, str, str | None]:
    default = (str(node.target), "", "") if node.op == "call_module" else ("", "", None)
    place: tuple[str, str, str | None] = node.meta.get("snnpipe", default)
    return place


def _attribute(root: nn.Module, key: str) -> Any:
    value: Any = root
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _name(target: Any) -> str:
    if isinstance(target, OpOverload):
        return overloads.name_of(target)
    return target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__.lower())


def _join(a: _Storage, b: _Storage) -> None:
    if a is b:
        return
    for cell in b.cells:
        cell.storage = a
    a.cells.extend(b.cells)


def _plain(tree: Any) -> Any:
    """fx's immutable lists and dicts as plain ones."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(value) for value in tree]
    if is_namedtuple(tree):
        return type(tree)(*(_plain(value) for value in tree))
    if type(tree) is tuple:
        return tuple(_plain(value) for value in tree)
    return tree


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _identifier(text: str) -> str:
    name = "".join(c if c.isalnum() else "_" for c in text)
    return name if name and not name[0].isdigit() else f"_{name}"
