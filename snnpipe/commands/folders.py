"""Data in a folder of images, a sub-folder for each class; classes are numbered in the order of their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.commands.command import UsageError
from snnpipe.commands.samples import Reading, Samples

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
_MODES = {"L": 1, "RGB": 3}


def folder(path: str, reading: Reading) -> Samples:
    """The images below a folder, with their classes; bytes are divided by 255 unless ``--pixels`` says otherwise.

    Raises:
        UsageError: Pillow is missing, there are no images, or they differ in size or kind.
    """
    if reading.layout:
        raise UsageError(f"{path}: --layout is for .npz files; images are made channels first")
    image = _pillow(path)
    classes = sorted(each for each in Path(path).iterdir() if each.is_dir() and not each.name.startswith("."))
    files = [(file, number) for number, each in enumerate(classes) for file in _images(each)]
    if not files:
        raise UsageError(f"{path} has no images; it should hold a folder for each class: {path}/cat/1.png")
    reading = attrs.evolve(reading, pixels=reading.pixels or "unit")
    first = files[0][0]
    like = _shape(_pixels(image, first))

    def take(indices: list[int]) -> Any:
        found = []
        for index in indices:
            found.append(_pixels(image, files[index][0]))
            if _shape(found[-1]) != like:
                raise UsageError(
                    f"{files[index][0]} is {_shape(found[-1])}, {first} is {like}; make all images alike, or give "
                    "module:factory, a loader that resizes them"
                )
        y = torch.tensor([files[index][1] for index in indices])
        return reading.inputs(torch.stack(found), path), y

    return reading.batches(len(files), take)


def _pillow(path: str) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(f"{path}: folders of images need Pillow: pip install pillow") from error
    return Image


def _images(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
    if not found and any(each.is_dir() for each in folder.iterdir()):
        raise UsageError(f"{folder} holds folders and no images; should it be --data {folder}?")
    if not found:
        raise UsageError(f"{folder} has no images ({', '.join(ENDINGS)}), so its class has none; take it away")
    return found


def _pixels(image: Any, file: Path) -> Tensor:
    """Bytes (C, H, W)."""
    try:
        with image.open(file) as opened:
            mode, (width, height), content = opened.mode, opened.size, bytearray(opened.tobytes())
    except Exception as error:  # of the readers of all those formats
        raise UsageError(f"{file} cannot be read: {error}") from error
    if mode not in _MODES:
        raise UsageError(f"{file} is of mode {mode}, known are grey (L) and RGB; save it so, or give module:factory")
    return torch.frombuffer(content, dtype=torch.uint8).view(height, width, _MODES[mode]).permute(2, 0, 1)


def _shape(pixels: Tensor) -> str:
    return " x ".join(map(str, pixels.shape))
