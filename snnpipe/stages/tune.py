r"""Weights that suit their neurons: each layer trained alone, without labels, on what its spiking prefix sends.

The layers in front of a neuron are taken out of the network, with the events that arrive at them and what the ANN has
behind them.  What is minimised is the distance of the neuron's answer from that, so gradients go through one layer at a
time, and through all its steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from tqdm import tqdm

from snnpipe.checks import Check, RefusalError, takes
from snnpipe.codes import CODE, RATE, Clock, Code
from snnpipe.emit import module_tree, neuron_path
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Param, Ref, refs, unique_name
from snnpipe.options import FLAG, RUN, WHOLE, number
from snnpipe.rules.axes import LAYER_AXIS
from snnpipe.runtime.activations import activations
from snnpipe.runtime.batches import Forward, fitting
from snnpipe.stage import HAS_VALUES, BoundStage
from snnpipe.stages.batches import BATCHES_AND_T, MAX_BATCHES
from snnpipe.stages.correct import HAS_NEURONS
from snnpipe.stages.fuse import NOT_LIFTED
from snnpipe.stages.prefix import Prefix, as_events, bound, check_currents, detached, every_step, split
from snnpipe.state import ConversionState, Event
from snnpipe.text import remembered
from snnpipe.waves import SCHEDULE, STEP, Wave


def _alone(value: Any) -> Any:
    if value is ...:
        return value
    raise RefusalError(
        "each step of the gradient hangs on the one before, and a group has no order; train in one process, "
        "save(state, path), and load(path) in the others"
    )


_ALONE = Check("must be left out", _alone)
_RATE = number("must be a positive number, at most 1000", lambda value: 0 < value <= 1000)


@takes(
    StageError, batches=BATCHES_AND_T, T=RUN, code=CODE, schedule=SCHEDULE, epochs=WHOLE, lr=_RATE, batch_size=WHOLE,
    max_batches=MAX_BATCHES, progress=FLAG, group=_ALONE,
)  # fmt: skip
@remembered
def correct_weights(
    batches: Iterable[Any], *, T: int, code: Code = RATE, schedule: Wave | str = STEP, epochs: int = 2,
    lr: float = 1e-2, batch_size: int = 32, forward: Forward | None = None, max_batches: int | None = None,
    progress: bool = False, group: Any = ...,
) -> BoundStage:  # fmt: skip
    r"""A stage that trains the weights before each neuron so that it answers what the ANN has there; no labels.

    .. math:: W_l \leftarrow \arg\min_W E\,\| Y_T(f(x_1; W), ..., f(x_T; W)) - a \|^2

    layer by layer from the input on.  x_t are the events of the neurons before it, which have their new weights
    already; f are the operators in between, W the weights of their linear layers and convolutions; :math:`Y_T` is what
    the neuron has sent by then, decoded, with its surrogate gradient; a is the ANN's activation.  So W learns what
    thresholds, few steps *and* the order of the events do to the answer.  The state is unchanged; a layer called twice
    gets weights of its own at each call, and one that is no nearer to the ANN after training keeps those it had.  That
    is on the data given; where neurons round well already, the output of the whole network need not gain.

    Args:
        batches: inputs as for ``calibrate``; some hundred samples.  They are read once and kept.
        T: the number of steps the network is for.
        code: the code the network will run under.
        schedule: ``"step"``, ``"layer"`` or ``wave(K)``, as the network will run.
        epochs: passes over the batches for each layer.
        lr: step size of Adam relative to the root mean square of each tensor; falls to 0 along a half cosine.
        batch_size: samples of a gradient step; batches that are larger are split.
        forward: as for ``calibrate``.
        max_batches: read no more than so many.
        progress: show a progress bar.
        group: none; a step of the gradient hangs on all before it, and the processes of a group have no order.

    Memory: the events that reach one layer, of all samples at all T steps.

    Raises:
        StageError: no neurons yet, already carried to a code, neurons without a surrogate gradient, or an option that
            is no positive number, or a group.
        CalibrationError: no batch, one that does not fit the network, or NaN or infinity at a neuron; names the batch.

    Reference: after Li et al. 2021, "A free lunch from ANN: towards efficient, accurate spiking neural networks
    calibration", ICML (the advanced pipeline, which trains for the mean of the events).
    """
    given = {"batches": batches, "T": T, "code": code, "schedule": schedule, "epochs": epochs, "lr": lr}
    given |= {"batch_size": batch_size, "forward": forward, "limit": max_batches, "progress": progress}
    return BoundStage(_correct_weights, (HAS_VALUES, NOT_LIFTED, HAS_NEURONS), FrozenMap(given))


def _correct_weights(
    state: ConversionState, *, batches: Iterable[Any], T: int, code: Code, schedule: Wave, epochs: int, lr: float,
    batch_size: int, forward: Forward | None, limit: int | None, progress: bool,
) -> ConversionState:  # fmt: skip
    whole, clocks = bound(state, batches, "correct_weights", limit, forward), tuple(schedule.clocks(code, T))
    graph, params, events = state.graph, dict(state.params), list[Event]()
    ann, original = activations(graph), module_tree(graph, detached(params))
    for batch, given in enumerate(whole):
        with fitting("correct_weights", batch, given, original), torch.no_grad():
            check_currents(ann(original, given), graph, "correct_weights", batch)
    inputs = [part for given in whole for part in split(given, batch_size)]
    done: set[str] = set()
    neurons = [node.name for node in graph if node.op == "encode"]
    for name in tqdm(neurons, "correct_weights", leave=False, disable=not progress):
        piece = _piece(graph, name, done)
        if not piece.layers:
            continue
        with torch.no_grad():
            sent = _arriving(graph, piece.borders, detached(params), code, clocks)
            samples = [(given | sent(given), ann(original, given)[name][1]) for given in inputs]
        own, copies = _with_copies(graph, piece.layers, params)
        fit = _Fit(own, piece, detached(params) | copies, code, clocks, lr)
        before, after = fit.run(samples, epochs)
        if after < before:
            graph, params = own, params | detached(copies)
        done |= set(piece.layers)
        action = "trained" if after < before else "left as it was"
        note = f"squared error {before:.3g} -> {after:.3g} at {neuron_path(graph[name])}"
        events += [Event("correct_weights", graph[layer].path, action, note) for layer in piece.layers]
    return state.evolve(*events, graph=graph, params=FrozenMap(params))


@attrs.frozen
class _Piece:
    """The nodes between a neuron and those before it, its ``borders``; ``layers`` are to be trained."""

    neuron: str
    nodes: tuple[str, ...]
    borders: tuple[str, ...]
    layers: tuple[str, ...]


def _piece(graph: Graph, neuron: str, done: Collection[str]) -> _Piece:
    wanted = set(refs(graph[neuron]["input"]))
    found: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in wanted:
            found.insert(0, node)
            wanted.update(refs(node.operands) if node.op != "encode" else ())
    between = tuple(node.name for node in found if node.op not in ("encode", "input"))
    layers = tuple(name for name in between if name not in done and _trained(graph[name]))
    return _Piece(neuron, between, tuple(node.name for node in found if node.op == "encode"), layers)


def _arriving(
    graph: Graph, borders: tuple[str, ...], params: Mapping[str, Tensor], code: Code, clocks: Sequence[Clock]
) -> Prefix:
    """The events (T, B, ...) that the neurons ``borders`` send, by name; of a wave one for each chunk."""
    if not borders:
        return lambda given: {}
    values: FrozenMap[str, Any] = FrozenMap({_sent(border): Ref(border) for border in borders})
    decoded = every_step(graph, values, params, code, clocks)
    return lambda given: as_events(decoded(given), clocks)


def _sent(border: str) -> str:
    """The input that carries what a neuron has sent; no argument of a model is called so."""
    return f"events of {border}"


def _trained(node: Node) -> dict[str, str]:
    """The operands of a layer that are trained, and their keys."""
    operands = ("weight", "bias") if node.op in LAYER_AXIS else ()
    return {name: node[name].key for name in operands if isinstance(node.get(name), Param)}


def _with_copies(
    graph: Graph, layers: Collection[str], params: Mapping[str, Tensor]
) -> tuple[Graph, dict[str, Tensor]]:
    """The graph in which each of the layers has weights of its own, and these."""
    copies: dict[str, Tensor] = {}
    nodes: list[Node] = []
    for node in graph:
        for operand, key in (_trained(node) if node.name in layers else {}).items():
            module, _, name = key.rpartition(".")
            own = unique_name(f"{module}__trained.{name}", params.keys() | copies.keys())
            copies[own] = params[key].detach().clone().requires_grad_()
            node = node.evolve(**{operand: Param(own)})
        nodes.append(node)
    return Graph(tuple(nodes), graph.output), copies


class _Fit:
    """A piece of the network on its own, and the optimiser of its weights."""

    def __init__(
        self, graph: Graph, piece: _Piece, params: Mapping[str, Tensor], code: Code, clocks: Sequence[Clock],
        lr: float,
    ) -> None:  # fmt: skip
        arriving = tuple(Node(name, "input", FrozenMap(name=_sent(name))) for name in piece.borders)
        inner = tuple(graph[name] for name in piece.nodes)
        alone = Graph((*graph.inputs, *arriving, *inner, graph[piece.neuron]), Ref(piece.neuron))
        stepped = every_step(alone, alone.output, params, code, clocks, frozenset(map(_sent, piece.borders)))
        self.answer: Prefix = lambda given: stepped(given)[-1]
        theta = params[graph[piece.neuron]["threshold"].key]
        sizes = {"weight": lambda w: w.square().mean().sqrt(), "bias": lambda b: theta.median()}
        self.groups = [{"params": [params[key]], "lr": lr * float(sizes[operand](params[key].detach()))}
                       for name in piece.layers for operand, key in _trained(graph[name]).items()]  # fmt: skip
        self.neuron = graph[piece.neuron]["neuron"]

    def error(self, given: Mapping[str, Any], wanted: Tensor) -> Tensor:
        """How far what the neuron sends in T steps of what arrives is from what is wanted."""
        return nn.functional.mse_loss(self.answer(given), wanted)

    def run(self, samples: Sequence[tuple[Mapping[str, Any], Tensor]], epochs: int) -> tuple[float, float]:
        """Train; the error before and after."""
        optimiser = torch.optim.Adam(self.groups)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(samples))
        order = torch.Generator().manual_seed(0)
        before = self._mean_error(samples)
        with torch.enable_grad():
            for k in [k for _ in range(epochs) for k in torch.randperm(len(samples), generator=order).tolist()]:
                error = self.error(*samples[k])
                if not error.requires_grad:
                    raise StageError(
                        f"correct_weights: {self.neuron} has no surrogate gradient; write its events with one, "
                        "use a neuron of this library, or use correct_bias"
                    )
                optimiser.zero_grad()
                error.backward()
                optimiser.step()
                decay.step()
        return before, self._mean_error(samples)

    def _mean_error(self, samples: Sequence[tuple[Mapping[str, Any], Tensor]]) -> float:
        with torch.no_grad():
            return float(torch.stack([self.error(*sample) for sample in samples]).mean())
