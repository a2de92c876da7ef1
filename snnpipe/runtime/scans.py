"""What goes through a window one step after the other: accumulators, differences, constants and neurons.

Each takes a state and gives the next, and is told whether its operand has a time axis or is the same at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snnpipe.codes import Clock
from snnpipe.kernels import temporal
from snnpipe.kernels.following import followed
from snnpipe.kernels.temporal import each_step, stacked_alike
from snnpipe.ops.modules import SpikingNeuron
from snnpipe.ops.sequence import at, stacked


def accumulated(total: Any, events: Any, clocks: Sequence[Clock], timed: bool) -> tuple[Any, Any]:
    """``temporal.accumulate`` at each step."""
    return _scanned(temporal.accumulate, total, events, clocks, timed)


def added_up(total: Any, events: Any, clocks: Sequence[Clock], timed: bool) -> tuple[Any, Any]:
    """``temporal.accumulate`` after the last step alone."""
    value: Any = None
    for now, clock in zip(each_step(events, len(clocks), timed), clocks, strict=True):
        value, total = temporal.accumulate(total, now, clock)
    return value, total


def differences(sent: Any, decoded: Any, clocks: Sequence[Clock], timed: bool) -> tuple[Any, Any]:
    """``followed`` at each step."""
    return _scanned(followed, sent, decoded, clocks, timed)


def _scanned(
    function: Callable[..., Any], state: Any, value: Any, clocks: Sequence[Clock], timed: bool
) -> tuple[Any, Any]:
    """What ``(state, value, clock) -> (value, state)`` gives at each step, and its state after the last."""
    steps = []
    for now, clock in zip(each_step(value, len(clocks), timed), clocks, strict=True):
        made, state = function(state, now, clock)
        steps.append(made)
    return stacked(steps), state


def constants(value: Any, clocks: Sequence[Clock], like: Any) -> Any:
    """``temporal.constant`` at each step; of a number, numbers of the dtype that it has beside ``like``."""
    if isinstance(value, int | float | complex):
        numbers = [temporal.constant(value, clock) for clock in clocks]
        return torch.tensor(numbers, dtype=torch.result_type(like, value), device=like.device)
    return stacked([temporal.constant(value, clock, at(like, 0)) for clock in clocks])


def fired(neuron: Any, state: Any, z: Tensor, clocks: Sequence[Clock], timed: bool) -> tuple[Tensor, Any]:
    """The events of a neuron at each step, and its state after the last.

    What stands for a ``SpikingNeuron`` may have a way of its own: ``window(state, z, clocks, timed)``.
    """
    if not isinstance(neuron, SpikingNeuron):
        found: tuple[Tensor, Any] = neuron.window(state, z, clocks, timed)
        return found
    if not is_watched(neuron):
        return neuron.scan(z, state, clocks, timed)
    events = []
    for now, clock in zip(each_step(z, len(clocks), timed), clocks, strict=True):
        sent, state = neuron(now, state, clock)
        events.append(sent)
    return stacked_alike(events), state


def is_watched(module: nn.Module) -> bool:
    """Whether somebody has put hooks on a module, who is to see every call of it."""
    every = torch.nn.modules.module
    return any((
        module._forward_hooks, module._forward_pre_hooks, every._global_forward_hooks, every._global_forward_pre_hooks,
    ))  # fmt: skip
