"""What is the user's own: ``module:name``, importable from the current folder."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from snnpipe.commands.command import UsageError
from snnpipe.commands.parser import Parser, nearest
from snnpipe.frozen import FrozenMap


@contextmanager
def importable_here() -> Iterator[None]:
    """Modules of the current folder can be imported, as with ``python -m``; afterwards all is as before."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path[:] = before


def found(text: str) -> Any:
    """What stands under ``module:name``.

    Raises:
        UsageError: it does not; says what is near.
    """
    module_name, _, name = text.partition(":")
    if module_name.endswith(".py") or not module_name or not name:
        raise UsageError(f"{text}: write module:name, such as mymodel:net for net in mymodel.py of this folder")
    thing: Any = _module(module_name)
    for part in name.split("."):
        if not hasattr(thing, part):
            public = [each for each in vars(thing) if not each.startswith("_")] if hasattr(thing, "__dict__") else []
            raise UsageError(f"{text}: {module_name} has no {part}{nearest(part, public)}")
        thing = getattr(thing, part)
    return thing


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # of something that the module imports
        here = [path.stem for path in sorted(Path().glob("*.py"))]
        raise UsageError(f"there is no module {error.name} here or installed{nearest(name, here)}") from None
    except SystemExit as error:
        raise UsageError(
            f'the module {name} ends the program when it is imported; put what it runs under if __name__ == "__main__":'
        ) from error


def made(text: str) -> Any:
    """What the factory ``module:factory`` gives; a module, or anything that cannot be called, as it is.

    Raises:
        UsageError: there is no such factory, or it takes arguments.
    """
    factory = found(text)
    if isinstance(factory, nn.Module) or not callable(factory):
        return factory
    needed = _needed(factory)
    if needed:
        raise UsageError(
            f"{text} takes {', '.join(needed)}, a factory takes nothing; write one: "
            f"def make(): return {text.partition(':')[2]}({', '.join(f'{each}=...' for each in needed)})"
        )
    return factory()


def _needed(factory: Any) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in skipped]


def own_option(parser: Parser) -> None:
    """The option ``--own``."""
    about = "what the text or the file names and is yours; may be repeated"
    parser.add_argument("--own", metavar="NAME=MODULE:NAME", action="append", type=_named, default=[], help=about)


def _named(text: str) -> tuple[str, str]:
    name, equals, place = text.partition("=")
    if not name.isidentifier() or not equals or ":" not in place:
        raise ArgumentTypeError(f"must be name=module:name, got {text!r}")
    return name, place


def owned(named: Mapping[str, str]) -> FrozenMap[str, Any]:
    """What is the user's own, by name."""
    return FrozenMap({name: found(place) for name, place in named.items()})
