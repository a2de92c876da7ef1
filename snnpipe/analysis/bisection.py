"""The first site of neurons that costs too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import nn

from snnpipe.analysis.between import Between, Place
from snnpipe.analysis.differences import common, first_change
from snnpipe.analysis.explain import CONVERTED
from snnpipe.analysis.outputs import Outputs
from snnpipe.analysis.study import Sample, Study, studied
from snnpipe.checks import takes
from snnpipe.errors import InputError
from snnpipe.options import POSITIVE, RUN, optional
from snnpipe.recipe import MODEL_OR_STATE, Converted
from snnpipe.runtime.batches import Forward
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stages.batches import BATCHES, MAX_BATCHES
from snnpipe.state import ConversionState
from snnpipe.waves import SCHEDULE, STEP, Wave


@attrs.frozen
class Fault:
    """The first site at which a tolerance is broken.

    Attributes:
        site: the neuron's name; where the tolerance is broken before anything spikes, the path of the first layer that
            does not compute what the model does, or ``"encoding"`` where the input as events does it.
        error: squared error of the output with all sites up to this one spiking, in parts of the ANN's.
        before: with those before it.
        runs: networks that were run over the data to find it.
    """

    site: str
    error: float
    before: float
    runs: int


@takes(InputError, model=MODEL_OR_STATE, snn=CONVERTED, batches=BATCHES, T=optional(RUN), tolerance=POSITIVE,
       schedule=SCHEDULE, encoding=ENCODING, max_batches=MAX_BATCHES)  # fmt: skip
def first_fault(
    model: nn.Module | ConversionState, snn: SpikingNetwork | Converted | None = None, *, batches: Iterable[Any],
    T: int | None = None, tolerance: float, schedule: Wave | str = STEP, encoding: Encoding = constant(),
    forward: Forward | None = None, max_batches: int | None = None,
) -> Fault | None:  # fmt: skip
    """The site at which the error of the output first exceeds a tolerance, by bisection; ``None`` if it never does.

    The networks are those in which the first k of L sites spike and the others are the ANN; of these all, none, and
    at most ``ceil(log2 L)`` more are run, with an encoding one more, for what that does alone.  Where the error does
    not rise with every k, it is a site at which it rises above the tolerance, perhaps not the first.

    Args:
        model, snn, batches, T, schedule, encoding, forward, max_batches: as for ``explain``.
        tolerance: of the squared error of the output, in parts of the ANN's squared output.

    >>> from torch import nn
    >>> from snnpipe import fixed, pipe, replace, to_snn, trace
    >>> _ = torch.manual_seed(0)
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(64, 4)
    >>> fault = first_fault(model, pipe(model, trace, replace(threshold=fixed(0.01)), to_snn), batches=[x], T=8,
    ...                     tolerance=0.1)
    >>> fault.site, fault.before < 1e-9, fault.runs
    ('1__if0', True, 2)
    """
    wave: Any = schedule
    study = studied(model, snn, batches=batches, T=T, wave=wave, delay=0, encoding=encoding, forward=forward,
                    limit=max_batches, where="first_fault")  # fmt: skip
    names = list(study.between.places)

    def spiking(count: int) -> float:
        kept = names[count:]
        between: Between = study.between.kept(kept) if kept else study.between
        return _error(study, lambda sample: between.run(sample.shown))

    with torch.no_grad():
        whole = spiking(len(names))
        if whole <= tolerance:
            return None
        with encoding.undrawn():
            weights = _error(study, lambda sample: study.between.standing(sample.snn, Place.ann)[0])
            if weights > tolerance:
                return Fault(_first_layer(study), weights, 0.0, 2)
            none = weights if encoding.is_constant else spiking(0)
            if none > tolerance:
                return Fault("encoding", none, weights, 3)
            errors = {0: none, len(names): whole}
            low, high = 0, len(names)
            while high - low > 1:
                middle = (low + high) // 2
                errors[middle] = spiking(middle)
                low, high = (middle, high) if errors[middle] <= tolerance else (low, middle)
    runs = len(errors) + (not encoding.is_constant)
    return Fault(study.between.places[names[high - 1]].name, errors[high], errors[low], runs)


def _error(study: Study, run: Callable[[Sample], Any]) -> float:
    """The error of a network."""
    sums = Outputs()
    study.each(lambda sample: sums.add(run(sample), study.answer(sample.model)[0], None, sample.number))
    return sums.score.error


def _first_layer(study: Study) -> str:
    """The path of the first layer that does not compute what the model does on the first batch."""
    names, graph = common(study.graph, study.between.snn.graph), study.between.snn.graph
    found: list[str] = []

    def compare(sample: Sample) -> None:
        _, ours = study.answer(sample.model, names)
        _, theirs = study.between.standing(sample.snn, Place.ann, names)
        found.append(first_change(graph, ours, theirs)[0])

    attrs.evolve(study, limit=1).each(compare)
    return found[0]
