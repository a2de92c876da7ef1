"""Where a line runs: the device that models, networks and examples are moved to; data follow the model."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from snnpipe.checks import RefusalError
from snnpipe.commands.parser import Parser
from snnpipe.errors import SnnpipeError
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.recipe import Converted
from snnpipe.stages.batches import usable
from snnpipe.state import ConversionState


def device_option(parser: Parser) -> None:
    """The option ``--device``."""
    about = "where to run: cpu, cuda, cuda:1, mps (where the model is)"
    parser.add_argument("--device", type=_device, metavar="NAME", help=about)


def _device(text: str) -> torch.device:
    try:
        return usable(text)
    except RefusalError as error:
        raise ArgumentTypeError(str(error)) from error


def moved(thing: Any, given: Namespace) -> Any:
    """A model, a state, a network, an answer of a recipe, a program or a tree of tensors where the line says."""
    device = getattr(given, "device", None)
    if device is None:
        return thing
    if isinstance(thing, nn.Module):
        return thing.to(device)
    if isinstance(thing, Converted):
        return attrs.evolve(thing, snn=thing.snn.to(device))
    if isinstance(thing, ConversionState):
        params = {key: tensor.to(device) for key, tensor in thing.params.items()}
        return thing.evolve(params=params, made=thing.made)
    if isinstance(thing, ExportedProgram):
        return _program(thing, device)
    return zip_leaves(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, thing)


def _program(program: ExportedProgram, device: torch.device) -> ExportedProgram:
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError as error:
        raise SnnpipeError("--device: this torch cannot move a program; export it on that device") from error
    return move_to_device_pass(program, device)
