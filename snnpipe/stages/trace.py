"""The first stage: from a model to a frozen graph."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from snnpipe.errors import StageError, UnsupportedError, listing
from snnpipe.frontend.shadow import shadow, unwrapped
from snnpipe.frontend.symbolic import symbolic
from snnpipe.frozen import EMPTY
from snnpipe.state import ConversionState, Event


def trace(
    model: nn.Module | None = None,
    *,
    inputs: tuple[str, ...] | None = None,
    constants: Mapping[str, Any] = EMPTY,
    leaves: tuple[type[nn.Module], ...] = (),
    unsafe_share: bool = False,
) -> Any:
    """Turn a model into a ``ConversionState``; the model is unchanged, in value and in mode.

    The model is followed symbolically (``torch.fx``), so no example input is needed.  It is taken in evaluation mode
    whatever mode it is in.  Every spelling of an operator becomes the same node, in-place operations become
    functional, and ``weight_norm``, ``spectral_norm``, ``DataParallel`` and ``torch.compile`` wrappers are resolved.

    Args:
        model: a trained network.  Left out, ``trace(...)`` is a configured stage: ``pipe(model, trace(inputs=...))``.
        inputs: the arguments of ``forward`` that are network inputs; by default those without a default value.
        constants: values for other arguments of ``forward``, such as flags; by default their default values.
        leaves: module classes to keep as one call (because their ``forward`` cannot be followed).
        unsafe_share: use the model's own tensors instead of copies.  The state then changes when the model does.

    Returns:
        A state with ``graph`` and ``params``, keyed as in ``model.state_dict()``.

    Raises:
        TraceError: ``forward`` cannot be followed; names the line and the ways out.
        UnsupportedError: lists every operation that cannot be converted.

    >>> from torch import nn
    >>> print(trace(nn.Sequential(nn.Linear(4, 2), nn.ReLU())).graph)
    input = input(name='input')
    _0 = linear(input=input, weight=%0.weight, bias=%0.bias)
    _1 = relu(input=_0)
    return _1
    """
    if model is None:
        return partial(trace, inputs=inputs, constants=constants, leaves=leaves, unsafe_share=unsafe_share)
    if isinstance(model, ConversionState):
        raise StageError("trace: got a ConversionState: the model is traced already, leave this stage out")
    if not isinstance(model, nn.Module):
        raise StageError(f"trace: expected a torch.nn.Module, got {type(model).__name__}")
    lowered = symbolic(
        shadow(unwrapped(model), share=unsafe_share), inputs=inputs, constants=constants, leaves=tuple(leaves)
    )
    if lowered.problems:
        raise UnsupportedError(listing("trace: the model cannot be converted as it is", lowered.problems))
    event = Event("trace", type(model).__name__, "traced symbolically", "taken in evaluation mode")
    return ConversionState(lowered.graph, lowered.params, history=(event,))
