"""The spiking network up to some of its values, for stages that adjust it from the input on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from snnpipe.codes import Clock, Code
from snnpipe.containers import tensors
from snnpipe.emit import module_tree, neuron_path
from snnpipe.errors import CalibrationError
from snnpipe.graph import Graph
from snnpipe.kernels.temporal import after, difference
from snnpipe.ops.sequence import stacked
from snnpipe.runtime.activations import answers
from snnpipe.runtime.batches import ByName, Forward, Reader
from snnpipe.runtime.inputs import part_of
from snnpipe.runtime.program import lifted_program
from snnpipe.runtime.window import of_step
from snnpipe.stages.together import ALONE, Together
from snnpipe.state import ConversionState

#: ``(inputs by name) -> values``.
Prefix = Callable[[Mapping[str, Any]], Any]


def every_step(
    graph: Graph, values: Any, params: Mapping[str, Tensor], code: Code, clocks: Sequence[Clock],
    moving: frozenset[str] = frozenset(),
) -> Prefix:  # fmt: skip
    """The decoded ``values`` after each step, or chunk, a list; references in ``values`` are to nodes of the graph.

    The inputs ``moving`` are event sequences.
    """
    part = Graph(graph.nodes, values).live()
    root = module_tree(part, params)
    run = lifted_program(part, code, moving)

    def found(given: Mapping[str, Any]) -> list[Any]:
        _, outputs = run.window(root, clocks, {}, run.once(root, given), given)
        return [of_step(outputs, t) for t in range(len(clocks))]

    return found


def as_events(decoded: Sequence[Any], clocks: Sequence[Clock]) -> Any:
    """The event sequences (T, ...) of values decoded after each step."""
    sent, steps = None, []
    for now, clock in zip(decoded, clocks, strict=True):
        steps.append(difference(sent, now, clock))
        sent = after(sent, now, steps[-1], clock)
    return stacked(steps)


def bound(
    state: ConversionState, batches: Iterable[Any], called: str, limit: int | None, forward: Forward | None = None,
    everyone: Together = ALONE,
) -> list[dict[str, Any]]:  # fmt: skip
    """All batches of this process, as inputs by name.

    Raises:
        CalibrationError: nobody has one, or there is one that is none of inputs; names it.
    """
    root = module_tree(state.graph, detached(state.params))
    found: list[dict[str, Any]] = []

    def keep(number: int, given: dict[str, Any]) -> Any:
        found.append(given)
        return None if forward is None and state.whole is None else answers(state.graph)(root, given)

    with torch.no_grad():
        reader = Reader(called, state.graph, root, forward, whole=state.whole)
        everyone.read(reader.each(batches, keep, limit, none=everyone.several))
    return found


def read_by_name(state: ConversionState, batches: Iterable[Any], called: str, forward: Forward | None) -> ByName:
    """The batches as dictionaries of the model's inputs, each read by ``forward`` when it is asked for."""
    root, answer = module_tree(state.graph, detached(state.params)), answers(state.graph)
    return ByName(
        batches, Reader(called, state.graph, root, forward, whole=state.whole), lambda given: answer(root, given)
    )


def check_currents(found: Mapping[str, tuple[Tensor, Tensor]], graph: Graph, called: str, number: int) -> None:
    """Complain of a neuron whose current is no number in batch ``number``; ``found`` is what ``activations`` gives."""
    for name, (z, _) in found.items():
        check_current(z, neuron_path(graph[name]), called, number)


def check_current(z: Tensor, path: str, called: str, number: int) -> None:
    """Complain of NaN or infinity in the current of the neuron at ``path``."""
    if z.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(z))).all()):
        raise CalibrationError(
            f"{called}: NaN or infinity in the current of {path} in batch {number}; look for it in the data, or in the "
            "weights of the layers before"
        )


def split(given: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """Inputs for many samples as inputs for at most ``size`` each; as they are if they have no common first axis.

    >>> import torch
    >>> split({"x": torch.zeros(5, 2), "scale": 3.0}, 2)[-1]
    {'x': tensor([[0., 0.]]), 'scale': 3.0}
    """
    counts = {leaf.shape[:1] for leaf in tensors(given)}
    samples = counts.pop().numel() if len(counts) == 1 else 1
    parts = [slice(first, first + size) for first in range(0, samples, size)]
    if len(parts) == 1:
        return [given]

    def of(part: slice) -> dict[str, Any]:
        taken: dict[str, Any] = part_of(given, part)
        return taken

    return [of(part) for part in parts]


def detached(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without their history of gradients."""
    return {key: tensor.detach() for key, tensor in params.items()}


def home(state: ConversionState) -> torch.device:
    """Where the tensors of a state are."""
    return next((tensor.device for tensor in state.params.values()), torch.device("cpu"))
