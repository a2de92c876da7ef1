"""What a line names to work on: a model from ``module:factory``, or what a file holds."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from snnpipe.commands.command import UsageError
from snnpipe.commands.devices import moved
from snnpipe.commands.own import made, own_option, owned
from snnpipe.commands.parser import Parser, nearest
from snnpipe.errors import SnnpipeError
from snnpipe.exchange.files import load
from snnpipe.exchange.nir.from_nir import from_nir
from snnpipe.exchange.nir.to_nir import required
from snnpipe.exchange.tensor_file import reason
from snnpipe.frontend.quiet import silenced
from snnpipe.frozen import FrozenMap
from snnpipe.recipe import Converted
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.state import ConversionState
from snnpipe.text import shown

Own = Mapping[str, Any]


def _program(path: str, own: Own) -> ExportedProgram:
    with silenced():
        return torch.export.load(path)


def _nir(path: str, own: Own) -> ConversionState:
    graph: Any = required().read(path)
    return from_nir(graph)


#: What reads a file, by its ending.
READERS: FrozenMap[str, Callable[[str, Own], Any]] = FrozenMap({
    ".safetensors": lambda path, own: load(path, own=own), ".pt2": _program, ".nir": _nir,
})  # fmt: skip
_KINDS = nn.Module, ExportedProgram, ConversionState, SpikingNetwork, Converted


def subject_argument(parser: Parser, name: str = "model") -> None:
    """The argument of what to work on, and ``--own``."""
    about = "module:factory (of this folder or installed), or a saved file: .safetensors, .pt2 or .nir"
    parser.add_argument(name, metavar=name.upper(), help=about)
    own_option(parser)


def subject(text: str, given: Namespace) -> Any:
    """A model, a state, a network or what a recipe gave.

    Raises:
        UsageError: it is not there, or is something else.
    """
    factory = ":" in text and not os.path.exists(text) and Path(text).suffix not in READERS
    thing = made(text) if factory else read(text, owned(dict(given.own)))
    if not isinstance(thing, _KINDS):
        raise UsageError(f"{text} gives {shown(thing)}, no torch.nn.Module and nothing that snnpipe made of one")
    return moved(thing, given)


def read(text: str, own: Own) -> Any:
    """What a file holds.

    Raises:
        UsageError: there is no such file, or nothing reads it.
    """
    path = Path(text)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        there = [str(each) for each in sorted(folder.iterdir()) if each.suffix in READERS]
        raise UsageError(f"there is no file {text}{nearest(text, there)} (a model of your own is module:factory)")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{text}: nothing reads files that end in {path.suffix or 'nothing'}, but {', '.join(READERS)}; of weights "
            "(.pt, .pth) write a factory that makes the model and loads them, and give module:factory"
        )
    try:
        return reader(text, own)
    except SnnpipeError as error:
        raise UsageError(str(error)) from error
    except Exception as error:  # of torch's, nir's and h5py's readers
        raise UsageError(f"{text} cannot be read: {type(error).__name__}: {reason(error)}") from error


def network(text: str, given: Namespace) -> SpikingNetwork | Converted:
    """A converted network, or what a recipe gave.

    Raises:
        UsageError: it is something else.
    """
    thing = subject(text, given)
    if isinstance(thing, SpikingNetwork | Converted):
        return thing
    raise UsageError(f"{text} is {shown(thing)}, not converted; first: snnpipe convert {text} --out snn.safetensors")


def spiking(thing: SpikingNetwork | Converted) -> SpikingNetwork:
    """The network."""
    return thing.snn if isinstance(thing, Converted) else thing
