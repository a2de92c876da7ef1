"""Axes of inputs, besides the batch, that may have another size later than in the example.

Knows how ``torch.export`` is told, and what shows that a graph is right for other sizes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
from torch import Tensor, nn
from torch.export import Dim, ShapesCollection
from torch.utils import _pytree as pytree

from snnpipe.containers import tensors
from snnpipe.errors import TraceError
from snnpipe.frontend.lowering import Lowered
from snnpipe.frontend.program import OPEN
from snnpipe.frontend.selfcheck import Example, check_example, differs
from snnpipe.frozen import FrozenMap, map_leaves
from snnpipe.graph import Graph, Traced

#: Axes by input, counted from the front or from the end.
Axes = Mapping[str, tuple[int, ...]]
#: Of the free axes of each input the smallest size that the graph was found right for.
Least = Mapping[tuple[str, int], int]


def marked(root: nn.Module, given: Example, axes: Axes, batch: bool) -> ShapesCollection | None:
    """What tells ``export`` which axes of an example are free; ``None`` if none is."""
    free = ShapesCollection()
    for name, value in _named(root, given).items():
        for leaf in tensors(value) if batch or name in axes else ():
            found = dict.fromkeys(_of(leaf, name, axes), Dim.AUTO) | ({0: Dim.AUTO} if batch else {})
            if leaf.ndim and found:
                free[leaf] = found
    return free if batch or axes else None


def check_axes(root: nn.Module, given: Example, axes: Axes) -> None:
    """Raise a TraceError where an example cannot show that axes are free."""
    named = _named(root, given)
    for name, numbers in axes.items():
        found = tensors(named.get(name))
        if not found:
            raise TraceError(
                f"trace: dynamic_axes: the example has no input {name!r} with tensors; it has {', '.join(named)}"
            )
        for axis, leaf in ((axis, leaf) for axis in numbers for leaf in found):
            place = f"trace: dynamic_axes: axis {axis} of {name}, {tuple(leaf.shape)} in the example,"
            if not -leaf.ndim <= axis < leaf.ndim:
                raise TraceError(f"{place} is not there")
            if axis % leaf.ndim == 0:
                raise TraceError(f"{place} is the batch, which may have any size anyway; leave it out")
            if leaf.shape[axis] < 2:
                raise TraceError(f"{place} has size {leaf.shape[axis]}; an example has at least 2 on a free axis")


def check_others(root: nn.Module, given: Example, axes: Axes, others: tuple[Example, ...]) -> None:
    """Raise a TraceError where other examples have other sizes of what should not be free."""
    named = _named(root, given)
    for other in others:
        found = _named(root, other)
        for name, here, there in ((n, *pair) for n in named for pair in zip(*map(tensors, (named[n], found.get(n))))):  # noqa: B905
            for axis in {*range(1, min(here.ndim, there.ndim))} - {*_of(here, name, axes)}:
                if here.shape[axis] != there.shape[axis]:
                    raise TraceError(
                        f"trace: check: axis {axis} of {name} has size {there.shape[axis]} here and {here.shape[axis]} "
                        f"in the example; if it is free, say so: dynamic_axes={{{name!r}: ({axis},), ...}}"
                    )


def check_free(lowered: Lowered, axes: Axes) -> None:
    """Raise a TraceError where what the model computes needs the example's size of an axis that should be free."""
    for name, traced in _traced(lowered):
        for axis in _of(traced, name, axes):
            if isinstance(traced.shape[axis], int):
                raise TraceError(
                    f"trace: dynamic_axes: the model needs size {traced.shape[axis]} of axis {axis} of {name}: its "
                    "forward decides something by that size, or keeps something of it. Leave the axis out, and pad"
                )


def least_sizes(
    lowered: Lowered, root: nn.Module, model: Callable[[], nn.Module], given: Example, axes: Axes,
    others: tuple[Example, ...],
) -> Least:  # fmt: skip
    """The smallest sizes that the graph was found right for, on examples of other sizes.

    Without ``others``, axes that have one size in the example are made longer by one, and 1, together.

    Raises:
        TraceError: the graph is wrong for another size, or the model takes none of those that were tried.
    """
    sizes = _sizes(root, given, axes)
    least = dict(sizes)
    for other in others:
        check_example(lowered, model, other)
        seen = _sizes(root, other, axes)
        least = {place: min(low, seen[place]) for place, low in least.items()}
    stuck = {place for place in sizes if all(_sizes(root, other, axes)[place] == sizes[place] for other in others)}
    for size in sorted({sizes[place] for place in stuck}):
        places = [place for place in sizes if sizes[place] == size]
        found = _tried(lowered, model, _resized(root, given, axes, size, size + 1))
        if found is None or found:
            names = ", ".join(f"axis {axis} of {name}" for name, axis in places)
            raise TraceError(
                f"trace: dynamic_axes: {names}: {found or 'the model takes no other size of these alone'}. "
                + ("Leave them out" if found else "Give an example of other sizes: check=")
            )
        if _tried(lowered, model, _resized(root, given, axes, size, 1)) == "":
            least |= dict.fromkeys(places, 1)
    return least


def limited(lowered: Lowered, batch: int, least: Least) -> Lowered:
    """The graph for batches of at least ``batch``, and for no smaller sizes of free axes than it was found right for.

    A program is right from size 2 on, or from what it says itself.
    """

    def size(name: str, axis: int, said: int | range | None) -> int | range | None:
        if isinstance(said, int):
            return said
        low = (said.start if said else 2) if axis or said else 0
        found = range(min(low, least.get((name, axis), low)), said.stop if said else OPEN + 1)
        found = range(max(found.start, batch), found.stop) if not axis and batch > 1 else found
        return found if found.start or found.stop <= OPEN else None

    def one(name: str, leaf: Any) -> Any:
        if not isinstance(leaf, Traced):
            return leaf
        return attrs.evolve(leaf, shape=tuple(size(name, axis, said) for axis, said in enumerate(leaf.shape)))

    nodes = tuple(
        node.evolve(shape=map_leaves(partial(one, node["name"]), node["shape"]))
        if node.op == "input" and node.get("shape") is not None
        else node
        for node in lowered.graph
    )
    return attrs.evolve(lowered, graph=Graph(nodes, lowered.graph.output))


def _named(root: nn.Module, given: Example) -> dict[str, Any]:
    """The arguments of an example by name."""
    signature = inspect.signature(root.forward)
    try:
        found = signature.bind(*given.args, **given.kwargs).arguments
    except TypeError as error:
        raise TraceError(f"trace: the model itself does not take the example: {error}") from error
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    spread: dict[str, Any] = next(
        (found.pop(name) for name in [*found] if kinds[name] is inspect.Parameter.VAR_KEYWORD), {}
    )
    return {**found, **spread}


def _of(tensor: Any, name: str, axes: Axes) -> tuple[int, ...]:
    """The free axes of a tensor of an input, from the front."""
    rank = len(tensor.shape)
    return tuple(axis % rank for axis in axes.get(name, ()) if -rank <= axis < rank)


def _sizes(root: nn.Module, given: Example, axes: Axes) -> FrozenMap[tuple[str, int], int]:
    """The sizes of the free axes in an example."""
    named = _named(root, given)
    return FrozenMap({
        (name, axis): leaf.shape[axis]
        for name in axes for leaf in tensors(named.get(name)) for axis in _of(leaf, name, axes)
    })  # fmt: skip


def _resized(root: nn.Module, given: Example, axes: Axes, size: int, wanted: int) -> Example:
    """The example with free axes of ``size`` made shorter, or longer by repeating their beginning."""

    def one(leaf: Any, name: str) -> Any:
        for axis in _of(leaf, name, axes) if isinstance(leaf, Tensor) else ():
            if leaf.shape[axis] == size:
                leaf = (
                    leaf.narrow(axis, 0, wanted)
                    if wanted < size
                    else leaf.index_select(axis, _round(leaf, size, wanted))
                )
        return leaf

    named = {name: pytree.tree_map(lambda leaf: one(leaf, name), value) for name, value in _named(root, given).items()}  # noqa: B023
    return Example((), named)


def _round(leaf: Tensor, size: int, wanted: int) -> Tensor:
    return leaf.new_tensor([k % size for k in range(wanted)], dtype=None).long()


def _tried(lowered: Lowered, model: Callable[[], nn.Module], other: Example) -> str | None:
    """How the graph differs from the model on another example; ``None`` where the model does not take it."""
    try:
        return differs(lowered, model, other)
    except TraceError:
        return None


def _traced(lowered: Lowered) -> Iterator[tuple[str, Traced]]:
    """What the tensors of each input were exported for."""
    for node in lowered.graph.inputs:
        found: list[Traced] = []
        map_leaves(lambda leaf: found.append(leaf) if isinstance(leaf, Traced) else None, node.get("shape"))  # noqa: B023
        yield from ((node["name"], leaf) for leaf in found)
