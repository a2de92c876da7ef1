"""The last stages: from a state to a module that runs."""

from __future__ import annotations

from torch import fx

from snnpipe.codes import RATE
from snnpipe.emit import cloned, graph_module
from snnpipe.frozen import EMPTY
from snnpipe.ops.lift import check_numbers_stand, has_neurons, unlift
from snnpipe.runtime.layout import laid_out
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stage import stage
from snnpipe.stages.replace import replace
from snnpipe.stages.td_rewrite import td_rewrite
from snnpipe.state import ConversionState

NO_CODE = (lambda state: state.code is None, "the graph is carried to a code; to_module gives ANNs, use to_snn")
NO_ENCODERS = (
    lambda state: not has_neurons(state.graph),
    "the graph has neurons; to_module gives ANNs, use to_snn, or put to_module before replace",
)


@stage()
def to_snn(state: ConversionState) -> SpikingNetwork:
    """Make the spiking network, running what is still missing; the state is unchanged and shares no memory with it.

    A graph that was not carried to a code yet gets neurons at its sites (``replace``) and is carried to RATE.
    """
    made, constants = (*state.made, "to_snn"), state.whole.constants if state.whole else EMPTY
    if state.code is None:
        state = state if has_neurons(state.graph) else replace(state)
        state = td_rewrite(code=RATE)(state)
    assert state.code is not None
    graph = unlift(state.graph)
    check_numbers_stand(graph, temporal_inputs=False)
    graph, params = laid_out(graph, cloned(state.params, requires_grad=False))
    snn = SpikingNetwork(graph, params, state.code, state.history)
    snn.__dict__.update(made=made, constants=constants)  # not by setattr: the ANN's names are its own business
    return snn


@stage(NO_CODE, NO_ENCODERS)
def to_module(state: ConversionState) -> fx.GraphModule:
    """The ANN as a plain ``torch.fx.GraphModule``, for checking a stage; shares no memory with the state.

    Its ``state_dict`` has the ANN's keys, but that names which a ``GraphModule`` cannot hold (``code``, ``graph``,
    ``meta``; Python's keywords) have a ``_`` behind.
    """
    return graph_module(state.graph, cloned(state.params)).eval()
