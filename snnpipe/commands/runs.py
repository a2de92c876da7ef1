"""How a line says a network is run: so many steps, on a schedule."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import attrs
import torch

from snnpipe.commands.command import UsageError
from snnpipe.commands.parser import Parser, nearest, whole, word
from snnpipe.errors import SnnpipeError
from snnpipe.exchange.expressions import parse
from snnpipe.options import COUNTABLE
from snnpipe.recipe import Converted
from snnpipe.runtime.encoding import Encoding, constant, poisson
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.waves import SCHEDULE, Wave

#: Event sequences are none: files have their samples on the first axis, where these have time.
_ENCODINGS = ("constant", "poisson")


@attrs.frozen
class Run:
    """A way to run a network.

    Attributes:
        T: steps.
        schedule: the schedule.
        delay: steps the readout leaves out.
    """

    T: int
    schedule: Wave
    delay: int = 0

    def of(self, snn: SpikingNetwork) -> Callable[..., Any]:
        """The run, as a function of the inputs."""
        return lambda *inputs: snn(*inputs, T=self.T, schedule=self.schedule, delay=self.delay)


def run_options(parser: Parser) -> None:
    """The options that say how to run."""
    about = "steps; of what a recipe gave it is the recipe's"
    parser.add_argument("--T", type=whole(1, COUNTABLE), metavar="STEPS", help=about)
    parser.add_argument("--schedule", metavar="TEXT", help="step (the default), layer, or wave(4)")


def encoding_options(parser: Parser) -> None:
    """The options that say how inputs become events."""
    about = "constant (the default), a constant current; poisson, random spikes of inputs in [-1, 1]"
    parser.add_argument("--encoding", type=word(*_ENCODINGS), default="constant", metavar="NAME", help=about)
    parser.add_argument("--seed", type=whole(0), default=0, help="of random spikes (0)")


def encoding_of(given: Namespace) -> Encoding:
    """The encoding that a line says."""
    if given.encoding == "constant":
        return constant()
    return poisson(torch.Generator(given.device or "cpu").manual_seed(given.seed))


def run_of(thing: SpikingNetwork | Converted | None, given: Namespace) -> Run:
    """The run that a line says.

    Raises:
        UsageError: it says none, or says what the recipe says otherwise.
    """
    if isinstance(thing, Converted):
        if given.T not in (None, thing.T) or given.schedule is not None:
            raise UsageError(f"{thing.recipe!r} decides T ({thing.T}) and schedule; leave out --T and --schedule")
        first = thing.recipe.pre + thing.delay if thing.delay else 0
        return Run(thing.steps, thing.recipe.schedule, first)
    if given.T is None:
        raise UsageError("say --T, the number of steps")
    return Run(given.T, _schedule(given.schedule or "step"))


def _schedule(text: str) -> Wave:
    if text not in ("step", "layer") and not text.startswith("wave("):
        raise UsageError(f"--schedule: there is none called {text}{nearest(text, ('step', 'layer', 'wave(4)'))}")
    try:
        found: Wave = SCHEDULE.hold(parse(text) if text.startswith("wave(") else text, "schedule", "--schedule")
    except SnnpipeError as error:
        raise UsageError(str(error)) from error
    return found
