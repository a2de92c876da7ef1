"""The spiking network up to some of its values, for stages that adjust it from the input on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from toolz import take
from torch import Tensor

from snnpipe.codes import Code
from snnpipe.emit import module_tree
from snnpipe.errors import CalibrationError
from snnpipe.frozen import leaves, map_leaves
from snnpipe.graph import Graph
from snnpipe.kernels.temporal import after, difference
from snnpipe.ops.sequence import stacked
from snnpipe.runtime.inputs import bind
from snnpipe.runtime.layers import layerwise
from snnpipe.runtime.program import lifted_program
from snnpipe.runtime.window import of_step
from snnpipe.stages.calibrate import arguments

#: ``(inputs by name) -> values``.
Prefix = Callable[[Mapping[str, Any]], Any]


def every_step(
    graph: Graph, values: Any, params: Mapping[str, Tensor], code: Code, T: int, moving: frozenset[str] = frozenset()
) -> Prefix:
    """The decoded ``values`` after each of T steps, a list; references in ``values`` are to nodes of the graph.

    The inputs ``moving`` are event sequences.
    """
    part = Graph(graph.nodes, values).live()
    root = module_tree(part, params)
    run, clocks = lifted_program(part, code, moving), [code.clock(t) for t in range(1, T + 1)]

    def found(given: Mapping[str, Any]) -> list[Any]:
        _, outputs = run.window(root, clocks, {}, run.once(root, given), given)
        return [of_step(outputs, t) for t in range(T)]

    return found


def at_once(graph: Graph, values: Any, params: Mapping[str, Tensor], code: Code, T: int) -> Prefix:
    """The ``values`` decoded after T steps when each layer waits for the one before."""
    part = Graph(graph.nodes, values).live()
    run, root = layerwise(part), module_tree(part, params)
    return lambda given: run(root, code, T, given)


def as_events(decoded: Sequence[Any], code: Code) -> Any:
    """The event sequences (T, ...) of values decoded after each step."""
    sent, steps = None, []
    for t, now in enumerate(decoded, start=1):
        steps.append(difference(sent, now, code.clock(t)))
        sent = after(sent, now, steps[-1], code.clock(t))
    return stacked(steps)


def bound(graph: Graph, batches: Iterable[Any], called: str, limit: int | None) -> list[dict[str, Any]]:
    """All batches, as inputs by name.

    Raises:
        CalibrationError: there is none.
    """
    names = tuple(node["name"] for node in graph.inputs)
    limited = batches if limit is None else take(limit, batches)
    found = []
    for number, batch in enumerate(limited):
        args, kwargs = arguments(batch, names, number=number)
        found.append(bind(graph, args, kwargs))
    if not found:
        raise CalibrationError(f"{called}: there was no batch. Is the loader empty, or a generator that was used up?")
    return found


def split(given: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Inputs for many samples as inputs for at most ``size`` each; as they are if they have no common first axis.

    >>> import torch
    >>> split({"x": torch.zeros(5, 2), "scale": 3.0}, 2)[-1]
    {'x': tensor([[0., 0.]]), 'scale': 3.0}
    """
    counts = {leaf.shape[:1] for leaf in leaves(given) if isinstance(leaf, Tensor)}
    samples = counts.pop().numel() if len(counts) == 1 else 1
    parts = [slice(first, first + size) for first in range(0, samples, size)]
    if len(parts) == 1:
        return [given]

    def of(part: slice) -> dict[str, Any]:
        taken: dict[str, Any] = map_leaves(lambda leaf: leaf[part] if isinstance(leaf, Tensor) else leaf, given)
        return taken

    return [of(part) for part in parts]


def detached(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without their history of gradients."""
    return {key: tensor.detach() for key, tensor in params.items()}
