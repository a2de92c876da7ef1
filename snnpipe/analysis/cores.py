"""The layers of a network on the cores of a chip: what each takes, and whether all find one.

Knows sizes of layers; what else a chip asks of them is ``analysis.limits``' business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from snnpipe.analysis.targets import Core
from snnpipe.graph import Graph, Node, Ref


@attrs.frozen
class Limit:
    """A limit of a chip that a network exceeds.

    Attributes:
        path: the layer, "" for the whole network.
        what: in words, with what it is and what it may be.
        fix: what to do next.
    """

    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path or 'in all'}: {self.what}\n    -> {self.fix}"


def on_cores(
    layers: Sequence[Node], graph: Graph, params: Mapping[str, Tensor], shapes: Mapping[str, torch.Size],
    cores: Sequence[Core],
) -> Iterator[Limit]:  # fmt: skip
    """Whether each layer finds a core of its own; memory counts where shapes are known."""
    if not cores:
        return
    if len(layers) > len(cores):
        yield Limit("", f"{len(layers)} layers, on {len(cores)} cores", "train a network with fewer layers")
    fitting = []
    for node in layers:
        weights, neurons = memory(node, graph, params, shapes)
        fitting.append([k for k, core in enumerate(cores) if weights <= core.weights and neurons <= core.neurons])
        if not fitting[-1]:
            what = f"it takes {weights} words of weights and {neurons} neurons, which no core has"
            yield Limit(called(node), what, "train it with fewer channels, or pool before it")
    if all(fitting) and len(layers) <= len(cores) and matched(fitting) < len(layers):
        yield Limit("", "its layers fit cores one by one, but not all at once", "make the largest layers smaller")


def memory(
    node: Node, graph: Graph, params: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> tuple[int, int]:  # fmt: skip
    r"""Words of weights, and neurons, that a layer takes; 0 of what is not known.

    .. math:: c \, 2^{\lceil \log_2 k_x k_y \rceil + \lceil \log_2 f \rceil}, \qquad f f_x f_y

    for c input and f output channels: weights are addressed by powers of two.  A linear layer that reads maps
    flattened is a convolution with a kernel of their size.
    """
    outputs, inputs, *kernel = params[node["weight"].key].shape
    inputs *= int(node.get("groups", 1))
    if node.op == "linear":
        read = _flattened(node, graph, shapes)
        if read is None:
            return 0, outputs
        inputs, *kernel = read
    words = inputs * 2 ** (math.ceil(math.log2(math.prod(kernel))) + math.ceil(math.log2(outputs)))
    shape = shapes.get(node.name)
    return words, 0 if shape is None else shape.numel()


def _flattened(node: Node, graph: Graph, shapes: Mapping[str, torch.Size]) -> tuple[int, ...] | None:
    """The maps (C, H, W) that a linear layer reads flattened, where their shape is known."""
    source = graph.producer(node["input"])
    if source is None or source.op not in ("flatten", "view", "reshape") or not isinstance(source["input"], Ref):
        return None
    shape = shapes.get(source["input"].name)
    return tuple(shape[1:]) if shape is not None and len(shape) == 4 else None


def matched(fitting: Sequence[Sequence[int]]) -> int:
    """How many rows can have a column each of those they fit (a maximum matching, by augmenting paths).

    >>> matched([[0, 1], [0], [1]])
    2
    """
    holder: dict[int, int] = {}

    def seated(row: int, tried: set[int]) -> bool:
        for column in fitting[row]:
            if column not in tried:
                tried.add(column)
                if column not in holder or seated(holder[column], tried):
                    holder[column] = row
                    return True
        return False

    return sum(seated(row, set()) for row in range(len(fitting)))


def called(node: Node) -> str:
    """What people call a layer."""
    return node.path or node.name
