"""The last stages: from a state to a module that runs."""

from __future__ import annotations

from torch import fx

from snnpipe.codes import RATE
from snnpipe.emit import cloned, graph_module
from snnpipe.frozen import EMPTY
from snnpipe.ops.lift import check_numbers_stand, has_neurons, unlift
from snnpipe.options import FLAG
from snnpipe.runtime.layout import laid_out
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.sharing import aliased, size_of
from snnpipe.stage import HAS_VALUES, stage
from snnpipe.stages.replace import replace
from snnpipe.stages.td_rewrite import td_rewrite
from snnpipe.state import ConversionState, Event

NO_CODE = (lambda state: state.code is None, "the graph is carried to a code; to_module gives ANNs, use to_snn")
NO_ENCODERS = (
    lambda state: not has_neurons(state.graph),
    "the graph has neurons; to_module gives ANNs, use to_snn, or put to_module before replace",
)


@stage(HAS_VALUES, unsafe_share=FLAG)
def to_snn(state: ConversionState, *, unsafe_share: bool = False) -> SpikingNetwork:
    """Make the spiking network, running what is still missing; the state is unchanged and shares no memory with it.

    A graph that was not carried to a code yet gets neurons at its sites (``replace``) and is carried to RATE.

    Args:
        unsafe_share: use the state's own tensors instead of copies, so that there is one copy of the weights less; of
            ``trace(unsafe_share=True)`` they are the model's.  In-place changes of the network (training it,
            ``load_state_dict``) are then changes of these, and the other way round.

    >>> import torch, snnpipe
    >>> model = torch.nn.Linear(2, 1)
    >>> snn = snnpipe.pipe(model, snnpipe.trace(unsafe_share=True), to_snn(unsafe_share=True))
    >>> snn.weight.data_ptr() == model.weight.data_ptr()
    True
    """
    made = (*state.made, "to_snn(unsafe_share=True)" if unsafe_share else "to_snn")
    constants = state.whole.constants if state.whole else EMPTY
    if state.code is None:
        state = state if has_neurons(state.graph) else replace(state)
        state = td_rewrite(code=RATE)(state)
    assert state.code is not None
    graph = unlift(state.graph)
    check_numbers_stand(graph, temporal_inputs=False)
    params = aliased(state.params) if unsafe_share else cloned(state.params, requires_grad=False)
    shared = Event("to_snn", size_of(params.values()), "shared", "in-place changes show in all who hold them")
    graph, params = laid_out(graph, params, in_place=not unsafe_share)
    snn = SpikingNetwork(graph, params, state.code, state.history + (shared,) * unsafe_share)
    snn.__dict__.update(made=made, constants=constants)  # not by setattr: the ANN's names are its own business
    return snn


@stage(NO_CODE, NO_ENCODERS)
def to_module(state: ConversionState) -> fx.GraphModule:
    """The ANN as a plain ``torch.fx.GraphModule``, for checking a stage; shares no memory with the state.

    Its ``state_dict`` has the ANN's keys, but that names which a ``GraphModule`` cannot hold (``code``, ``graph``,
    ``meta``; Python's keywords) have a ``_`` behind.
    """
    return graph_module(state.graph, cloned(state.params)).eval()
