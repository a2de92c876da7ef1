"""Writing a file whole or not at all.

Knows the file system; what is written is the caller's business.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO


def write_atomically(path: str, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a new file beside ``path`` and put it in place of ``path`` when all of it is on the disk.

    Whatever happens on the way (an error, Ctrl-C, a power cut), ``path`` holds its old content or all of the new one.
    A link stays a link, and a file that is replaced keeps its permissions.

    Args:
        path: where to; its folder must exist.
        write: writes to a file that is open for reading and writing, at its beginning.

    Raises:
        OSError: the folder is missing or may not be written to, the disk is full, ``path`` is a folder or a device or
            may not be written to.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(f"{folder}/x", lambda file: file.write(b"content"))
    ...     print(os.listdir(folder), pathlib.Path(folder, "x").read_text())
    ['x'] content
    """
    target = os.path.realpath(path)
    replaced = os.path.isfile(target)
    if os.path.exists(target) and not replaced:
        raise OSError(f"{path} is not a regular file")
    if replaced and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is there already and may not be written to", path)
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".snnpipe-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if replaced:
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == temporary:
            error.filename = path  # nobody knows the other
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync(folder)


def _sync(folder: str) -> None:
    """Put the folder's list of names on the disk, where the system lets one."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
