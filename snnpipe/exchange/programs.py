"""A converted network as a program of torch's operators alone: by ``torch.export``, and from there to ONNX.

Such a program runs where snnpipe is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from snnpipe.checks import takes
from snnpipe.containers import tensors
from snnpipe.errors import InputError, UnsupportedError
from snnpipe.exchange.runnable import Run, Step, reason
from snnpipe.frontend.quiet import silenced
from snnpipe.kernels.precision import wide
from snnpipe.options import STEPS
from snnpipe.runtime.inputs import bind, check_numbers, check_shapes, explained, sequences
from snnpipe.runtime.network import NETWORK, SpikingNetwork
from snnpipe.waves import SCHEDULE, STEP, Wave


class ExportedSteps(NamedTuple):
    """One time step as two programs, for nothing is remembered before the first.

    Attributes:
        first: ``first(x_1) -> (y_1, state)``, the inputs as the ANN takes them.
        then: ``then(x_t, alpha, a, state) -> (y_t, state)``; ``alpha`` and ``a`` are the code at step t, numbers in
            tensors without axes: ``snn.code.clock(t)``, under RATE ``(t - 1) / t`` and ``1 / t``.
    """

    first: ExportedProgram
    then: ExportedProgram


@takes(InputError, snn=NETWORK, T=STEPS, schedule=SCHEDULE)
def to_exported(snn: SpikingNetwork, example: Any, *, T: int, schedule: Wave | str = STEP) -> ExportedProgram:
    """A run of T steps as a program: ``program.module()(x)`` is ``snn(x, T=T)``.

    ``torch.export.save(program, "run.pt2")`` keeps it, and ``torch.export.load`` runs it in a process that has torch
    and not snnpipe.

    Args:
        snn: a converted network.
        example: an input tensor, a tuple of positional inputs or a dict of inputs by name.  Of tensors that share the
            size of their first axis this axis may be of any size later, where the network allows it.
        T: number of steps.
        schedule: as for ``snn(x, T=T, schedule=...)``.

    Raises:
        UnsupportedError: torch cannot export it, or the program does not give what the network gives.
    """
    wave: Any = schedule
    args, named = _arguments(example)
    clocks = [*wave.clocks(snn.code, T)]
    _bound(snn, args, named)
    return _exported(Run(snn, clocks), args, named)


@takes(InputError, snn=NETWORK)
def to_exported_step(snn: SpikingNetwork, example: Any) -> ExportedSteps:
    """One step on events as programs: what ``snn.step`` computes.

    Args:
        snn: a converted network.
        example: events of one step, as for ``to_exported``.

    Raises:
        UnsupportedError: as for ``to_exported``; or the code's constants or potentials change from step to step
            (``kappa`` or ``gain``), which a program for all steps cannot say: RATE and TD are right.
    """
    args, named = _arguments(example)
    given = _bound(snn, args, named)
    clocks = [snn.code.clock(t) for t in range(2, 18)]
    if len({(clock.kappa, clock.gain) for clock in clocks}) > 1:
        raise UnsupportedError(
            f"to_exported_step: under {snn.code} constants or potentials are scaled otherwise at every step; export a "
            "whole run, to_exported(snn, x, T=...), or convert to RATE or TD"
        )
    moving = sequences(given, snn.graph)
    first = Step(snn, moving, snn.code.clock(1))
    with torch.no_grad(), explained(given, snn):
        _, state = first(*args, **named)
    numbers = (_number(clocks[0].alpha, given), _number(clocks[0].a, given))
    then = Step(snn, moving, clocks[0], later=True)
    return ExportedSteps(_exported(first, args, named), _exported(then, (*numbers, state, *args), named))


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example) if type(example) in (tuple, list) else (example,)), {}


def _bound(snn: SpikingNetwork, args: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """The example by the names of the ANN's arguments, held to what a network takes."""
    given = bind(snn.graph, args, named)
    check_shapes(given, snn.graph)
    check_numbers(given, snn.graph)
    return given


def _number(value: float, given: Mapping[str, Any]) -> Tensor:
    """A number as precise as the accumulators."""
    like = next(leaf for leaf in tensors(given) if leaf.is_floating_point())
    return torch.tensor(value, dtype=wide(like).dtype, device=like.device)


def _exported(module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> ExportedProgram:
    """The program of a module, held against it on the example."""
    sizes = [leaf.shape[0] for leaf in tensors((args, dict(named))) if leaf.ndim]
    shapes: Any = ShapesCollection()
    for leaf in tensors((args, dict(named))):
        if leaf.ndim and leaf.shape[0] == max(sizes, key=sizes.count):
            shapes[leaf] = {0: Dim.AUTO}
    try:
        with silenced(), torch.no_grad():
            program = torch.export.export(module, args, dict(named), dynamic_shapes=shapes, strict=False)
            found, wanted = program.module()(*args, **named), module(*args, **named)
    except Exception as error:
        raise UnsupportedError(f"to_exported: torch cannot export this network: {reason(error)}") from error
    pairs = zip(tensors(found), tensors(wanted), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        raise UnsupportedError("to_exported: the program that torch made gives something else than the network")
    return program
