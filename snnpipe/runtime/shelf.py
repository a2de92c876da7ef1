"""Where values wait for their turn: in memory up to a budget, beyond that in files.

Knows tensors and trees of them; nothing of networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.errors import CalibrationError
from snnpipe.kernels.temporal import zip_leaves

#: Bytes of values that wait in memory, unless a stage is told otherwise.
WAITING = 2**29
#: What is not worth a file, bytes.
_SMALL = 2**12


class Shelf:
    """A place for values, to the bit as they were put there.

    Files are in a folder of their own, where Python makes temporary ones (``TMPDIR``); a value's file goes with the
    last that refers to it, the folder at the end of the ``with`` block.

    Args:
        budget: bytes of values that may wait in memory.

    >>> with Shelf(budget=2**15) as shelf:
    ...     kept = [shelf.keep(torch.full((2**13,), float(k))) for k in range(3)]
    ...     [k.value[0].item() for k in kept], shelf.room, shelf.written
    ([0.0, 1.0, 2.0], 0, 2)
    """

    def __init__(self, budget: int) -> None:
        self.room, self.written = budget, 0
        self._folder: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Shelf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def keep(self, value: Any) -> Kept:
        """Put a value away."""
        return Kept(self, value)

    def file(self, leaf: Tensor) -> _Filed:
        """Write a tensor to a new file."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="snnpipe-", ignore_cleanup_errors=True)
        self.written += 1
        path = Path(self._folder.name) / str(self.written)
        try:
            torch.save(leaf.cpu(), path)
        except (OSError, RuntimeError) as error:
            raise CalibrationError(
                f"{path.parent} has no room for {_bytes(leaf)} bytes more of what waits there: {error}; give a larger "
                "budget=..., fewer samples, or another folder for temporary files by the variable TMPDIR"
            ) from error
        return _Filed(path, leaf.device)


class Kept:
    """A value that waits.

    Attributes:
        value: it, read anew each time if it is on disk.
    """

    def __init__(self, shelf: Shelf, value: Any) -> None:
        self._shelf, self._files = shelf, list[_Filed]()
        value = zip_leaves(_alone, value)
        size = sum(map(_bytes, tensors(value)))
        stays = size <= max(shelf.room, _SMALL)
        self._size = size if stays else 0
        shelf.room -= self._size
        self._value = value if stays else zip_leaves(self._filed, value)

    @property
    def value(self) -> Any:
        return zip_leaves(lambda leaf: leaf.read() if isinstance(leaf, _Filed) else leaf, self._value)

    def _filed(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        self._files.append(self._shelf.file(leaf))
        return self._files[-1]

    def __del__(self) -> None:
        self._shelf.room += self._size
        for filed in self._files:
            with suppress(OSError):  # gone with its folder, or still open where files in use must stay
                filed.path.unlink()


@attrs.frozen
class Row:
    """Values that wait, to be gone through one at a time and as often as need be."""

    kept: Sequence[Kept]

    def __iter__(self) -> Iterator[Any]:
        return (kept.value for kept in self.kept)


class _Filed:
    """A tensor in a file."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device

    def read(self) -> Tensor:
        found: Tensor = torch.load(self.path, weights_only=True, mmap=True)
        return found.to(self.device)


def _alone(leaf: Any) -> Any:
    """A tensor in memory of its own: one that is part of a larger one would keep all of that."""
    if not isinstance(leaf, Tensor) or leaf.layout is not torch.strided:
        return leaf
    return leaf if leaf.untyped_storage().nbytes() <= leaf.numel() * leaf.element_size() else leaf.clone()


def _bytes(leaf: Tensor) -> int:
    """What a tensor takes; one that repeats itself takes less than its elements."""
    elements = leaf.numel() * leaf.element_size()
    return min(elements, leaf.untyped_storage().nbytes()) if leaf.layout is torch.strided else elements
