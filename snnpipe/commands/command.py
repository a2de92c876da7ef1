"""What a command is, and what it answers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from snnpipe.commands.parser import Parser
from snnpipe.errors import SnnpipeError


class UsageError(SnnpipeError):
    """The line is wrong: what it names is not there, or is something else."""


@attrs.frozen
class Answer:
    """What a command found.

    Attributes:
        text: for people, without a newline at its end.
        data: for programs; ``plain`` makes JSON of it.
        ok: whether the answer is yes.
    """

    text: str
    data: Mapping[str, Any]
    ok: bool = True


@attrs.frozen
class Command:
    """One command.

    Attributes:
        name: how it is called.
        about: what it does, in a sentence.
        examples: lines that show it.
        arguments: adds its arguments to a parser.
        run: what it does.
    """

    name: str
    about: str
    examples: tuple[str, ...]
    arguments: Callable[[Parser], None]
    run: Callable[[Namespace], Answer]
