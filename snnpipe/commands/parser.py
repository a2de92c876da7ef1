"""Reading a command line: arguments of some kinds, and the nearest right spelling for a wrong one."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn


def nearest(word: str, words: Iterable[str]) -> str:
    """A question that ends a message about a word that is none of some words.

    >>> nearest("chekc", ["check", "convert"]), nearest("zzz", ["check", "convert"])
    ('; did you mean check?', '; there are check, convert')
    """
    known = list(dict.fromkeys(words))
    near = difflib.get_close_matches(word, known, 1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are {', '.join(known)}" if known else ""


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations and knows how its options are spelled."""

    def __init__(self, **options: Any) -> None:
        self.spelled: list[str] = []
        self.needed: list[str] = []
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def add_argument(self, *names: Any, **options: Any) -> Any:
        self.spelled += [name for name in names if str(name).startswith("-")]
        if options.get("required") or not str(names[0]).startswith("-"):
            value = options.get("metavar") or str(names[0]).strip("-").upper()
            self.needed.append(f"{names[0]} {value}" if options.get("required") else value)
        return super().add_argument(*names, **options)

    def check_spelling(self, given: Iterable[str]) -> None:
        """End with the nearest option where one is misspelt."""
        for word in given:
            option = word.partition("=")[0]
            if option == "--":
                return
            if option.startswith("--") and option not in self.spelled:
                self.wrong(f"there is no option {option}{nearest(option, self.spelled)}")

    def error(self, message: str) -> NoReturn:
        """End with status 2; ``argparse`` calls it."""
        self.wrong(message)

    def wrong(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.format_usage()}{self.prog}: {message} ({self.prog} --help says more)\n")


def whole(least: int, most: int = 2**24) -> Callable[[str], int]:
    """What reads a whole number from ``least`` to ``most``."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text!r}")
        return number

    return read


def share(text: str) -> float:
    """Reads a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to 1, got {text!r}")
    return number


def word(*words: str) -> Callable[[str], str]:
    """What reads one of some words."""

    def read(text: str) -> str:
        if text not in words:
            raise argparse.ArgumentTypeError(f"cannot be {text!r}{nearest(text, words)}")
        return text

    return read


def several(read: Callable[[str], Any], what: str) -> Callable[[str], tuple[Any, ...]]:
    """What reads such things with commas between them."""

    def split(text: str) -> tuple[Any, ...]:
        try:
            return tuple(read(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {what} with commas between them, got {text!r}") from None

    return split


def new_file(*endings: str) -> Callable[[str], Path]:
    """What reads the name of a file that is to be written."""

    def read(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in endings:
            listed = " or ".join([", ".join(endings[:-1]), endings[-1]] if endings[1:] else endings)
            raise argparse.ArgumentTypeError(f"must end in {listed}, got {text!r}")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
        if path.exists() and not path.is_file():
            raise argparse.ArgumentTypeError(f"{path} is there already and is not a file")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise argparse.ArgumentTypeError(f"{path} cannot be written: permission denied")
        return path

    return read
