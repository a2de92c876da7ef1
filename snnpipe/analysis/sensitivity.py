"""Which sites of neurons cost most."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import torch
from torch import nn

from snnpipe.analysis.explain import CONVERTED
from snnpipe.analysis.outputs import Outputs
from snnpipe.analysis.study import Sample, studied
from snnpipe.analysis.tables import aligned
from snnpipe.checks import takes
from snnpipe.errors import InputError
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.options import FLAG, RUN, optional
from snnpipe.recipe import MODEL_OR_STATE, Converted
from snnpipe.runtime.batches import Forward
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.network import SpikingNetwork
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
    """

    site: str
    alone: float
    kept: float


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
        rows: list[tuple[str, ...]] = [("site", "error alone", "error without")]
        rows += [(s.site, f"{100 * s.alone:.3g} %", f"{100 * s.kept:.3g} %") for s in self.sites]
        return [*rows, ("all", f"{100 * self.error:.3g} %", "")]


@takes(InputError, model=MODEL_OR_STATE, snn=CONVERTED, batches=BATCHES, T=optional(RUN), schedule=SCHEDULE,
       encoding=ENCODING, max_batches=MAX_BATCHES, progress=FLAG)  # fmt: skip
def sensitivity(
    model: nn.Module | ConversionState, snn: SpikingNetwork | Converted | None = None, *, batches: Iterable[Any],
    T: int | None = None, schedule: Wave | str = STEP, encoding: Encoding = constant(),
    forward: Forward | None = None, max_batches: int | None = None, progress: bool = False,
) -> Sensitivity:  # fmt: skip
    """What each site of neurons does alone, and what is left without it; nothing is changed.

    The arguments are those of ``explain``.  A site without which little is left is worth another neuron:
    ``replace(rules=...)``.  Cost: a run of the ANN and one of the network for each site.

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

    with torch.no_grad():
        study.each(add, progress)
    sites = [
        SiteSensitivity(place.name, alone[name].score.error, kept[name][1].score.error)
        for name, place in between.places.items()
    ]
    return Sensitivity(whole.score.error, tuple(sorted(sites, key=lambda site: -site.alone)))
