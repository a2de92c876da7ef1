"""The figures of an explanation as a test: within tolerances, or one error that lists what is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from torch import nn

from snnpipe.analysis.explain import CONVERTED, explain
from snnpipe.analysis.explanation import Explanation
from snnpipe.checks import Check, takes
from snnpipe.errors import InputError, Problem, ToleranceError, listing
from snnpipe.frozen import EMPTY
from snnpipe.options import RUN, number, optional
from snnpipe.recipe import MODEL_OR_STATE, Converted
from snnpipe.runtime.batches import Forward
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.inputs import DELAY
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stages.batches import BATCHES, MAX_BATCHES
from snnpipe.state import ConversionState
from snnpipe.waves import SCHEDULE, STEP, Wave

_SHARE = number("is a share of at least 0", lambda value: 0 <= value < float("inf"))
_PERCENT = number("is a percentage between 0 and 100", lambda value: 0 <= value <= 100)
_CAUSES = ("weights", "clipping", "resolution", "unevenness", "encoding", "readout")


def _by_cause(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not set(value) <= set(_CAUSES):
        raise TypeError
    return {name: _SHARE.accept(share) for name, share in value.items()}


_TOLERANCES = Check(f"is a dictionary of shares by cause ({', '.join(_CAUSES)})", _by_cause, "write {'clipping': 0.01}")


@takes(InputError, model=MODEL_OR_STATE, snn=CONVERTED, batches=BATCHES, T=optional(RUN), schedule=SCHEDULE,
       delay=DELAY, encoding=ENCODING, error=optional(_SHARE), agreement=optional(_PERCENT),
       accuracy=optional(_PERCENT), drop=optional(_PERCENT), causes=_TOLERANCES, isolated=optional(_SHARE),
       dead=optional(_SHARE), saturated=optional(_SHARE), max_batches=MAX_BATCHES)  # fmt: skip
def verify(
    model: nn.Module | ConversionState, snn: SpikingNetwork | Converted | None = None, *, batches: Iterable[Any],
    T: int | None = None, schedule: Wave | str = STEP, delay: int = 0,
    encoding: Encoding = constant(), error: float | None = None, agreement: float | None = None,
    accuracy: float | None = None, drop: float | None = None, causes: Mapping[str, float] = EMPTY,
    isolated: float | None = None, dead: float | None = None, saturated: float | None = None,
    forward: Forward | None = None, max_batches: int | None = None,
) -> Explanation:  # fmt: skip
    """Hold a converted network against tolerances, for tests; it and the model are unchanged.

    Args:
        model, snn, batches, T, schedule, delay, encoding, forward, max_batches: as for ``explain``.
        error: the largest squared error of the output, in parts of the ANN's squared output.
        agreement: the least percentage of the ANN's answers.
        accuracy, drop: the least percentage of right answers, and by how many points it may be below the ANN's; the
            batches are ``(x, labels)``.
        causes: the largest error by cause.
        isolated, dead, saturated: the largest of any site, as in ``SiteError``.

    Returns:
        The explanation.

    Raises:
        ToleranceError: with every tolerance that is broken, where, and the advice of ``explain``.
        InputError: no tolerance, or one of accuracy where there are no labels.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(256, 4)
    >>> found = verify(model, batches=[x], T=64, error=1e-3, agreement=97)
    >>> verify(model, batches=[x], T=2, error=1e-3)
    Traceback (most recent call last):
    snnpipe.errors.ToleranceError: verify: 1 tolerance is broken
      output: error 0.261, the most is 0.001
          -> resolution: 2 steps have too few levels: 100 % of the error; T=4
    """
    asked = (error, agreement, accuracy, drop, causes or None, isolated, dead, saturated)
    if all(one is None for one in asked):
        raise InputError("verify: there is nothing to hold; write verify(model, snn, ..., error=0.01, agreement=99)")
    found = explain(model, snn, batches=batches, T=T, schedule=schedule, delay=delay, encoding=encoding,
                    forward=forward, max_batches=max_batches)  # fmt: skip
    problems = [
        *_most("output", "error", found.error, error),
        *_least("output", "agreement", found.agreement, agreement),
        *_least("output", "accuracy", found.accuracy_snn, accuracy),
        *_most("output", "drop", _lost(found), drop),
    ]
    for cause in found.causes:
        problems += _most(cause.name, "error", cause.error, causes.get(cause.name))
    for site in found.sites:
        problems += _most(site.site, "isolated", site.isolated, isolated)
        problems += _most(site.site, "dead", site.dead, dead)
        problems += _most(site.site, "saturated", site.saturated, saturated)
    if problems:
        raise ToleranceError(listing(_headline(len(problems)), _advised(problems, found)))
    return found


def _lost(found: Explanation) -> float | None:
    if found.accuracy_ann is None or found.accuracy_snn is None:
        return None
    return found.accuracy_ann - found.accuracy_snn


def _most(place: str, name: str, value: float | None, tolerance: float | None) -> list[Problem]:
    if tolerance is None:
        return []
    _known(name, value)
    broken = value is not None and not value <= tolerance
    return [Problem(place, "", "", f"{name} {value:.3g}, the most is {tolerance:g}")] * broken


def _least(place: str, name: str, value: float | None, tolerance: float | None) -> list[Problem]:
    if tolerance is None:
        return []
    _known(name, value)
    broken = value is not None and not value >= tolerance
    return [Problem(place, "", "", f"{name} {value:.2f} %, the least is {tolerance:g} %")] * broken


def _known(name: str, value: float | None) -> None:
    if value is None:
        wanted = (
            "scores of classes, (B, classes)" if name == "agreement" else "batches (x, labels) and scores of classes"
        )
        raise InputError(f"verify: {name} wants {wanted}; leave it out, or hold error=... instead")


def _headline(count: int) -> str:
    return f"verify: {count} tolerance{'s are' if count > 1 else ' is'} broken"


def _advised(problems: list[Problem], found: Explanation) -> list[Problem]:
    """The problems, the last with what was found."""
    said = [f"{one}; {one.advice}" if one.advice else str(one) for one in found.findings]
    return [*problems[:-1], attrs.evolve(problems[-1], fix="\n    -> ".join(said))]
