"""Outputs of a network held against the ANN's: squared error, right answers, the ANN's answers.

Knows outputs; nothing of how a network is run.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.errors import InputError


@attrs.frozen
class Score:
    """One network on all data.

    Attributes:
        error: squared error of the outputs, in parts of the ANN's squared outputs.
        accuracy, agreement: percent of right answers, and of the ANN's; ``None`` where there are no labels, or no
            classes.
    """

    error: float
    accuracy: float | None = None
    agreement: float | None = None


@attrs.define
class Outputs:
    """Sums over batches of outputs (trees of tensors, of which those of floats count)."""

    squared: float = 0.0
    whole: float = 0.0
    samples: int = 0
    right: int | None = 0
    same: int | None = 0

    def add(self, found: Any, wanted: Any, labels: Tensor | None, number: int) -> None:
        """Take in one batch: the outputs of a network, and those of the ANN."""
        for y, y0 in zip(floats(found), floats(wanted), strict=True):
            if y.shape != y0.shape:
                raise InputError(
                    f"explain: the network's output is of shape {tuple(y.shape)} in batch {number}, the model's of "
                    f"{tuple(y0.shape)}; give the model that the network was made of"
                )
            self.squared += float((y.double() - y0.double()).square().sum())
            self.whole += float(y0.double().square().sum())
        if not self.squared + self.whole < float("inf"):
            raise InputError(
                f"explain: NaN or infinity in the outputs of batch {number}; look for it in the data, or in the weights"
            )
        guesses, truth = classes(found), classes(wanted)
        if guesses is None or truth is None:
            self.right = self.same = None
            return
        self.samples += len(truth)
        self.same = None if self.same is None else self.same + int((guesses == truth).sum())
        if labels is None or self.right is None:
            self.right = None
        else:
            self.right += int((guesses == labels.to(guesses.device)).sum())

    @property
    def score(self) -> Score:
        """What the sums say."""

        def percent(count: int | None) -> float | None:
            return None if count is None or not self.samples else 100.0 * count / self.samples

        return Score(self.squared / (self.whole or 1.0), percent(self.right), percent(self.same))


def floats(outputs: Any) -> list[Tensor]:
    """The tensors of floats in a tree of outputs."""
    return [leaf for leaf in tensors(outputs) if leaf.is_floating_point()]


def classes(outputs: Any) -> Tensor | None:
    """The classes (B,) that scores (B, classes) say, ``None`` of other outputs.

    >>> classes(torch.tensor([[0.1, 0.9], [2.0, 1.0]]))
    tensor([1, 0])
    """
    scores = isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] > 1
    return outputs.argmax(1) if scores else None


def labels_in(batch: Any, inputs: int, outputs: Any) -> Tensor | None:
    """The labels (B,) of a batch ``(x, ..., labels)``: whole numbers behind the inputs, where outputs are classes.

    >>> labels_in((torch.zeros(2, 4), torch.tensor([0, 1])), 1, torch.zeros(2, 3))
    tensor([0, 1])
    """
    if not isinstance(batch, tuple | list) or len(batch) <= inputs or classes(outputs) is None:
        return None
    try:
        found = torch.as_tensor(batch[inputs])
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = not found.is_floating_point() and not found.is_complex() and found.dtype != torch.bool
    return found if whole and found.shape == outputs.shape[:1] else None
