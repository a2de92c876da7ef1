r"""Honest accounting: what a run costs, beside its accuracy.

Neurons and synapses that send spikes add; what is left of the ANN multiplies.  A conversion can hide its price in
events, in wires, in floats of state, in multiplications that remain, or in units that are no spiking ones at all; so
each of them is counted apart, by brute force, on the data given.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from snnpipe.analysis.costs import Account, Layer, Operator
from snnpipe.analysis.schedules import tallied
from snnpipe.analysis.tally import Run, Tally, depends_on_inputs
from snnpipe.analysis.trains import elements
from snnpipe.checks import takes
from snnpipe.containers import tensors
from snnpipe.emit import neuron_path
from snnpipe.errors import InputError
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, refs
from snnpipe.kernels.codebook import Codebook
from snnpipe.ops.lift import Form, lift, place
from snnpipe.ops.modules import SpikingNeuron
from snnpipe.options import RUN
from snnpipe.runtime.depth import depth
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.inputs import bind, check_numbers, check_samples, check_shapes, encoded, explained, sequences
from snnpipe.runtime.network import NETWORK, SpikingNetwork
from snnpipe.runtime.program import lifted_program
from snnpipe.waves import SCHEDULE, STEP, Wave

_STATE = {"encode": "neurons", "accumulate": "accumulators", "difference": "differences"}


@takes(InputError, snn=NETWORK, T=RUN, encoding=ENCODING, schedule=SCHEDULE)
def account(
    snn: SpikingNetwork,
    *inputs: Any,
    T: int,
    encoding: Encoding = constant(),
    schedule: Wave | str = STEP,
    **named: Any,
) -> Account:
    r"""Count what ``snn(*inputs, T=T)`` costs per sample; the network is unchanged.

    * **Events** are the spikes on the wires of the neurons, counted one by one.
    * **Synaptic operations (SOP)** are events x fan-out: additions for spikes, multiplications for numbers.
    * **Additions (AC).**  A spike costs as many as the operator it meets has outputs that depend on that element: its
      fan-out, without the zeros among the weights.  What moves, scales, pools or sums spikes sends them on, once for
      each window, at no cost; a spike that goes straight into a neuron, an accumulator or a sum with a current costs
      one.  An event on n wires costs one addition per spike; if a wire is worth theta / 2^k, a shift as well.
    * **Multiplications (MAC).**  All that multiplies floats, each with an addition: operators on a constant input and
      behind the last neuron (once in a run), products of two signals, and at every step, for each element that is not
      zero, operators whose input is a current, a graded event or the output of a graded unit.  For those that run on
      decoded values the usual formula from their shapes, as for the ANN (``multiplications``).
    * **Graded units.**  Elements handled by nonlinear operators on floats (softmax, normalisation, gates).
    * **State.**  Floats that are remembered from one step to the next.

    Not counted: biases, additions of decoded values, memory traffic of weights, and what is computed from parameters
    alone.  ``energy`` has the joules.

    Args:
        snn: a converted network.
        *inputs, **named: as the network takes them; the first axis of the first input is that of the samples.
        T: number of steps.
        encoding: as the network takes it; input events that are all -1, 0 or 1 are spikes.
        schedule: as the network takes it.  In a wave a neuron gathers the events of a chunk before it sends the first
            of its own; what lies between two neurons handles the same T steps.

    Raises:
        InputError: what the network itself does not take.

    References: Horowitz 2014, "Computing's energy problem (and what we can do about it)", ISSCC; Merolla et al. 2014,
    "A million spiking-neuron integrated circuit", Science (synaptic operations).

    >>> from torch import nn
    >>> from snnpipe import fixed, integrate_and_fire, pipe, replace, to_snn, trace
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    >>> costs = account(snn, torch.ones(5, 2), T=8)
    >>> [(layer.name, layer.neurons, layer.state) for layer in costs.layers]
    [('1__if0', 3, 3.0), ('3__if0', 4, 4.0)]
    >>> costs.mac, costs.ann  # once 2 x 3 and once 4 x 1; the ANN has 3 x 4 as well
    (10.0, 22.0)
    """
    wave: Any = schedule
    given = bind(snn.graph, inputs, named)
    check_samples("account", given, snn.graph)
    check_numbers(given, snn.graph)
    encode = encoding.encode
    moving = sequences(given, snn.graph) if encode else frozenset()
    lifted = lift(snn.graph, temporal_inputs=moving)
    step = lifted_program(snn.graph, snn.code, moving).step_graph
    every_step = {node.meta["snnpipe"][2] for node in step.nodes if "snnpipe" in node.meta}
    before = lifted.ancestors(every_step)
    placed = place(snn.graph, temporal_inputs=moving)
    run = Run(snn.state_dict(), snn.neurons(), placed, depends_on_inputs(lifted))
    with torch.no_grad(), explained(given, snn):
        presented = []
        for clock in Wave(1).clocks(snn.code, T):
            now = encoded(given, moving, encode, clock) if encode else given
            check_shapes(now, snn.graph)
            presented.append((clock, now))
        plan = [node for node in lifted if node.op == "input" or node.name in before]
        tallied(run, plan, presented, tuple(wave.clocks(snn.code, T)), moving=moving, every_step=every_step)
        for node in lifted:
            if node.op != "input" and node.name not in before:
                run.perform(node, clock)
    first = next(tensor for node in lifted.inputs for tensor in tensors(now[node["name"]]))
    batch = first.shape[0] if first.ndim else 1
    return _account(snn, lifted, run, (T, str(snn.code), encoding.name, str(wave), batch))


@takes(InputError, snn=NETWORK, T=RUN, schedule=SCHEDULE)
def latency(snn: SpikingNetwork, T: int, schedule: Wave | str = STEP) -> int:
    """Steps until the answer of a run of T steps: T, or ``T + (depth - 1) K`` for a wave.

    The depth is the largest number of neurons on a path.

    Raises:
        InputError: T is no number of steps, or no such schedule.
    """
    wave: Any = schedule
    steps: int = wave.latency(T, depth(snn.graph))
    return steps


def _account(snn: SpikingNetwork, lifted: Graph, run: Run, ran: tuple[int, str, str, str, int]) -> Account:
    batch = ran[-1]
    floats = {name: elements(cell) / batch for name, cell in run.cells.items()}
    state = dict.fromkeys(_STATE.values(), 0.0)
    for node in lifted:
        if node.name in floats:
            state[_STATE[node.op]] += floats[node.name]
    nodes = [(node, run.tallies[node.name]) for node in lifted if node.name in run.tallies]
    modules = snn.neurons()
    layers = [
        _layer(neuron_path(node), modules[neuron_path(node)], tally, floats[node.name], batch)
        for node, tally in nodes if node.op == "encode"
    ]  # fmt: skip
    parts = _parts(lifted)
    operators = [_operator(node, run, batch, parts[node.name]) for node, tally in nodes if tally.costs]
    return Account(*ran, tuple(layers), tuple(operators), FrozenMap(state))


def _layer(name: str, module: SpikingNeuron, tally: Tally, state: float, batch: int) -> Layer:
    neuron = module.neuron
    bits = _bits(module, 8 * tally.itemsize)
    count, events = -(-tally.neurons // batch), tally.events / batch
    return Layer(name, str(neuron), neuron.unit, neuron.alphabet, neuron.wires, bits, count, events, state)


def _operator(node: Node, run: Run, batch: int, part: str) -> Operator:
    tally = run.tallies[node.name]
    on_events = node.op in _STATE or run.placed[node.name].form is Form.EVENTS
    ac, mac, graded, ann = (amount / batch for amount in (tally.ac, tally.mac, tally.graded, tally.ann))
    return Operator(node.path or node.name, node.op, tally.runs, on_events, ac, mac, graded, ann, tally.unseen, part)


def _parts(lifted: Graph) -> dict[str, str]:
    """Where each node stands: before the first neuron, between neurons, or behind the last."""
    fired: set[str] = set()  # what reads a neuron
    for node in lifted:
        if any(name in fired or lifted[name].op == "encode" for name in refs(node.operands)):
            fired.add(node.name)
    ahead = lifted.ancestors(node.name for node in lifted if node.op == "encode")
    return {
        node.name: "before" if node.name not in fired else "between" if node.name in ahead else "behind"
        for node in lifted
    }


def _bits(module: SpikingNeuron, number: int) -> int:
    """The bits of an event on one wire; those of a float where nobody says what its levels are."""
    book = module.neuron.options.get("codebook")
    if not isinstance(book, Codebook):
        return {"binary": 1, "signed": 2}.get(module.neuron.unit, number)
    levels = book.high - book.low + 1 if book.wires == 1 else 2 + (book.low < 0)
    return number if math.isinf(levels) else math.ceil(math.log2(levels))
