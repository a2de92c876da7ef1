"""Rounding the weights of layers to the grid a chip has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.checks import takes
from snnpipe.errors import Problem, StageError, listing
from snnpipe.graph import Graph, Node, Param, param_keys, unique_name
from snnpipe.kernels.grid import rounded
from snnpipe.kernels.scaling import output_axes
from snnpipe.options import one_of, whole
from snnpipe.rules.axes import LAYER_AXIS
from snnpipe.rules.signals import factors
from snnpipe.stage import stage
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.state import STATE, ConversionState, Event

#: More bits than this no chip has, and fewer than 2 leave nothing but 0.
BITS = whole(2, 16, "is the number of bits of a weight, a whole number from 2 to 16")
PER = one_of("channel", "layer")


@attrs.frozen
class Rounding:
    r"""What rounding does to the weights of a layer.

    Attributes:
        path: what people call the layer.
        key: where its weights lie.
        relative: :math:`\|w - q\| / \|w\|`.
        largest: :math:`\max |w - q|`.
    """

    path: str
    key: str
    relative: float
    largest: float

    @property
    def words(self) -> str:
        return f"off by {100 * self.relative:.2g} %, at most {self.largest:.2g}"

    def __str__(self) -> str:
        return f"{self.path or self.key}: {self.words}"


@stage(NOT_LIFTED, bits=BITS, per=PER)
def quantise_weights(state: ConversionState, *, bits: int = 8, per: str = "channel") -> ConversionState:
    r"""Round the weights of layers (linear, convolutions) to whole multiples of a step; the input is unchanged.

    .. math:: q_{oi} = \Delta_o \, \mathrm{round}(w_{oi} / \Delta_o), \qquad
        \Delta_o = \max_i |w_{oi}| / (2^{b-1} - 1)

    They stay floats, so the network runs as before; a chip takes the whole numbers q / Delta, of ``bits`` bits, and
    theta / Delta as the threshold.  Biases and thresholds are left as they are; so are batch norms (put ``fuse`` before
    it), weights that are computed, and products with a parameter that is no layer's, which the history names.  It says
    how far each layer is off too, and ``roundings`` says so in numbers.  Put it behind ``absorb``, which would move
    weights off the grid again, and before corrections, which then make up for it.

    Args:
        bits: of a signed weight.
        per: ``"channel"``, a step for each output channel, or ``"layer"``, for chips with one threshold per layer.

    Raises:
        StageError: weights that are not finite, or whose dtype has fewer digits than the grid; all of them are named.

    >>> from torch import nn
    >>> import snnpipe
    >>> _ = torch.manual_seed(0)
    >>> state = snnpipe.pipe(nn.Linear(8, 4), snnpipe.trace, snnpipe.quantise_weights(bits=4))
    >>> print(state.history[-1].subject, state.history[-1].action, state.history[-1].detail, sep="; ")
    linear; rounded to 4 bits; off by 5.5 %, at most 0.023
    """
    made = _Rounded(state, bits, per)
    graph = Graph(tuple(made.node(node) for node in state.graph), state.graph.output)
    said = [(found.path or found.key, f"rounded to {bits} bits", found.words) for found in made.found if found.largest]
    said += [(node.path or node.name, "not rounded", reason) for node, reason in _left(state)]
    events = [Event("quantise_weights", *words) for words in said]
    events = [event for event in events if event not in state.history]
    if not made.params and not events:
        return state
    return state.evolve(*events, graph=graph, params=state.params | made.params)


@takes(StageError, state=STATE, bits=BITS, per=PER)
def roundings(state: ConversionState, *, bits: int = 8, per: str = "channel") -> tuple[Rounding, ...]:
    """What ``quantise_weights`` would do to each layer; the state is unchanged.

    >>> from torch import nn
    >>> import snnpipe
    >>> _ = torch.manual_seed(0)
    >>> print(*roundings(snnpipe.trace(nn.Linear(8, 4)), bits=4))
    linear: off by 5.5 %, at most 0.023
    """
    made = _Rounded(state, bits, per)
    for node in state.graph:
        made.node(node)
    return tuple(made.found)


class _Rounded:
    """The layers of a graph with rounded weights; layers that share weights go on sharing them."""

    def __init__(self, state: ConversionState, bits: int, per: str) -> None:
        self.state, self.bits, self.shared = state, bits, per == "layer"
        self.params: dict[str, Tensor] = {}
        self.found: list[Rounding] = []
        self._made: dict[tuple[Any, ...], Param] = {}
        problems = [problem for node in state.graph for problem in self._problems(node)]
        if problems:
            raise StageError(listing(f"quantise_weights: these weights have no grid of {bits} bits", problems))

    def _problems(self, node: Node) -> Iterator[Problem]:
        if not is_layer(node, self.state.params):
            return
        weight = self.state.params[node["weight"].key]
        if weight.is_meta:
            yield Problem(node["weight"].key, node.path, node.where, "it is on the meta device and has no values",
                          "load the weights and trace again")  # fmt: skip
        elif not bool(torch.isfinite(weight).all()):
            bad = int((~torch.isfinite(weight)).sum())
            yield Problem(node["weight"].key, node.path, node.where, f"{bad} of {weight.numel()} are NaN or infinite",
                          "load a checkpoint that is whole")  # fmt: skip
        elif torch.finfo(weight.dtype).eps * (2 ** (self.bits - 1) - 1) >= 1:
            yield Problem(node["weight"].key, node.path, node.where, f"{weight.dtype} has fewer digits than that",
                          "keep the model in float32")  # fmt: skip

    def node(self, node: Node) -> Node:
        """What stands for a node: itself, if it is no layer or its weights are on the grid."""
        if not is_layer(node, self.state.params):
            return node
        key, groups = node["weight"].key, int(node.get("groups", 1))
        call = (id(self.state.params[key]), groups if node.op.startswith("conv_transpose") else None)  # tied: two keys
        if call not in self._made:
            self._made[call] = self._rounded(node, key, groups)
        new = self._made[call]
        return node.evolve(weight=new) if new.key in self.params else node

    def _rounded(self, node: Node, key: str, groups: int) -> Param:
        weight = self.state.params[key].detach()
        rows = output_axes(node.op, weight, groups)
        made = output_axes(node.op, rounded(rows.flatten(1), self.bits, shared=self.shared).reshape(rows.shape), groups)
        error, norm = (made - weight).double(), weight.double().norm().item()
        largest = error.abs().max().item() if error.numel() else 0.0
        self.found.append(Rounding(node.path, key, error.norm().item() / norm if norm else 0.0, largest))
        if largest == 0.0:
            return Param(key)
        stem, _, name = key.rpartition(".")
        new = unique_name(f"{stem}.{name}__rounded" if stem else f"{name}__rounded", (*self.state.params, *self.params))
        self.params[new] = nn.Parameter(made, requires_grad=self.state.params[key].requires_grad)
        return Param(new)


def is_layer(node: Node, params: Mapping[str, Tensor]) -> bool:
    """Whether a node is a layer with stored weights that are floats."""
    weight = node.get("weight")
    return node.op in LAYER_AXIS and isinstance(weight, Param) and params[weight.key].is_floating_point()


def _left(state: ConversionState) -> Iterator[tuple[Node, str]]:
    """The nodes that multiply by parameters, or by what is made of them, and are left as they are."""
    for node in state.graph:
        if node.op == "batch_norm":
            yield node, "a batch norm: put fuse before it"
        elif node.op in LAYER_AXIS and not is_layer(node, state.params):
            yield node, "its weights are computed, or no floats"
        elif node.op not in LAYER_AXIS and any(param_keys(operand) for operand in factors(node)):
            yield node, f"{node.op} with a parameter is no layer"
