"""How each primitive of NIR reads in snnpipe's graph: a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.exchange.nir.integrators import Net
from snnpipe.exchange.nir.neurons import Levels
from snnpipe.exchange.nir.parts import NotSaidError
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Node, Param, Ref
from snnpipe.kernels.codebook import SIGNED, Codebook
from snnpipe.kernels.levels import unary, whole
from snnpipe.kernels.neuron import Neuron, encoder, integrate_and_fire


@attrs.frozen(eq=False)
class Read:
    """The nodes that stand for a primitive, in order; the last one is its value.

    Attributes:
        nodes: in order.
        params: tensors by key.
        size: of a neuron, what an event of one spike is worth, for each element.
    """

    nodes: tuple[Node, ...]
    params: Mapping[str, Tensor]
    size: Tensor | None = None


@attrs.frozen(eq=False)
class Reading:
    """What a row is told: NIR's node, the value that it reads, a name for what it makes, and the length of a step."""

    graph: Net
    node: str
    x: Ref
    name: str
    dt: float

    def array(self, field: str) -> Tensor:
        """A field as a tensor."""
        return self.graph.array(self.node, field)

    def weights(self) -> dict[str, Tensor]:
        """Weight, and bias where there is one."""
        fields = ("weight", "bias") if getattr(self.graph.nodes[self.node], "bias", None) is not None else ("weight",)
        return {field: self.array(field) for field in fields}

    def field(self, field: str) -> Any:
        """A field as plain numbers."""
        value = getattr(self.graph.nodes[self.node], field)
        value = value.tolist() if hasattr(value, "tolist") else value
        return tuple(value) if isinstance(value, list) else value

    def made(self, op: str, arrays: Mapping[str, Tensor], **operands: Any) -> Read:
        """One node; ``arrays`` are its parameters."""
        params = {f"{self.name}.{field}": value for field, value in arrays.items()}
        given = {field: Param(f"{self.name}.{field}") for field in arrays} | operands
        return Read((Node(self.name, op, FrozenMap(input=self.x, **given), self.node),), params)


def affine(reading: Reading) -> Read:
    """``Affine`` and ``Linear``."""
    arrays = reading.weights()
    if arrays["weight"].ndim != 2:
        raise NotSaidError(f"its weight has {arrays['weight'].ndim} axes, and not two")
    return reading.made("linear", arrays)


def convolution(reading: Reading) -> Read:
    """``Conv1d`` and ``Conv2d``."""
    arrays = reading.weights()
    options = {field: reading.field(field) for field in ("stride", "padding", "dilation", "groups")}
    return reading.made(f"conv{arrays['weight'].ndim - 2}d", arrays, **options)


def mean_pool(reading: Reading) -> Read:
    """``AvgPool2d``."""
    return reading.made("avg_pool2d", {}, **_windows(reading))


def sum_pool(reading: Reading) -> Read:
    """``SumPool2d``: a mean over windows whose divisor is 1."""
    return reading.made("avg_pool2d", {}, **_windows(reading), divisor_override=1)


def flatten(reading: Reading) -> Read:
    """``Flatten``; NIR's shapes have no batch axis."""
    start, end = (axis + 1 if axis >= 0 else axis for axis in (reading.field("start_dim"), reading.field("end_dim")))
    return reading.made("flatten", {}, start_dim=start, end_dim=end)


def scale(reading: Reading) -> Read:
    """``Scale``."""
    key = f"{reading.name}.scale"
    node = Node(reading.name, "mul", FrozenMap(a=reading.x, b=Param(key)), reading.node)
    return Read((node,), {key: reading.array("scale")})


def fires(reading: Reading) -> Read:
    """``IF``: a hard reset to where it starts."""
    threshold, reset = reading.array("v_threshold"), reading.array("v_reset")
    if bool((reset != 0).any()):
        raise NotSaidError("it is reset to another potential than 0, and NIR does not say where it starts")
    theta = torch.nextafter(threshold, torch.tensor(math.inf, dtype=threshold.dtype))
    if bool((theta <= 0).any()):
        raise NotSaidError("its threshold is not positive")
    levels = Levels(0, 1, theta, 0.0, None)
    return _neuron(reading, integrate_and_fire(v_init=0.0, v_reset=0.0), levels)


def integrates(reading: Reading, levels: Levels) -> Read:
    """``I`` and what makes it a neuron; its value are its events."""
    return _neuron(reading, _encoder(levels), levels)


#: By kind of node.
READING: FrozenMap[str, Callable[[Reading], Read]] = FrozenMap({
    "Affine": affine, "Linear": affine, "Conv1d": convolution, "Conv2d": convolution, "AvgPool2d": mean_pool,
    "SumPool2d": sum_pool, "Flatten": flatten, "Scale": scale, "IF": fires,
})  # fmt: skip


def _encoder(levels: Levels) -> Neuron:
    if (levels.low, levels.high) == (0, 1):
        return integrate_and_fire(v_init=levels.v_init)
    if (levels.low, levels.high) == (-1, 1):
        return encoder(SIGNED, v_init=levels.v_init)
    low, high = levels.low, levels.high
    alphabet = f"{{k theta: k = {low}..{high}}}"
    book = Codebook("levels", whole, "multi-level", low, high, 1, high - low, alphabet, unary)
    return encoder(book, v_init=levels.v_init)


def _neuron(reading: Reading, neuron: Neuron, levels: Levels) -> Read:
    """Current times ``r dt``, and the neuron."""
    params: dict[str, Tensor] = {}
    nodes: list[Node] = []
    z, r = reading.x, reading.array("r")
    if bool((r != torch.as_tensor(1.0 / reading.dt).to(r)).any()):
        params[f"{reading.name}.r"] = r * reading.dt
        current: FrozenMap[str, Any] = FrozenMap(a=z, b=Param(f"{reading.name}.r"))
        nodes.append(Node(f"{reading.name}_current", "mul", current, reading.node))
        z = Ref(nodes[-1].name)
    path = f"{reading.name}__{neuron.name}0"
    theta, axis = _compact(levels.size)
    params[f"{path}.threshold"] = theta
    facts: dict[str, Any] = {"signed": True} if levels.low < 0 else {}
    if levels.extra is not None:
        params[f"{path}.charge"], facts["charge"] = levels.extra, Param(f"{path}.charge")
    operands: FrozenMap[str, Any] = FrozenMap(
        input=z, threshold=Param(f"{path}.threshold"), neuron=neuron, axis=axis, origin=f"NIR's {reading.node}", **facts
    )
    nodes.append(Node(reading.name, "encode", operands, reading.node))
    return Read(tuple(nodes), params, levels.size)


def _compact(theta: Tensor) -> tuple[Tensor, int | None]:
    """Thresholds for the layer or for each channel where they are, and the channel axis of the current."""
    if theta.numel() == 1 or bool((theta == theta.flatten()[0]).all()):
        return theta.flatten()[:1].clone(), 1
    rows = theta.reshape(theta.shape[0], -1)
    shared = bool((rows == rows[:, :1]).all())
    return (rows[:, 0].clone() if shared else theta.flatten()), 1


def _windows(reading: Reading) -> dict[str, Any]:
    return {field: reading.field(field) for field in ("kernel_size", "stride", "padding")}
