"""The books of an explanation: every network between the ANN and the spiking one, and every site, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import attrs

from snnpipe.analysis.between import Place
from snnpipe.analysis.differences import Norm, common, first_change, norms
from snnpipe.analysis.explanation import Cause, SiteError
from snnpipe.analysis.measured import SiteSums
from snnpipe.analysis.outputs import Outputs, Score
from snnpipe.analysis.study import Sample, Study
from snnpipe.graph import Ref
from snnpipe.waves import Wave

_NAMES = ("weights", "clipping", "resolution", "unevenness", "readout")


@attrs.define(eq=False)
class Ledger:
    """Sums over batches.

    Attributes:
        study: what is looked at.
        networks: the outputs of the ANN and of each network after it.
        sites: by name of the node.
        alone: the outputs with one site spiking, by name of the node.
        changed: the first change of the first batch.
    """

    study: Study
    networks: list[Outputs] = attrs.field(init=False)
    sites: dict[str, SiteSums] = attrs.field(init=False)
    alone: dict[str, Outputs] = attrs.field(init=False)
    norms: list[Norm] = attrs.field(init=False)
    changed: tuple[str, float, bool] = ("", 0.0, False)
    samples: int = 0

    def __attrs_post_init__(self) -> None:
        places = self.study.between.places
        self.networks = [Outputs() for _ in range(5 + bool(self.study.delay))]
        self.sites = {name: SiteSums(place) for name, place in places.items()}
        self.alone = {name: Outputs() for name in places}
        self.norms = norms(self.study.graph)

    def add(self, sample: Sample) -> None:
        """Run everything on one batch."""
        between, study = self.study.between, self.study
        compared = common(study.graph, between.snn.graph) if sample.number == 0 else frozenset()
        seen = {norm.node.name: norm.node["input"].name for norm in self.norms if isinstance(norm.node["input"], Ref)}
        y, values = study.answer(sample.model, compared | set(seen.values()))
        labels = sample.labels(y)
        for norm in self.norms:
            if norm.node.name in seen:
                norm.add(values[seen[norm.node.name]])
        known = between.ann(sample.snn, compared)
        if compared:
            self.changed = first_change(between.snn.graph, {name: values[name] for name in compared}, known.values)
        del values
        chain: list[Callable[[], object]] = [
            lambda: y,
            lambda: known.outputs,
            lambda: between.standing(sample.snn, Place.clipped)[0],
            lambda: between.run(sample.snn, wave=Wave(None)),
            lambda: between.run(sample.snn),
            lambda: between.run(sample.snn, delay=study.delay),
        ]
        for sums, run in zip(self.networks, chain, strict=False):
            sums.add(run(), y, labels, sample.number)
        self.samples += next((len(leaf) for _, leaf in known.sites.values() if leaf.ndim), 0)
        decoded, counts = between.seen(sample.snn)
        for name, (z, a) in known.sites.items():
            self.sites[name].add(z, a, decoded[name], counts[self.sites[name].place.name], between.T)
            self.alone[name].add(between.alone(known, name), known.outputs, None, sample.number)

    @property
    def scores(self) -> list[Score]:
        """Of the ANN and of each network after it."""
        return [sums.score for sums in self.networks]

    def causes(self) -> tuple[Cause, ...]:
        """What each network adds to the one before."""
        return tuple(
            Cause(name, b.error - a.error, _rise(a.accuracy, b.accuracy), _rise(a.agreement, b.agreement))
            for name, (a, b) in zip(_NAMES, pairwise(self.scores), strict=False)
        )

    def errors(self) -> tuple[SiteError, ...]:
        """Of every site."""
        return tuple(sums.error(self.alone[name].score.error) for name, sums in self.sites.items())


def _rise(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
