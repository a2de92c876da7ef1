"""Scores of outputs, one for each sample: right answers, and answers that are the ANN's.

Knows tensors of class scores; nothing of networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.analysis.interval import Sums
from snnpipe.containers import tensors
from snnpipe.errors import InputError
from snnpipe.kernels.temporal import zip_leaves

#: ``metric(output, labels)``: a number for each sample, (B,).
Metric = Callable[[Any, Any], Tensor]

_WRITE = "write metric=lambda output, labels: ..., a number for each sample, (B,)"


def classes(output: Any) -> Tensor | None:
    """The most likely class of each place of class scores (B, C, ...); ``None`` of any other output."""
    scored = isinstance(output, Tensor) and output.ndim > 1 and output.is_floating_point() and output.shape[1] > 1
    return output.argmax(1) if scored else None


def same(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of each sample the share of its places with the same class, (B,)."""
    return (ours == theirs).double().flatten(1).mean(1) if ours.ndim > 1 else (ours == theirs).double()


def ranked(output: Any, labels: Any, k: int) -> Tensor:
    """Of each sample the share of its places whose label is among the k best scores, (B,).

    Of equal scores the first counts as the better one, as ``argmax`` has it, so that k = 1 is ``argmax == label``.

    Args:
        output: scores of classes, (B, C, ...).
        labels: indices of classes, (B, ...).
        k: how many.

    Raises:
        InputError: other shapes, or labels that are no classes.

    >>> scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]])
    >>> ranked(scores, torch.tensor([2, 1]), 1), ranked(scores, torch.tensor([2, 1]), 2)
    (tensor([0., 0.], dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """
    if classes(output) is None:
        shown = f"{tuple(output.shape)} of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"evaluate: the output must be scores of classes, floats (B, classes, ...), got {shown}; {_WRITE}"
        )
    labels = labels if isinstance(labels, Tensor) else torch.as_tensor(labels)
    wanted = (len(output), *output.shape[2:])
    if tuple(labels.shape) != wanted or labels.is_floating_point() or labels.dtype in (torch.bool, torch.complex64):
        raise InputError(
            f"evaluate: labels are indices of classes, whole numbers {wanted}, got {labels.dtype} "
            f"{tuple(labels.shape)}; {_WRITE}"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < output.shape[1]:
        raise InputError(
            f"evaluate: labels go from {int(labels.min())} to {int(labels.max())}, and the output has scores of "
            f"{output.shape[1]} classes, 0 to {output.shape[1] - 1}; {_WRITE}"
        )
    own = output.gather(1, labels.long()[:, None])
    index = torch.arange(output.shape[1], device=output.device).view(-1, *[1] * (output.ndim - 2))
    better = (output > own) | ((output == own) & (index < labels[:, None]))
    right: Tensor = (better.sum(1) < k).double()
    return right.flatten(1).mean(1) if right.ndim > 1 else right


def measured(metric: Metric, output: Any, labels: Any, count: int) -> Tensor:
    """What the user's metric says of each sample.

    Raises:
        InputError: it is no finite number for each.
    """
    found = metric(output, labels)
    if not isinstance(found, Tensor) or tuple(found.shape) != (count,) or found.is_complex():
        shown = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"evaluate: metric(output, labels) gives a number for each sample, ({count},), got {shown}")
    if not bool(torch.isfinite(found.double()).all()):
        raise InputError("evaluate: metric(output, labels) gave NaN or infinity")
    return found.double()


@attrs.frozen
class Score:
    """What was said of some samples; of parts it adds up.

    Attributes:
        right, same: of the answers, and of those that are the ANN's; ``None`` where that is not known.
        off, size: ``||output - ANN||^2`` and ``||ANN||^2``; ``None`` without ANN.
    """

    right: Sums | None
    same: Sums | None
    off: float | None = None
    size: float | None = None

    def __add__(self, other: Score) -> Score:
        pairs = [(getattr(self, name), getattr(other, name)) for name in ("right", "same", "off", "size")]
        return Score(*(None if a is None or b is None else a + b for a, b in pairs))

    @property
    def error(self) -> float | None:
        """Relative to the ANN."""
        if self.off is None or not self.size:
            return None
        return math.sqrt(self.off / self.size)


@attrs.frozen
class Scorer:
    """How outputs are scored: the label among the ``top`` best, or a metric."""

    top: int
    metric: Metric | None

    @property
    def name(self) -> str:
        return "metric" if self.metric is not None else f"top-{self.top}"

    @property
    def scale(self) -> float:
        """Shares are in per cent."""
        return 1.0 if self.metric is not None else 100.0

    def right(self, output: Any, labels: Any, count: int) -> Sums | None:
        """How good an output is."""
        if labels is None:
            return None
        device = next((x.device for x in tensors(output)), torch.device("cpu"))
        here = zip_leaves(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, labels)
        said = ranked(output, here, self.top) if self.metric is None else measured(self.metric, output, here, count)
        return Sums.of(said)

    def of(self, output: Any, labels: Any, theirs: Any, count: int) -> Score:
        """An output for ``count`` samples beside the labels and what the ANN says, of which one may be ``None``."""
        right = self.right(output, labels, count)
        if theirs is None:
            return Score(right, None)
        ours, ann = classes(output), classes(theirs)
        alike = None if ours is None or ann is None else Sums.of(same(ours, ann))
        pairs = [(a, b) for a, b in zip(tensors(output), tensors(theirs), strict=True) if a.is_floating_point()]
        if not pairs:
            return Score(right, alike)
        off = sum(float(torch.where(a == b, 0.0, a.double() - b.double()).square().sum()) for a, b in pairs)
        return Score(right, alike, off, sum(float(b.double().square().sum()) for _, b in pairs))
