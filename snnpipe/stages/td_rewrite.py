"""Carrying the graph to a temporal code."""

from __future__ import annotations

from snnpipe.codes import CODE, TD, Code
from snnpipe.errors import StageError
from snnpipe.ops.lift import Case, graded_units, lift, place
from snnpipe.stage import stage
from snnpipe.stages.replace import settle
from snnpipe.state import ConversionState, Event


@stage(code=CODE)
def td_rewrite(state: ConversionState, *, code: Code = TD) -> ConversionState:
    """Lift every operator to ``code`` by the law (``ops.lift``); the input is unchanged.

    Without neurons this gives the exact temporal network of the ANN: its decoded output equals the ANN of the decoded
    input at every step.  With neurons it says how everything between them is carried.

    Args:
        code: ``TD`` (running sum), ``RATE``, ``DIFFERENTIAL``, ``geometric(beta)`` or a ``Code`` of one's own.

    >>> from torch import nn
    >>> import snnpipe
    >>> print(snnpipe.pipe(nn.Linear(2, 1), snnpipe.trace, snnpipe.td_rewrite).graph)
    input = input(name='input')
    input_decoded = accumulate(input=input)
    linear = linear(input=input_decoded, weight=%weight, bias=%bias)
    return linear
    """
    if state.code is not None:
        if state.code == code:
            return state
        raise StageError(f"td_rewrite: the graph is carried to {state.code} already, it cannot be carried to {code}")
    graph = settle(state.graph, state.params, code)
    lifted = lift(graph, temporal_inputs=True)
    placed = place(graph, temporal_inputs=True)
    count = {case: sum(p.case is case for p in placed.values()) for case in Case}
    summary = ", ".join(f"{n} {case.value}" for case, n in count.items() if n)
    graded = (
        Event("td_rewrite", node.name, "graded unit", f"{node.op} is not linear: its output is float-valued each step")
        for node in graded_units(graph, temporal_inputs=False)
    )
    return state.evolve(Event("td_rewrite", str(code), "lifted", summary), *graded, graph=lifted, code=code)
