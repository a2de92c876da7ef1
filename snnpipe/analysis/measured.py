"""What is measured at one site of neurons, as sums over batches."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from snnpipe.analysis.activity import SpikeCount
from snnpipe.analysis.between import Place
from snnpipe.analysis.explanation import SiteError
from snnpipe.analysis.joint import JointCounts


@attrs.define(eq=False)
class SiteSums:
    """One site: sums, counts and maxima, to which batches are added.

    Attributes:
        place: its neuron.
        tops: the largest activation of each channel, (C,), by the axis that is taken for the channels'.
        can: the most the neuron can say, by channel.
        said: the largest decoded value, by channel.
        joint: what it decodes to beside the activation.
    """

    place: Place
    off: float = 0.0
    whole: float = 0.0
    moments: Tensor = attrs.field(factory=lambda: torch.zeros(5, dtype=torch.float64))
    clipped: int = 0
    active: int = 0
    numbers: int = 0
    spikes: float = 0.0
    chances: int = 0
    tops: dict[int | None, Tensor] = attrs.field(factory=dict)
    can: Tensor = attrs.field(factory=lambda: torch.zeros(1))
    said: Tensor = attrs.field(factory=lambda: torch.zeros(1))
    joint: JointCounts = attrs.field(factory=JointCounts)

    def add(self, z: Tensor, a: Tensor, found: Tensor, count: SpikeCount, T: int) -> None:
        """Take in one batch: current and activation of the ANN, what the neuron decodes to in the end, its spikes."""
        axis = self.place.node["axis"]
        low, high = self.place.bounds(z)
        reach = torch.maximum(high, -low)
        freely = torch.maximum(*map(abs, self.place.uncapped.bounds(z)))
        self.can = by_channel(freely.expand_as(a[:1] if a.ndim else a), axis)
        self.off += float((found.double() - a.double()).square().sum())
        self.whole += float(a.double().square().sum())
        self.joint.add(a, found)
        x, y = a.double(), found.double()
        sums = [x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
        self.moments += torch.stack(sums).cpu()
        self.clipped += int((a.abs() > reach * (1 + 1e-5)).sum())
        self.active += int((a != 0).sum())
        self.numbers += a.numel()
        self.spikes += float(count.per_step.sum())
        self.chances += count.size * T
        self.said = _larger(self.said, by_channel(found.abs(), axis))
        theta = self.place.module.threshold.numel()
        alike = [k - a.ndim for k in range(1, a.ndim) if theta > 1 and a.shape[k] == theta]
        for one in {axis, *alike}:
            found_top = by_channel(a.abs(), one)
            self.tops[one] = _larger(self.tops[one], found_top) if one in self.tops else found_top

    @property
    def axis(self) -> int | None:
        """The axis that the thresholds fit best: along which they are nearest to a multiple of the activations."""
        own = self.place.node["axis"]
        scores = {axis: _spread(self.place.module.threshold, top) for axis, top in self.tops.items()}
        usable = {axis: score for axis, score in scores.items() if score is not None}
        best = min(usable, key=lambda axis: usable[axis], default=own)
        return best if own in usable and usable[best] < 0.5 * usable[own] else own

    def error(self, isolated: float) -> SiteError:
        """What the sums say."""
        node, top = self.place.node, self.tops[self.place.node["axis"]]
        alive = top > 0
        dead = (self.said == 0).expand_as(alive) & alive
        return SiteError(
            site=self.place.name,
            path=node.path,
            op=self.place.op,
            isolated=isolated,
            accumulated=self.off / (self.whole or 1.0),
            correlation=_correlation(self.moments, self.numbers),
            dead=float(dead.sum()) / max(int(alive.sum()), 1),
            silent=float((~alive).double().mean()),
            saturated=self.clipped / (self.active or 1),
            reach=float((self.can.expand_as(top)[alive] / top[alive]).median()) if bool(alive.any()) else float("inf"),
            rate=self.spikes / (self.chances or 1),
            neuron=str(node["neuron"]),
            joint=self.joint.joint,
        )


def by_channel(x: Tensor, axis: int | None) -> Tensor:
    """The largest value of each channel, (C,); without an axis, (1,)."""
    if axis is None or not x.ndim:
        return x.amax().reshape(1)
    return x.movedim(axis, -1).reshape(-1, x.shape[axis]).amax(0)


def _larger(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a.to(b), b)


def _correlation(moments: Tensor, count: int) -> float:
    """Pearson's, of two constants 1 if they are equal and 0 if not."""
    x, y, xx, yy, xy = (moments / max(count, 1)).tolist()
    spread = (max(xx - x * x, 0.0) * max(yy - y * y, 0.0)) ** 0.5
    return float(x == y) if spread == 0.0 else max(-1.0, min(1.0, (xy - x * y) / spread))


def _spread(theta: Tensor, top: Tensor) -> float | None:
    """How far thresholds are from being a multiple of the largest activations: the deviation of the log quotients."""
    if theta.numel() != top.numel() or int((top > 0).sum()) < 3:
        return None
    return float((theta.double().flatten() / top.double())[top > 0].log().std())
