r"""Corrections: what T steps get wrong on average, measured on data and put right; no labels, no gradients.

What is measured and changed is said here; ``stages.adjust`` walks the network, ``stages.adjustment`` asks each neuron.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch

from snnpipe.checks import takes
from snnpipe.codes import CODE, RATE, Code
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap
from snnpipe.ops.lift import has_neurons
from snnpipe.options import RUN, WHOLE, one_of, optional
from snnpipe.runtime.batches import Forward
from snnpipe.runtime.presented import BYTES
from snnpipe.stage import HAS_VALUES, BoundStage
from snnpipe.stages.adjust import adjusted
from snnpipe.stages.adjustment import Adjustment
from snnpipe.stages.batches import BATCHES_AND_T, DEVICE, MAX_BATCHES
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.together import GROUP
from snnpipe.text import remembered
from snnpipe.waves import SCHEDULE, STEP, Wave

HAS_NEURONS = (lambda state: has_neurons(state.graph), "there are no neurons to correct; put replace before it")


BIAS = Adjustment("shift", "bias")
POTENTIAL = Adjustment("charge", "potential")
CURRENT = Adjustment("shift", "mean current", of_current=True)
SIZE = Adjustment("scale", "size of the events")


_PER = one_of("channel", "neuron")
_options = partial(
    takes, StageError, batches=BATCHES_AND_T, T=RUN, per=_PER, code=CODE, schedule=SCHEDULE, max_batches=MAX_BATCHES,
    budget=BYTES, device=optional(DEVICE), group=GROUP,
)  # fmt: skip


@_options(iterations=WHOLE)
@remembered
def correct_bias(
    batches: Iterable[Any], *, T: int, per: str = "channel", iterations: int = 1, code: Code = RATE,
    schedule: Wave | str = STEP, forward: Forward | None = None, max_batches: int | None = None,
    budget: int | None = None, device: torch.device | str | None = None,
    group: Any = ...,
) -> BoundStage:  # fmt: skip
    r"""A stage that adds to each neuron's current what its output lacks on average after T steps.

    .. math:: b_c \leftarrow b_c + \mathrm{mean}(a - \hat a_T)

    over samples and positions of channel c; a is the ANN's activation, :math:`\hat a_T` the decoded output.  The sums
    are over all the data, so it does not matter how these are batched.  A channel keeps the bias it had where the data
    say too little, that is where a sample would not be served by the mean of the others, and where the squared error is
    no smaller with the new one; the history counts them.  The state is unchanged; new biases are parameters named
    ``<neuron>.shift``.

    Args:
        batches: inputs as for ``calibrate``; a few hundred samples do.
        T: the number of steps the network is for.
        per: ``"channel"``, or ``"neuron"`` (one value per position: for a fixed input size).
        iterations: how often each neuron is adjusted in turn.
        code: the code the network will run under.
        schedule: ``"step"``, ``"layer"`` or ``wave(K)``, as the network will run.
        forward: as for ``calibrate``.
        max_batches: stop after so many.
        budget: bytes of memory for what waits, by default 512 MiB.
        device: where to run, by default where the parameters are.  These stay where they are: what lies on the way to
            one neuron is brought to the device, for all the data, and let go before the next.
        group: processes, as for ``calibrate``; all of them make what one makes of their batches, in order of rank.

    Memory: all samples wait at a layer before any goes on.  What of that is more than the budget waits in a folder for
    temporary files (``TMPDIR``).  Beside it there is what T steps of a few samples take at one layer, and the inputs.
    The result hangs on the budget no more than on how the data are batched.

    Raises:
        StageError: no neurons yet, or already carried to a code.
        CalibrationError: no batch, one that does not fit the network, or NaN or infinity at a neuron; names the batch.
            Of a group: as ``calibrate``.

    Reference: Li et al. 2021, "A free lunch from ANN: towards efficient, accurate spiking neural networks
    calibration", ICML.
    """
    return _stage(
        "correct_bias", (BIAS,) * iterations, batches, T, per, code, schedule, forward, max_batches, budget, device,
        group,
    )  # fmt: skip


@_options()
@remembered
def correct_potential(
    batches: Iterable[Any], *, T: int, per: str = "neuron", code: Code = RATE, schedule: Wave | str = STEP,
    forward: Forward | None = None, max_batches: int | None = None, budget: int | None = None,
    device: torch.device | str | None = None, group: Any = ...,
) -> BoundStage:  # fmt: skip
    r"""A stage that gives each neuron before the first step the charge its output lacks on average after T steps.

    .. math:: v_0 \leftarrow v_0 + \mathrm{mean}(a - \hat a_T) / w_1

    over the samples, one value per neuron; w_1 is what the first event is worth in the end (1/T under RATE).  A neuron
    keeps its potential where ``correct_bias`` would keep its bias, and where the charge is more than T steps can send.
    New ones are parameters named ``<neuron>.charge``.

    Args:
        batches, T, per, code, schedule, forward, max_batches, budget, device, group: as for ``correct_bias``.

    Reference: as ``correct_bias``.
    """
    if code.worth(T)[0] == 0.0:
        raise StageError(
            f"correct_potential: under {code} what a neuron starts with is forgotten before it counts; use correct_bias"
        )
    return _stage(
        "correct_potential", (POTENTIAL,), batches, T, per, code, schedule, forward, max_batches, budget, device,
        group,
    )  # fmt: skip


@_options()
@remembered
def correct_threshold(
    batches: Iterable[Any], *, T: int, per: str = "channel", code: Code = RATE, schedule: Wave | str = STEP,
    forward: Forward | None = None, max_batches: int | None = None, budget: int | None = None,
    device: torch.device | str | None = None, group: Any = ...,
) -> BoundStage:  # fmt: skip
    r"""A stage that shifts each neuron's current to the ANN's mean, and scales its events to the ANN's size.

    .. math:: z_c \leftarrow z_c + \mathrm{mean}(z - \hat z_T), \qquad
        s_c \leftarrow s_c \, \frac{\sum a \hat a_T}{\sum \hat a_T^2}

    The neuron keeps its threshold; a spike of it is worth a little more or less.  A channel keeps its current as
    ``correct_bias`` would keep its bias.  It keeps the size of its events where the data say too little: where these
    decode to less than one smallest event, where a sample would not be served by what the others say, and where the
    factor is not within :math:`[0, 2 \sum_t w_t / \min_t w_t]`, which is what a neuron can lack that
    rounds to its smallest event, and that all steps but one came too early for.

    Args:
        batches, T, per, code, schedule, forward, max_batches, budget, device, group: as for ``correct_bias``.

    Reference: after Hao et al. 2025, "Faster and stronger: when ANN-SNN conversion meets parallel spiking
    calculation", ICML, who add the mean error of the output to its threshold; least squares is scale free.
    """
    return _stage(
        "correct_threshold", (CURRENT, SIZE), batches, T, per, code, schedule, forward, max_batches, budget, device,
        group,
    )  # fmt: skip


def _stage(
    name: str, adjustments: tuple[Adjustment, ...], batches: Any, T: int, per: str, code: Code, schedule: Wave | str,
    forward: Forward | None, max_batches: int | None, budget: int | None, device: torch.device | str | None,
    group: Any,
) -> BoundStage:  # fmt: skip
    given = {"adjustments": adjustments, "batches": batches, "T": T, "per": per, "code": code, "schedule": schedule}
    given |= {
        "forward": forward,
        "limit": max_batches,
        "budget": budget,
        "device": device,
        "group": group,
        "called": name,
    }
    return BoundStage(adjusted, (HAS_VALUES, NOT_LIFTED, HAS_NEURONS), FrozenMap(given))
