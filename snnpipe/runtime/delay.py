r"""When a readout should begin: the time spikes need to get through a network."""

from __future__ import annotations

import math
from typing import Any

import torch

from snnpipe.checks import takes
from snnpipe.emit import neuron_path
from snnpipe.errors import InputError
from snnpipe.frozen import leaves
from snnpipe.graph import refs
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.statistic import fitted
from snnpipe.ops.modules import SpikingNeuron, held
from snnpipe.options import RUN
from snnpipe.runtime.activations import activations
from snnpipe.runtime.inputs import bind, check_delay, check_numbers, check_samples, check_shapes, explained
from snnpipe.runtime.network import NETWORK, SpikingNetwork
from snnpipe.waves import SCHEDULE, STEP, Wave

#: The readout keeps at least so many steps.
AT_LEAST = 4


@takes(InputError, snn=NETWORK, T=RUN, schedule=SCHEDULE)
def readout_delay(
    snn: SpikingNetwork, *inputs: Any, T: int, schedule: Wave | str = STEP, **named: Any
) -> int:  # fmt: skip
    r"""The first steps that ``snn(x, T=T, delay=...)`` should leave out, in which the output answers to no input yet.

    .. math:: t_0 = \max_{\text{paths}} \sum_l \min_i \frac{\lambda_{l,i} - v_{l,i}(0)}{E[a_{l,i}]}

    A layer begins to speak when its first neuron has gathered its smallest event, lambda, by the mean activation a of
    the ANN.  At least four steps are kept: ``min(ceil(t_0), T - 4)``, or 0; of a wave the chunks that end by then.

    Args:
        snn: a converted network.
        *inputs, **named: calibration data as the network takes it, one batch.
        T: number of steps.
        schedule: as the network will run.

    Raises:
        InputError: the code is a sum, of which nothing can be left out.

    Reference: Bu et al. 2025, "Inference-scale complexity in ANN-SNN conversion for high-performance and low-power
    applications", CVPR.

    >>> from torch import nn
    >>> from snnpipe import fixed, pipe, replace, to_snn, trace
    >>> model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    >>> model.load_state_dict({"0.weight": torch.tensor([[0.1]]), "0.bias": torch.zeros(1)})
    <All keys matched successfully>
    >>> snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    >>> readout_delay(snn, torch.ones(1, 1), T=16)  # 1/2 to go, 1/10 a step
    5
    """
    longest = max(0, T - AT_LEAST)
    check_delay(min(1, longest), T, snn.code)
    given = bind(snn.graph, inputs, named)
    check_samples("readout_delay", given, snn.graph)
    check_shapes(given, snn.graph)
    check_numbers(given, snn.graph)
    with torch.no_grad(), explained(given, snn):
        found = activations(snn.graph)(snn, given)
    begins: dict[str, float] = {}
    for node in snn.graph:
        begins[node.name] = max((begins[name] for name in refs(node.operands)), default=0.0)
        if node.op == "encode":
            begins[node.name] += _first_event(held(snn, neuron_path(node)), found[node.name][1])
    latest = max((begins[name] for name in refs(snn.graph.output)), default=0.0)
    first = min(math.ceil(min(latest, T)), longest)
    wave: Any = schedule
    return max([clock.t for clock in wave.clocks(snn.code, T) if clock.t <= first], default=0)


def _first_event(module: Any, a: torch.Tensor) -> float:
    """Steps until the first neuron of a layer has an event to send; infinite for a silent layer."""
    assert isinstance(module, SpikingNeuron)
    theta = fitted(module.threshold, a.shape, module.axis)
    assert theta is not None
    state = module.neuron.init(theta, **module.neuron.options, **module.facts)
    v = next(leaf for leaf in leaves(state) if isinstance(leaf, torch.Tensor))
    v = v if module.charge is None else v + module.charge
    book = module.neuron.options.get("codebook")
    smallest = book.smallest(theta) if isinstance(book, Codebook) else theta
    if not bool(torch.isfinite(a).all()):
        raise InputError(f"readout_delay: NaN or infinity at a neuron made of {module.origin}; look for it in the data")
    mean = a.abs().mean(0)
    steps = (smallest - v).clamp(min=0.0) / mean
    return float(steps.where(mean > 0, steps.new_tensor(math.inf)).min())
