"""A program as an ONNX file."""

from __future__ import annotations

import importlib
import os

import torch
from torch.export import ExportedProgram

from snnpipe.checks import takes
from snnpipe.errors import InputError, UnsupportedError
from snnpipe.exchange.runnable import reason
from snnpipe.frontend.quiet import silenced
from snnpipe.options import PATH, instance


@takes(InputError, program=instance(ExportedProgram, "must be an ExportedProgram", "write to_exported(snn, x, T=8)"),
       path=PATH)  # fmt: skip
def to_onnx(program: ExportedProgram, path: str | os.PathLike[str]) -> None:
    """Write a program as an ONNX file; its batch axis stays open where the program's is.

    Args:
        program: what ``to_exported`` or ``to_exported_step`` gave.
        path: where to.

    Raises:
        UnsupportedError: packages are missing, or ONNX has no word for an operator.
    """
    try:
        importlib.import_module("onnxscript")
    except ImportError:
        raise UnsupportedError("to_onnx needs onnx and onnxscript: pip install onnx onnxscript") from None
    try:
        with silenced(), torch.no_grad():
            made = torch.onnx.export(program, dynamo=True, verbose=False)
            assert made is not None
    except torch.onnx.OnnxExporterError as error:
        raise UnsupportedError(f"to_onnx: {reason(error)}") from error
    made.save(os.fspath(path))
