"""Folding the thresholds of neurons into the weights around them."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.emit import neuron_path
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, redirecting, refs, unique_name
from snnpipe.kernels.neuron import events_in_theta
from snnpipe.kernels.scaling import scaled_map, scaled_norm
from snnpipe.kernels.statistic import along
from snnpipe.ops.lift import has_neurons
from snnpipe.rules.roles import ADDING, FACTORED, Role, factor, layouts, roles, values_read
from snnpipe.rules.scales import ONE, Scales, same_for_all, scales
from snnpipe.stage import HAS_VALUES, stage
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.state import ConversionState, Event

NEURONS = (lambda state: has_neurons(state.graph), "there are no neurons yet; put replace before it")


@stage(HAS_VALUES, NOT_LIFTED, NEURONS)
def absorb(state: ConversionState) -> ConversionState:
    r"""Fold thresholds into weights, so that events are whole numbers, such as 0 and 1; the input is unchanged.

    .. math:: s' = s / \lambda, \quad z' = z / \lambda, \quad \theta' = \theta / \lambda, \qquad
        W'_{oi} = W_{oi} \, \lambda_i / \lambda_o, \quad b'_o = b_o / \lambda_o

    where :math:`\lambda`, the *scale* of a neuron, is its smallest event, theta over ``parts``, per channel where theta
    is.  What lies between a neuron and the weights that read it, and is linear, stays as it is: pools, ``flatten``,
    sums of values of one scale, concatenations; so do max-pools, which only compare.  A current that has another scale
    than its neuron (that of a residual sum, which has the skip's) is multiplied by a constant per channel before it,
    which a chip may have as a threshold.  What the network gives has the scale 1 again.

    The new network is the old one at other scales.  In floating point its events are the same, bit for bit, where all
    smallest events are powers of two; elsewhere each weight is rounded once more, so that a potential within rounding
    of the threshold may fire a step earlier or later.

    Neurons whose events stay as they were are in the history with the reason, and in ``wires(state)``: those whose
    events reach an operator before another neuron that is not linear in them, or are added to values of another scale;
    those that never fire; and neurons of one's own, of which nobody knows whether they can be scaled.

    Raises:
        StageError: no neurons yet; already carried to a code; or scaled weights that are not finite in their dtype.

    >>> from torch import nn
    >>> import snnpipe
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> state = snnpipe.pipe(model, snnpipe.trace, snnpipe.replace(threshold=snnpipe.fixed(0.5)), snnpipe.absorb)
    >>> print(state.params["1__if0__absorbed.threshold"])
    tensor([1.])
    >>> print(*snnpipe.wires(state))
    1__if0__absorbed: whole events 0..1
    """
    found = scales(state.graph, state.params)
    scaled = _Scaled(state, found)
    nodes = tuple(made for node in state.graph for made in scaled.nodes(node))
    events = [event for event in _events(state, found, scaled) if event not in state.history]
    if not found.events and not events:
        return state
    if not found.events:
        return state.evolve(*events)
    graph = Graph(nodes, map_leaves(redirecting(scaled.moved), state.graph.output))
    return state.evolve(*events, graph=graph, params=state.params | scaled.params)


class _Scaled:
    """The nodes and parameters of a graph in other scales."""

    def __init__(self, state: ConversionState, found: Scales) -> None:
        self.graph, self.old, self.found = state.graph, state.params, found
        self.roles, self.layouts = roles(state.graph, state.params), layouts(state.graph, state.params)
        self.params: dict[str, Tensor] = {}
        self.alone: set[str] = set()
        self.paths: dict[str, str] = {}
        self.moved: dict[str, str] = {}
        self._made: dict[tuple[Any, ...], dict[str, Any]] = {}

    def nodes(self, node: Node) -> tuple[Node, ...]:
        """What stands for a node, and, where something reads its value at the scale 1, what carries it there."""
        made, scale = self._in_scales(node), self.found.of[node.name]
        if bool((scale == 1).all()) or not any(self._is_end(user, node) for user in self.graph.users[node.name]):
            return made
        name = self.moved[node.name] = unique_name(f"{node.name}_decoded", self.graph.by_name)
        shaped = along(scale, 0, self._axis(node)).to(self._like)
        by = self._kept(self._free_key(f"{node.name}__scale"), shaped, node)
        return (*made, Node(name, "mul", FrozenMap(a=Ref(node.name), b=by), node.path, node.where))

    def _is_end(self, user: str, node: Node) -> bool:
        """Whether a reader wants what it reads in the scale 1."""
        if user == "output":
            return True
        reader = self.graph[user]
        return self.roles[user] is Role.FIXED and any(node.name in refs(reader[name]) for name in values_read(reader))

    def _axis(self, node: Node) -> int:
        layout = self.layouts[node.name]
        return -1 if layout is None else layout.axis

    def _in_scales(self, node: Node) -> tuple[Node, ...]:
        scale, role = self.found.of[node.name], self.roles[node.name]
        if role is Role.NEURON:
            return self._neuron(node)
        if role is Role.FIXED:
            return (attrs.evolve(node, operands=map_leaves(redirecting(self.moved), node.operands)),)
        if role is Role.WEIGHTED:
            before = next(self.found.of[name] for name in refs(node.operands) if self.roles[name] is not Role.STATIC)
            if node.op in FACTORED:
                return (node if torch.equal(before, scale) else self._factored(node, before, scale),)
            return (self._weighted(node, before, scale) if bool((before != 1).any() or (scale != 1).any()) else node,)
        if role is Role.KEPT and node.op in ADDING and bool((scale != 1).any()):
            return (node.evolve(**{name: self._divided(node, name, ONE, scale) for name in ("a", "b")}),)
        return (node,)

    def _scale_of(self, operand: Any) -> Tensor:
        return self.found.of[operand.name] if isinstance(operand, Ref) else ONE

    def _weighted(self, node: Node, before: Tensor, after: Tensor) -> Node:
        """A layer with scaled weights; calls of one layer in the same scales share them."""
        names = ("running_mean", "weight", "bias") if node.op == "batch_norm" else ("weight", "bias")
        keys = [None if node.get(name) is None else node[name].key for name in names]
        call = (node.op, *keys, node.get("groups", 1), tuple(before.tolist()), tuple(after.tolist()))
        if call not in self._made:
            own = [None if key is None else self.old[key].detach() for key in keys]
            made = _scaled(node, own, before, after)
            stem = self._free(f"{str(keys[0]).rpartition('.')[0] or node.name}__absorbed")
            trained = any(self.old[key].requires_grad for key in keys if key is not None)
            self._made[call] = {
                name: self._kept(f"{stem}.{name}", value, node, trained if name != "running_mean" else None)
                for name, value in zip(names, made, strict=True) if value is not None
            }  # fmt: skip
        return node.evolve(**self._made[call])

    def _kept(self, key: str, value: Tensor, node: Node, trained: bool | None = None) -> Param:
        """A new tensor under its key; a parameter if it is one of a layer's."""
        if not bool(torch.isfinite(value).all()):
            raise StageError(
                f"absorb: {key} of {node.path or node.name} is not finite in {value.dtype} once thresholds are in it; "
                "keep the model in a wider dtype, or leave absorb out"
            )
        self.params[key] = value if trained is None else nn.Parameter(value, requires_grad=trained)
        return Param(key)

    def _free(self, stem: str) -> str:
        return unique_name(stem, {key.rpartition(".")[0] for key in (*self.old, *self.params)})

    def _factored(self, node: Node, before: Tensor, after: Tensor) -> Node:
        """A product with a constant, which takes up both scales; of a quotient it takes them up the other way round."""
        name = str(factor(node))
        scales = (before, after) if node.op == "mul" else (after, before)
        return node.evolve(**{name: self._divided(node, name, *scales)})

    def _divided(self, node: Node, name: str, before: Tensor, after: Tensor) -> Any:
        """A constant of an op times one scale and over the other; what moves has its scale already."""
        operand, ratio = node[name], same_for_all(before / after)
        if isinstance(operand, Ref) or (not isinstance(operand, Param) and ratio.numel() == 1):
            return operand if isinstance(operand, Ref) else operand * ratio.item()
        if isinstance(operand, Param):
            old, stem = self.old[operand.key].detach(), operand.key
        else:
            old, stem = self._like.new_tensor(float(operand)), f"{node.name}.{name}"
        shaped = ratio.reshape(()) if ratio.numel() == 1 else along(ratio, 0, self._axis(node))
        made = (old.double() * shaped.to(old.device)).to(old.dtype)
        return self._kept(self._free_key(f"{stem}__absorbed"), made, node)

    @property
    def _like(self) -> Tensor:
        """A tensor of the dtype and on the device of the network."""
        return next((t for t in self.old.values() if t.is_floating_point()), torch.zeros(()))

    def _free_key(self, key: str) -> str:
        return unique_name(key, (*self.old, *self.params))

    def _neuron(self, node: Node) -> tuple[Node, ...]:
        """A neuron in its scale, and before it, where its current has another, what carries that to it."""
        own = self.found.events.get(node.name)
        stem = neuron_path(node) if own is None else self._free(f"{neuron_path(node)}__absorbed")
        self.paths[node.name] = stem
        before: tuple[Node, ...] = ()
        ratio = same_for_all(self._scale_of(node["input"]) / (ONE if own is None else own))
        if bool((ratio != 1).any()):
            self.alone.add(node.name)
            name, theta = unique_name(f"{node.name}_current", self.graph.by_name), self.old[node["threshold"].key]
            by = self._kept(self._free_key(f"{stem}.current"), along(ratio, 0, node["axis"]).to(theta), node)
            before = (Node(name, "mul", FrozenMap(a=node["input"], b=by), node.path, node.where),)
            node = node.evolve(input=Ref(name))
        return (*before, node if own is None else self._whole(node, own, stem))

    def _whole(self, node: Node, own: Tensor, stem: str) -> Node:
        """A neuron whose smallest event is 1: its threshold, and what else it is told in the scales of its current."""
        old = self.old[node["threshold"].key].detach()
        own, changes = own.to(old.device), dict[str, Any]()
        theta = old.new_full((1,), float(events_in_theta(node["neuron"]) or 1))
        changes["threshold"] = self._kept(f"{stem}.threshold", theta, node)
        if "charge" in node.operands:
            charge = self.old[node["charge"].key].detach()
            charge = (charge.double() / along(own, 0, node["axis"])).to(charge.dtype)
            changes["charge"] = self._kept(f"{stem}.charge", charge, node)
        cap = node.get("cap")
        if cap == node["threshold"]:
            changes["cap"] = changes["threshold"]
        elif isinstance(cap, Param) or (cap is not None and own.numel() > 1):
            cap = self.old[cap.key].detach().double() if isinstance(cap, Param) else cap
            changes["cap"] = self._kept(f"{stem}.cap", (cap / own).to(old.dtype), node)
        elif cap is not None:
            changes["cap"] = cap / own.item()
        return node.evolve(**changes)


def _scaled(node: Node, own: list[Tensor | None], before: Tensor, after: Tensor) -> tuple[Tensor | None, ...]:
    """The tensors of a layer in other scales, in the order given: of batch norm (mean, weight, bias)."""
    first = own[0]
    assert first is not None
    before, after = before.to(first.device), after.to(first.device)
    if node.op == "batch_norm":
        return scaled_norm(first, own[1], own[2], before, after)
    return scaled_map(node.op, first, own[1], before, after, groups=int(node.get("groups", 1)))


def _events(state: ConversionState, found: Scales, scaled: _Scaled) -> list[Event]:
    """What is to be said of each neuron."""
    events = []
    for node in state.graph:
        if node.name in found.events:
            own = found.events[node.name]
            said = f"smallest event {own.min():.3g}" + f"..{own.max():.3g}" * (own.numel() > 1)
            said += " is 1 now" + ", by a constant on its current" * (node.name in scaled.alone)
            events.append(Event("absorb", scaled.paths[node.name], "absorbed", said))
        elif node.name in found.declined:
            events.append(Event("absorb", neuron_path(node), "not absorbed", found.declined[node.name]))
    return events
