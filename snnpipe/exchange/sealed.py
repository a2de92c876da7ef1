"""Files of plain tensors and numbers, with a seal that tells whether they are undamaged.

A sealed file is what ``torch.save`` writes and one more line, a hash of all that stands before it; ``torch.load`` reads
it, too.  Knows files; what they hold is the caller's business.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from typing import Any, BinaryIO

import torch

from snnpipe.errors import SnnpipeError
from snnpipe.exchange.atomic import write_atomically

_NAME = b"\nsnnpipe blake2b "
_SEAL = len(_NAME) + 64 + 1  # bytes: the name, 64 hexadecimal digits, the end of the line
_ARCHIVE = b"PK\x03\x04"  # what torch.save writes is a zip archive
_PIECE = 2**20  # bytes read at a time


def write_sealed(content: Any, path: str) -> None:
    """Write tensors, numbers, texts, and dictionaries and lists of them, whole or not at all.

    Raises:
        SnnpipeError: the file cannot be written; names it.
    """

    def write(file: BinaryIO) -> None:
        torch.save(content, file)
        size = file.seek(0, os.SEEK_END)
        file.write(_seal(file, size))

    try:
        write_atomically(path, write)
    except (OSError, ValueError, RuntimeError) as error:  # torch.save: RuntimeError where the disk is full
        raise SnnpipeError(f"{path} cannot be written: {_reason(error)}") from error


def read_sealed(path: str) -> tuple[Any, bool]:
    """What a file holds, on the CPU, and whether it has a seal.  No code that a file may hold is run.

    Raises:
        SnnpipeError: there is no such file, it cannot be read, it is damaged, or it is of another kind; names it.
    """
    try:
        if not os.path.isfile(path):
            raise SnnpipeError(f"{path} is not a file" if os.path.exists(path) else f"there is no file {path}")
        with open(path, "rb") as file:
            if file.read(len(_ARCHIVE)) != _ARCHIVE:
                raise SnnpipeError(f"{path} is damaged, or was written by something else")
            sealed = _is_sealed(file, path)
    except (OSError, ValueError) as error:
        if isinstance(error, SnnpipeError):
            raise
        raise SnnpipeError(f"{path} cannot be read: {_reason(error)}") from error
    try:
        if not sealed:
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True), sealed
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


def _reason(error: Exception) -> str:
    known = error.__context__ if isinstance(error, RuntimeError) else error  # torch wraps what the file said
    return getattr(known, "strerror", None) or str(error).partition("\n")[0]
