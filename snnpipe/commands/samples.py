"""Samples in batches, and how numbers of pixels become the inputs of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import torch
from toolz import partition_all
from torch import Tensor
from tqdm import tqdm

from snnpipe.commands.command import UsageError


@attrs.frozen
class Reading:
    """How files become batches.

    Attributes:
        batch: samples in a batch.
        samples: how many, evenly spread over all there are; ``None`` for all.
        layout: ``"nchw"``, ``"nhwc"``, or "" for what the shape says.
        pixels: ``"unit"``, bytes are divided by 255; ``"raw"``, they stay bytes; or "".
        mean, std: of each channel, subtracted and divided by.
    """

    batch: int
    samples: int | None
    layout: str
    pixels: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def batches(self, count: int, take: Callable[[list[int]], Any]) -> Samples:
        """``count`` samples, read by ``take(indices)``; some of them are spread, for files are sorted by class."""
        wanted = count if self.samples is None else min(self.samples, count)
        chosen = [k * count // wanted for k in range(wanted)]
        return Samples(tuple(map(list, partition_all(self.batch, chosen))), take)

    def inputs(self, x: Tensor, what: str) -> Tensor:
        """Pixels (B, C, ...) as a network takes them: ``(x / 255 - mean) / std``.

        Raises:
            UsageError: they are bytes that nobody said how to read, or floats that are to be divided.
        """
        if x.dtype == torch.float64:
            x = x.float()
        if x.dtype == torch.uint8 and not self.pixels:
            raise UsageError(
                f"{what} holds bytes; say --pixels unit (divided by 255, as by torchvision's ToTensor) or --pixels raw"
            )
        if x.dtype != torch.uint8 and self.pixels:
            raise UsageError(f"{what} holds {str(x.dtype)[6:]}, no bytes; leave out --pixels")
        x = x.float() / 255 if self.pixels == "unit" else x
        if not self.mean and not self.std:
            return x
        if not x.is_floating_point():
            raise UsageError(f"{what} holds {str(x.dtype)[6:]}, which --mean and --std cannot scale; say --pixels unit")
        return (x - self._channels(x, self.mean or (0.0,), "--mean")) / self._channels(x, self.std or (1.0,), "--std")

    def _channels(self, x: Tensor, numbers: tuple[float, ...], option: str) -> Tensor:
        channels = x.shape[1] if x.ndim > 1 else 1
        if len(numbers) not in (1, channels):
            raise UsageError(f"{option} has {len(numbers)} numbers, the data {channels} channels")
        return torch.tensor(numbers).view(1, -1, *[1] * (x.ndim - 2))


@attrs.frozen(eq=False)
class Samples:
    """Batches that are read when they are wanted, as often as they are."""

    indices: tuple[list[int], ...]
    take: Callable[[list[int]], Any]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        return map(self.take, self.indices)


@attrs.frozen(eq=False)
class Anew:
    """Batches of a generator function, which is called anew for each pass."""

    factory: Callable[[], Iterable[Any]]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.factory())


@attrs.frozen(eq=False)
class Watched:
    """Batches with a progress bar on stderr."""

    batches: Iterable[Any]
    shown: bool

    def __iter__(self) -> Iterator[Any]:
        return iter(tqdm(self.batches, "data", leave=False, disable=not self.shown))
