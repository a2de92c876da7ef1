r"""Corrections: what T steps get wrong on average, measured on data and put right; no labels, no gradients.

What is measured and changed is said here; ``stages.adjust`` walks the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor

from snnpipe.checks import takes
from snnpipe.codes import CODE, RATE, Code
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap
from snnpipe.ops.lift import has_neurons
from snnpipe.options import RUN, SCHEDULE, WHOLE, one_of
from snnpipe.stage import BoundStage
from snnpipe.stages.adjust import Adjustment, Seen, adjusted
from snnpipe.stages.batches import BATCHES_AND_T, MAX_BATCHES
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.text import remembered

HAS_NEURONS = (lambda state: has_neurons(state.graph), "there are no neurons to correct; put replace before it")


def _output_error(seen: Seen) -> Tensor:
    return seen.a - seen.a_snn


def _input_error(seen: Seen) -> Tensor:
    return seen.z - seen.z_snn


_PER = one_of("channel", "neuron")
_options = partial(
    takes, StageError, batches=BATCHES_AND_T, T=RUN, per=_PER, code=CODE, schedule=SCHEDULE, max_batches=MAX_BATCHES
)


@_options(iterations=WHOLE)
@remembered
def correct_bias(
    batches: Iterable[Any], *, T: int, per: str = "channel", iterations: int = 1, code: Code = RATE,
    schedule: str = "step", max_batches: int | None = None,
) -> BoundStage:  # fmt: skip
    r"""A stage that adds to each neuron's current what its output lacks on average after T steps.

    .. math:: b_c \leftarrow b_c + \mathrm{mean}(a - \hat a_T)

    over samples and positions of channel c; a is the ANN's activation, :math:`\hat a_T` the decoded output.  The state
    is unchanged; new biases are parameters named ``<neuron>.shift``.

    Args:
        batches: inputs as for ``calibrate``; a few hundred samples do.
        T: the number of steps the network is for.
        per: ``"channel"``, or ``"neuron"`` (one value per position: for a fixed input size).
        iterations: how often each neuron is adjusted in turn.
        code: the code the network will run under.
        schedule: ``"step"`` or ``"layer"``, as the network will run.
        max_batches: stop after so many.

    Raises:
        StageError: no neurons yet, or already carried to a code.
        CalibrationError: no batch.

    Reference: Li et al. 2021, "A free lunch from ANN: towards efficient, accurate spiking neural networks
    calibration", ICML.
    """
    return _stage("correct_bias", (("shift", _output_error),) * iterations, batches, T, per, code, schedule,
                  max_batches)  # fmt: skip


@_options()
@remembered
def correct_potential(
    batches: Iterable[Any], *, T: int, per: str = "neuron", code: Code = RATE, schedule: str = "step",
    max_batches: int | None = None,
) -> BoundStage:  # fmt: skip
    r"""A stage that gives each neuron before the first step the charge its output lacks on average after T steps.

    .. math:: v_0 \leftarrow v_0 + \mathrm{mean}(a - \hat a_T) / w_1

    over the samples, one value per neuron; w_1 is what the first event is worth in the end (1/T under RATE).  New
    potentials are parameters named ``<neuron>.charge``.

    Args:
        batches, T, per, code, schedule, max_batches: as for ``correct_bias``.

    Reference: as ``correct_bias``.
    """
    return _stage("correct_potential", (("charge", _output_error),), batches, T, per, code, schedule, max_batches)


@_options()
@remembered
def correct_threshold(
    batches: Iterable[Any], *, T: int, per: str = "channel", code: Code = RATE, schedule: str = "step",
    max_batches: int | None = None,
) -> BoundStage:  # fmt: skip
    r"""A stage that shifts each neuron's current to the ANN's mean, and scales its events to the ANN's size.

    .. math:: z_c \leftarrow z_c + \mathrm{mean}(z - \hat z_T), \qquad
        s_c \leftarrow s_c \, \frac{\sum a \hat a_T}{\sum \hat a_T^2}

    The neuron keeps its threshold; a spike of it is worth a little more or less.

    Args:
        batches, T, per, code, schedule, max_batches: as for ``correct_bias``.

    Reference: after Hao et al. 2025, "Faster and stronger: when ANN-SNN conversion meets parallel spiking
    calculation", ICML, who add the mean error of the output to its threshold; least squares is scale free.
    """
    return _stage("correct_threshold", (("shift", _input_error), ("scale", _output_error)), batches, T, per, code,
                  schedule, max_batches)  # fmt: skip


def _stage(
    name: str, adjustment: Adjustment, batches: Any, T: int, per: str, code: Code, schedule: str,
    max_batches: int | None,
) -> BoundStage:  # fmt: skip
    given = {"adjustment": adjustment, "batches": batches, "T": T, "per": per, "code": code, "schedule": schedule}
    return BoundStage(adjusted, (NOT_LIFTED, HAS_NEURONS), FrozenMap(given | {"limit": max_batches, "called": name}))
