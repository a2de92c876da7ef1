"""Which sites of neurons cost most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from snnpipe.analysis.between import Between, Place
from snnpipe.analysis.explain import CONVERTED
from snnpipe.analysis.outputs import Outputs
from snnpipe.analysis.study import Sample, studied
from snnpipe.analysis.tables import aligned
from snnpipe.checks import takes
from snnpipe.errors import InputError
from snnpipe.frozen import EMPTY, FrozenMap, leaves
from snnpipe.graph import Graph, Param
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.options import FLAG, MAPPING, RUN, optional
from snnpipe.recipe import MODEL_OR_STATE, Converted
from snnpipe.runtime.batches import Forward
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.network import NETWORK, SpikingNetwork
from snnpipe.stages.batches import BATCHES, MAX_BATCHES
from snnpipe.state import ConversionState
from snnpipe.waves import SCHEDULE, STEP, Wave


@attrs.frozen
class SiteSensitivity:
    """One site; errors are squared errors of the output, in parts of the ANN's squared output.

    Attributes:
        site: the neuron's name.
        alone: with this site spiking, on a constant current, and the ANN at all others.
        kept: with the ANN at this site and all others spiking.
        others: alone, with the neuron that another network has there, by the name it was given.
    """

    site: str
    alone: float
    kept: float
    others: FrozenMap[str, float] = EMPTY


@attrs.frozen
class Sensitivity:
    """The answer of ``sensitivity``: data, a table when printed.

    Attributes:
        error: with all sites spiking.
        sites: those first that do most alone.
    """

    error: float
    sites: tuple[SiteSensitivity, ...]

    def __str__(self) -> str:
        return "\n".join(aligned(self._rows(), left=1))

    def _repr_html_(self) -> str:
        return piece(table(self._rows(), label="sites, those first that do most alone", strong=[len(self.sites)]))

    def _rows(self) -> list[tuple[str, ...]]:
        names = list(self.sites[0].others) if self.sites else []
        rows: list[tuple[str, ...]] = [("site", "error without", "error alone", *(f"with {name}" for name in names))]
        rows += [(s.site, *(f"{100 * e:.3g} %" for e in (s.kept, s.alone, *s.others.values()))) for s in self.sites]
        return [*rows, ("all", "", f"{100 * self.error:.3g} %", *("" for _ in names))]


@takes(InputError, model=MODEL_OR_STATE, snn=CONVERTED, batches=BATCHES, T=optional(RUN), schedule=SCHEDULE,
       encoding=ENCODING, others=MAPPING, max_batches=MAX_BATCHES, progress=FLAG)  # fmt: skip
def sensitivity(
    model: nn.Module | ConversionState, snn: SpikingNetwork | Converted | None = None, *, batches: Iterable[Any],
    T: int | None = None, schedule: Wave | str = STEP, encoding: Encoding = constant(),
    others: Mapping[str, SpikingNetwork] = EMPTY, forward: Forward | None = None, max_batches: int | None = None,
    progress: bool = False,
) -> Sensitivity:  # fmt: skip
    """What each site of neurons does alone, and what is left without it; nothing is changed.

    A site without which little is left is worth another neuron: ``replace(rules=...)``.  Which one, ``others`` say:
    what theirs do alone is measured in the same pass, on the same run of the ANN.

    Args:
        others: networks made of the same model with other neurons or thresholds at its sites, by any name.  Each costs
            what is behind the site, once for each site.

    The other arguments are those of ``explain``.  Cost: a run of the ANN and one of the network for each site.

    Raises:
        InputError: as ``explain``; or another network differs in more than its neurons and thresholds.

    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    >>> found = sensitivity(model, batches=[torch.randn(256, 4)], T=4)
    >>> len(found.sites), all(site.alone < found.error for site in found.sites)
    (2, True)
    """
    wave: Any = schedule
    study = studied(model, snn, batches=batches, T=T, wave=wave, delay=0, encoding=encoding, forward=forward,
                    limit=max_batches, where="sensitivity")  # fmt: skip
    between = study.between
    places = {name: _places(between, other, name) for name, other in others.items()}
    apart = {(key, name): Outputs() for key in places for name in between.places}
    whole, alone = Outputs(), {name: Outputs() for name in between.places}
    kept = {name: (between.kept({name}), Outputs()) for name in between.places}

    def add(sample: Sample) -> None:
        y, _ = study.answer(sample.model)
        known = between.ann(sample.snn)
        whole.add(between.run(sample.shown), y, None, sample.number)
        for name in between.places:
            alone[name].add(between.alone(known, name), y, None, sample.number)
            network, sums = kept[name]
            sums.add(network.run(sample.shown), y, None, sample.number)
        for (key, name), sums in apart.items():
            sums.add(between.alone(known, name, places[key][name]), y, None, sample.number)

    with torch.no_grad():
        study.each(add, progress)
    sites = [
        SiteSensitivity(
            place.name, alone[name].score.error, kept[name][1].score.error,
            FrozenMap({key: apart[key, name].score.error for key in places}),
        )
        for name, place in between.places.items()
    ]  # fmt: skip
    return Sensitivity(whole.score.error, tuple(sorted(sites, key=lambda site: -site.alone)))


def _places(between: Between, other: SpikingNetwork, called: str) -> Mapping[str, Place]:
    """The neurons of another network, by name of the node.

    Raises:
        InputError: it is not the same network but for these.
    """
    held: SpikingNetwork = NETWORK.hold(other, f"others[{called!r}]", "sensitivity", InputError)
    ours, theirs = (_without_neurons(network.graph) for network in (between.snn, held))
    weights = [leaf.key for leaf in leaves([operands for *_, operands in ours]) if isinstance(leaf, Param)]
    mine, given = between.snn.state_dict(), held.state_dict()
    differs = [key for key in weights if ours == theirs and not torch.equal(mine[key], given[key])]
    if ours != theirs or differs:
        what = f"its {differs[0]} is another" if differs else "its sites or operators are others"
        raise InputError(
            f"sensitivity: others[{called!r}] is not the same network but for its neurons and thresholds: {what}. Make "
            "both of one state: pipe(state, replace(neuron=...), to_snn)"
        )
    return attrs.evolve(between, snn=held).places


def _without_neurons(graph: Graph) -> list[tuple[str, str, Any]]:
    return [(node.name, node.op, node["input"] if node.op == "encode" else node.operands) for node in graph]
