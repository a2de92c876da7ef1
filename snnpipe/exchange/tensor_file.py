"""Tensors under their names and a text beside them, in a safetensors file with a seal.

The format is that of https://github.com/huggingface/safetensors: the length of a header in eight bytes, the header in
JSON, the tensors one after the other.  The seal, in the header, is a hash of all other bytes.  A file is read, not
mapped: one that is changed while it is read is damaged, and ends no process.

Knows files and tensors; what the text says is the caller's business.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

import attrs
import torch
from torch import Tensor

from snnpipe.errors import SnnpipeError
from snnpipe.exchange.atomic import write_atomically
from snnpipe.frozen import FrozenMap

#: The types of numbers that safetensors knows, by its names.
DTYPES: FrozenMap[str, torch.dtype] = FrozenMap(
    F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16, F8_E4M3=torch.float8_e4m3fn,
    F8_E5M2=torch.float8_e5m2, I64=torch.int64, I32=torch.int32, I16=torch.int16, I8=torch.int8, U64=torch.uint64,
    U32=torch.uint32, U16=torch.uint16, U8=torch.uint8, BOOL=torch.bool,
)  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

#: The name that no tensor can have.
METADATA = "__metadata__"
_SEALED = 64  # hexadecimal digits
_BEFORE = f'{{"{METADATA}":{{"seal":"'.encode()
_MOST_HEADER = 100_000_000  # bytes, safetensors' own limit
_PIECE = 2**20  # bytes read at a time


def write_tensors(path: str, tensors: Mapping[str, Tensor], text: str) -> None:
    """Write contiguous tensors of ``DTYPES`` on the CPU, and a text, whole or not at all.

    Raises:
        SnnpipeError: the file cannot be written; names it.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # so that each is aligned
    table, end = dict[str, Any](), 0
    for name, tensor in ordered.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        table[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    metadata = {METADATA: {"seal": "0" * _SEALED, "format": "pt", "snnpipe": text}}
    header = json.dumps(metadata | table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _MOST_HEADER:
        raise SnnpipeError(f"{path} cannot be written: its header would be longer than {_MOST_HEADER} bytes")

    def write(file: BinaryIO) -> None:
        content = hashlib.blake2b(digest_size=_SEALED // 2)
        pieces: list[bytes | memoryview] = [len(header).to_bytes(8, "little"), header]
        for piece in (*pieces, *map(_memory, ordered.values())):
            content.update(piece)
            file.write(piece)
        file.seek(8 + len(_BEFORE))
        file.write(content.hexdigest().encode())

    try:
        write_atomically(path, write)
    except (OSError, ValueError) as error:
        raise SnnpipeError(f"{path} cannot be written: {reason(error)}") from error


@attrs.frozen
class Entry:
    """Where a tensor lies in a file, and what it is."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@attrs.frozen
class TensorFile:
    """A file whose structure and seal were found to be right; its tensors are not read yet.

    Attributes:
        path: where it is.
        text: what stands beside the tensors.
        table: the tensors.
        start: where they begin.
    """

    path: str
    text: str
    table: FrozenMap[str, Entry]
    start: int

    def empty(self) -> dict[str, Tensor]:
        """The tensors without their numbers, on the meta device."""
        return {name: torch.empty(e.shape, dtype=e.dtype, device="meta") for name, e in self.table.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, on the CPU."""
        with reading(self.path), open(self.path, "rb") as file:
            return {name: self._read(file, entry) for name, entry in self.table.items()}

    def _read(self, file: BinaryIO, entry: Entry) -> Tensor:
        made = torch.empty(entry.shape, dtype=entry.dtype)
        file.seek(self.start + entry.begin)
        if entry.end > entry.begin and file.readinto(_memory(made)) != entry.end - entry.begin:  # type: ignore[attr-defined]
            raise OSError("it ended while it was read")
        return made


def open_tensors(path: str) -> TensorFile:
    """A file of tensors, after all that can be wrong with it was looked for; nothing is allocated for its tensors.

    Raises:
        SnnpipeError: there is no such file, it cannot be read, it is damaged or of another kind; names it.
    """
    with reading(path), open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _MOST_HEADER):
            raise SnnpipeError(f"{path} is damaged, or was written by something else: it is no safetensors file")
        raw = file.read(length)
        header = _parsed(raw, path)
        text, table = _text(header.pop(METADATA, None), raw, path), _table(header, path)
        missing = 8 + length + max((entry.end for entry in table.values()), default=0) - size
        if missing:
            words = f"{missing} bytes are missing" if missing > 0 else f"{-missing} bytes follow its end"
            raise SnnpipeError(f"{path} is damaged: {words}")
        if _hash(file, length) != raw[len(_BEFORE) : len(_BEFORE) + _SEALED]:
            raise SnnpipeError(f"{path} is damaged: its content is not what its checksum says")
    return TensorFile(path, text, FrozenMap(table), 8 + length)


def _parsed(raw: bytes, path: str) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise SnnpipeError(f"{path} is damaged, or was written by something else: {reason(error)}") from error
    if not isinstance(header, dict):
        raise SnnpipeError(f"{path} is damaged: its header is no table")
    return header


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def _text(metadata: Any, raw: bytes, path: str) -> str:
    if not isinstance(metadata, dict) or not isinstance(metadata.get("snnpipe"), str):
        raise SnnpipeError(f"{path} was not written by snnpipe, or by something else since")
    if not raw.startswith(_BEFORE):
        raise SnnpipeError(f"{path} is damaged: its checksum is missing at its beginning")
    text: str = metadata["snnpipe"]
    return text


def _table(header: dict[str, Any], path: str) -> dict[str, Entry]:
    """The tensors of a header: each with as many bytes as its numbers take, one after the other."""
    found, end = dict[str, Entry](), 0
    for name, said in header.items():
        entry = _entry(said)
        if entry is None or entry.begin != end:
            raise SnnpipeError(f"{path} is damaged: what its header says of the tensor {name!r} cannot be")
        found[name], end = entry, entry.end
    return found


def _entry(said: Any) -> Entry | None:
    if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
        return None
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    lists = isinstance(dtype, str) and isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not lists or dtype not in DTYPES or not all(type(n) is int and 0 <= n < 2**40 for n in (*shape, *offsets)):
        return None
    entry = Entry(DTYPES[dtype], tuple(shape), *offsets)
    sizes = math.prod(max(n, 1) for n in shape) < 2**48 and len(shape) <= 64
    fits = math.prod(shape) * entry.dtype.itemsize == entry.end - entry.begin
    return entry if sizes and fits else None


def _hash(file: BinaryIO, length: int) -> bytes:
    """The seal that belongs into a file."""
    content = hashlib.blake2b(digest_size=_SEALED // 2)
    file.seek(0)
    before = file.read(8 + length)
    at = 8 + len(_BEFORE)
    content.update(before[:at] + b"0" * _SEALED + before[at + _SEALED :])
    while piece := file.read(_PIECE):
        content.update(piece)
    return content.hexdigest().encode()


def _memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, as they lie."""
    size = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B") if size else memoryview(b"")


@contextmanager
def reading(path: str) -> Iterator[None]:
    """What the file system says while a file is read, as an error that names the file."""
    try:
        if not os.path.isfile(path):
            raise SnnpipeError(f"{path} is not a file" if os.path.exists(path) else f"there is no file {path}")
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, SnnpipeError):
            raise
        raise SnnpipeError(f"{path} cannot be read: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error of the file system, or of a parser, says, in one line."""
    return getattr(error, "strerror", None) or str(error).partition("\n")[0]
