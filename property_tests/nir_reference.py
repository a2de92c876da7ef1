"""What NIR's equations say of a graph, with a step of ``dt``, written without any of snnpipe's or NIRTorch's code.

Edges into an integrator from what depends on it carry the values of the step before.
"""

from collections.abc import Callable
from graphlib import TopologicalSorter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snnpipe import SpikingNetwork
from snnpipe.emit import neuron_path


def run(graph: Any, x: Tensor, T: int, dt: float = 1.0) -> tuple[dict[str, Tensor], Tensor]:
    """Spikes (T, B, ...) of the nodes that send some, and what the graph puts out (T, B, ...), for a constant input."""
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    back = {(a, b) for a, b in graph.edges if kinds[b] == "I" and a in _behind(b, graph.edges)}
    order = TopologicalSorter({b: [a for a in found if (a, b) not in back] for b, found in sources.items()})
    order = list(order.static_order())
    before: dict[str, Any] = dict.fromkeys(graph.nodes, 0.0)
    state: dict[str, Any] = dict.fromkeys(graph.nodes, 0.0)
    sent: dict[str, list[Tensor]] = {name: [] for name in graph.nodes if kinds[name] in ("Threshold", "IF")}
    outputs = []
    for _ in range(T):
        now: dict[str, Any] = {}
        for name in order:
            given = sum(before[a] if (a, name) in back else now[a] for a in sources[name])
            given = x if kinds[name] == "Input" else given
            now[name] = OPERATORS[kinds[name]](graph.nodes[name], given, state, name, dt)
        before = now
        for name, train in sent.items():
            train.append(now[name].bool())
        outputs.append(now["output"])
    return {name: torch.stack(train) for name, train in sent.items()}, torch.stack(outputs)


def trains(snn: SpikingNetwork, x: Tensor, T: int) -> dict[str, Tensor]:
    """What ``run`` must find, from the network itself: ``<name>_spike<k>`` has fired where level k was said."""
    sent: dict[str, list[Tensor]] = {}

    def watched(step: Callable[..., Any], name: str, book: Any) -> Callable[..., Any]:
        def watching(state: Any, z: Tensor, theta: Tensor, clock: Any, **options: Any) -> Any:
            state, events = step(state, z, theta, clock, **options)
            q = (events / book.smallest(theta)).round()
            for k in range(1, int(book.high) + 1):
                sent.setdefault(f"{name}_spike{k if k > 1 else ''}", []).append(q >= k)
            for k in range(1, 1 - int(book.low) if options.get("signed") else 1):
                sent.setdefault(f"{name}_minus{k if k > 1 else ''}", []).append(q <= -k)
            return state, events
        return watching

    for node in snn.graph:
        if node.op == "encode":
            module = snn.neurons()[neuron_path(node)]
            book = module.neuron.options["codebook"]
            module.neuron = module.neuron.stepping(watched(module.neuron.step, node.name, book))
    snn(x, T=T)
    return {name: torch.stack(train) for name, train in sent.items()}


def on_grid(snn: SpikingNetwork) -> SpikingNetwork:
    """The same network with weights k/64 and thresholds k/16, in place: its sums do not round.

    The largest float, the threshold of a site that never fired, stays.
    """
    with torch.no_grad():
        for name, tensor in snn.state_dict().items():
            step, least = (16, 1.0) if name.endswith("threshold") else (64, -torch.inf)
            tensor.copy_(((tensor * step).round().clamp(min=least) / step).minimum(tensor.clamp(min=2.0**40)))
    return snn


def _behind(start: str, edges: list[tuple[str, str]]) -> set[str]:
    found, new = set(), {start}
    while new:
        new = {b for a, b in edges if a in new} - found
        found |= new
    return found


def _array(value: Any) -> Tensor:
    return torch.tensor(value)


def _pair(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(value) if isinstance(value, list | tuple) else value


def _conv(node: Any, x: Tensor, *_: Any) -> Tensor:
    call = F.conv1d if node.weight.ndim == 3 else F.conv2d
    sizes = (_pair(node.stride), _pair(node.padding), _pair(node.dilation), int(node.groups))
    return call(x, _array(node.weight).to(x), _array(node.bias).to(x), *sizes)


def _pool(node: Any, x: Tensor, *_: Any) -> Tensor:
    return F.avg_pool2d(x, _pair(node.kernel_size), _pair(node.stride), _pair(node.padding))


def _flatten(node: Any, x: Tensor, *_: Any) -> Tensor:
    start, end = (axis + 1 if axis >= 0 else axis for axis in (int(node.start_dim), int(node.end_dim)))
    return x.flatten(start, end)


def _integrate(node: Any, x: Tensor, state: dict[str, Any], name: str, dt: float) -> Tensor:
    state[name] = state[name] + dt * _array(node.r) * x
    return state[name]


def _fire(node: Any, x: Tensor, state: dict[str, Any], name: str, dt: float) -> Tensor:
    v = _integrate(node, x, state, name, dt)
    fired = v > _array(node.v_threshold)
    state[name] = torch.where(fired, _array(node.v_reset), v)
    return fired.to(x.dtype)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Affine": lambda node, x, *_: F.linear(x, _array(node.weight).to(x), _array(node.bias).to(x)),
    "Conv1d": _conv, "Conv2d": _conv, "AvgPool2d": _pool,
    "SumPool2d": lambda node, x, *_: _pool(node, x) * float(_array(node.kernel_size).prod()), "Flatten": _flatten,
    "Scale": lambda node, x, *_: x * _array(node.scale), "I": _integrate, "IF": _fire,
    "Threshold": lambda node, x, *_: (x > _array(node.threshold)).to(x.dtype), "Input": lambda node, x, *_: x,
    "Output": lambda node, x, *_: x,
}  # fmt: skip
