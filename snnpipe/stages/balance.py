r"""Threshold balancing: thresholds from the currents of the network while it spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.codes import CODE, RATE, Clock, Code
from snnpipe.emit import module_tree, neuron_path
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Node, Param
from snnpipe.kernels.statistic import channel_max
from snnpipe.ops.lift import lift
from snnpipe.options import RUN, one_of, optional
from snnpipe.runtime.batches import Forward, fitting
from snnpipe.runtime.presented import BYTES
from snnpipe.runtime.scans import fired
from snnpipe.runtime.shelf import WAITING, Kept, Shelf
from snnpipe.runtime.stretches import brought, lent, stretches
from snnpipe.stage import HAS_VALUES, BoundStage
from snnpipe.stages.batches import BATCHES_AND_T, DEVICE, MAX_BATCHES
from snnpipe.stages.correct import HAS_NEURONS
from snnpipe.stages.fingerprint import of_state
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.prefix import bound, check_current, detached, home
from snnpipe.stages.thresholds import filled, like_network
from snnpipe.stages.together import GROUP, Together
from snnpipe.stages.walk import Walk, begun, parts
from snnpipe.state import ConversionState, Event
from snnpipe.text import remembered


@takes(StageError, batches=BATCHES_AND_T, T=RUN, per=one_of("layer", "channel"), code=CODE, max_batches=MAX_BATCHES,
       budget=BYTES, device=optional(DEVICE), group=GROUP)  # fmt: skip
@remembered
def balance(
    batches: Iterable[Any], *, T: int, per: str = "layer", code: Code = RATE, forward: Forward | None = None,
    max_batches: int | None = None, budget: int | None = None, device: torch.device | str | None = None,
    group: Any = ...,
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
        budget: bytes of memory for what waits, by default 512 MiB; as for ``correct_bias``.
        device: where to run, one layer at a time, by default where the parameters are; as for ``correct_bias``.
        group: processes, as for ``calibrate``.

    Raises:
        StageError: no neurons yet, or already carried to a code.
        CalibrationError: no batch, one that does not fit the network, or NaN or infinity at a neuron; names the batch.
            Of a group: as ``calibrate``.

    Reference: Sengupta et al. 2019, "Going deeper in spiking neural networks: VGG and residual architectures",
    Frontiers in Neuroscience.
    """
    given = {"batches": batches, "T": T, "per": per, "code": code, "forward": forward, "limit": max_batches}
    given |= {"budget": budget, "device": device, "group": group}
    return BoundStage(_balance, (HAS_VALUES, NOT_LIFTED, HAS_NEURONS), FrozenMap(given))


def _balance(
    state: ConversionState, *, batches: Iterable[Any], T: int, per: str, code: Code, forward: Forward | None,
    limit: int | None, budget: int | None, device: torch.device | None, group: Any,
) -> ConversionState:  # fmt: skip
    lifted, clocks = lift(state.graph, temporal_inputs=False), [code.clock(t) for t in range(1, T + 1)]
    whole, params, events = module_tree(state.graph, detached(state.params)), dict(state.params), list[Event]()
    processes = Together(group, "balance", partial(of_state, state, T, per, str(code)), device or home(state))
    with processes as everyone, torch.no_grad(), Shelf(WAITING if budget is None else budget) as shelf:
        inputs = bound(state, batches, "balance", limit, forward, everyone)
        data = parts(inputs, state.graph, whole, T, budget)
        walk = Walk(clocks, shelf, begun(data, lifted), device)
        left: Callable[[int], dict[str, Tensor]] = _nothing
        for way in stretches(lifted, code, over_time=True):
            node, path, currents, found = way.neuron, neuron_path(way.neuron), dict[int, Kept](), list[Any]()
            tree = lent(state.params, device, way)
            for k, part in enumerate(data):
                sent = left(k)
                with fitting("balance", part.number, part.given, tree):
                    z = walk.on(tree, way, k, sent)
                check_current(z, path, "balance", part.number)
                found.append(_largest(z, node, way.timed, per))
                currents[k] = shelf.keep(z)
            neuron: Any = tree.get_submodule(path)
            largest = reduce(torch.maximum, found) if found else None
            if not isinstance(node.get("cap"), Param):
                theta = filled(reduce(torch.maximum, (mine for mine in everyone.shares(largest) if mine is not None)))
                theta = theta if node.get("cap") is None else theta.clamp(max=node["cap"])
                params[node["threshold"].key] = like_network(theta, params)
                neuron.threshold = brought(params[node["threshold"].key], device)
                said = f"theta {neuron.threshold.min():.3g}..{neuron.threshold.max():.3g} from T = {T} under {code}"
                events.append(Event("balance", path, "balanced", said))
            left = partial(_left, node.name, neuron, currents, clocks, way.timed)
            del tree  # before the next is brought
    return state.evolve(*events, params=FrozenMap(params))


def _nothing(k: int) -> dict[str, Tensor]:
    """What part ``k`` brings along to the first neuron: it has met none."""
    return {}


def _left(
    name: str, neuron: Any, currents: dict[int, Kept], clocks: Sequence[Clock], timed: bool, k: int
) -> dict[str, Tensor]:
    """What part ``k``, which waited for the neuron's threshold, goes on with."""
    return {name: fired(neuron, None, currents.pop(k).value, clocks, timed)[0]}


def _largest(z: Tensor, node: Node, timed: bool, per: str) -> Tensor:
    """The largest current of a step, per channel or of the layer."""
    axis = node["axis"] if per == "channel" else None
    each = [z.abs() if node.get("signed", False) else z for z in (z.unbind() if timed else [z])]
    return reduce(torch.maximum, [channel_max(now, axis) for now in each])
