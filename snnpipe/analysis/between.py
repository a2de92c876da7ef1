"""The networks between the ANN and the spiking one, run on the tensors of a converted network, which is unchanged.

Knows how each is run; what their outputs say is ``analysis.measured``'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.analysis.activity import Counter, SpikeCount
from snnpipe.codes import Clock, worths
from snnpipe.emit import neuron_path
from snnpipe.frozen import EMPTY, FrozenMap, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, refs
from snnpipe.kernels.evidence import decoded
from snnpipe.kernels.exact import EXACT
from snnpipe.kernels.temporal import constant
from snnpipe.kernels.threshold import maximum
from snnpipe.ops.modules import SpikingNeuron
from snnpipe.ops.sequence import stacked
from snnpipe.ops.table import OPS
from snnpipe.rules.sites import SITE_RULES
from snnpipe.runtime.activations import activation
from snnpipe.runtime.meant import Shown
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.runtime.scans import fired
from snnpipe.runtime.standing import behind, standing
from snnpipe.stages.instrument import marked
from snnpipe.stages.prefix import detached
from snnpipe.state import ConversionState
from snnpipe.waves import Wave

#: So many times its largest threshold is more than a neuron can say in any run.
_MOST = 2.0**20


@attrs.frozen(eq=False)
class Place:
    """One neuron of a network, and what may stand for it.

    Attributes:
        node: its ``encode`` node.
        module: what runs it.
        op: the ANN operator it stands for; of a value that is made events, which: ``input x``, ``value of linear``.
        clocks: the steps, or chunks, of the run.
        own: the model's own activation, ``None`` where there is no single operator that the neuron stands for.
    """

    node: Node
    module: SpikingNeuron
    op: str
    clocks: Sequence[Clock]
    own: Callable[[Tensor], Tensor] | None = None

    @property
    def name(self) -> str:
        """As in ``snn.neurons()``."""
        return neuron_path(self.node)

    def ann(self, z: Tensor) -> Tensor:
        """The ANN's activation."""
        if self.own is not None:
            return self.own(z)
        cap = getattr(self.module, self.module.capped_by) if self.module.capped_by else self.node.get("cap")
        return activation(z, self.node.get("signed", False), cap, self.node["axis"])

    def clipped(self, z: Tensor) -> Tensor:
        """The activation, as far as the neuron can say it."""
        low, high = self.bounds(z)
        return self.ann(z).clamp(low.to(z), high.to(z))

    def spiking(self, z: Tensor) -> Tensor:
        """What the neuron decodes to, given the current z at every step."""
        steady = all(clock.kappa == 1.0 for clock in self.clocks)
        current = z if steady else stacked([constant(z, clock) for clock in self.clocks])
        events, _ = fired(self.module, None, current, self.clocks, not steady)
        return decoded(events, worths(self.clocks)).to(z.dtype)

    def bounds(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the most that it can say, to be broadcast against its current: its answer to huge currents."""
        one = torch.ones_like(z[:1] if z.ndim else z) * (_MOST * self.module.threshold.max())
        return self.spiking(-one), self.spiking(one)

    @property
    def uncapped(self) -> Place:
        """The neuron of its thresholds, which does not know of a cap."""
        signed = {key: value for key, value in self.module.facts.items() if key != "cap"}
        free = SpikingNeuron(self.module.neuron, self.module.threshold, self.module.axis, "", "", **signed)
        return attrs.evolve(self, module=free)


@attrs.frozen(eq=False)
class Known:
    """A run of the ANN.

    Attributes:
        given: the inputs by name.
        outputs: of the ANN.
        sites: current and activation of each neuron, by name of its node.
        values: of other nodes, by name.
    """

    given: Mapping[str, Any]
    outputs: Any
    sites: Mapping[str, tuple[Tensor, Tensor]]
    values: Mapping[str, Tensor]


@attrs.frozen(eq=False)
class Between:
    """The networks between the ANN and a converted network.

    Attributes:
        snn: the converted network.
        T, wave: how it is run.
        own: the model's own activations, by name of the node.
    """

    snn: SpikingNetwork
    T: int
    wave: Wave
    own: Mapping[str, Callable[[Tensor], Tensor]] = EMPTY
    places: Mapping[str, Place] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        clocks = list(self.wave.clocks(self.snn.code, self.T))
        tree = dict(self.snn.named_modules())
        nodes = [node for node in self.snn.graph if node.op == "encode"]
        found: Any = {
            node.name: Place(node, tree[neuron_path(node)], self._op(node), clocks, self.own.get(node.name))
            for node in nodes  # type: ignore[arg-type]
        }
        object.__setattr__(self, "places", FrozenMap(found))

    def _op(self, node: Node) -> str:
        origin, source = str(node["origin"]).split(" at ")[0], self.snn.graph.producer(node["input"])
        if source is not None and source.op == "input":
            return f"input {source['name']}" if origin == "identity" else f"{origin} of input {source['name']}"
        return origin if origin != "identity" or source is None else f"value of {source.op}"

    def standing(
        self, given: Mapping[str, Any], stand: Callable[[Place, Tensor], Tensor], watched: Collection[str] = ()
    ) -> tuple[Any, dict[str, Tensor]]:
        """The outputs of the ANN with ``stand(place, z)`` at its neurons, and the values of the nodes ``watched``."""
        run = standing(self.snn.graph, frozenset(watched))
        found: tuple[Any, dict[str, Tensor]] = run(self.snn.weights, given, lambda name, z: stand(self.places[name], z))
        return found

    def ann(self, given: Mapping[str, Any], watched: Collection[str] = ()) -> Known:
        """The outputs of the ANN, what its neurons stand for, and the values of the nodes ``watched``."""
        sites: dict[str, tuple[Tensor, Tensor]] = {}

        def stand(place: Place, z: Tensor) -> Tensor:
            a = place.ann(z)
            sites[place.node.name] = z, a
            return a

        beside = frozenset[str]().union(*(behind(self.snn.graph, name)[1] for name in self.places))
        outputs, values = self.standing(given, stand, beside | set(watched))
        return Known(given, outputs, sites, values)

    def alone(self, known: Known, site: str, place: Place | None = None) -> Any:
        """The outputs with the neuron of one node spiking, or that of another place, and the ANN everywhere else."""
        run, _ = behind(self.snn.graph, site)
        decoded = (place or self.places[site]).spiking(known.sites[site][0])
        return run(self.snn.weights, known.given, known.values, decoded, lambda name, z: self.places[name].ann(z))

    def run(self, shown: Shown, *, wave: Wave | None = None, delay: int = 0) -> Any:
        """The outputs of the spiking network."""
        return shown.to(self.snn, T=self.T, schedule=wave or self.wave, delay=delay)

    def seen(self, shown: Shown, watched: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, SpikeCount]]:
        """What each neuron, and each node ``watched``, decodes to in the end, and the spikes, by name of the neuron."""
        counter = Counter()
        graph = counter.watching(self.snn.graph)
        sites: FrozenMap[str, Ref] = FrozenMap({name: Ref(name) for name in (*self.places, *watched)})
        watching = SpikingNetwork(Graph(graph.nodes, sites), self.snn.state_dict(), self.snn.code)
        found = shown.to(watching, T=self.T, schedule=self.wave)
        return dict(found), counter.counts()

    def kept(self, sites: Collection[str]) -> Between:
        """The same with the ANN at some sites, by name of the node."""
        nodes = (node.evolve(neuron=EXACT) if node.name in sites else node for node in self.snn.graph)
        graph = Graph(tuple(nodes), self.snn.graph.output)
        return Between(SpikingNetwork(graph, self.snn.state_dict(), self.snn.code), self.T, self.wave, self.own)


def own_activations(state: ConversionState, network: Graph) -> dict[str, Callable[[Tensor], Tensor]]:
    """The model's own activations, by name of the node: what neurons stand for, where that is an operator of one value.

    A neuron stands for the node of its name if that is of a default site, or reads what the neuron reads.
    """
    found = state if state.sites else marked(state, SITE_RULES, maximum())
    neurons = {node.name: node["input"] for node in network if node.op == "encode"}
    nodes = [node for node in found.graph if node.name in neurons and node.op in OPS and node.op != "input"]
    alone = [(node, refs(node.operands)) for node in nodes]
    return {
        node.name: partial(_applied, node, detached(found.params))
        for node, read in alone
        if len(read) == 1 and (node.name in found.sites or refs(neurons[node.name]) == read)
    }


def _applied(node: Node, params: Mapping[str, Tensor], z: Tensor) -> Tensor:
    def value(leaf: Any) -> Any:
        return z if isinstance(leaf, Ref) else params[leaf.key] if isinstance(leaf, Param) else leaf

    args, kwargs = map_leaves(value, OPS[node.op].signature.call_arguments(node.operands))
    found: Tensor = OPS[node.op].fn(*args, **kwargs)
    return found
