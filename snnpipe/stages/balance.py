r"""Threshold balancing: thresholds from the currents of the network while it spikes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from snnpipe.checks import takes
from snnpipe.codes import CODE, RATE, Code
from snnpipe.emit import neuron_path
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Param
from snnpipe.kernels.statistic import EXTREMA
from snnpipe.options import RUN, one_of
from snnpipe.stage import BoundStage
from snnpipe.stages.batches import BATCHES_AND_T, MAX_BATCHES
from snnpipe.stages.correct import HAS_NEURONS
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.prefix import as_events, bound, detached, every_step
from snnpipe.stages.thresholds import filled, like_network
from snnpipe.state import ConversionState, Event
from snnpipe.text import remembered


@takes(StageError, batches=BATCHES_AND_T, T=RUN, per=one_of("layer", "channel"), code=CODE, max_batches=MAX_BATCHES)
@remembered
def balance(
    batches: Iterable[Any], *, T: int, per: str = "layer", code: Code = RATE, max_batches: int | None = None
) -> BoundStage:
    r"""A stage that gives each neuron the largest current it meets while the layers before it spike as threshold.

    .. math:: \theta_l = \max_{x, i, t \le T} z_{l,i,t}

    layer by layer from the input on, each behind neurons that have their new thresholds already.  The largest *single*
    current is more than the largest average one, so no neuron ever has two spikes' worth of it; that wants many steps.
    The state is unchanged.  Neither the order nor the size of the batches matters.  Neurons of quantised activations
    keep the thresholds they were trained with.

    Args:
        batches: inputs as for ``calibrate``.
        T: how many steps to look at.
        per: ``"layer"``, one threshold for each, or ``"channel"``.
        code: the code the network will run under.
        max_batches: read no more than so many.

    Raises:
        StageError: no neurons yet, or already carried to a code.
        CalibrationError: no batch.

    Reference: Sengupta et al. 2019, "Going deeper in spiking neural networks: VGG and residual architectures",
    Frontiers in Neuroscience.
    """
    given = {"batches": batches, "T": T, "per": per, "code": code, "limit": max_batches}
    return BoundStage(_balance, (NOT_LIFTED, HAS_NEURONS), FrozenMap(given))


def _balance(
    state: ConversionState, *, batches: Iterable[Any], T: int, per: str, code: Code, limit: int | None
) -> ConversionState:
    inputs = bound(state.graph, batches, "balance", limit)
    graph, params, events = state.graph, dict(state.params), list[Event]()
    for node in [node for node in graph if node.op == "encode" and not isinstance(node.get("cap"), Param)]:
        axis = node["axis"] if per == "channel" else None
        decoded = every_step(graph, node["input"], detached(params), code, T)
        largest: Any = None
        with torch.no_grad():
            for given in inputs:
                for z in as_events(decoded(given), code):
                    found = EXTREMA.summarise(z.abs() if node.get("signed", False) else z, axis)
                    largest = found if largest is None else EXTREMA.merge(largest, found)
        theta = filled(largest.max)
        theta = theta if node.get("cap") is None else theta.clamp(max=node["cap"])
        key = node["threshold"].key
        params[key] = like_network(theta, params)
        events.append(Event("balance", neuron_path(node), "balanced",
                            f"theta {theta.min():.3g}..{theta.max():.3g} from T = {T} under {code}"))  # fmt: skip
    return state.evolve(*events, params=FrozenMap(params))
