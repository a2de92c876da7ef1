"""``snnpipe export``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch

from snnpipe.commands.command import Answer, Command, UsageError
from snnpipe.commands.data import data_options, example
from snnpipe.commands.parser import Parser, new_file, word
from snnpipe.commands.runs import run_of, run_options
from snnpipe.commands.subjects import network, spiking, subject_argument
from snnpipe.commands.written import written
from snnpipe.errors import UnsupportedError
from snnpipe.exchange.nir.profiles import PROFILES
from snnpipe.exchange.nir.to_nir import required, to_nir
from snnpipe.exchange.onnx_file import to_onnx
from snnpipe.exchange.programs import to_exported
from snnpipe.frontend.quiet import silenced
from snnpipe.frozen import FrozenMap


def _program(thing: Any, x: Any, given: Namespace) -> Any:
    run = run_of(thing, given)
    if run.delay:
        raise UnsupportedError(
            f"its readout leaves out {run.delay} first steps, which a program cannot; convert by a recipe without delay"
        )
    return to_exported(spiking(thing), x, T=run.T, schedule=run.schedule)


def _pt2(thing: Any, x: Any, given: Namespace) -> Callable[[str], object]:
    program = _program(thing, x, given)

    def write(path: str) -> None:
        with silenced():
            torch.export.save(program, path)

    return write


def _onnx(thing: Any, x: Any, given: Namespace) -> Callable[[str], object]:
    program = _program(thing, x, given)
    return lambda path: to_onnx(program, path)


def _nir(thing: Any, x: Any, given: Namespace) -> Callable[[str], object]:
    if given.T is not None or given.schedule is not None:
        raise UsageError("a NIR graph is one step; leave out --T and --schedule")
    nir, graph = required(), to_nir(spiking(thing), x, profile=given.profile)
    return lambda path: nir.write(path, graph)


#: What makes a network ready to be written, by the file's ending.
WRITERS: FrozenMap[str, Callable[[Any, Any, Namespace], Callable[[str], object]]] = FrozenMap({
    ".pt2": _pt2, ".onnx": _onnx, ".nir": _nir,
})  # fmt: skip


def _arguments(parser: Parser) -> None:
    subject_argument(parser, "file")
    parser.add_argument("--out", type=new_file(*WRITERS), required=True, help=f"where to: {', '.join(WRITERS)}")
    run_options(parser)
    parser.add_argument("--profile", type=word(*PROFILES), default="exact", help="of NIR graphs (%(default)s)")
    data_options(parser, shape=True)


def _run(given: Namespace) -> Answer:
    thing = network(given.file, given)
    write = WRITERS[given.out.suffix.lower()](thing, example(given, spiking(thing).graph), given)
    size = written(given.out, write)
    return Answer(f"{given.out}: {size} bytes", {"file": given.out, "bytes": size})


EXPORT = Command(
    "export",
    "write a network for torch.export, ONNX or NIR, by the file's ending",
    (
        "snnpipe export snn.safetensors --T 16 --shape 2,1,28,28 --out snn.pt2",
        "snnpipe export snn.safetensors --T 16 --data test.npz --out snn.onnx",
        "snnpipe export snn.safetensors --shape 2,1,28,28 --profile hardware --out snn.nir",
    ),
    _arguments,
    _run,
)
