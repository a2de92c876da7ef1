"""A model, the network made of it and data: who reads the batches, and hands them to both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
from torch import Tensor, nn

from snnpipe.analysis.between import Between, Place, own_activations
from snnpipe.analysis.outputs import labels_in
from snnpipe.emit import module_tree
from snnpipe.errors import InputError
from snnpipe.graph import Graph
from snnpipe.ops.lift import has_neurons, unlift
from snnpipe.recipe import Converted
from snnpipe.runtime.batches import Forward, Reader
from snnpipe.runtime.encoding import Encoding, constant
from snnpipe.runtime.meant import Shown, check_replays, meant
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.runtime.standing import standing
from snnpipe.stage import pipe
from snnpipe.stages.calibrate import calibrate
from snnpipe.stages.fuse import fuse
from snnpipe.stages.prefix import detached
from snnpipe.stages.to_snn import to_snn
from snnpipe.stages.trace import trace
from snnpipe.state import ConversionState
from snnpipe.waves import Wave


@attrs.frozen(eq=False)
class Sample:
    """One batch.

    Attributes:
        number: which.
        model: the inputs of the model, by name.
        snn: those of the network, by name.
        steady: the same as a constant current.
        shown: what the network is shown in the run asked for.
        labels: ``labels(outputs)``, (B,), ``None`` where there are none.
    """

    number: int
    model: Mapping[str, Any]
    snn: Mapping[str, Any]
    steady: Shown
    shown: Shown
    labels: Callable[[Any], Tensor | None]


@attrs.frozen(eq=False)
class Study:
    """What is looked at.

    Attributes:
        state: the model.
        root: the module that holds its tensors.
        between: the networks between it and the spiking one.
        delay: first steps that the readout leaves out.
        encoding: how the input is turned into events, and what sets it back to where it began.
        batches, forward, limit: the data, how they are read, and how many of them.
        recipe: by which the network was made, as text.
        where: the function that was called.
    """

    state: ConversionState
    root: nn.Module
    between: Between
    delay: int
    encoding: Encoding
    back: Callable[[], None]
    batches: Iterable[Any]
    forward: Forward | None
    limit: int | None
    recipe: str
    where: str

    @property
    def graph(self) -> Graph:
        """The model's graph."""
        return unlift(self.state.graph)

    def each(self, to: Callable[[Sample], None], progress: bool = False) -> None:
        """Hand every batch to ``to``; each pass over the data sees the same events."""
        self.back()
        between, encoding = self.between, self.encoding
        seen: list[Any] = [None]

        def remembering() -> Iterator[Any]:
            for batch in self.batches:
                seen[0] = batch
                yield batch

        names = [node["name"] for node in self.graph.inputs]
        theirs = [node["name"] for node in between.snn.graph.inputs]

        def read(number: int, given: dict[str, Any]) -> Any:
            sent = {name: given[own] for name, own in zip(theirs, names, strict=True)}
            values = meant(sent, between.snn, encoding, between.T, self.where)
            if number == 0:
                check_replays(sent, between.snn, encoding, between.T, self.where)
            batch = seen[0] if self.forward is None else None
            labels = partial(labels_in, batch, len(names))
            model = dict(zip(names, values.values(), strict=True))
            steady = Shown(values)
            shown = steady if encoding.is_constant else Shown(sent, encoding, encoding.bookmark())
            to(Sample(number, model, values, steady, shown, labels))
            return None if self.forward is None else self.answer(model)[0]

        reader = Reader(self.where, self.graph, self.root, self.forward, timed=encoding.is_events)
        reader.each(remembering(), read, self.limit, progress)

    def answer(self, given: Mapping[str, Any], watched: Collection[str] = ()) -> tuple[Any, dict[str, Tensor]]:
        """The model's outputs, and the values of some of its nodes."""
        if has_neurons(self.graph):
            return Between(to_snn(self.state), self.between.T, self.between.wave).standing(given, Place.ann, watched)
        found: tuple[Any, dict[str, Tensor]] = standing(self.graph, frozenset(watched))(self.root, given, None)
        return found


def studied(
    model: nn.Module | ConversionState, snn: SpikingNetwork | Converted | None, *, batches: Iterable[Any],
    T: int | None, wave: Wave, delay: int, encoding: Encoding = constant(), forward: Forward | None,
    limit: int | None, where: str,
) -> Study:  # fmt: skip
    """What a function was given, as a study; without a network the model is converted with the defaults.

    Raises:
        InputError: no T, or the network does not have as many inputs as the model.
    """
    state = model if isinstance(model, ConversionState) else pipe(model, trace)
    recipe, network = "", snn if isinstance(snn, SpikingNetwork) else None
    if isinstance(snn, Converted):
        recipe, network = repr(snn.recipe), snn.snn
        T, wave, delay = snn.steps, snn.recipe.schedule, snn.recipe.pre + snn.delay if snn.delay else 0
    if T is None:
        raise InputError(f"{where}: T, the number of time steps, is missing; write {where}(model, snn, ..., T=8)")
    if network is None:
        whole = has_neurons(state.graph) or state.code is not None or bool(state.statistics)
        network = to_snn(state if whole else pipe(state, fuse, calibrate(batches, forward=forward, max_batches=limit)))
    graph = unlift(state.graph)
    if len(graph.inputs) != len(network.graph.inputs):
        raise InputError(
            f"{where}: the model has {len(graph.inputs)} inputs, the network {len(network.graph.inputs)}; give the "
            "model that the network was made of"
        )
    root = module_tree(graph, detached(state.params))
    between = Between(network, T, wave, _own(state, network))
    back = encoding.bookmark()
    return Study(state, root, between, delay, encoding, back, batches, forward, limit, recipe, where)


def _own(state: ConversionState, network: SpikingNetwork) -> dict[str, Callable[[Tensor], Tensor]]:
    """The model's own activations, where currents are of the model's scale."""
    scaled = any(event.stage == "absorb" for event in network.history)
    return {} if scaled or has_neurons(state.graph) or state.code is not None else own_activations(state, network.graph)
