"""Measuring activations: a fold of mergeable statistics over the data."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, reduce
from typing import Any

import attrs
import torch

from snnpipe.checks import takes
from snnpipe.errors import CalibrationError
from snnpipe.frozen import FrozenMap
from snnpipe.options import FLAG, TEXT, function, optional
from snnpipe.runtime.batches import Forward, Reader
from snnpipe.stage import HAS_VALUES, BoundStage, check_state
from snnpipe.stages.batches import BATCHES, DEVICE, MAX_BATCHES
from snnpipe.stages.fingerprint import of_state
from snnpipe.stages.found import CHECKPOINT, Checkpoint, Found, Journal
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.instrument import NO_NEURONS, instrumented, warn_siteless
from snnpipe.stages.measuring import Measuring, check_finite
from snnpipe.stages.together import GROUP, Together
from snnpipe.state import ConversionState, Event, Levels
from snnpipe.text import remembered


@takes(
    CalibrationError, batches=BATCHES, forward=optional(function("model", "batch")), mask=optional(TEXT),
    max_batches=MAX_BATCHES, progress=FLAG, device=optional(DEVICE), checkpoint=optional(CHECKPOINT), group=GROUP,
)  # fmt: skip
@remembered
def calibrate(
    batches: Iterable[Any],
    *,
    forward: Forward | None = None,
    mask: str | None = None,
    max_batches: int | None = None,
    progress: bool = False,
    device: torch.device | str | None = None,
    checkpoint: Checkpoint | None = None,
    group: Any = ...,
) -> BoundStage:
    """A stage that measures every site over ``batches``; marks the default sites first if nobody did.

    The state is unchanged; statistics of an earlier ``calibrate`` are merged with the new ones.  Neither the order of
    the batches nor their size matters (but for ``ema``).

    A site whose values turn out to be whole numbers is none, and is dropped.

    Args:
        batches: tensors, numpy arrays, ``(x, y)`` (as many of the first items as the model has inputs) or dictionaries
            (the inputs by name, or one under ``"image"``, ``"x"``, ``"pixel_values"``, ..., or the only value); a model
            that reads its input by keys takes dictionaries with these.  Values that it never reads are left alone.
        forward: ``forward(model, batch)`` calls the model, for any other kind of batch:
            ``forward=lambda model, batch: model(batch[1])`` for ``(label, image)``.  Of a part of a model,
            ``trace(part=...)``, it calls the whole one, by default ``model(batch)``.
        mask: the input that says which positions of a sequence count, (B, L), zero where it is padded:
            ``mask="attention_mask"``.  Values of other positions are left out.
        max_batches: stop after so many.
        progress: show a progress bar.
        device: where to run; by default where the parameters are.
        checkpoint: where to keep what was measured so far, ``checkpoint(path)``, and what to go on with.
        group: processes of ``torch.distributed`` that calibrate the same network, each on its own batches, be they many
            or none; all of them get what one process measures on all the data.

    Raises:
        CalibrationError: no batch, an empty batch, one of another dtype, shape or kind than the network takes, or NaN
            or infinity at a site; names the batch.  Of a group: another process failed, or did not answer within the
            group's timeout.

    >>> import torch, snnpipe
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> state = snnpipe.pipe(model, snnpipe.trace, calibrate([torch.ones(8, 4)]))
    >>> state.statistics["_1"].count
    8
    """
    config: FrozenMap[str, Any] = FrozenMap(
        batches=batches,
        forward=forward,
        mask=mask,
        max_batches=max_batches,
        progress=progress,
        device=device,
        checkpoint=checkpoint,
        group=group,
    )
    return BoundStage(_calibrate, (HAS_VALUES, NOT_LIFTED, NO_NEURONS), config)


def _calibrate(
    state: ConversionState,
    *,
    batches: Iterable[Any],
    forward: Forward | None,
    mask: str | None,
    max_batches: int | None,
    progress: bool,
    device: torch.device | str | None,
    checkpoint: Checkpoint | None,
    group: Any,
) -> ConversionState:
    state = instrumented(state)
    check_state("calibrate", state)
    if mask is not None:
        _check_mask(mask, state)
    measured = {name: site for name, site in state.sites.items() if not isinstance(site.cap, Levels)}
    if not measured:
        return state.evolve(Event("calibrate", "", "nothing to measure", "no site needs data"))
    if device is not None and state.whole is not None:
        raise CalibrationError("calibrate: device= would move a part and not the rest; move the model before trace")
    statistic = state.threshold.statistic
    if statistic.ordered and group is not ...:
        raise CalibrationError(f"calibrate: {state.threshold} hangs on the order of the data, and a group has none")
    model = Measuring(state, measured, mask)
    root = model.to(device) if device is not None else model
    reader = Reader("calibrate", state.graph, root, forward, device, state.whole)

    def fold(begin: Found, everyone: Together) -> Found:
        """What was measured, and what this process measures."""
        journal = Journal(checkpoint, state, partial(_about, state, mask, everyone), begin)
        found = journal.begin.on(model.home if device is None else torch.device(device))

        def measure(number: int, given: dict[str, Any]) -> Any:
            nonlocal found
            outputs, values = model(*(given[node["name"]] for node in state.graph.inputs))
            words = {name: value for name, value in values.items() if isinstance(value, str)}
            summaries = {name: value for name, value in values.items() if name not in words}
            for name, summary in summaries.items():
                check_finite(summary, measured[name], number)
            found = found.and_then(Found(summaries, words), statistic)
            return outputs

        def read(number: int, batch: Any) -> None:
            nonlocal found
            journal.see(batch, number)
            reader.hand(batch, number, partial(measure, number))
            found = attrs.evolve(found, count=number + 1)
            journal.keep(found)

        unread = journal.unread(batches, max_batches)
        with torch.no_grad():
            reader.walk(unread, read, max_batches, progress, none=everyone.several, first=found.count)
        journal.keep(found, end=True)
        return found

    known = Found(dict(state.statistics))
    with Together(group, "calibrate", partial(of_state, state, mask)) as everyone:
        if not everyone.several:
            return _with(state, fold(known, everyone).on(model.home))
        shards = everyone.shares(fold(Found({}), everyone).on(torch.device("cpu")))
        both = partial(Found.and_then, statistic=statistic)
        everyone.read(shards[everyone.rank].count)
        return _with(state, reduce(both, (shard.on(model.home) for shard in shards), known))


def _about(state: ConversionState, mask: str | None, everyone: Together) -> FrozenMap[str, str]:
    """What must be the same in a calibration that goes on."""
    return FrozenMap({
        "threshold": str(state.threshold), "mask": str(mask), "process": f"{everyone.rank} of {everyone.size}",
        "network, weights or sites": of_state(state),
    })  # fmt: skip


def _with(state: ConversionState, found: Found) -> ConversionState:
    """The state with what was measured, without the sites that are none."""
    sites = {name: site for name, site in state.sites.items() if name in found.summaries and name not in found.wholes}
    silent = [site.name for name, site in sites.items() if not bool((found.summaries[name].max > 0).any())]
    events = [Event("calibrate", name, "never fired", "its neurons will stay silent") for name in silent]
    events += [
        Event("calibrate", state.sites[name].name, "no site", f"its value is {is_}")
        for name, is_ in found.wholes.items()
    ]
    if found.wholes.keys() == state.sites.keys():
        warn_siteless(state.graph, state.params)
    return state.evolve(
        Event("calibrate", state.threshold.statistic.name, f"measured {len(sites)} sites", f"{found.count} batches"),
        *events,
        sites=state.sites.only(state.sites.keys() - found.wholes.keys()),
        statistics=FrozenMap(found.summaries),
    )


def _check_mask(mask: str, state: ConversionState) -> None:
    names = [node["name"] for node in state.graph.inputs]
    if mask not in names:
        raise CalibrationError(f"calibrate: mask: the model has no input {mask!r}; it has {', '.join(names)}")
    if state.threshold.per == "neuron":
        raise CalibrationError(
            'calibrate: mask: thresholds per="neuron" belong to positions, which a mask leaves out; use per="channel"'
        )
