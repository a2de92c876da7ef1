r"""Which scale each value of a network may be kept in, so that the events of its neurons are whole numbers.

Values that are added, pooled or moved share a scale: they are one *group*.  A neuron wants the group of its events to
have its smallest event as the scale, an operator that is not linear wants 1; where all who have a wish agree it is
granted, and the weights around the group take it up.  Where they do not agree the group keeps the scale 1.  A group
that nobody has a wish for (the currents of one neuron) takes the scale of the neuron that reads it.

Knows roles and layouts (``rules.roles``); changes no graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs
import torch
from torch import Tensor

from snnpipe.graph import Graph, Node, refs
from snnpipe.kernels.neuron import events_in_theta
from snnpipe.rules.axes import LAYER_AXIS
from snnpipe.rules.channels import channels
from snnpipe.rules.fusion import rank
from snnpipe.rules.roles import ADDING, FACTORED, Layout, Role, channel_pad, joins_channels, layouts, roles, values_read

ONE = torch.ones(1, dtype=torch.float64)


@attrs.frozen(eq=False)
class Scales:
    """The scales of a network.

    Attributes:
        of: the scale of each node's value, (1,) or one for each channel, in float64.
        events: those of the neurons whose events are whole numbers in it: their smallest events.
        declined: why not, by neuron.
    """

    of: Mapping[str, Tensor]
    events: Mapping[str, Tensor]
    declined: Mapping[str, str]


def scales(graph: Graph, params: Mapping[str, Tensor]) -> Scales:
    """Choose the scales of all values of a graph with neurons; neurons whose events are whole already are left out."""
    search = _Search(graph, params)
    while True:
        try:
            known: dict[str, Tensor] = {}
            for node in graph:
                search.scale(search.group[node.name], known, ())
            of = {node.name: known[search.group[node.name]] for node in graph}
            return Scales(of, search.events, search.declined)
        except _ClashError as clash:
            search.keep(*clash.args)


class _ClashError(Exception):
    """Groups that cannot have the scales that are wanted, and why."""


class _Search:
    """The wishes, and what has been refused so far."""

    def __init__(self, graph: Graph, params: Mapping[str, Tensor]) -> None:
        self.graph, self.params = graph, params
        self.roles, self.layouts, self.counts = roles(graph, params), layouts(graph, params), channels(graph, params)
        self.events: dict[str, Tensor] = {}
        self.declined: dict[str, str] = {}
        self.kept = set[str]()
        self.before_neuron = graph.ancestors(node.name for node in graph if node.op == "encode")
        for node in graph:
            if node.op == "encode":
                self._ask(node)
        self.group, self.members = self._groups()

    def _ask(self, node: Node) -> None:
        """Note what scale a neuron wants, or why it cannot have one."""
        theta, parts = self.params[node["threshold"].key].detach(), events_in_theta(node["neuron"])
        if parts is None:
            self.declined[node.name] = "its step or its codebook is one's own: who knows what it does in another scale"
        elif bool((theta >= torch.finfo(theta.dtype).max / 8).all()):
            self.declined[node.name] = "it never fires: its threshold is out of reach"
        elif theta.numel() > 1 and (theta.numel() != self._count(node) or self.layouts[node.name] is None):
            self.declined[node.name] = "it has a threshold for each neuron, or for channels whose axis is not known"
        elif bool((theta != parts).any()):
            self.events[node.name] = same_for_all(theta.double().cpu() / parts)

    def _count(self, node: Node) -> int | None:
        return next((self.counts.get(name) for name in refs(node["input"])), None)

    def _groups(self) -> tuple[dict[str, str], dict[str, list[Node]]]:
        """The group of each node, called after its first, and the nodes of each group."""
        group = {node.name: node.name for node in self.graph}
        for node in self.graph:
            if self.roles[node.name] is Role.KEPT:
                for name in self._read(node):
                    old, new = group[node.name], group[name]
                    group = {key: new if root == old else root for key, root in group.items()} if old != new else group
        members: dict[str, list[Node]] = {}
        for node in self.graph:
            members.setdefault(group[node.name], []).append(node)
        return group, members

    def _read(self, node: Node) -> list[str]:
        """What a node reads the values of, but for what is the same at every step."""
        found = refs(tuple(node[name] for name in values_read(node)))
        return [name for name in found if self.roles[name] is not Role.STATIC]

    def keep(self, roots: tuple[str, ...], reason: str) -> None:
        """Let groups keep the scale 1, and with them all that they are joined of."""
        for root in roots:
            if root in self.kept:
                continue
            self.kept.add(root)
            for node in self.members[root]:
                if self.events.pop(node.name, None) is not None:
                    self.declined[node.name] = reason
                if self.roles[node.name] is Role.JOINED:
                    self.keep(tuple(self.group[name] for name in self._read(node)), reason)

    def scale(self, root: str, known: dict[str, Tensor], above: tuple[str, ...]) -> Tensor:
        """The scale of a group, and of those that it is joined of.

        Raises:
            _ClashError: with the groups that are to keep the scale 1.
        """
        if root not in known:
            if root in above:
                raise _ClashError(above, "it is concatenated with what is made of it")
            known[root] = self._chosen(root, known, (*above, root))
        return known[root]

    def _chosen(self, root: str, known: dict[str, Tensor], above: tuple[str, ...]) -> Tensor:
        if root in self.kept:
            return ONE
        wishes = list(self._wishes(root, known, above))
        if not wishes:
            free = (self._of_readers(root), *self._of_factors(root, known, above))
            return next(
                (scale for scale in free if not torch.equal(scale, ONE) and not self._obstacle(root, scale)), ONE
            )
        found = wishes[0][0]
        others = [why for wish, why in wishes if not torch.equal(wish, found)]
        reason = (others or [self._obstacle(root, found)])[0]
        if others and torch.equal(found, ONE):
            reason = wishes[0][1]
        if reason:
            raise _ClashError((root,), reason)
        return found

    def _wishes(self, root: str, known: dict[str, Tensor], above: tuple[str, ...]) -> Iterator[tuple[Tensor, str]]:
        """The scales that are wanted in a group, and what to say of a wish that others do not share."""
        members = {node.name for node in self.members[root]}
        for node in self.members[root]:
            if self.roles[node.name] is Role.FIXED:
                yield ONE, f"its events meet {_called(node)}, whose scale is 1"
            elif self.roles[node.name] is Role.NEURON:
                own = self.events.get(node.name, ONE)
                yield own, f"its events are added to those of {_called(node)}, whose thresholds are others"
            elif self.roles[node.name] is Role.JOINED:
                yield self._joined(node, known, above), f"its events meet {_called(node)}, which joins other scales"
        for name in sorted(members):
            for user in self.graph.users[name]:
                if self.is_fixed(user) and user in self.before_neuron and name in self._read(self.graph[user]):
                    yield ONE, f"its events reach {_called(self.graph[user])}, which is not linear in them alone"

    def is_fixed(self, user: str) -> bool:
        """Whether a reader wants values whose scale is 1; behind the last neuron they can be multiplied by theirs."""
        return user == "output" or self.roles[user] is Role.FIXED

    def _joined(self, node: Node, known: dict[str, Tensor], above: tuple[str, ...]) -> Tensor:
        """The scale of each channel of a concatenation."""
        parts = self._read(node)
        found = [self.scale(self.group[name], known, above) for name in parts]
        if all(torch.equal(part, found[0]) and part.numel() == 1 for part in found):
            return found[0]
        layout = self.layouts[node.name]
        if node.op == "pad" and layout is not None:
            first, last = channel_pad(node, layout) or (0, 0)
            return torch.cat([ONE.expand(first), found[0], ONE.expand(last)])
        sizes = [part.numel() if part.numel() > 1 else self.counts.get(name, 0)
                 for name, part in zip(parts, found, strict=True)]  # fmt: skip
        if not all(sizes) or layout is None or layout.spread or not joins_channels(node, self.layouts):
            groups = tuple(self.group[name] for name in parts)
            raise _ClashError(groups, f"{_called(node)} puts it beside other scales in a way that is not understood")
        return torch.cat([part.expand(size) for part, size in zip(found, sizes, strict=True)])

    def _of_readers(self, root: str) -> Tensor:
        """The scale of the neurons that read a group, if it is the same."""
        readers = [user for node in self.members[root] for user in self.graph.users[node.name]]
        wanted = [self.events.get(user, ONE) for user in readers if self.roles.get(user) is Role.NEURON]
        return wanted[0] if wanted and all(torch.equal(scale, wanted[0]) for scale in wanted) else ONE

    def _of_factors(self, root: str, known: dict[str, Tensor], above: tuple[str, ...]) -> Iterator[Tensor]:
        """The scales of what is only multiplied by a constant to make a group, so that the constant may stay."""
        for node in self.members[root]:
            if node.op in FACTORED and self.roles[node.name] is Role.WEIGHTED:
                group = self.group[self._read(node)[0]]
                if group not in above:
                    yield self.scale(group, known, above)

    def _obstacle(self, root: str, scale: Tensor) -> str:
        """Why the channels of a group cannot have scales of their own, "" if they can."""
        if scale.numel() == 1:
            return ""
        for node in self.members[root]:
            layout, size = self.layouts[node.name], scale.numel()
            if layout is None or not self._has_channels(node, layout, size):
                return f"each channel has its threshold, and {_called(node)} does not keep channels where they were"
            for user in self.graph.users[node.name]:
                if not self._takes_channels(user, layout, size, node):
                    return f"each channel has its threshold, and {user} reads them in a way that is not understood"
        return ""

    def _has_channels(self, node: Node, layout: Layout, size: int) -> bool:
        """Whether what an op gives has so many channels, and its constants can be divided by their scales."""
        if self.roles[node.name] is Role.WEIGHTED:
            if node.op in FACTORED:
                return not layout.spread
            return self._outputs(node) == size and not layout.spread and self._is_second(node, layout)
        return not (node.op in ADDING and layout.spread and self._constants(node))

    def _constants(self, node: Node) -> bool:
        return any(not refs(node[name]) for name in ("a", "b"))

    def _takes_channels(self, user: str, layout: Layout, size: int, before: Node) -> bool:
        """Whether a reader can take up the scales of the channels of what it reads."""
        if self.is_fixed(user):
            return not layout.spread
        node = self.graph[user]
        if node.op in FACTORED:
            return not layout.spread or self.roles[user] is not Role.WEIGHTED
        if self.roles[user] not in (Role.WEIGHTED, Role.NEURON):
            return True  # its own group says what it thinks of that
        if node.op == "encode":
            own = self.events.get(user, ONE)
            return not layout.spread and (own.numel() == 1 or node["axis"] == layout.axis)
        inputs = self._inputs(node)
        if layout.spread:
            return node.op in ("linear", "batch_norm") and inputs % size == 0
        axis = LAYER_AXIS.get(node.op, layout.axis)
        return layout.axis == axis and inputs == size and self._is_second(node, layout)

    def _is_second(self, node: Node, layout: Layout) -> bool:
        """Whether the channels lie along axis 1, if it is a batch norm that asks."""
        return node.op != "batch_norm" or layout.axis < -1 or rank(node["input"], self.graph) == 2

    def _inputs(self, node: Node) -> int:
        if node.op == "batch_norm":
            return self._outputs(node)
        shape = self.params[node["weight"].key].shape
        return shape[0] if node.op.startswith("conv_transpose") else shape[1] * int(node.get("groups", 1))

    def _outputs(self, node: Node) -> int:
        if node.op == "batch_norm":
            return self.params[node["running_mean"].key].numel()
        shape = self.params[node["weight"].key].shape
        return shape[1] * int(node.get("groups", 1)) if node.op.startswith("conv_transpose") else shape[0]


def same_for_all(scale: Tensor) -> Tensor:
    """One number where all channels have the same."""
    return scale[:1] if bool((scale == scale[0]).all()) else scale


def _called(node: Node) -> str:
    return f"{node.path or node.name} ({node.op})"
