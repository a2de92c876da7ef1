"""From an fx graph to the frozen graph: spellings become ops, in-place operations become functional.

Every fx value lies in a cell (``frontend.cells``), and an operation that writes gives its cell a new value: the
functional twin of the operation where a row of the table has it, else the operation itself on a copy.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload, OpOverloadPacket

from snnpipe.containers import Kind
from snnpipe.errors import Problem
from snnpipe.frontend import calls, cells, facts, overloads
from snnpipe.frontend.aten import ATEN
from snnpipe.frontend.cells import Cell
from snnpipe.frontend.remembered import remembered
from snnpipe.frontend.shadow import shadow
from snnpipe.frontend.spellings import KNOWN
from snnpipe.frontend.values import is_size, is_view, keeps_dtype, may_share, overlaps
from snnpipe.frozen import EMPTY, FrozenMap, Packed, freeze, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, unique_name
from snnpipe.ops import functions
from snnpipe.ops.modules import OpaqueModule, SpikingNeuron, held, weightless
from snnpipe.ops.table import OPS


@attrs.frozen(eq=False)
class Lowered:
    """What a front end hands over: the graph, its parameters, and what cannot be converted."""

    graph: Graph
    params: FrozenMap[str, Tensor]
    problems: tuple[Problem, ...]


def lower(
    fx_graph: fx.Graph, root: nn.Module, tensors: Mapping[str, Tensor] = EMPTY, *, made: Collection[str] = (),
    kept: Collection[str] = (),
) -> Lowered:  # fmt: skip
    """Lower an fx graph over ``root``; neither is changed.

    Args:
        fx_graph: nodes may carry ``meta["snnpipe"] = (module path, file:line, name)``; the name is ``None`` for a
            function called in that module's forward, and "" for the module itself.
        root: holds the tensors and modules the graph names.
        tensors: values that take precedence over the root's.
        made: the tensors that ``forward`` makes anew at each run; all others are the model's own memory.
        kept: the model's own tensors that ``forward`` writes to in ways the graph does not show.
    """
    lowering = _Lowering(root, tensors)
    for node in fx_graph.nodes:
        lowering.visit(node)
    graph = Graph(tuple(lowering.nodes), lowering.output).live()
    problems = tuple(p for p in lowering.problems if p.node in graph.by_name or p.node == "output")
    params: FrozenMap[str, Tensor] = FrozenMap(lowering.params)
    problems += tuple(remembered(graph, (lowering.written.keys() | set(kept)) - set(made), lowering.written))
    return Lowered(graph, params.only(graph.param_keys()), problems)


class _Lowering:
    """The graph being built; implements ``spellings.Seen``."""

    def __init__(self, root: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self.root, self.tensors = root, tensors
        self.nodes: list[Node] = []
        self.taken: dict[str, Node] = {}
        self.params: dict[str, Tensor] = {}
        self.cells: dict[fx.Node, Cell] = {}
        self.attributes: dict[str, Cell] = {}
        self.problems: list[Problem] = []
        self.written: dict[str, Node] = {}
        self.output: Any = None
        self.place: tuple[str, str, str | None] = ("", "", None)

    # what adapt functions may use

    def node(self, operand: Any) -> Node | None:
        return self.taken[operand.name] if isinstance(operand, Ref) else None

    def tensor(self, operand: Any) -> Tensor | None:
        return self.params[operand.key] if isinstance(operand, Param) else None

    def emit(self, op: str, **operands: Any) -> Ref:
        module, where, known = self.place
        called = facts.name_of(operands["target"]) if op == "call" else op
        path = ".".join(filter(None, (module, called))) if known is None else module
        name = unique_name(known or calls.identifier(path), self.taken)
        node = Node(name, op, FrozenMap({key: freeze(value) for key, value in operands.items()}), path, where)
        self.nodes.append(node)
        self.taken[name] = node
        return Ref(name)

    # one fx node

    def visit(self, node: fx.Node) -> None:
        self.place = calls.place(node)
        if node.op == "placeholder":
            self.place = (str(node.target), "", self.place[2] or "")
            known = {"default": node.args[0]} if node.args else {}
            known |= {key: node.meta[key] for key in ("shape", "static") if key in node.meta}
            self.cells[node] = cells.fresh(self.emit("input", name=str(node.target), **known))
        elif node.op == "get_attr":
            self.cells[node] = self._attribute(str(node.target))
            if isinstance(self.cells[node].value, nn.Module):
                reason = f"hands on the module `{node.target}`, so its weights would be out of sight"
                self.problems.append(Problem("output", *calls.place(node)[:2], reason, "call it in forward instead"))
        elif node.op == "output":
            self.output = freeze(self._read(node.args[0], node))
        elif node.op == "call_module":
            self.cells[node] = self._module(node)
        else:
            self._call(node)

    def _attribute(self, key: str) -> Cell:
        if key not in self.attributes:
            value: Any = self.tensors[key] if key in self.tensors else held(self.root, key)
            if isinstance(value, Tensor):
                self.params[key] = value
                self.attributes[key] = cells.fresh(Param(key))
            else:
                self.attributes[key] = cells.fresh(value)
        return self.attributes[key]

    def _module(self, node: fx.Node) -> Cell:
        path = str(node.target)
        module = held(self.root, path)
        args, kwargs = self._read(node.args, node), self._read(node.kwargs, node)
        if isinstance(module, SpikingNeuron):
            operands, tensors = module.as_node()
            self.params |= tensors
            return cells.fresh(self.emit("encode", input=args[0], **operands))
        if isinstance(module, OpaqueModule):
            return self._alias(self.emit("call", target=module.opaque, args=args, kwargs=kwargs), node)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        keys = {name: f"{path}.{name}".lstrip(".") for name in tensors}  # the outermost module has no path
        self.params |= {keys[name]: tensor for name, tensor in tensors.items()}
        weights: FrozenMap[str, Param] = FrozenMap({name: Param(key) for name, key in keys.items()})
        opaque = functions.Opaque(weightless(shadow(module, share=True)))
        return self._alias(self.emit("call", target=opaque, args=(weights, *args), kwargs=kwargs), node)

    def _call(self, node: fx.Node) -> None:
        if isinstance(node.target, Kind):  # a container is built: a tree
            self.cells[node] = cells.fresh(Packed(node.target, self._read(node.args, node)))
            return
        if isinstance(node.target, type) and issubclass(node.target, tuple) and hasattr(node.target, "_fields"):
            self.cells[node] = cells.fresh(node.target(*self._read(node.args, node)))
            return
        target, args, kwargs = calls.spelled(node)
        written = [] if self._is_number(node) else calls.nodes(facts.written(target, args, kwargs))
        if facts.name_of(target) in facts.HARMLESS:
            self.cells[node] = self.cells[node.all_input_nodes[0]]
        elif facts.name_of(target) in facts.TURNS and written:
            self._turn(node, target, args, kwargs, self.cells[written[0]])
        elif facts.name_of(target) in facts.MOVES and not kwargs and [*map(type, args)] == [fx.Node, fx.Node]:
            self._move(node, self.cells[args[0]], self.cells[args[1]])
        elif facts.name_of(target) in facts.RENORMS and kwargs.get("max_norm") is not None:
            weight = calls.nodes(kwargs.get("weight", args[1:2]))[0]
            at: Any = next(key for key, value in (*kwargs.items(), *enumerate(args)) if value is weight)
            _, _, made = self._emitted(node, functions.OnCopies(target, (at,)), args, kwargs)
            self.cells[node] = cells.fresh(self.emit("getitem", a=made, index=0))
            if not self.cells[weight].memory:
                self._written(self.cells[weight], self.emit("getitem", a=made, index=1))
        elif written:
            self._write(node, target, args, kwargs, written)
        else:
            op, operands, value = self._emitted(
                node, facts.INPLACE_OPERATORS.get(facts.hashed(target), target), args, kwargs
            )
            first = node.args[0] if node.args else None
            if op == "identity" and isinstance(first, fx.Node):
                self.cells[node] = cells.again(self.cells[first]) if facts.is_view(target) else self.cells[first]
            else:
                self.cells[node] = self._placed(value, op, operands, node)

    def _emitted(
        self, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, dict[str, Any], Any]:
        """The op, operands and value of a call that writes to nothing."""
        found = len(self.problems)
        op, operands = self._recognise(target, self._read(args, node), self._read(kwargs, node))
        if op == "identity":
            return op, operands, operands["input"]
        for reason, fix in facts.refusals(node.target, args, kwargs) if op == "call" else ():
            self._problem(node, reason, fix)
        value = self.emit(op, **operands)
        said, self.problems[found:] = self.problems[found:], []  # a write counts though nobody uses what is returned
        self.problems += [attrs.evolve(p, node="output" if p.fix == facts.FOLLOWED else value.name) for p in said]
        return op, operands, value

    def _write(
        self, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], written: list[fx.Node]
    ) -> None:
        """A call that writes: its functional twin, where a row has it and keeps the type, else the call on copies."""
        cell, returned = self.cells[written[0]], None
        twin = calls.functional(target) if len(written) == 1 and kwargs.get("out") is None else None
        plain = {key: value for key, value in kwargs.items() if key != "inplace"}
        recognised = None if twin is None else self._recognise(twin, self._read(args, node), self._read(plain, node))
        before = cell.read()
        if recognised is not None and recognised[0] == "identity":
            self.cells[node] = cell
            return
        if recognised is not None and recognised[0] != "call":
            value = self.emit(recognised[0], **recognised[1])
            values = [value if keeps_dtype(value, before, self) else self.emit("type_as", input=value, other=before)]
            self._read(args, node, at=value.name)
        else:
            returned, values = self._on_copies(node, target, args, kwargs)
            if facts.name_of(target) in facts.UNTRACKED:
                reason = f"`{facts.name_of(target)}` changes the memory of a tensor"
                self._problem(node, reason, calls.FUNCTIONAL, values[0].name)
        if any(self.cells[leaf].overlapping for leaf in written):
            reason = "writes to a view that shows a place several times, so the result hangs on the order of the writes"
            self._problem(node, reason, "write to a copy of it: x.unfold(0, 2, 1).clone()", "output")
        for leaf, value in zip(written, values, strict=True):
            self._written(self.cells[leaf], value)
        whole = returned is None or (len(written) == 1 and facts.returns_written(target, args, kwargs))
        self.cells[node] = cell if whole else cells.fresh(returned)

    def _turn(self, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], cell: Cell) -> None:
        """``x.transpose_(0, 1)``: another view of the same memory takes the place of the tensor."""
        twin = calls.functional(target) or getattr(torch, facts.name_of(target)[:-1])
        op, operands, value = self._emitted(node, twin, args, kwargs)
        why = f"{value.name} turned it in place"
        cells.turn(cell, value, self._step(op, operands, cell), why)
        self.cells[node] = cell

    def _move(self, node: fx.Node, cell: Cell, source: Cell) -> None:
        """``x.set_(y)``, ``x.data = y``: a view of another memory takes the place of the tensor, not of its views."""
        op, operands, value = self._emitted(node, torch.detach, node.args[1:], {})
        moved = cells.view(value, source, self._step(op, operands, source))
        if cell.root.memory:
            self.written.setdefault(cell.root.memory, self.taken[value.name])
        self.cells |= {key: moved for key, other in self.cells.items() if other is cell}
        self.attributes |= {key: moved for key, other in self.attributes.items() if other is cell}
        self.cells[node] = moved

    def _on_copies(
        self, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Ref, list[Any]]:
        """Run a call on copies of what it writes to: what it returns, and the new values in order."""
        called = overloads.as_function(target) if isinstance(target, OpOverload) else target
        places = facts.written(target, args, kwargs)
        given = (*kwargs.items(), *enumerate(args))
        at: tuple[Any, ...] = tuple(next(key for key, value in given if value is place) for place in places)
        _, _, made = self._emitted(node, functions.OnCopies(called, at), args, kwargs)
        values: list[Any] = []
        for k, place in enumerate(places):
            whole = self.emit("getitem", a=made, index=k + 1)
            pieces = isinstance(place, tuple | list)
            values += [self.emit("getitem", a=whole, index=i) for i in range(len(place))] if pieces else [whole]
        return self.emit("getitem", a=made, index=0), values

    def _written(self, cell: Cell, value: Any) -> None:
        node = self.taken[value.name]
        if cell.root.memory or cell.memory:
            self.written.setdefault(cell.root.memory or cell.memory, node)
        why = f"{value.name} wrote to what may be the same memory" + f" at {node.where}" * bool(node.where)
        cells.write(cell, value, self._through, why)

    def _through(self, base: Any, value: Any, steps: tuple[cells.Step, ...]) -> Ref:
        """A base after a write to a view of it."""
        rest = tuple((step.args, step.kwargs) for step in steps)
        through = functions.WriteThrough(tuple(step.fn for step in steps))
        return self.emit("call", target=through, args=(base, value, *rest), kwargs={})

    def _placed(self, value: Any, op: str, operands: dict[str, Any], node: fx.Node) -> Cell:
        """The cell of a new value: a view, or memory that may be shared, or memory of its own."""
        if op != "call" and not may_share(op, operands, self):
            return cells.fresh(value)
        first = calls.nodes(node.args[:1] or tuple(node.kwargs.values())[:1]) or node.all_input_nodes
        found = facts.sharing(node) if op == "call" else first
        sharing = [self.cells[source] for source in found if isinstance(self.cells[source].value, Ref | Param)]
        if len(sharing) == 1 and is_view(op, operands):
            cell = cells.view(value, sharing[0], self._step(op, operands, sharing[0]))
        else:
            cell = cells.alias(value, sharing)
        cell.overlapping = any(source.overlapping for source in sharing) or overlaps(op, operands)
        return cell

    def _step(self, op: str, operands: dict[str, Any], base: Cell) -> cells.Step:
        first = OPS[op].signature.names[0]
        if op == "call":
            target, (_, *args), kwargs = operands["target"], operands["args"], operands["kwargs"]
            return cells.Step(
                lambda now: self.emit(op, target=target, args=(now, *args), kwargs=kwargs), target, tuple(args), kwargs
            )
        args, kwargs = OPS[op].signature.call_arguments(FrozenMap(operands))
        return cells.Step(lambda now: self.emit(op, **operands | {first: now}), OPS[op].fn, args[1:], kwargs)

    def _is_number(self, node: fx.Node) -> bool:
        """Whether the first argument of a call is a size: Python's numbers are never written to."""
        first = node.args[0] if node.args else None
        return isinstance(first, fx.Node) and is_size(self.cells[first].value, self)

    def _recognise(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        spelling = (KNOWN.get(target) or ATEN.get(target)) if facts.hashed(target) is not None else None
        if spelling is not None:
            bound = spelling.signature.bind(args, kwargs)
            if bound is not None:
                bound.pop("inplace", None)
                if spelling.adapt is None:
                    return spelling.op, bound
                adapted = spelling.adapt(bound, self)
                if adapted is not None:
                    return adapted[0] or spelling.op, adapted[1]
        if isinstance(target, OpOverload | OpOverloadPacket):
            target = overloads.as_function(target)
        if isinstance(target, str):
            method = getattr(Tensor, target, None)
            if method is None:
                return "call", {"target": functions.call_method, "args": (args[0], target, *args[1:]), "kwargs": kwargs}
            target = method
        return "call", {"target": target, "args": args, "kwargs": kwargs}

    # cells

    def _alias(self, value: Any, node: fx.Node) -> Cell:
        """A cell that may share memory with every tensor the node reads."""
        sources = (self.cells[source] for source in node.all_input_nodes if source in self.cells)
        return cells.alias(value, [cell for cell in sources if isinstance(cell.value, Ref | Param)])

    def _read(self, tree: Any, reader: fx.Node, at: str = "") -> Any:
        def read(leaf: Any) -> Any:
            if not isinstance(leaf, fx.Node):
                return leaf
            cell = self.cells[leaf]
            if cell.stale:
                self._problem(reader, f"reads `{leaf.name}` after {cell.stale}", calls.FUNCTIONAL, at)
            return cell.read()

        return map_leaves(read, calls.plain(tree))

    def _problem(self, node: fx.Node, reason: str, fix: str, at: str = "") -> None:
        module, where, _ = calls.place(node)
        problem = Problem(at or node.name, module, where, reason, fix)
        if problem not in self.problems:
            self.problems.append(problem)
