"""Any value as JSON has it: records as tables of their fields."""

from __future__ import annotations

import enum
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.text import written


def plain(value: Any) -> Any:
    """A value of strings, numbers, lists and tables alone; what JSON has no word for is its text.

    >>> plain({"T": (1, 2), "error": float("nan"), "dtype": torch.float32})
    {'T': [1, 2], 'error': None, 'dtype': 'float32'}
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return fields(value) if attrs.has(type(value)) else written(value)


def fields(record: Any) -> dict[str, Any]:
    """The fields of a record by name, but for what is there to be drawn."""
    shown = [field.name for field in attrs.fields(type(record)) if not field.metadata.get("drawn")]
    return {name: plain(getattr(record, name)) for name in shown}


def as_table(value: Any) -> dict[str, Any]:
    """A value as a table: that of its fields, or with itself as ``answer``."""
    return fields(value) if attrs.has(type(value)) else {"answer": value}


def as_json(data: Mapping[str, Any]) -> str:
    """A table as the text of a JSON object."""
    return json.dumps(plain(data), indent=2, allow_nan=False, ensure_ascii=False)
