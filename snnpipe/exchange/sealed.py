"""Files of plain values: tensors, numbers, texts, and dictionaries and lists of them.

They are written like conversions (``exchange.tensor_file``).  Those of earlier versions, zip archives of ``torch.save``
and one more line, a hash of all that stands before it, are read as they are.  What they hold is the caller's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from typing import Any, BinaryIO

import torch

from snnpipe.errors import SnnpipeError
from snnpipe.exchange.tensor_file import open_tensors, reading, write_tensors
from snnpipe.exchange.values import Writer
from snnpipe.exchange.values_read import Reader
from snnpipe.frozen import EMPTY

_NAME = b"\nsnnpipe blake2b "
_SEAL = len(_NAME) + 64 + 1  # bytes: the name, 64 hexadecimal digits, the end of the line
_ARCHIVE = b"PK\x03\x04"  # what torch.save writes is a zip archive
_PIECE = 2**20  # bytes read at a time


def write_sealed(content: Any, path: str) -> None:
    """Write tensors, numbers, texts, and dictionaries and lists of them, whole or not at all.

    Raises:
        SnnpipeError: the file cannot be written; names it.
    """
    writer = Writer()
    write_tensors(path, writer.tensors, json.dumps(writer(content, ""), allow_nan=False))


def read_sealed(path: str) -> tuple[Any, bool]:
    """What a file holds, on the CPU, and whether it has a seal.  No code that a file may hold is run.

    Raises:
        SnnpipeError: there is no such file, it cannot be read, it is damaged, or it is of another kind; names it.
    """
    with reading(path), open(path, "rb") as file:
        archive = file.read(len(_ARCHIVE)) == _ARCHIVE
        sealed = archive and _is_sealed(file, path)
    try:
        if not archive:
            found = open_tensors(path)
            said = json.loads(found.text)
            if isinstance(said, dict) and "thing" in said:
                raise SnnpipeError(f"{path} holds a conversion; write snnpipe.load(path)")
            return Reader(found.tensors(), EMPTY)(said), True
        if not sealed:
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True), sealed
    except SnnpipeError:
        raise
    except Exception as error:
        reason = f"it holds more than tensors and numbers, or is damaged ({type(error).__name__})"
        raise SnnpipeError(f"{path} cannot be read: {reason}") from error


def _is_sealed(file: BinaryIO, path: str) -> bool:
    size = file.seek(0, os.SEEK_END) - _SEAL
    if size < 0:
        return False
    file.seek(size)
    found = file.read()
    if not found.startswith(_NAME):
        return False
    if found != _seal(file, size):
        raise SnnpipeError(f"{path} is damaged: its content is not what its checksum says")
    return True


def _check_archive(path: str) -> None:
    """A zip archive has a checksum of each of its parts, which ``torch.load`` does not look at."""
    with zipfile.ZipFile(path) as archive:
        if part := archive.testzip():
            raise zipfile.BadZipFile(part)


def _seal(file: BinaryIO, size: int) -> bytes:
    """The line that belongs behind the first ``size`` bytes."""
    content = hashlib.blake2b(digest_size=32)
    file.seek(0)
    while size > 0 and (piece := file.read(min(size, _PIECE))):
        content.update(piece)
        size -= len(piece)
    return _NAME + content.hexdigest().encode() + b"\n"
