"""``snnpipe report``."""

from __future__ import annotations

from argparse import Namespace

from snnpipe.analysis.report import report
from snnpipe.commands.command import Answer, Command, UsageError
from snnpipe.commands.parser import Parser, new_file
from snnpipe.commands.plain import plain
from snnpipe.commands.subjects import spiking, subject, subject_argument
from snnpipe.commands.written import written
from snnpipe.recipe import Converted
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.state import ConversionState


def _run(given: Namespace) -> Answer:
    thing = subject(given.file, given)
    if not isinstance(thing, ConversionState | SpikingNetwork | Converted):
        raise UsageError(f"{given.file} is not converted; write snnpipe check {given.file}")
    made = thing if isinstance(thing, ConversionState) else spiking(thing)
    if given.html:
        written(given.html, lambda path: report(made, html=path))
    return Answer(report(made), {"pipeline": list(made.made), "history": plain(made.history)})


def _arguments(parser: Parser) -> None:
    subject_argument(parser, "file")
    parser.add_argument("--html", type=new_file(".html"), help="where to write the same as a page")


REPORT = Command("report", "list what every stage did, and why", ("snnpipe report snn.safetensors",), _arguments, _run)
