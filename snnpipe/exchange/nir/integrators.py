"""Finding the soft-reset neurons of a NIR graph: integrator, thresholds, and the products that lead back.

Knows NIR's nodes and edges; nothing of snnpipe's graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.exchange.nir.neurons import Levels
from snnpipe.exchange.nir.parts import NotSaidError


@attrs.frozen(eq=False)
class Net:
    """A NIR graph's nodes and edges, both ways; ``dtype`` is the widest of its arrays."""

    nodes: Mapping[str, Any]
    sources: Mapping[str, tuple[str, ...]]
    targets: Mapping[str, tuple[str, ...]]
    dtype: torch.dtype

    def kind(self, name: str) -> str:
        """The primitive's name."""
        return type(self.nodes[name]).__name__

    def array(self, name: str, field: str) -> Tensor:
        """A field of a node as a tensor of its own.

        Raises:
            NotSaidError: the node has no such array, or one that is not finite.
        """
        value = getattr(self.nodes[name], field, None)
        if not hasattr(value, "dtype"):
            raise NotSaidError(f"its {field} is no array")
        found = torch.tensor(value).to(self.dtype)
        if bool(found.isnan().any()):
            raise NotSaidError(f"its {field} holds NaN")
        return found

    def reaches(self, start: str) -> set[str]:
        """What reads a node, directly or not."""
        found: set[str] = set()
        waiting = list(self.targets[start])
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.targets[name]
        return found


@attrs.frozen(eq=False)
class Integrator:
    """A soft-reset neuron of a graph.

    Attributes:
        name: its ``I`` node.
        current: what the ``I`` node reads but what leads back.
        levels: what it sends.
        spikes: its thresholds, those of negative events apart.
        inner: all its nodes but ``I`` and thresholds: what leads back, and the sign.
    """

    name: str
    current: tuple[str, ...]
    levels: Levels
    spikes: tuple[str, ...]
    negative: tuple[str, ...]
    inner: frozenset[str]


def net(nodes: Mapping[str, Any], edges: Iterable[tuple[str, str]]) -> Net:
    """The graph of some nodes and edges."""
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    targets: dict[str, list[str]] = {name: [] for name in nodes}
    for source, target in edges:
        sources[target].append(source)
        targets[source].append(target)
    told = [str(getattr(v, "dtype", "")) for node in nodes.values() for v in vars(node).values()]
    dtype = torch.float64 if "float64" in told else torch.float32
    return Net(nodes, {k: tuple(v) for k, v in sources.items()}, {k: tuple(v) for k, v in targets.items()}, dtype)


def integrator(graph: Net, name: str) -> Integrator:
    """The neuron around an ``I`` node.

    Raises:
        NotSaidError: it is no neuron that subtracts what it sends.
    """
    behind = graph.reaches(name)
    back = tuple(source for source in graph.sources[name] if source in behind)
    current = tuple(source for source in graph.sources[name] if source not in behind)
    signs = tuple(t for t in graph.targets[name] if graph.kind(t) == "Scale")
    ups = tuple(t for t in graph.targets[name] if graph.kind(t) == "Threshold")
    downs = tuple(t for sign in signs for t in graph.targets[sign])
    if not ups or len(ups) + len(signs) != len(graph.targets[name]) or len(signs) > 1:
        raise NotSaidError("its potential is read by something else than thresholds")
    if any(bool((graph.array(sign, "scale") != -1.0).any()) for sign in signs):
        raise NotSaidError("its potential is scaled before a threshold by another number than -1")
    for threshold in (*ups, *downs):
        if graph.kind(threshold) != "Threshold" or len(graph.sources[threshold]) != 1:
            raise NotSaidError("what reads its potential is no threshold of it alone")
    size = _size(graph, back, ups, downs)
    levels = _levels(size, _sorted(graph, ups), _sorted(graph, downs))
    return Integrator(name, current, levels, ups, downs, frozenset({*back, *signs}))


def _size(graph: Net, back: tuple[str, ...], ups: tuple[str, ...], downs: tuple[str, ...]) -> Tensor:
    """What an event takes from the potential: each threshold leads back once, by a product with one and the same."""
    signs = {**dict.fromkeys(ups, -1.0), **dict.fromkeys(downs, 1.0)}
    led = [source for way in back for source in graph.sources[way]]
    if sorted(led) != sorted(signs) or any(graph.kind(way) != "Scale" for way in back):
        raise NotSaidError("what leads back to it are not its own spikes, each once, times a number")
    found = [signs[source] * graph.array(way, "scale") for way in back for source in graph.sources[way]]
    if any(not torch.equal(each, found[0]) for each in found) or bool((found[0] <= 0).any()):
        raise NotSaidError("its spikes do not all take the same from its potential")
    return found[0]


def _sorted(graph: Net, spikes: tuple[str, ...]) -> list[Tensor]:
    found = [graph.array(name, "threshold") for name in spikes]
    return sorted(found, key=lambda threshold: float(threshold.flatten()[0]))


def _levels(size: Tensor, ups: list[Tensor], downs: list[Tensor]) -> Levels:
    """Even levels with these very thresholds, and the initial potential that they speak of."""
    above = torch.nextafter(ups[0], torch.tensor(math.inf, dtype=ups[0].dtype))
    charge = size - above
    share = float((charge / size).flatten().median())
    tries = [(round(share, 6), None), (share, None), (0.0, charge)]
    for v_init, extra in tries:
        levels = Levels(-len(downs), len(ups), size, v_init, extra)
        wanted = [levels.reached(k + 1) for k in range(len(ups))], [levels.undercut(k + 1) for k in range(len(downs))]
        if all(map(torch.equal, wanted[0] + wanted[1], ups + downs)):
            return levels
    raise NotSaidError("its thresholds are not, to the last bit, those of evenly spaced levels of what its spikes take")
