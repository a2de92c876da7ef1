r"""Threshold balancing: thresholds from the currents of the network while it spikes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.codes import CODE, RATE, Code
from snnpipe.emit import module_tree, neuron_path
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Node, Param
from snnpipe.kernels.statistic import EXTREMA
from snnpipe.ops.lift import lift
from snnpipe.options import RUN, one_of
from snnpipe.runtime.batches import Forward, fitting
from snnpipe.runtime.scans import fired
from snnpipe.runtime.stretches import stretches
from snnpipe.stage import BoundStage
from snnpipe.stages.batches import BATCHES_AND_T, MAX_BATCHES
from snnpipe.stages.correct import HAS_NEURONS
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.prefix import bound, check_current, detached
from snnpipe.stages.thresholds import filled, like_network
from snnpipe.state import ConversionState, Event
from snnpipe.text import remembered


@takes(StageError, batches=BATCHES_AND_T, T=RUN, per=one_of("layer", "channel"), code=CODE, max_batches=MAX_BATCHES)
@remembered
def balance(
    batches: Iterable[Any], *, T: int, per: str = "layer", code: Code = RATE, forward: Forward | None = None,
    max_batches: int | None = None,
) -> BoundStage:  # fmt: skip
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
        forward: as for ``calibrate``.
        max_batches: read no more than so many.

    Memory: the events that reach one layer, of all samples at all T steps.

    Raises:
        StageError: no neurons yet, or already carried to a code.
        CalibrationError: no batch, one that does not fit the network, or NaN or infinity at a neuron; names the batch.

    Reference: Sengupta et al. 2019, "Going deeper in spiking neural networks: VGG and residual architectures",
    Frontiers in Neuroscience.
    """
    given = {"batches": batches, "T": T, "per": per, "code": code, "forward": forward, "limit": max_batches}
    return BoundStage(_balance, (NOT_LIFTED, HAS_NEURONS), FrozenMap(given))


def _balance(
    state: ConversionState, *, batches: Iterable[Any], T: int, per: str, code: Code, forward: Forward | None,
    limit: int | None,
) -> ConversionState:  # fmt: skip
    inputs = bound(state, batches, "balance", limit, forward)
    lifted, clocks = lift(state.graph, temporal_inputs=False), [code.clock(t) for t in range(1, T + 1)]
    tree, params, events = module_tree(state.graph, detached(state.params)), dict(state.params), list[Event]()
    here = [{node.name: given[node["name"]] for node in lifted.inputs} for given in inputs]
    with torch.no_grad():
        for way in stretches(lifted, code, over_time=True):
            node, path, currents = way.neuron, neuron_path(way.neuron), list[Tensor]()
            neuron: Any = tree.get_submodule(path)
            for number, given in enumerate(inputs):
                with fitting("balance", number, given, tree):
                    z, here[number] = way(tree, clocks, here[number])
                check_current(z, path, "balance", number)
                currents.append(z)
            if not isinstance(node.get("cap"), Param):
                neuron.threshold = theta = like_network(_largest(currents, node, way.timed, per), params)
                params[node["threshold"].key] = theta
                found = f"theta {theta.min():.3g}..{theta.max():.3g} from T = {T} under {code}"
                events.append(Event("balance", path, "balanced", found))
            for number in range(len(inputs)):
                here[number][node.name], _ = fired(neuron, None, currents[number], clocks, way.timed)
                currents[number] = currents[-1]  # it may go
    return state.evolve(*events, params=FrozenMap(params))


def _largest(currents: list[Tensor], node: Node, timed: bool, per: str) -> Tensor:
    """The largest current of a step, per channel or of the layer; up to the cap."""
    steps = [z for current in currents for z in (current.unbind() if timed else [current])]
    axis = node["axis"] if per == "channel" else None
    found = [EXTREMA.summarise(z.abs() if node.get("signed", False) else z, axis) for z in steps]
    theta = filled(reduce(EXTREMA.merge, found).max)
    return theta if node.get("cap") is None else theta.clamp(max=node["cap"])
