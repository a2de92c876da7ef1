"""How a batch of a loader is handed to a network: the one place that decides it, for every stage that takes data.

Knows the kinds of batches and the inputs of a graph; what is done with the inputs is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import attrs
import torch
from toolz import take
from torch import Tensor, nn
from tqdm import tqdm

from snnpipe.containers import opened
from snnpipe.errors import CalibrationError, InputError, SnnpipeError
from snnpipe.frontend.part import Whole
from snnpipe.frozen import is_namedtuple, leaves
from snnpipe.graph import Graph, Node
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.runtime.inputs import (
    OF_TEXTS,
    TORCH_SAYS,
    bind,
    check_shapes,
    empty,
    misfit,
    part_of,
    reads_texts,
    sequences,
)
from snnpipe.runtime.stands_in import StandsIn, standing_in

#: Keys under which a dictionary batch keeps its input, in order of preference.
INPUT_KEYS = ("input", "image", "images", "img", "x", "data", "pixel_values")

#: ``forward(model, batch)``: how the user calls the model.
Forward = Callable[[nn.Module, Any], Any]


@attrs.frozen(eq=False)
class Reader:
    """Who reads batches, and how.

    Attributes:
        called: the stage, for messages.
        graph: whose inputs they become.
        root: the module that holds the tensors; inputs go where these are.
        forward: how the user calls the model, ``None`` for the rules of ``arguments``.
        device: where inputs go instead.
        whole: the model that calls the network, which is a part of it; ``forward`` calls the whole.
        timed: whether inputs are event sequences (T, B, ...).
    """

    called: str
    graph: Graph
    root: nn.Module
    forward: Forward | None = None
    device: torch.device | str | None = None
    whole: Whole | None = None
    timed: bool = False

    def hand(self, batch: Any, number: int, to: Callable[[dict[str, Any]], Any]) -> None:
        """Hand batch ``number`` to ``to(inputs by name)``, as often as ``forward`` calls the model for it."""
        if self.whole is not None:
            self._hand_whole(batch, number, to)
            return
        if self.forward is None:
            args = arguments(batch, self.graph, called=self.called, number=number)
            self._call(args, {}, number, to)
            return
        stand_in = _StandIn(self.root, lambda args, kwargs: self._call(args, kwargs, number, to))
        self.forward(stand_in, batch)
        if not stand_in.calls:
            raise CalibrationError(f"{self.called}: forward(model, batch) did not call the model on batch {number}")

    @cached_property
    def _standing(self) -> tuple[StandsIn, nn.Module]:
        return standing_in(self.whole, self.graph)  # type: ignore[arg-type]

    def _hand_whole(self, batch: Any, number: int, to: Callable[[dict[str, Any]], Any]) -> None:
        """Run the whole model on a batch; what it calls its part with goes to ``to``."""
        stands_in, model = self._standing
        with stands_in.handing(lambda given: self._call((), _plain(given), number, to)):
            try:
                if self.forward is not None:
                    self.forward(model, batch)
                    return
                with fitting(self.called, number, {"batch": batch}, self.root):
                    model(batch)
            except InputError as error:
                raise CalibrationError(f"{self.called}: batch {number}: {error}") from error

    def each(
        self, batches: Iterable[Any], to: Callable[[int, dict[str, Any]], Any], limit: int | None = None,
        progress: bool = False, none: bool = False,
    ) -> int:  # fmt: skip
        """Hand every batch, or the first ``limit``, to ``to(number, inputs by name)``; how many there were.

        There must be one, unless ``none`` is fine too.
        """
        return self.walk(
            batches,
            lambda number, batch: self.hand(batch, number, lambda given: to(number, given)),
            limit,
            progress,
            none,
        )

    def walk(
        self, batches: Iterable[Any], to: Callable[[int, Any], Any], limit: int | None = None, progress: bool = False,
        none: bool = False, first: int = 0,
    ) -> int:  # fmt: skip
        """Give every batch as it is to ``to(number, batch)``, as long as ``limit`` is not reached; how many there were.

        The batches before number ``first`` were read by others.
        """
        count = first
        limited = batches if limit is None else take(limit - first, batches)
        for number, batch in enumerate(tqdm(limited, self.called, leave=False, disable=not progress), first):
            to(number, batch)
            count = number + 1
        if count == 0 and not none:
            raise CalibrationError(
                f"{self.called}: there was no batch. Is the loader empty, or a generator that was used up before? "
                "A generator can be read once: pass a list or a DataLoader"
            )
        if self.whole is not None and count > first and not self._standing[0].calls:
            raise CalibrationError(f"{self.called}: the model did not call {self.whole.path} on any of {count} batches")
        return count

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], number: int, to: Callable[..., Any]) -> Any:
        device = self.device or next((t.device for t in self.root.state_dict().values()), torch.device("cpu"))
        moved = zip_leaves(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, (args, dict(kwargs)))
        args, kwargs = moved
        with fitting(self.called, number, {}, self.root):
            given = bind(self.graph, args, kwargs)
            moving = sequences(given, self.graph) if self.timed else ()
            check_shapes(given | {name: part_of(given[name], 0) for name in moving}, self.graph)
        with fitting(self.called, number, given, self.root):
            return to(given)


@attrs.frozen(eq=False)
class ByName:
    """Batches read by the user's ``forward``, as dictionaries of the model's own inputs; readable as often as they are.

    Attributes:
        batches: what ``forward`` takes.
        reader: who reads them.
        answer: ``answer(inputs by name)``, what the stand-in for the model returns.
    """

    batches: Iterable[Any]
    reader: Reader
    answer: Callable[[dict[str, Any]], Any]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, batch in enumerate(self.batches):
            found: list[dict[str, Any]] = []

            def keep(given: dict[str, Any], found: list[dict[str, Any]] = found) -> Any:
                found.append(given)
                return self.answer(given)

            self.reader.hand(batch, number, keep)
            yield from found


class _StandIn(nn.Module):
    """What the user's ``forward`` calls instead of the model: it has the model's tensors, and passes arguments on."""

    def __init__(self, root: nn.Module, to: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> None:
        super().__init__()
        self.root, self.to_network, self.calls = root, to, 0
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.to_network(*_plain((args, kwargs)))


@contextmanager
def fitting(called: str, number: int, given: Mapping[Any, Any], root: nn.Module) -> Iterator[None]:
    """What torch or the network says of inputs that do not fit becomes a complaint about batch ``number``."""
    try:
        yield
    except InputError as error:
        raise CalibrationError(f"{called}: batch {number} does not fit the network: {error}") from error
    except SnnpipeError:
        raise
    except TORCH_SAYS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise CalibrationError(
            f"{called}: batch {number} does not fit the network: {misfit(error, given, root)}. If the batch holds more "
            f"than the inputs, say how to call the model: {called}(loader, forward=lambda model, batch: model(...))"
        ) from error


def arguments(batch: Any, graph: Graph, *, called: str, number: int) -> tuple[Any, ...]:
    """The inputs of a graph that batch ``number`` of a loader holds, in the order of the inputs.

    * a tensor, a numpy array, or anything else that is a tensor in other words: the one input;
    * a tuple or list: as many of its items as there are inputs; labels behind them are ignored;
    * a dictionary: the model's own input, where that is read by its keys; else inputs under their own names; else the
      one input under one of ``INPUT_KEYS``, or as the only value.

    Of dictionaries that the model reads by key, what it never reads is left out.
    """
    found = _given(batch, graph, called, number)
    named = {node["name"]: value for node, value in zip(graph.inputs, found, strict=False)}
    for _, tensor in empty(named, graph):
        raise CalibrationError(f"{called}: batch {number} is empty: a tensor of shape {tuple(tensor.shape)}")
    return found


def _given(batch: Any, graph: Graph, called: str, number: int) -> tuple[Any, ...]:
    if isinstance(batch, Mapping):
        return _of_dictionary(batch, graph, called, number)
    if isinstance(batch, tuple | list):
        if not batch:
            raise CalibrationError(f"{called}: batch {number} is empty")
        parts = zip(batch, graph.inputs, strict=False)
        return tuple(_tensors(_read(item, [node], graph), called, number) for item, node in parts)
    return (_tensors(batch, called, number),)


def _of_dictionary(batch: Mapping[Any, Any], graph: Graph, called: str, number: int) -> tuple[Any, ...]:
    nodes = graph.inputs
    names = [node["name"] for node in nodes]
    if len(nodes) == 1 and (keys := _keys(nodes, graph)) and keys <= batch.keys():
        return (_tensors(_read(batch, list(nodes), graph), called, number),)
    needed = [node["name"] for node in nodes if "default" not in node.operands]
    if all(name in batch for name in needed) and any(name in batch for name in names):
        found = [batch.get(node["name"], node.get("default")) for node in nodes]
        return tuple(
            item if node["name"] not in batch else _tensors(_read(item, [node], graph), called, number)
            for item, node in zip(found, nodes, strict=True)
        )
    key = next((key for key in (*INPUT_KEYS, *batch) if key in batch), None)
    if len(nodes) == 1 and not _keys(nodes, graph) and (key in INPUT_KEYS or len(batch) == 1):
        return (_tensors(batch[key], called, number),)
    if len(nodes) == 1 and type(batch) is not dict and opened(batch) is not None:
        return (_tensors(batch, called, number),)
    wanted = sorted(_keys(nodes, graph)) if len(nodes) == 1 and _keys(nodes, graph) else names
    advice = f"say how to call it: {called}(loader, forward=lambda model, batch: model(batch['...']))"
    raise CalibrationError(
        f"{called}: batch {number} is a dictionary with keys {list(batch)}, the model takes {wanted}; "
        f"{OF_TEXTS if reads_texts(names) else advice}"
    )


def _keys(nodes: Iterable[Node], graph: Graph) -> set[str]:
    """The keys by which the graph reads values; empty where it reads them in another way."""
    readers = [graph.by_name.get(user) for node in nodes for user in graph.users[node.name]]
    read = [reader["index"] if reader is not None and reader.op == "getitem" else None for reader in readers]
    keys = {key for key in read if isinstance(key, str)}
    return keys if len(read) == sum(isinstance(key, str) for key in read) else set()


def _read(value: Any, nodes: list[Node], graph: Graph) -> Any:
    """A value without what the graph never reads of it."""
    keys = _keys(nodes, graph)
    if type(value) is not dict or not keys:
        return value
    readers = [graph[user] for node in nodes for user in graph.users[node.name]]
    return {key: _read(value[key], [r for r in readers if r["index"] == key], graph) for key in keys if key in value}


def _tensors(value: Any, called: str, number: int) -> Any:
    """A tree in which all is tensors that can be."""
    found = None if type(value) is dict else opened(value)
    if found is not None:
        return found[0](*(_tensors(item, called, number) for item in found[1]))
    if isinstance(value, Mapping):
        return {key: _tensors(item, called, number) for key, item in value.items()}
    if isinstance(value, tuple | list) and any(map(_is_array, leaves(value))):
        made = [_tensors(item, called, number) for item in value]
        return type(value)(*made) if is_namedtuple(value) else type(value)(made)
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CalibrationError(
            f"{called}: batch {number} holds a {type(value).__name__}, which is no tensor; "
            f"say how to call the model: {called}(loader, forward=lambda model, batch: model(...))"
        ) from error


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) or hasattr(leaf, "__array__")


def _plain(value: Any) -> Any:
    """A tree with tensors for arrays and plain dictionaries for what is like them; containers stay what they are."""
    found = None if type(value) is dict else opened(value)
    if found is not None:
        return found[0](*map(_plain, found[1]))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(_plain, value))
    return torch.as_tensor(value) if _is_array(value) else value
