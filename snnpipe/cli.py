"""The command line, ``python -m snnpipe`` or ``snnpipe``: reads a line, runs its command, prints the answer.

What people read and the answers for programs go to stdout, all else to stderr: progress, warnings, errors, and what
the user's own modules print.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import snnpipe
from snnpipe.commands.command import Answer, Command, UsageError
from snnpipe.commands.own import importable_here
from snnpipe.commands.parser import Parser, nearest
from snnpipe.commands.plain import as_json
from snnpipe.commands.table import COMMANDS
from snnpipe.errors import SnnpipeError

#: The exit statuses.  After Ctrl-C it is 128 and the number of the signal.
YES, NO, WRONG, INTERRUPTED = 0, 1, 2, 130
_STATUSES = """exit status: 0 yes, or done; 1 the answer is no, or it cannot be done; 2 the line is wrong, or your own
code failed; 130 after Ctrl-C"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; without one, print the help.

    Args:
        arguments: of the command line, by default this process's.

    Returns:
        The exit status.
    """
    try:
        given = _read(list(sys.argv[1:] if arguments is None else arguments))
    except SystemExit as done:
        return int(done.code or 0)
    return YES if given is None else _carried_out(given.run, given)


def _read(arguments: list[str]) -> Namespace | None:
    """The line, ``None`` for an empty one.  Help, the version and a wrong line end by ``SystemExit``."""
    known = COMMANDS
    parser, parsers = _parsers(known)
    if not arguments:
        parser.print_help()
        return None
    name = arguments[0]
    if name not in known and not name.startswith("-"):
        parser.wrong(f"there is no command {name}{nearest(name, known)}")
    parsers.get(name, parser).check_spelling(arguments[1:] if name in known else arguments)
    return parser.parse_args(arguments)


def _parsers(known: Mapping[str, Command]) -> tuple[Parser, Mapping[str, Parser]]:
    about = (snnpipe.__doc__ or "").partition("\n")[0]
    parser = Parser(prog="snnpipe", description=about, epilog=f"snnpipe COMMAND --help shows examples\n{_STATUSES}")
    parser.add_argument("--version", action="version", version=f"snnpipe {snnpipe.__version__}")
    group = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND", parser_class=Parser)
    parsers: dict[str, Parser] = {}
    for command in known.values():
        shown = "\n".join(f"  {line}" for line in command.examples)
        made = group.add_parser(
            command.name, help=command.about, description=command.about, epilog=f"examples:\n{shown}\n\n{_STATUSES}"
        )
        command.arguments(made)
        made.add_argument("--json", action="store_true", help="answer with one JSON object")
        made.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bars")
        made.set_defaults(run=command.run)
        made.usage = " ".join(["%(prog)s", *made.needed, "[options]"])
        parsers[command.name] = made
    return parser, parsers


def _carried_out(run: Any, given: Namespace) -> int:
    """The exit status of a command."""
    called = f"snnpipe {given.command}"
    try:
        with importable_here(), _warnings_of(called), contextlib.redirect_stdout(sys.stderr):
            answer: Answer = run(given)
        _print(as_json({"ok": answer.ok, **answer.data}) if given.json else answer.text)
        return YES if answer.ok else NO
    except SnnpipeError as error:
        if given.json:
            _print(as_json({"ok": False, "error": str(error)}))
        _say(f"{called}: {error}")
        return WRONG if isinstance(error, UsageError) else NO
    except KeyboardInterrupt:
        _say(f"{called}: stopped")
        return INTERRUPTED
    except SystemExit as error:
        _say(f"{called}: your own code ended the program (status {error.code}); a factory returns")
        return WRONG
    except Exception as error:
        traceback.print_exception(type(error), error, _beyond_us(error.__traceback__))
        _say(f"{called}: this is not an error of snnpipe's own making; the lines above say where it comes from")
        return WRONG


def _print(text: str) -> None:
    """Print the answer; who reads it may stop reading."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # so that nothing is said when the interpreter ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _warnings_of(called: str) -> Iterator[None]:
    """Warnings are said in a line each, without the place in the code."""

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        _say(f"{called}: warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _beyond_us(frames: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins outside of the command line."""
    first = frames
    while frames is not None:
        code = frames.tb_frame.f_globals.get("__name__", "")
        if not str(code).startswith(("snnpipe.cli", "snnpipe.commands", "importlib", "contextlib")):
            return frames
        frames = frames.tb_next
    return first
