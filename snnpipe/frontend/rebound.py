"""Functions taken apart and put together again around other values."""

from __future__ import annotations

import dis
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_LIBRARIES = tuple(
    {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    | {str(Path(torch.__file__).parents[1]), str(Path(__file__).parents[1])}
)


def is_user_code(function: types.FunctionType) -> bool:
    """Whether a function was written by the user: in no installed package."""
    return not function.__code__.co_filename.startswith(_LIBRARIES)


def named_globals(function: types.FunctionType) -> dict[str, Any]:
    """The global variables that a function of the user's reads, by name."""
    if not is_user_code(function):
        return {}
    world = function.__globals__
    return {name: world[name] for name in _names(function.__code__) if name in world}


def _names(code: types.CodeType) -> Iterator[str]:
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def contents(function: types.FunctionType) -> list[Any]:
    """What a function refers to: in its closure, its defaults, its attributes, and by name."""
    found = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # an empty cell
            continue
    return found + list(named_globals(function).values())


def function_of(original: types.FunctionType, world: dict[str, Any], cells: tuple[Any, ...]) -> types.FunctionType:
    """The code of a function with other globals and closure cells; its defaults and attributes are left to the caller.

    >>> def add(n):
    ...     return lambda x: x + n
    >>> function_of(add(1), globals(), (types.CellType(5),))(1)
    6
    """
    twin = types.FunctionType(original.__code__, world, original.__name__, None, cells or None)
    for name in ("__qualname__", "__module__", "__doc__", "__annotations__", "__type_params__"):
        if hasattr(original, name):
            setattr(twin, name, getattr(original, name))
    return twin
