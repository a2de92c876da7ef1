"""``snnpipe check``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from snnpipe.analysis.check import Verdict, check
from snnpipe.analysis.targets import AKIDA_1, LOIHI_2, SPECK_2E, Target
from snnpipe.commands.command import Answer, Command, UsageError
from snnpipe.commands.data import FEW, batches, data_options, first_of, shaped
from snnpipe.commands.parser import Parser, word
from snnpipe.commands.plain import fields
from snnpipe.commands.subjects import spiking, subject, subject_argument
from snnpipe.frozen import FrozenMap
from snnpipe.recipe import Converted
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stages.trace import trace

#: Chips by name.
TARGETS: FrozenMap[str, Target] = FrozenMap(SPECK_2E=SPECK_2E, AKIDA_1=AKIDA_1, LOIHI_2=LOIHI_2)


def _arguments(parser: Parser) -> None:
    subject_argument(parser)
    about = f"a chip, whose limits the network must keep: {', '.join(TARGETS)}"
    parser.add_argument("--target", type=word(*TARGETS), help=about)
    parser.add_argument("--fully-spiking", action="store_true", help="the answer is no where an operator is graded")
    data_options(parser, shape=True)


def _run(given: Namespace) -> Answer:
    thing = subject(given.model, given)
    verdict = _verdict(thing, given)
    ok = verdict.ok and (given.target is None or verdict.fits) and (verdict.fully_spiking or not given.fully_spiking)
    shares = {"convertible": verdict.ok, "fully_spiking": verdict.fully_spiking, "on_events": verdict.on_events}
    return Answer(str(verdict), fields(verdict) | shares | {"fits": verdict.fits if given.target else None}, ok)


def _verdict(thing: Any, given: Namespace) -> Verdict:
    target = TARGETS[given.target] if given.target else None
    if isinstance(thing, ExportedProgram):
        thing = trace(thing)
    elif isinstance(thing, Converted):
        thing = spiking(thing)
    if not given.data and not given.shape:
        return check(thing, target=target)
    if not isinstance(thing, nn.Module) or isinstance(thing, SpikingNetwork):
        raise UsageError("--data and --shape show a model an example; what is traced already needs none")
    return check(thing, target=target, example=_example(given))


def _example(given: Namespace) -> Any:
    """A few inputs, before anybody knows how many the model takes."""
    if given.shape:
        return shaped(given)
    batch: Any = first_of(batches(given) or [])
    first = batch[0] if isinstance(batch, tuple | list) else batch
    return first[:FEW] if hasattr(first, "shape") else first


CHECK = Command(
    "check",
    "say what becomes of every operator, before any data is run; 1 where the model cannot be converted",
    (
        "snnpipe check mymodel:net",
        "snnpipe check mymodel:net --target SPECK_2E --shape 1,1,28,28",
        "snnpipe check snn.safetensors --fully-spiking --json",
    ),
    _arguments,
    _run,
)
