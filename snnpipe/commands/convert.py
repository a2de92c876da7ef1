"""``snnpipe convert``."""

from __future__ import annotations

from argparse import Namespace

from snnpipe.commands.command import Answer, Command, UsageError
from snnpipe.commands.data import batches, data_options
from snnpipe.commands.described import described
from snnpipe.commands.devices import device_option
from snnpipe.commands.parser import Parser, new_file
from snnpipe.commands.plans import carried_out, plan_options
from snnpipe.commands.subjects import subject, subject_argument
from snnpipe.exchange.files import save
from snnpipe.recipe import Converted
from snnpipe.runtime.network import SpikingNetwork


def _arguments(parser: Parser) -> None:
    subject_argument(parser)
    plan_options(parser)
    device_option(parser)
    data_options(parser)
    parser.add_argument("--out", type=new_file(".safetensors"), required=True, help="where to, .safetensors")


def _run(given: Namespace) -> Answer:
    thing = subject(given.model, given)
    if isinstance(thing, SpikingNetwork | Converted):
        raise UsageError(f"{given.model} is converted already; give the model or the state it was made of")
    made = carried_out(thing, given, batches(given))
    save(made, given.out)
    answer = described(made)
    return Answer(f"{given.out}: {answer.text}", {**answer.data, "file": given.out})


CONVERT = Command(
    "convert",
    "turn a model into a spiking network, and save it",
    (
        "snnpipe convert mymodel:net --data train.npz --out snn.safetensors",
        "snnpipe convert mymodel:net --data images/ --samples 256 --out snn.safetensors \\",
        '    --pipeline "trace | fuse | calibrate(99.9%) | replace(neuron=cascade(n=4)) | to_snn"',
        'snnpipe convert mymodel:net --data mydata:loader --pipeline "recipes.snm()" --T 8 --out snn.safetensors',
        "snnpipe convert mymodel:net --data mydata:loader --pipeline plan.toml --out snn.safetensors",
    ),
    _arguments,
    _run,
)
