"""Holding a network with neurons against what a chip can take, layer by layer, without data.

Looks at what lies before the last neuron; what follows is read out, off the chip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from snnpipe.analysis.cores import Limit, called, on_cores
from snnpipe.analysis.shapes import shapes
from snnpipe.analysis.targets import LayerLimits, Target
from snnpipe.frozen import leaves
from snnpipe.graph import Graph, Node, Param, Ref, refs
from snnpipe.kernels.grid import is_on_grid
from snnpipe.kernels.scaling import output_axes
from snnpipe.ops.lift import Case, place
from snnpipe.rules.axes import LAYER_AXIS
from snnpipe.stages.quantise import is_layer

#: Ops that leave a value what it is.
_SAME = frozenset({"identity", "clone", "contiguous", "detach"})


def limits(graph: Graph, params: Mapping[str, Tensor], target: Target, *, converted: bool) -> tuple[Limit, ...]:
    """The limits of a chip that a graph with neurons exceeds.

    Args:
        graph: not carried to a code.
        params: its tensors.
        target: the chip.
        converted: whether thresholds and weights are those that will run, or a network's that is yet to be converted.
    """
    held = _Held(graph, params, target)
    found = [limit for node in held.nodes for limit in held.of(node)]
    if converted:
        found += [limit for node in held.nodes for limit in held.of_values(node)]
    return (*found, *held.totals())


def sizes_known(graph: Graph, params: Mapping[str, Tensor]) -> bool:
    """Whether the shapes of all layers can be told."""
    found = shapes(graph, params)
    return all(node.name in found for node in graph if node.op in LAYER_AXIS or node.op == "encode")


class _Held:
    """A network beside a chip."""

    def __init__(self, graph: Graph, params: Mapping[str, Tensor], target: Target) -> None:
        self.graph, self.params, self.target = graph, params, target
        before = graph.ancestors(node.name for node in graph if node.op == "encode")
        static = {name for name, placed in place(graph, temporal_inputs=True).items() if placed.case is Case.STATIC}
        self.nodes = [node for node in graph if node.name in before - static and node.op != "input"]
        self.shapes = shapes(graph, params)
        self.layers = [node for node in self.nodes if is_layer(node, params)]

    def of(self, node: Node) -> Iterator[Limit]:
        """What the kind and the sizes of an operator exceed."""
        if node.op == "encode":
            yield from self._neuron(node)
        elif node.op in LAYER_AXIS:
            yield from self._layer(node)
        elif self.target.operators or self.target.pools:
            yield from self._operator(node)

    def of_values(self, node: Node) -> Iterator[Limit]:
        """What weights and thresholds exceed."""
        limits = self.target.layers.get(self._kind(node)) if node in self.layers else None
        if limits is not None and limits.bits and not self._fits_grid(node, limits):
            per = ', per="layer"' * self.target.one_threshold
            fix = f"put quantise_weights(bits={max(limits.bits)}{per}) behind absorb"
            fix += ", which wants thresholds per layer" * self.target.one_threshold
            yield Limit(called(node), f"its weights are not on a grid of {_any(limits.bits)} bits", fix)
        if node.op == "encode" and self.target.one_threshold and not self._has_one_threshold(node):
            fix = "write replace(threshold=percentile(99.9, per='layer')) and put absorb behind it"
            yield Limit(called(node), "its channels have thresholds of their own, a layer has one", fix)

    def _neuron(self, node: Node) -> Iterator[Limit]:
        unit = node["neuron"].unit
        if self.target.units and unit not in self.target.units:
            neuron = "integrate_and_fire()" if "binary" in self.target.units else "another neuron"
            fix = f"write replace(neuron={neuron})"
            yield Limit(
                called(node), f"its events are {unit}, a neuron there sends {_any(self.target.units)} ones", fix
            )
        if self.target.one_layer and not self._reads_one_layer(node):
            fix = "give the branch a neuron of its own, or leave the operator out and train without it"
            yield Limit(called(node), "its current is not what one layer gives", fix)
        readers = {user for name in self._behind(node) for user in self.graph.users[name]}
        layers = [layer.name for layer in self.layers if layer.name in readers]
        if self.target.readers is not None and len(layers) > self.target.readers:
            fix = "concatenate the layers that read it, or leave some out"
            yield Limit(called(node), f"{len(layers)} layers read its events, {self.target.readers} may", fix)
        yield from self._map(node)

    def _map(self, node: Node) -> Iterator[Limit]:
        shape, most = self.shapes.get(node.name), self.target.map_size
        if shape is not None and most is not None and len(shape) > 2 and max(shape[2:]) > most:
            fix = "pool, or stride, in the layer before"
            yield Limit(called(node), f"its neurons are {_times(shape[2:])}, at most {_times((most, most))}", fix)

    def _layer(self, node: Node) -> Iterator[Limit]:
        kind = self._kind(node)
        if not self.target.layers:
            return
        limits = self.target.layers.get(kind)
        if limits is None or node not in self.layers:
            what = (
                f"there is no layer of its kind ({node.op}, {kind})" if limits is None else "its weights are computed"
            )
            yield Limit(called(node), what, f"build it of {_any(tuple(self.target.layers))} layers with weights")
            return
        shape = self.params[node["weight"].key].shape
        spatial = len(shape) - 2
        stride, padding = (_each(node.get(name, least), spatial) for name, least in (("stride", 1), ("padding", 0)))
        named = (("kernel", tuple(shape[2:]), limits.kernels), ("stride", stride, limits.strides),
                 ("padding", padding, limits.paddings))  # fmt: skip
        for name, found, allowed in named:
            if allowed and found is not None and not set(found) <= set(allowed):
                what = f"its {name} is {_times(found)}, it can be {_any(allowed)}"
                yield Limit(called(node), what, f"train with a {name} of {_any(allowed)}")
        if limits.square and len(set(shape[2:])) > 1:
            yield Limit(
                called(node), f"its kernel is {_times(shape[2:])}, not square", "fill it with zeros to a square"
            )
        yield from self._counts(node, limits)
        yield from self._read_size(node)

    def _counts(self, node: Node, limits: LayerLimits) -> Iterator[Limit]:
        shape, groups = self.params[node["weight"].key].shape, int(node.get("groups", 1))
        turned = node.op.startswith("conv_transpose")
        inputs, outputs = (shape[0], shape[1] * groups) if turned else (shape[1] * groups, shape[0])
        for name, found, most in (("inputs", inputs, limits.inputs), ("outputs", outputs, limits.outputs)):
            if most is not None and found > most:
                yield Limit(called(node), f"it has {found} {name}, at most {most}", f"train with fewer {name}")

    def _read_size(self, node: Node) -> Iterator[Limit]:
        shape = self.shapes.get(node["input"].name) if isinstance(node["input"], Ref) else None
        most = self.target.input_size
        if shape is not None and most is not None and len(shape) > 2 and max(shape[2:]) > most:
            what = f"it reads maps of {_times(shape[2:])}, at most {_times((most, most))}"
            yield Limit(called(node), what, "give the network smaller inputs")

    def _operator(self, node: Node) -> Iterator[Limit]:
        target = self.target
        if node.op in target.pools:
            size, stride = _each(node["kernel_size"], 2), _each(node.get("stride") or node["kernel_size"], 2)
            if size is None or size != stride or not set(size) <= set(target.pools[node.op]):
                what = f"it pools {_times(size or ())} by {_times(stride or ())}"
                sizes = _any(target.pools[node.op])
                yield Limit(
                    called(node), f"{what}; windows can be {sizes}, side by side", f"train with a pool of {sizes}"
                )
        elif node.op not in {*target.operators, *_SAME} and not self._is_of_neuron(node) and not self._flattens(node):
            words = "fold it with fuse" if node.op == "batch_norm" else "build the network without it"
            yield Limit(called(node), f"there is no {node.op} between neurons", words)

    def _is_of_neuron(self, node: Node) -> bool:
        """Whether a constant only changes what a neuron gets, so that it can be part of its threshold or its bias."""
        if node.op not in ("mul", "add") or len(refs(node.operands)) != 1:
            return False
        users = [self.graph.by_name.get(user) for user in self.graph.users[node.name]]
        return all(user is not None and (user.op == "encode" or self._is_of_neuron(user)) for user in users)

    def _flattens(self, node: Node) -> bool:
        shape = self.shapes.get(node.name)
        return (
            node.op in ("view", "reshape") and "flatten" in self.target.operators and (shape is None or len(shape) == 2)
        )

    def _reads_one_layer(self, node: Node) -> bool:
        source = self.graph.producer(node["input"])
        while source is not None and (source.op in _SAME or self._is_of_neuron(source)):
            source = self.graph[refs(source.operands)[0]]
        if source is None or source.op not in LAYER_AXIS:
            return False
        made = self._weights_behind(source["input"])
        return not made

    def _weights_behind(self, operand: Any) -> bool:
        """Whether a layer reads what another layer gives, with no neuron in between."""
        queue, seen = refs(operand), set[str]()
        while queue:
            node = self.graph[queue.pop()]
            if node.name in seen or node.op in ("encode", "input"):
                continue
            seen.add(node.name)
            if node.op in LAYER_AXIS:
                return True
            queue += refs(node.operands)
        return False

    def _behind(self, node: Node) -> set[str]:
        """What is made of a neuron's events before the next layer."""
        found = {node.name}
        for other in self.nodes:
            if other.op not in LAYER_AXIS and other.op != "encode" and found & set(refs(other.operands)):
                found.add(other.name)
        return found

    def _kind(self, node: Node) -> str:
        if node.op == "linear":
            return "linear"
        if node.op != "conv2d":
            return node.op
        source, groups = self.graph.producer(node["input"]), int(node.get("groups", 1))
        if source is not None and source.op == "input":
            return "first"
        whole = isinstance(node["weight"], Param) and self.params[node["weight"].key].shape[1] == 1
        return "depthwise" if groups > 1 and whole else "convolution" if groups == 1 else "grouped"

    def _fits_grid(self, node: Node, limits: LayerLimits) -> bool:
        weight = self.params[node["weight"].key].detach()
        rows = output_axes(node.op, weight, int(node.get("groups", 1))).flatten(1)
        return any(is_on_grid(rows, bits, shared=self.target.one_threshold) for bits in limits.bits if bits > 1)

    def _has_one_threshold(self, node: Node) -> bool:
        values, source = [self.params[node["threshold"].key]], self.graph.producer(node["input"])
        while source is not None and self._is_of_neuron(source):
            values += [self.params[leaf.key] for leaf in leaves(source.operands)
                       if isinstance(leaf, Param) and source.op == "mul"]  # fmt: skip
            source = self.graph[refs(source.operands)[0]]
        return all(bool((value == value.reshape(-1)[0]).all()) for value in values)

    def totals(self) -> Iterator[Limit]:
        """What the whole network exceeds."""
        target = self.target
        weights = sum(self.params[key].numel() for key in {node["weight"].key for node in self.layers})
        if target.weights is not None and weights > target.weights:
            yield Limit("", f"{weights} weights, at most {target.weights}", "make the network smaller")
        sizes = [
            self.shapes[node.name].numel() for node in self.nodes if node.op == "encode" and node.name in self.shapes
        ]
        if target.neurons is not None and sum(sizes) > target.neurons:
            yield Limit("", f"{sum(sizes)} neurons, at most {target.neurons}", "make the network smaller")
        yield from on_cores(self.layers, self.graph, self.params, self.shapes, target.cores)


def _each(value: Any, count: int) -> tuple[int, ...] | None:
    """A size for each axis; ``None`` for words such as "same"."""
    sizes = (value,) * count if isinstance(value, int) else value
    return tuple(sizes) if isinstance(sizes, tuple) and all(isinstance(size, int) for size in sizes) else None


def _times(sizes: Any) -> str:
    return " x ".join(map(str, sizes))


def _any(values: tuple[Any, ...]) -> str:
    words = [str(value) for value in values]
    whole = all(isinstance(value, int) for value in values) and len(values) > 4
    if whole and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]} to {values[-1]}"
    return " or ".join([", ".join(words[:-1]), words[-1]]) if words[1:] else "".join(words)
