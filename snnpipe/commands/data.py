"""What a line names as data: ``module:factory``, an ``.npz`` file or a folder of images."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnpipe.commands.archives import archive
from snnpipe.commands.command import UsageError
from snnpipe.commands.devices import moved
from snnpipe.commands.folders import folder
from snnpipe.commands.own import made
from snnpipe.commands.parser import Parser, nearest, several, whole, word
from snnpipe.commands.samples import Anew, Reading, Watched
from snnpipe.containers import tensors
from snnpipe.frozen import map_leaves
from snnpipe.graph import Graph
from snnpipe.runtime.batches import arguments
from snnpipe.text import shown

#: Samples of an example.
FEW = 8


def data_options(parser: Parser, *, required: bool = False, shape: bool = False) -> None:
    """The options that say which data, and how to read them."""
    about = "module:factory of a loader, an .npz file (images or x, labels or y), or a folder with one folder per class"
    parser.add_argument("--data", required=required, help=about)
    if shape:
        about = "of an example of random numbers in place of --data, such as 2,3,32,32; the first is the batch"
        parser.add_argument("--shape", type=several(whole(1), "whole numbers"), help=about)
    parser.add_argument("--batch-size", type=whole(1), help="of files (128)")
    parser.add_argument("--samples", type=whole(1), help="take so many samples of the file, evenly spread (all)")
    parser.add_argument("--layout", type=word("nchw", "nhwc"), help="of images in an .npz file")
    about = "bytes: unit, divided by 255 (of folders the default); raw, left as they are"
    parser.add_argument("--pixels", type=word("unit", "raw"), help=about)
    numbers = several(float, "numbers")
    parser.add_argument("--mean", type=numbers, default=(), help="subtracted from each channel: 0.485,0.456,0.406")
    parser.add_argument("--std", type=numbers, default=(), help="then divided by: 0.229,0.224,0.225")


def batches(given: Namespace) -> Iterable[Any] | None:
    """The data of a line, readable as often as one likes; ``None`` where none were named.

    Raises:
        UsageError: they are not there, or are something else.
    """
    return None if given.data is None else batches_of(given.data, given)


def batches_of(text: str, given: Namespace) -> Iterable[Any]:
    """The data that a text names, read as the line says."""
    return Watched(_batches(text, given), given.progress)


def required_batches(given: Namespace) -> Iterable[Any]:
    """The data of a line that must name some."""
    return batches(given) or ()


def labelled(batches: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Batches with labels, as ``sweep`` and ``suggest`` take them."""
    found = list(batches)
    if not all(isinstance(batch, tuple | list) and len(batch) == 2 for batch in found):
        raise UsageError("accuracy is measured on batches (x, labels); these data have no labels")
    return [(x, labels) for x, labels in found]


def _batches(text: str, given: Namespace) -> Iterable[Any]:
    if any(std == 0 for std in given.std):
        raise UsageError("--std: nothing can be divided by 0")
    reading = Reading(
        given.batch_size or 128, given.samples, given.layout or "", given.pixels or "", given.mean, given.std
    )
    if os.path.isdir(text):
        return folder(text, reading)
    if os.path.isfile(text) and text.lower().endswith(".npz"):
        return archive(text, reading)
    if os.path.exists(text) or ":" not in text:
        there = nearest(text, map(str, sorted(Path().glob("*.npz"))))
        why = "is neither a folder nor an .npz file" if os.path.exists(text) else f"is not there{there}"
        raise UsageError(f"--data: {text} {why} (data are module:factory, an .npz file or a folder of images)")
    options = ("batch_size", "samples", "layout", "pixels", "mean", "std")
    wrong = [f"--{name.replace('_', '-')}" for name in options if getattr(given, name)]
    if wrong:
        raise UsageError(f"{', '.join(wrong)}: for files and folders; {text} is a loader, which decides this itself")
    return _loader(text)


def _loader(text: str) -> Iterable[Any]:
    loader = made(text)
    if isinstance(loader, Tensor):
        raise UsageError(f"{text} gives one tensor; give a list of batches: [x] or [(x, labels)]")
    if isinstance(loader, dict | str) or not isinstance(loader, Iterable):
        raise UsageError(f"{text} gives {shown(loader)}, and should give a loader: batches, or (batch, labels)")
    return Anew(lambda: made(text)) if isinstance(loader, Iterator) else loader


def example(given: Namespace, graph: Graph) -> tuple[Any, ...]:
    """The inputs of a graph for a few samples: of the data, or random ones of a shape.

    Raises:
        UsageError: the line says neither.
    """
    if given.shape:
        return (moved(shaped(given), given),)
    found = batches(given)
    if found is None:
        raise UsageError("an example of the input is needed: say --data, or --shape such as 2,3,32,32")
    first = arguments(first_of(found), graph, called=given.command, number=0)
    count = next((leaf.shape[0] for leaf in tensors(first) if leaf.ndim), 0)

    def few(leaf: Any) -> Any:
        return leaf[:FEW] if isinstance(leaf, Tensor) and leaf.shape[:1] == (count,) else leaf

    return tuple(moved(map_leaves(few, each), given) for each in first)


def shaped(given: Namespace) -> Tensor:
    """Random numbers from 0 to 1, the same every time, of the shape a line says."""
    if given.data:
        raise UsageError("say --data or --shape, not both")
    return torch.rand(given.shape, generator=torch.Generator().manual_seed(0))


def first_of(found: Iterable[Any]) -> Any:
    """The first batch.

    Raises:
        UsageError: there is none.
    """
    for batch in found:
        return batch
    raise UsageError("--data: there is no batch in it")
