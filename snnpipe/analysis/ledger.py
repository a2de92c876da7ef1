"""The books of an explanation: every network between the ANN and the spiking one, and every site, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import attrs

from snnpipe.analysis.between import Between, Place
from snnpipe.analysis.differences import Norm, common, first_change, norms
from snnpipe.analysis.explanation import Cause, GradedOperator, SiteError
from snnpipe.analysis.measured import SiteSums
from snnpipe.analysis.outputs import Outputs, Score
from snnpipe.analysis.study import Sample, Study
from snnpipe.containers import tensors
from snnpipe.graph import Ref
from snnpipe.ops.lift import graded_units
from snnpipe.waves import Wave


@attrs.define(eq=False)
class Ledger:
    """Sums over batches.

    Attributes:
        study: what is looked at.
        networks: the outputs of each network after the ANN, by what it adds; those of the ANN, by "".
        sites: by name of the node.
        alone: the outputs with one site spiking, by name of the node.
        exact: the network with no site spiking.
        graded: values of each graded operator, with no site spiking and with all, by name of the node.
        changed: the first change of the first batch.
    """

    study: Study
    networks: dict[str, Outputs] = attrs.field(factory=dict)
    sites: dict[str, SiteSums] = attrs.field(init=False)
    alone: dict[str, Outputs] = attrs.field(init=False)
    exact: Between = attrs.field(init=False)
    graded: dict[str, tuple[Outputs, Outputs]] = attrs.field(init=False)
    norms: list[Norm] = attrs.field(init=False)
    changed: tuple[str, float, bool] = ("", 0.0, False)
    samples: int = 0

    def __attrs_post_init__(self) -> None:
        between, places = self.study.between, self.study.between.places
        self.exact = between.kept(places)
        operators = graded_units(between.snn.graph, temporal_inputs=not self.study.encoding.is_constant)
        self.graded = {node.name: (Outputs(), Outputs()) for node in operators}
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
        known = between.ann(sample.snn, compared | self.graded.keys())
        if compared:
            self.changed = first_change(between.snn.graph, {name: values[name] for name in compared}, known.values)
        del values
        chain: dict[str, Callable[[], object]] = {
            "": lambda: y,
            "weights": lambda: known.outputs,
            "clipping": lambda: between.standing(sample.snn, Place.clipped)[0],
            "resolution": lambda: between.run(sample.steady, wave=Wave(None)),
            "unevenness": lambda: between.run(sample.steady),
        }
        if not study.encoding.is_constant:
            chain["encoding"] = lambda: between.run(sample.shown)
        if study.delay:
            chain["readout"] = lambda: between.run(sample.shown, delay=study.delay)
        for name, run in chain.items():
            self.networks.setdefault(name, Outputs()).add(run(), y, labels, sample.number)
        self.samples += next((len(x) for x in tensors(dict(sample.snn)) if x.ndim), 1)
        decoded, counts = between.seen(sample.shown, self.graded)
        unspiking = self.exact.seen(sample.steady, self.graded)[0] if self.graded else {}
        for name, (alone, here) in self.graded.items():
            alone.add(unspiking[name], known.values[name], None, sample.number)
            here.add(decoded[name], known.values[name], None, sample.number)
        for name, (z, a) in known.sites.items():
            self.sites[name].add(z, a, decoded[name], counts[self.sites[name].place.name], between.T)
            self.alone[name].add(between.alone(known, name), known.outputs, None, sample.number)

    @property
    def scores(self) -> list[Score]:
        """Of the ANN and of each network after it."""
        return [sums.score for sums in self.networks.values()]

    def causes(self) -> tuple[Cause, ...]:
        """What each network adds to the one before."""
        return tuple(
            Cause(name, b.error - a.error, _rise(a.accuracy, b.accuracy), _rise(a.agreement, b.agreement))
            for name, (a, b) in zip([*self.networks][1:], pairwise(self.scores), strict=True)
        )

    def errors(self) -> tuple[SiteError, ...]:
        """Of every site."""
        return tuple(sums.error(self.alone[name].score.error) for name, sums in self.sites.items())

    def operators(self) -> tuple[GradedOperator, ...]:
        """The graded ones."""
        graph = self.study.between.snn.graph
        return tuple(
            GradedOperator(graph[name].path or name, graph[name].op, alone.score.error, here.score.error)
            for name, (alone, here) in self.graded.items()
        )


def _rise(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
