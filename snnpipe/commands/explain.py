"""``snnpipe explain``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from snnpipe.analysis.explain import explain
from snnpipe.commands.command import Answer, Command
from snnpipe.commands.data import data_options, required_batches
from snnpipe.commands.devices import device_option
from snnpipe.commands.parser import Parser
from snnpipe.commands.plain import as_table
from snnpipe.commands.runs import encoding_of, encoding_options, run_of, run_options
from snnpipe.commands.subjects import network, subject, subject_argument
from snnpipe.recipe import Converted


def _arguments(parser: Parser) -> None:
    subject_argument(parser)
    about = "the network that was made of it (by default the model is converted with all defaults)"
    parser.add_argument("--snn", metavar="FILE", help=about)
    run_options(parser)
    encoding_options(parser)
    parser.add_argument("--try-advice", action="store_true", help="measure what the advice of each finding brings")
    device_option(parser)
    data_options(parser, required=True)


def _run(given: Namespace) -> Answer:
    made = network(given.snn, given) if given.snn else None
    if isinstance(made, Converted):
        run_of(made, given)  # which says T and schedule itself
        run: dict[str, Any] = {}
    else:
        said = run_of(made, given)
        run = {"T": said.T, "schedule": said.schedule}
    found = explain(
        subject(given.model, given), made, batches=required_batches(given), try_advice=given.try_advice,
        progress=given.progress, encoding=encoding_of(given), **run,
    )  # fmt: skip
    return Answer(str(found), as_table(found))


EXPLAIN = Command(
    "explain",
    "split the error of a conversion by cause and by layer, and say what mends it",
    ("snnpipe explain mymodel:net --data test.npz --T 8", "snnpipe explain measured.safetensors --data test.npz --T 8"),
    _arguments,
    _run,
)
