"""``snnpipe evaluate``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from snnpipe.analysis.evaluate import evaluate
from snnpipe.commands.command import Answer, Command, UsageError
from snnpipe.commands.data import data_options, required_batches
from snnpipe.commands.devices import device_option
from snnpipe.commands.parser import Parser, share
from snnpipe.commands.plain import as_table
from snnpipe.commands.runs import encoding_of, encoding_options, run_of, run_options
from snnpipe.commands.subjects import network, spiking, subject, subject_argument
from snnpipe.stages.trace import trace


def _arguments(parser: Parser) -> None:
    subject_argument(parser, "file")
    run_options(parser)
    encoding_options(parser)
    about = "the model it was made of, to be compared with: module:factory or a saved file"
    parser.add_argument("--ann", metavar="MODEL", help=about)
    about = "the answer is no where the accuracy after the last step, a share, is below"
    parser.add_argument("--at-least", type=share, metavar="SHARE", help=about)
    device_option(parser)
    data_options(parser, required=True)


def _run(given: Namespace) -> Answer:
    thing = network(given.file, given)
    run = run_of(thing, given)
    options: dict[str, Any] = {"ann": trace(subject(given.ann, given))} if given.ann else {}
    options["encoding"] = encoding_of(given)
    found = evaluate(
        spiking(thing), required_batches(given), T=run.T, schedule=run.schedule, delay=run.delay, **options
    )
    last = found.readouts[-1].accuracy
    if last is None and given.at_least is not None:
        raise UsageError("--at-least: the data have no labels")
    ok = given.at_least is None or last is None or last.mean >= 100 * given.at_least
    return Answer(str(found), as_table(found), ok)


EVALUATE = Command(
    "evaluate",
    "measure accuracy at every step; 1 where it is below --at-least",
    ("snnpipe evaluate snn.safetensors --data test.npz --T 16 --at-least 0.9",),
    _arguments,
    _run,
)
