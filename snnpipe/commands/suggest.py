"""``snnpipe suggest``."""

from __future__ import annotations

from argparse import Namespace

from snnpipe.analysis.suggest import suggest
from snnpipe.commands.command import Answer, Command
from snnpipe.commands.data import data_options, labelled, required_batches
from snnpipe.commands.devices import device_option
from snnpipe.commands.parser import Parser, share, whole
from snnpipe.commands.plain import as_table
from snnpipe.commands.subjects import subject, subject_argument


def _arguments(parser: Parser) -> None:
    subject_argument(parser)
    about = "what is wanted of the ANN's accuracy, a share (%(default)s)"
    parser.add_argument("--accuracy", type=share, default=0.99, metavar="SHARE", help=about)
    parser.add_argument("--latency", type=whole(1), metavar="STEPS", help="the most steps until the answer (any)")
    parser.add_argument("--wires", type=whole(1), help="the most wires of a neuron (4)")
    parser.add_argument("--seconds", type=whole(1), default=600, help="how long to search (%(default)s)")
    device_option(parser)
    data_options(parser, required=True)


def _run(given: Namespace) -> Answer:
    batches = required_batches(given)
    found = suggest(
        subject(given.model, given), batches=batches, data=labelled(batches), accuracy=given.accuracy,
        latency=given.latency, wires=given.wires, seconds=given.seconds, progress=given.progress,
    )  # fmt: skip
    return Answer(str(found), as_table(found), any(one.enough for one in found.found))


SUGGEST = Command(
    "suggest",
    "search recipes and numbers of steps for the cheapest that are good enough; 1 where none is",
    ("snnpipe suggest mymodel:net --data train.npz --accuracy 0.98",),
    _arguments,
    _run,
)
