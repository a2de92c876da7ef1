"""``snnpipe explain``."""

from __future__ import annotations

from argparse import Namespace

from snnpipe.analysis.explain import explain
from snnpipe.commands.command import Answer, Command
from snnpipe.commands.data import data_options, required_batches
from snnpipe.commands.parser import Parser, whole
from snnpipe.commands.plain import as_table
from snnpipe.commands.subjects import network, spiking, subject, subject_argument


def _arguments(parser: Parser) -> None:
    subject_argument(parser)
    parser.add_argument("--T", type=whole(1), metavar="STEPS", required=True, help="steps")
    parser.add_argument("--network", metavar="FILE", help="a saved network made of the model (one of all defaults)")
    parser.add_argument("--try-advice", action="store_true", help="measure what the advice brings")
    data_options(parser, required=True)


def _run(given: Namespace) -> Answer:
    snn = None if given.network is None else spiking(network(given.network, given))
    batches = required_batches(given)
    found = explain(subject(given.model, given), snn, batches=batches, T=given.T, try_advice=given.try_advice)
    return Answer(str(found), as_table(found))


EXPLAIN = Command(
    "explain",
    "split the error of a conversion by cause and by layer, and say what mends it",
    ("snnpipe explain mymodel:net --data test.npz --T 8",
     "snnpipe explain mymodel:net --network snn.safetensors --data test.npz --T 8 --try-advice"),
    _arguments,
    _run,
)
