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
from snnpipe.kernels.statistic import Statistic
from snnpipe.options import FLAG, TEXT, function, optional
from snnpipe.runtime.batches import Forward, Reader
from snnpipe.stage import HAS_VALUES, BoundStage, check_state
from snnpipe.stages.batches import BATCHES, DEVICE, MAX_BATCHES
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.instrument import NO_NEURONS, instrumented, warn_siteless
from snnpipe.stages.measuring import Measuring, check_finite, on_device
from snnpipe.stages.together import GROUP, fingerprint, together
from snnpipe.state import ConversionState, Event, Levels
from snnpipe.text import remembered


@takes(
    CalibrationError, batches=BATCHES, forward=optional(function("model", "batch")), mask=optional(TEXT),
    max_batches=MAX_BATCHES, progress=FLAG, device=optional(DEVICE), group=GROUP,
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
        group=group,
    )
    return BoundStage(_calibrate, (HAS_VALUES, NOT_LIFTED, NO_NEURONS), config)


@attrs.frozen(eq=False)
class _Found:
    """What was measured: a monoid.

    Attributes:
        summaries: by node.
        wholes: of sites that turned out to have no floats, what their values are.
        count: how many batches there were.
    """

    summaries: dict[str, Any]
    wholes: dict[str, str] = attrs.field(factory=dict)
    count: int = 0

    def and_then(self, later: _Found, statistic: Statistic) -> _Found:
        """Both."""
        merged = dict(self.summaries)
        for name, summary in later.summaries.items():
            known = merged.get(name)
            merged[name] = summary if known is None else statistic.merge(known, summary, **statistic.options)
        return _Found(merged, self.wholes | later.wholes, self.count + later.count)

    def on(self, device: torch.device) -> _Found:
        """The same, its tensors on a device."""
        return attrs.evolve(self, summaries={name: on_device(held, device) for name, held in self.summaries.items()})


def _calibrate(
    state: ConversionState,
    *,
    batches: Iterable[Any],
    forward: Forward | None,
    mask: str | None,
    max_batches: int | None,
    progress: bool,
    device: torch.device | str | None,
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
    model = Measuring(state, measured, mask)
    root = model.to(device) if device is not None else model
    reader = Reader("calibrate", state.graph, root, forward, device, state.whole)

    def fold(found: _Found) -> _Found:
        """What was measured, and what this process measures."""

        def measure(number: int, given: dict[str, Any]) -> Any:
            nonlocal found
            outputs, values = model(*(given[node["name"]] for node in state.graph.inputs))
            words = {name: value for name, value in values.items() if isinstance(value, str)}
            summaries = {name: value for name, value in values.items() if name not in words}
            for name, summary in summaries.items():
                check_finite(summary, measured[name], number)
            found = found.and_then(_Found(summaries, words), statistic)
            return outputs

        with torch.no_grad():
            count = reader.each(batches, measure, max_batches, progress, none=group is not ...)
        return attrs.evolve(found, count=count)

    known = _Found(dict(state.statistics))
    if group is ...:
        return _with(state, fold(known).on(model.home))
    if statistic.ordered:
        raise CalibrationError(f"calibrate: {state.threshold} hangs on the order of the data, and a group has none")
    shards = together(group, fingerprint(state), lambda: fold(_Found({})).on(torch.device("cpu")), "calibrate")
    found = reduce(partial(_Found.and_then, statistic=statistic), (shard.on(model.home) for shard in shards), known)
    if found.count == 0:
        raise CalibrationError("calibrate: there was no batch in any of the processes; are the loaders empty?")
    return _with(state, found)


def _with(state: ConversionState, found: _Found) -> ConversionState:
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
