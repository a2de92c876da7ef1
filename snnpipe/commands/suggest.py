"""``snnpipe suggest``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import snnpipe
from snnpipe.commands.command import Answer, Command
from snnpipe.commands.data import data_options, required_batches
from snnpipe.commands.parser import Parser, share
from snnpipe.commands.plain import as_table
from snnpipe.commands.subjects import subject, subject_argument


def _arguments(parser: Parser) -> None:
    subject_argument(parser)
    about = "what is wanted of the ANN's accuracy, a share (%(default)s)"
    parser.add_argument("--accuracy", type=share, default=0.99, metavar="SHARE", help=about)
    data_options(parser, required=True)


def _run(given: Namespace) -> Answer:
    suggest: Any = snnpipe.suggest  # type: ignore[attr-defined]
    batches = required_batches(given)
    found = suggest(subject(given.model, given), batches, list(batches), accuracy=given.accuracy)
    return Answer(str(found), as_table(found))


SUGGEST = Command(
    "suggest",
    "search recipes and numbers of steps, and name the cheapest pipelines that are good enough",
    ("snnpipe suggest mymodel:net --data train.npz --accuracy 0.98",),
    _arguments,
    _run,
    needs="suggest",
)
