"""A run, or a step, of a network as a module that torch can follow: tensors in and out, no branch on their values."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, Signature
from typing import Any

from torch import nn

from snnpipe.codes import Clock
from snnpipe.runtime.inputs import bind
from snnpipe.runtime.network import CHUNK, SpikingNetwork
from snnpipe.runtime.program import Program
from snnpipe.runtime.readout import as_events


class Runnable(nn.Module):
    """What is exported: ``run`` on a network's inputs, under the names that the ANN's arguments have.

    Args:
        snn: the network.
        moving: the inputs that are events.
        before: the names of further arguments in front of these.
    """

    def __init__(self, snn: SpikingNetwork, moving: frozenset[str], before: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.snn = snn
        self.program: Program = snn._program(moving)
        arguments = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in before]
        for node in snn.graph.inputs:
            default = node.get("default", Parameter.empty)
            arguments.append(Parameter(node["name"], Parameter.POSITIONAL_OR_KEYWORD, default=default))

        def forward(*args: Any, **named: Any) -> Any:
            return self.run(*args, **named)

        forward.__signature__ = Signature(arguments)  # type: ignore[attr-defined]
        self.forward = forward

    def run(self, *args: Any, **named: Any) -> Any:
        raise NotImplementedError

    def begun(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        given = bind(self.snn.graph, args, named)
        return given, self.program.once(self.snn, given)


class Run(Runnable):
    """A run on a constant input, in windows."""

    def __init__(self, snn: SpikingNetwork, clocks: list[Clock]) -> None:
        super().__init__(snn, frozenset())
        self.windows = [clocks[start : start + CHUNK] for start in range(0, len(clocks), CHUNK)]

    def run(self, *args: Any, **named: Any) -> Any:
        given, statics = self.begun(args, named)
        cells: Any = {}
        for clocks in self.windows:
            cells, frontier = self.program.steps(self.snn, clocks, cells, statics, given)
        return self.program.read(self.snn, statics, frontier, given)


class Step(Runnable):
    """One step, from nothing at ``clock``, or where ``later``, from a state at a clock that is given."""

    def __init__(self, snn: SpikingNetwork, moving: frozenset[str], clock: Clock, later: bool = False) -> None:
        super().__init__(snn, moving, ("alpha", "a", "state") if later else ())
        self.clock, self.later = clock, later

    def run(self, *args: Any, **named: Any) -> Any:
        clock = self.clock
        state: Mapping[str, Any] = {"cells": {}, "sent": None}
        if self.later:
            (alpha, a, state), args = args[:3], args[3:]
            clock = clock._replace(alpha=alpha, a=a)
        given, statics = self.begun(args, named)
        cells, frontier = self.program.step(self.snn, clock, state["cells"], statics, given)
        decoded = self.program.read(self.snn, statics, frontier, given)
        events, sent = as_events(state["sent"], decoded, clock)
        return events, {"cells": dict(cells), "sent": sent}


def reason(error: BaseException) -> str:
    """The first line of what torch says."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
