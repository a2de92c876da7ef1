"""What a network carries from one step to the next, and whether further inputs go on from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.codes import Code
from snnpipe.errors import InputError
from snnpipe.frozen import EMPTY, FrozenMap, leaves


@attrs.frozen(eq=False)
class State:
    """Everything a network carries from one step to the next.

    Attributes:
        t: steps done.
        cells: state of each neuron, accumulator and difference, by node name.
        statics: what was computed once; ``None`` until there were inputs to compute it from.
        decoded: the output decoded so far, ``None`` before the first step.
        shapes: of the tensors of a step, which all steps share.
        still: the inputs that do not change, by name.
        code: the neural code of the network.
        sent: what the output's events so far decode to: ``decoded``, but for the rounding of events below float32.
    """

    t: int
    cells: FrozenMap[str, Any]
    statics: FrozenMap[str, Any] | None
    decoded: Any
    shapes: tuple[Any, ...] = ()
    still: FrozenMap[str, Any] = EMPTY
    code: Code | None = None
    sent: Any = None

    def after(self, steps: int, cells: Mapping[str, Any], decoded: Any, sent: Any) -> State:
        """The state so many steps later.

        Raises:
            InputError: the cells are not those of this state: it is another network's.
        """
        if self.t and cells.keys() != self.cells.keys():
            raise InputError("the state is another network's; begin with this network's own: snn.init(x)")
        return attrs.evolve(self, t=self.t + steps, cells=FrozenMap(cells), decoded=decoded, sent=sent)


#: Before the first step, when no inputs were given.
NOTHING = State(0, EMPTY, None, None)


def check_is_state(called: str, state: Any) -> None:
    """What a run goes on from is a ``State``."""
    if not isinstance(state, State):
        raise InputError(
            f"{called}: state is what snn.init, snn.step or snn.sequence gave, got a {type(state).__name__}; "
            "an argument of the model that is called so is given by position"
        )


def shapes_of(given: Mapping[str, Any]) -> tuple[Any, ...]:
    """The shapes of a step's tensors."""
    return tuple(tuple(leaf.shape) for leaf in leaves(dict(given)) if isinstance(leaf, Tensor))


def check_goes_on(state: State, given: Mapping[str, Any], moving: Collection[str], code: Code) -> None:
    """The inputs of a step have the shapes of those before it, and those that do not change are the same."""
    if state.code != code:
        raise InputError(f"the state is another network's, which runs under {state.code} and not {code}")
    shapes = shapes_of(given)
    if shapes != state.shapes:
        listed = (", ".join(map(str, found)) for found in (shapes, state.shapes))
        raise InputError(
            "inputs of shapes {} at each step, but the steps before had {}; ".format(*listed)
            + "start a new run with snn.init(x) for another batch"
        )
    if state.still.keys() != given.keys() - set(moving):
        now = ", ".join(given.keys() - set(moving)) or "none"
        raise InputError(
            f"inputs that do not change are {now}, but the steps before had {', '.join(state.still) or 'none'}; "
            "give every step inputs of the same dtypes"
        )
    for name, before in state.still.items():
        pairs = zip(leaves(before), leaves(given[name]), strict=True)
        if not all(a is b or (torch.equal(a, b) if isinstance(a, Tensor) else a == b) for a, b in pairs):
            raise InputError(
                f"input {name} is static: it holds for the whole run, and the steps before had another; start a new "
                "run with snn.init(...), or let it change as an event sequence of floats"
            )
