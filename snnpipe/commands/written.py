"""Writing what others write to a path: whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from snnpipe.errors import SnnpipeError
from snnpipe.exchange.atomic import write_atomically
from snnpipe.exchange.tensor_file import reason


def written(path: Path, write: Callable[[str], object]) -> int:
    """Let ``write(path)`` write a file elsewhere and put it in place when it is done; its size in bytes.

    Raises:
        SnnpipeError: it cannot be written, or is more than one file.
    """
    with tempfile.TemporaryDirectory(prefix="snnpipe-") as folder:
        there = os.path.join(folder, path.name)
        write(there)
        if os.listdir(folder) != [path.name]:
            raise SnnpipeError(f"{path} would be several files: {', '.join(sorted(os.listdir(folder)))}")
        try:
            with open(there, "rb") as file:
                write_atomically(str(path), lambda target: shutil.copyfileobj(file, target))
        except OSError as error:
            raise SnnpipeError(f"{path} cannot be written: {reason(error)}") from error
        return os.path.getsize(there)
