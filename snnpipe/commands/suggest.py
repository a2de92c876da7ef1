"""``snnpipe suggest``."""

from __future__ import annotations

from argparse import Namespace

from snnpipe.analysis.suggest import suggest
from snnpipe.commands.command import Answer, Command
from snnpipe.commands.data import data_options, required_batches
from snnpipe.commands.parser import Parser, share, whole
from snnpipe.commands.plain import as_table
from snnpipe.commands.subjects import subject, subject_argument


def _arguments(parser: Parser) -> None:
    subject_argument(parser)
    about = "what is wanted of the ANN's accuracy, a share (%(default)s)"
    parser.add_argument("--accuracy", type=share, default=0.99, metavar="SHARE", help=about)
    parser.add_argument("--latency", type=whole(1), metavar="STEPS", help="the most steps until the answer")
    parser.add_argument("--wires", type=whole(1), metavar="N", help="the most wires of a neuron")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S", help="how long to search (%(default)s)")
    data_options(parser, required=True)


def _run(given: Namespace) -> Answer:
    batches = list(required_batches(given))
    wanted = {"accuracy": given.accuracy, "latency": given.latency, "wires": given.wires, "seconds": given.seconds}
    found = suggest(subject(given.model, given), batches=batches, data=batches, **wanted)
    return Answer(str(found), as_table(found))


SUGGEST = Command(
    "suggest",
    "search recipes and numbers of steps, and name the cheapest pipelines that are good enough",
    ("snnpipe suggest mymodel:net --data train.npz --accuracy 0.98",),
    _arguments,
    _run,
)
