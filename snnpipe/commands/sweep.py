"""``snnpipe sweep``."""

from __future__ import annotations

from argparse import Namespace

from snnpipe.analysis.plots import require_matplotlib
from snnpipe.analysis.sweep import sweep
from snnpipe.commands.command import Answer, Command, UsageError
from snnpipe.commands.data import batches_of, data_options, labelled, required_batches
from snnpipe.commands.devices import device_option
from snnpipe.commands.parser import Parser, new_file, several, whole
from snnpipe.commands.plain import as_table
from snnpipe.commands.plans import carried_out, planned
from snnpipe.commands.subjects import subject, subject_argument
from snnpipe.commands.written import written
from snnpipe.recipe import Recipe
from snnpipe.runtime.network import SpikingNetwork

#: What is compared where the line does not say.
USUAL, TIMES = ("recipes.opi()", "recipes.snm()", "recipes.cascade_mmse()"), (1, 2, 4, 8, 16)


def _arguments(parser: Parser) -> None:
    subject_argument(parser)
    about = f"a recipe, or stages that end in to_snn, or a TOML file; may be repeated ({', '.join(USUAL)})"
    parser.add_argument("--pipeline", metavar="TEXT|FILE.toml", action="append", help=about)
    steps = several(whole(1), "whole numbers")
    parser.add_argument("--T", type=steps, metavar="1,2,4", default=TIMES, help="numbers of steps (1,2,4,8,16)")
    about = "labelled data that accuracy is measured on, as --data takes them (the same data)"
    parser.add_argument("--test", metavar="DATA", help=about)
    parser.add_argument("--plot", type=new_file(".png", ".svg", ".pdf"), help="where to draw accuracy against latency")
    device_option(parser)
    data_options(parser, required=True)


def _run(given: Namespace) -> Answer:
    if given.plot:
        require_matplotlib()
    model, batches = subject(given.model, given), required_batches(given)
    recipes: list[Recipe] = []
    networks: dict[str, SpikingNetwork] = {}
    for text in given.pipeline or USUAL:
        said = planned(text, given, batches)
        if isinstance(said, Recipe):
            recipes.append(said)
            continue
        made = carried_out(model, Namespace(**{**vars(given), "pipeline": text, "T": None}), batches)
        if not isinstance(made, SpikingNetwork):
            raise UsageError(f"{text} ends in a state; write {text} | to_snn")
        networks[text] = made
    data = labelled(batches if given.test is None else batches_of(given.test, given))
    found = sweep(
        model, recipes, batches=batches, data=data, T=given.T, networks=networks, progress=given.progress
    )  # fmt: skip
    if given.plot:
        written(given.plot, found.plot)
    return Answer(str(found), as_table(found))


SWEEP = Command(
    "sweep",
    "measure accuracy against latency for several recipes or pipelines",
    (
        "snnpipe sweep mymodel:net --data train.npz --test test.npz --T 1,2,4,8 --plot sweep.png",
        'snnpipe sweep mymodel:net --data train.npz --pipeline "recipes.snm()" \\',
        '    --pipeline "trace | fuse | calibrate(99.9%) | replace(neuron=cascade(n=4)) | to_snn"',
    ),
    _arguments,
    _run,
)
