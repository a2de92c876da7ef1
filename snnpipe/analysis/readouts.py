"""What a network said at one step, and what samples said when they stopped."""

from __future__ import annotations

import attrs

from snnpipe.analysis.interval import Interval


@attrs.frozen
class Readout:
    """What the network says after t steps.

    Attributes:
        t: steps each layer has taken.
        latency: steps until this answer is there.
        accuracy: share of right answers, in per cent, or the mean of the user's metric; ``None`` without labels.
        agreement: share of answers that are the ANN's, in per cent; ``None`` without ANN or classes.
        error: ``||output - ANN|| / ||ANN||`` over all samples; ``None`` without ANN.
        events: spikes on all wires up to step t, per sample.
    """

    t: int
    latency: int
    accuracy: Interval | None
    agreement: Interval | None
    error: float | None
    events: float


@attrs.frozen
class Exit:
    """What the samples said when they stopped.

    Attributes:
        steps: how many samples stopped after step 1, 2, ..., T.
        accuracy, agreement, error: as of a ``Readout``.
    """

    steps: tuple[int, ...]
    accuracy: Interval | None
    agreement: Interval | None
    error: float | None

    @property
    def mean(self) -> float:
        """Steps a sample took on average."""
        return sum(t * count for t, count in enumerate(self.steps, 1)) / sum(self.steps)
