"""Data in an ``.npz`` file: arrays ``images`` or ``x``, and ``labels`` or ``y``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnpipe.commands.command import UsageError
from snnpipe.commands.samples import Reading, Samples
from snnpipe.exchange.tensor_file import reason

IMAGES, LABELS = ("images", "x"), ("labels", "y")
#: Channels of what people look at: grey, colours, and these with transparency.
_CHANNELS = (1, 3, 4)


def archive(path: str, reading: Reading) -> Samples:
    """The samples of an ``.npz`` file, with labels where it has them.

    Raises:
        UsageError: it is none, or has no such arrays, or more than one of a kind.
    """
    arrays = _arrays(path)
    name, labelled = _one(arrays, IMAGES, path), _one(arrays, LABELS, path)
    if not name:
        there = ", ".join(arrays) or "none"
        raise UsageError(
            f"{path} has no array images or x, it has {there}; write np.savez({path!r}, images=..., labels=...)"
        )
    x = _channels_first(_tensor(arrays[name], f"{path}: {name}"), reading.layout, f"{path}: {name}")
    y = _labels(arrays[labelled], len(x), f"{path}: {labelled}") if labelled else None

    def take(indices: list[int]) -> Any:
        inputs = reading.inputs(x[indices], f"{path}: {name}")
        return inputs if y is None else (inputs, y[indices])

    return reading.batches(len(x), take)


def _arrays(path: str) -> dict[str, Any]:
    try:
        import numpy as np
    except ImportError as error:
        raise UsageError(f"{path}: .npz files need numpy: pip install numpy") from error
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] if name in IMAGES + LABELS else None for name in file.files}
    except Exception as error:  # of zip files, of pickles in them, of arrays
        raise UsageError(f"{path} is no .npz file of plain arrays: {reason(error)}") from error


def _one(arrays: dict[str, Any], names: tuple[str, str], path: str) -> str:
    present = [name for name in names if name in arrays]
    if len(present) > 1:
        raise UsageError(f"{path} has both {present[0]} and {present[1]}; leave one out")
    return present[0] if present else ""


def _tensor(array: Any, what: str) -> Tensor:
    try:
        x = torch.as_tensor(array)
    except TypeError as error:
        raise UsageError(f"{what} is of type {array.dtype}, which is no tensor's") from error
    if not x.ndim or not x.numel():
        raise UsageError(f"{what} is empty: of shape {tuple(x.shape)}")
    return x


def _labels(array: Any, count: int, what: str) -> Tensor:
    y = _tensor(array, what)
    if y.ndim != 1 or len(y) != count or y.is_floating_point() or y.dtype == torch.bool:
        raise UsageError(f"{what} must be {count} whole numbers, is {str(y.dtype)[6:]} of shape {tuple(y.shape)}")
    return y.long()


def _channels_first(x: Tensor, layout: str, what: str) -> Tensor:
    """(N, C, H, W), from (N, H, W, C) where the layout or else the shape says so; other ranks as they are."""
    if x.ndim != 4:
        if layout:
            raise UsageError(f"{what} is of shape {tuple(x.shape)}; --layout is for four axes")
        return x
    first, last = x.shape[1] in _CHANNELS, x.shape[3] in _CHANNELS
    if not layout and first == last:
        raise UsageError(f"{what} of shape {tuple(x.shape)} may be NCHW or NHWC; say --layout nchw or --layout nhwc")
    return x.permute(0, 3, 1, 2) if layout == "nhwc" or (not layout and last) else x
