"""``snnpipe explain``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import snnpipe
from snnpipe.commands.command import Answer, Command
from snnpipe.commands.data import data_options, required_batches
from snnpipe.commands.parser import Parser, whole
from snnpipe.commands.plain import as_table
from snnpipe.commands.subjects import subject, subject_argument


def _arguments(parser: Parser) -> None:
    subject_argument(parser)
    parser.add_argument("--T", type=whole(1), metavar="STEPS", required=True, help="steps")
    data_options(parser, required=True)


def _run(given: Namespace) -> Answer:
    explain: Any = snnpipe.explain  # type: ignore[attr-defined]
    found = explain(subject(given.model, given), required_batches(given), T=given.T)
    return Answer(str(found), as_table(found))


EXPLAIN = Command(
    "explain",
    "split the error of a conversion by cause and by layer, and say what mends it",
    ("snnpipe explain mymodel:net --data test.npz --T 8", "snnpipe explain measured.safetensors --data test.npz --T 8"),
    _arguments,
    _run,
    needs="explain",
)
