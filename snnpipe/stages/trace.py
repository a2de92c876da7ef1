"""The first stage: from a model to a frozen graph."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
from torch import Tensor, nn
from torch.export import ExportedProgram

from snnpipe.checks import Check, takes
from snnpipe.errors import StageError, TraceError, UnsupportedError, listing
from snnpipe.frontend.exported import as_arguments, exported, held_by, lower_program, runnable
from snnpipe.frontend.lowering import Lowered
from snnpipe.frontend.met import tensors_of
from snnpipe.frontend.part import Whole, part_at
from snnpipe.frontend.selfcheck import check_example
from snnpipe.frontend.shadow import shadow
from snnpipe.frontend.symbolic import symbolic
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.options import FLAG, MAPPING, TEXT, optional, several, whole
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.sharing import Mark, common, marks, size_of, without_values, written
from snnpipe.stages.static import with_static
from snnpipe.state import ConversionState, Event
from snnpipe.text import Configured


def _model(value: Any) -> Any:
    if isinstance(value, ConversionState):
        raise StageError("trace: got a ConversionState: the model is traced already, leave this stage out")
    if isinstance(value, SpikingNetwork):
        raise StageError("trace: got a SpikingNetwork: the model is converted already; trace the ANN it was made of")
    if not isinstance(value, nn.Module | ExportedProgram):
        raise TypeError
    return value


def _class(value: Any) -> Any:
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        raise TypeError
    return value


#: For arguments that are models.
MODEL = Check("must be a torch.nn.Module", _model)


def _axes(value: Any) -> Any:
    return FrozenMap({TEXT.accept(name): several(whole(-64, 63), "").accept(axes) for name, axes in value.items()})


#: Axes of inputs.
AXES = Check("must be a dictionary of axes by input", _axes, 'write {"input_ids": (1,)}')


@takes(
    StageError, model=attrs.evolve(optional(MODEL), wanted=MODEL.wanted),
    inputs=optional(several(TEXT, "the names of inputs")), constants=MAPPING,
    dynamic_axes=AXES, leaves=several(Check("must be a module class", _class), "module classes"),
    part=optional(TEXT), unsafe_share=FLAG,
)  # fmt: skip
def trace(
    model: nn.Module | ExportedProgram | None = None,
    *,
    example: Any = None,
    check: Any = None,
    inputs: tuple[str, ...] | None = None,
    constants: Mapping[str, Any] = EMPTY,
    dynamic_axes: Mapping[str, tuple[int, ...]] = EMPTY,
    leaves: tuple[type[nn.Module], ...] = (),
    static: tuple[str, ...] = (),
    part: str | None = None,
    unsafe_share: bool = False,
) -> Any:
    """Turn a model into a ``ConversionState``; the model is unchanged, in value and in mode.

    The model is followed symbolically (``torch.fx``), so no example input is needed; given one, ``torch.export``
    follows it, which also knows shapes: branches and loops over them, ``len(x)``.  It is taken in evaluation mode
    whatever mode it is in.  Every spelling of an operator becomes the same node, in-place operations become
    functional, and ``weight_norm``, ``spectral_norm``, ``DataParallel`` and ``torch.compile`` wrappers are resolved.

    Args:
        model: a trained network, or a ``torch.export.ExportedProgram`` of one.  Left out, ``trace(...)`` is a
            configured stage: ``pipe(model, trace(inputs=...))``.
        example: an input tensor, a tuple of positional inputs, or a dict of inputs by name.  The first axis of each
            is a batch and may have another size later (if not, the history says so); other sizes are fixed, unless
            ``dynamic_axes`` says otherwise.
        check: an example as for ``example``, on which the graph that was traced symbolically is held against the model
            (one given as ``example`` always is): a difference beyond rounding is an error.
        dynamic_axes: further axes of inputs of ``example`` that may have another size later, as of texts of any length:
            ``{"input_ids": (1,)}``, for each tensor of that input.  The graph is held against the model with these
            axes longer by one, and with size 1, those that are equally long together; or, where sizes depend on one
            another, on ``check``, an example of other sizes.
        inputs: the arguments of ``forward`` that are network inputs; by default those without a default value.
        constants: values for other arguments of ``forward``, such as flags; by default their default values.
        leaves: module classes to keep as one call (because their ``forward`` cannot be followed).
        static: inputs that do not change in time though they are floats (masks, time steps, conditioning); ``sequence``
            and ``step`` take them as the ANN does, without a time axis.  Whole numbers and booleans never change.
        part: the path of a module within the model, to convert that alone: ``part="backbone"``.  The other arguments
            are then the part's.  The state remembers a copy of the rest, which runs as it is where data are read
            (``calibrate``, corrections), so what the part is measured on is what the whole model hands it.
        unsafe_share: use the model's own tensors instead of copies.  Once they are written to, the state is refused by
            every later stage, and a model whose ``forward`` writes to them is refused here.

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
    configured = Configured(
        trace, example=example, check=check, inputs=inputs, constants=constants, dynamic_axes=dynamic_axes,
        leaves=leaves, static=static, part=part, unsafe_share=unsafe_share,
    )  # fmt: skip
    if model is None:
        return configured
    if example is not None and (inputs is not None or (check is not None and not dynamic_axes)):
        raise StageError("trace: inputs= and check= are for symbolic tracing; with example=, what it holds is an input")
    if example is None and dynamic_axes:
        raise StageError("trace: dynamic_axes= goes with example=; traced symbolically, all sizes are free")
    whole: Whole | None = None
    own = held_by(model) if isinstance(model, ExportedProgram) else dict(tensors_of(model))
    before, lacking = marks(own if unsafe_share else {}), without_values(own)
    if lacking and check is not None:
        raise StageError(f"trace: check= runs the model, and {lacking[0]} is on the meta device and has no values")
    if isinstance(model, ExportedProgram):
        if part is not None:
            raise TraceError("trace: an ExportedProgram has no parts; trace the model it was exported from")
        name, how, note = "ExportedProgram", "taken as it was exported", ""
        lowered = lower_program(model, unsafe_share=unsafe_share)
    else:
        private = shadow(model, share=unsafe_share, shapes_only=bool(lacking and example is not None))
        note = "taken in evaluation mode" + f"; {len(lacking)} tensors on meta, without values" * bool(lacking)
        if part is not None:
            found = part_at(private, part, "trace", TraceError)
            note = f"{note}; {part} of {type(model).__name__}, which runs as it is"
            whole, private = Whole(private, part, FrozenMap(constants)), shadow(found, share=True)
        name = type(private).__name__
        if example is None:
            how = "traced symbolically"
            lowered = symbolic(private, inputs=inputs, constants=constants, leaves=leaves)
            if check is not None and not lowered.problems:
                check_example(lowered, partial(runnable, private), as_arguments(check, constants))
                note = f"{note}; held against the model on an example"
        else:
            lowered, shapes = exported(
                private, example, constants, tuple(leaves), dynamic_axes, () if check is None else (check,)
            )
            how, note = "traced by torch.export", f"{note}; {shapes}"
    event = Event("trace", name, how, note)
    return as_state("trace", lowered, static, event, (configured, own, before), whole)


def as_state(
    called: str, lowered: Lowered, static: tuple[str, ...], event: Event,
    made: tuple[Configured, Mapping[str, Tensor], Mapping[str, Mark]], whole: Whole | None = None,
) -> ConversionState:  # fmt: skip
    """What was traced, as a state.

    Args:
        called: the stage.
        lowered: the graph.
        static: its inputs that do not change in time.
        event: what the history says.
        made: the stage as it was configured, the model's tensors, and what they were before if they are shared.
        whole: the rest of a model of which this is a part.

    Raises:
        TraceError: ``forward`` wrote to tensors that are shared.
        UnsupportedError: what cannot be converted.
    """
    configured, own, before = made
    changed = written(own, before)
    if changed:
        raise TraceError(
            f"{called}: forward writes to {', '.join(changed[:3])}, and unsafe_share=True gives it the model's own. "
            "Leave that out, so that it writes to copies"
        )
    if lowered.problems:
        raise UnsupportedError(listing(f"{called}: the model cannot be converted as it is", lowered.problems))
    shares = bool(configured.keywords["unsafe_share"])
    shared = common(lowered.params, own.values() if shares else ())
    said = Event("trace", size_of(shared.values()), "shared", "with the model, which nobody may write to from now on")
    return ConversionState(
        with_static(lowered.graph, static),
        lowered.params,
        history=(event, *(said,) * shares),
        made=(configured.text.removesuffix("()"),),
        whole=whole,
        shared=marks(shared),
    )
