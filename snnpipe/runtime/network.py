"""The spiking network: a module that runs a lifted graph through time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from snnpipe.checks import takes
from snnpipe.codes import CODE, Code
from snnpipe.emit import module_tree
from snnpipe.errors import InputError
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.generated import packaged
from snnpipe.graph import Graph
from snnpipe.ops.lift import graded_units
from snnpipe.ops.modules import SpikingNeuron, held
from snnpipe.ops.sequence import stacked
from snnpipe.options import MAPPING, RUN, instance, one_of, whole
from snnpipe.runtime import shown
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.inputs import (
    DELAY,
    bind,
    check_delay,
    check_numbers,
    check_shapes,
    explained,
    part_of,
    sequences,
    static,
    steps,
)
from snnpipe.runtime.layout import as_given
from snnpipe.runtime.presented import BYTES, Presented, cut
from snnpipe.runtime.program import Program, lifted_program
from snnpipe.runtime.progress import NOTHING, State, check_goes_on, check_is_state, shapes_of
from snnpipe.runtime.readout import as_events, since, totals
from snnpipe.runtime.uncompiled import uncompiled
from snnpipe.runtime.until import UNTIL, Stopped, Until, check_alone, stopped
from snnpipe.runtime.window import of_step
from snnpipe.state import Event
from snnpipe.waves import SCHEDULE, STEP, Wave

#: How many steps of a sequence are run together; bounds the memory a long sequence takes.
CHUNK = 16


class SpikingNetwork(nn.Module):
    r"""A converted network.  ``to_snn`` makes it.

    ``snn(x, T=32)`` runs T steps from a fresh state and returns the decoded output: on the ANN's scale and with the
    structure of the ANN's output.  Nothing is kept between calls, so the batch size may change and two calls give the
    same bits.  What comes after the last neuron is applied to decoded values; a softmax head is therefore right.

    Parameters do not require gradients (memory then stays flat in T); ``snn.requires_grad_()`` turns them on.

    Attributes:
        graph_module: one time step as a ``torch.fx.GraphModule``, for reading: ``print_readable()``.
        code: the neural code.
        history: what the stages did.
        budget: bytes that steps computed together may take; ``None`` for 64 MiB on a CPU, 2 GiB elsewhere.
        constants: of a part of a model (``trace(part=...)``), the arguments that are no inputs, as they were given.

    Its tensors and submodules are the ANN's, under the ANN's own names; where one of them is called like an attribute
    of the network (``code``), the attribute is the network's, and ``named_modules`` and ``state_dict`` have the ANN's.
    """

    @takes(graph=instance(Graph, "must be a graph", "write to_snn(state)"), params=MAPPING, code=CODE)
    def __init__(self, graph: Graph, params: Mapping[str, Tensor], code: Code, history: tuple[Event, ...] = ()) -> None:
        super().__init__()
        missing = sorted(graph.param_keys() - params.keys())
        if missing:
            raise InputError(f"SpikingNetwork: params has no {', '.join(missing)}; to_snn(state) makes the network")
        self.graph, self.code, self.history = graph, code, history
        self.budget: int | None = None
        self.made: tuple[str, ...] = ()
        self.constants: FrozenMap[str, Any] = EMPTY
        self._every = frozenset(node["name"] for node in graph.inputs) - static(graph)
        tree = module_tree(graph, params)
        for own in ("_parameters", "_buffers", "_modules"):  # not by setattr: the ANN's names are its own business
            self.__dict__[own].update(tree.__dict__[own])
        self.eval()

    @property
    def graph_module(self) -> fx.GraphModule:
        """One time step as a ``torch.fx.GraphModule`` around the network's own tensors, for reading."""
        return packaged(self._program(self._every).step_graph, self)

    @property
    def weights(self) -> nn.Module:
        """The module that holds the tensors: the network itself."""
        return self

    @uncompiled
    @takes(
        InputError, T=RUN, encoding=ENCODING, readout=one_of("last", "every"), schedule=SCHEDULE, delay=DELAY,
        until=UNTIL,
    )  # fmt: skip
    def forward(
        self,
        /,
        *inputs: Any,
        T: int,
        encoding: Encoding = constant(),
        readout: str = "last",
        schedule: Wave | str = STEP,
        delay: int = 0,
        until: Until | None = None,
        **named: Any,
    ) -> Any:
        """Run T steps and decode.

        Args:
            *inputs, **named: as the ANN takes them.
            T: number of steps, at least 1.
            encoding: ``constant()`` current, ``poisson(generator)``, ``events()`` (the inputs are sequences already).
            readout: ``"last"``, the output decoded after T steps, or ``"every"``, the outputs decoded after each
                step, of a wave after each chunk, stacked on a new first axis.
            schedule: ``"step"``, all layers take step t at the same time, so that the answer comes after T steps;
                ``"layer"``, a layer fires for T steps when the one before it is done (Hao et al. 2025, "Faster and
                stronger: when ANN-SNN conversion meets parallel spiking calculation", ICML), so that it comes after
                ``depth x T`` steps and no event was too early: an IF network is then the ANN with activations
                quantised to T + 1 levels (QCFS); or ``wave(K)``, layers pass on chunks of K steps, which is between
                the two and costs T / K runs of the ANN.
            delay: the readout leaves out the events of so many first steps, in which deep layers have not spoken yet
                (Bu et al. 2025, "Inference-scale complexity in ANN-SNN conversion", CVPR); under codes that average;
                of a wave whole chunks.  ``readout_delay`` estimates it.
            until: each sample stops as soon as this holds of its readout, after T steps at the latest, and the others
                go on without it: ``confident(0.9)``, or a rule of your own, ``(memory, output) -> (memory, done)``,
                done (B,) booleans, memory ``None`` at first and then what you gave, a row for each sample.

        Returns:
            The ANN's output structure; each tensor has the ANN's shape, or ``(T, ...)`` for ``"every"``.  With
            ``until`` that of when each sample stopped, and the steps it took: ``Stopped(output, steps)``.
        """
        wave: Any = schedule
        if until is not None:
            check_alone(readout, delay)
            run, ahead = self._presented(inputs, named, T, encoding, wave, 0), [*wave.clocks(self.code, T)]
            output, steps = stopped(run, self._call, self._params(), ahead, until)
            return Stopped(as_given(output, run.given), steps)
        if readout == "every":
            return stacked(list(self._decoded(inputs, named, T, encoding, wave, delay)))
        return self._at_last(inputs, named, T, encoding, wave, delay)

    def _at_last(
        self, inputs: tuple[Any, ...], named: Mapping[str, Any], T: int, encoding: Encoding, wave: Wave, delay: int
    ) -> Any:
        """The output decoded after all steps, many of them at once."""
        run = self._presented(inputs, named, T, encoding, wave, delay)
        ahead = wave.clocks(self.code, T)
        cells, early, frontier, now = dict[str, Any](), None, dict[str, Any](), run.given
        kept = 1.0  # share of the events up to ``delay`` in what is decoded
        while part := cut(ahead, run.size(cells), delay):
            if len(part) == 1:
                now = run.step(part[0])
                cells, frontier = self._call(run.program.step, part[0], cells, run.statics, now)
            else:
                now = run.window(part)
                cells, frontier = self._call(run.program.steps, part, cells, run.statics, now)
                now = run.last(now)
            if part[-1].t == delay:
                early = totals(frontier, cells, run.program)
            elif early is not None:
                kept *= math.prod(clock.alpha for clock in part)
        if early is not None:
            frontier = since(early, frontier, cells, run.program, kept)
        return as_given(self._call(run.program.read, run.statics, frontier, now), run.given)

    @takes(InputError, T=whole(most=2**62, wanted=RUN.wanted), encoding=ENCODING, schedule=SCHEDULE, delay=DELAY)
    def iterate(
        self,
        /,
        *inputs: Any,
        T: int,
        encoding: Encoding = constant(),
        schedule: Wave | str = STEP,
        delay: int = 0,
        **named: Any,
    ) -> Iterator[Any]:
        """The decoded output after step 1, 2, ..., T, one at a time: stop when you have seen enough.

        Of a wave after each chunk.  Up to step ``delay`` it is that of all events so far, then that of those since.
        """
        wave: Any = schedule
        return self._decoded(inputs, named, T, encoding, wave, delay)

    def _decoded(
        self, inputs: tuple[Any, ...], named: Mapping[str, Any], T: int, encoding: Encoding, wave: Wave, delay: int
    ) -> Iterator[Any]:
        """The output decoded after every step, or chunk, of a run of T steps."""
        run = self._presented(inputs, named, T, encoding, wave, delay)
        cells: Mapping[str, Any] = {}
        early: Any = None
        kept = 1.0
        for clock in wave.clocks(self.code, T):
            now = run.step(clock)
            cells, frontier = self._call(run.program.step, clock, cells, run.statics, now)
            if clock.t == delay:
                early = totals(frontier, cells, run.program)
            elif early is not None:
                kept *= clock.alpha
                frontier = since(early, frontier, cells, run.program, kept)
            yield as_given(self._call(run.program.read, run.statics, frontier, now), run.given)

    def _presented(
        self, inputs: tuple[Any, ...], named: Mapping[str, Any], T: int, encoding: Encoding, wave: Wave, delay: int
    ) -> Presented:
        check_delay(delay, T, self.code, wave)
        given = bind(self.graph, inputs, named)
        check_numbers(given, self.graph)
        if encoding.encode is None:
            check_shapes(given, self.graph)
        moving = sequences(given, self.graph) if encoding.encode else frozenset()
        program, statics = self._prepared(given, moving)
        budget = BYTES.hold(self.budget, "budget", "SpikingNetwork", InputError)
        return Presented(program, statics, given, moving, encoding.encode, self.graph, budget)

    def init(self, /, *inputs: Any, **named: Any) -> State:
        """The state before the first step, for inputs like these.

        Static inputs among them (whole numbers, booleans, those named in ``trace(static=...)``) hold for the whole run,
        and each later call is given them again.  Without inputs, the first step says what they are.
        """
        return self._continued(NOTHING, bind(self.graph, inputs, named)) if inputs or named else NOTHING

    @takes(InputError, state=instance(State, "must be a state", "write snn.step(snn.init(x), x_t)"))
    def step(self, state: State, /, *inputs: Any, **named: Any) -> tuple[State, Any]:
        """One time step on events: ``(state, x_t) -> (state, y_t)``; the given state is unchanged.

        The events y_t decode, under the network's code, to the output for the decoded inputs so far.
        """
        check_is_state("step", state)
        given = bind(self.graph, inputs, named)
        state = self._continued(state, given)
        clock, run = self.code.clock(state.t + 1), self._program(sequences(given, self.graph))
        cells, frontier = self._call(run.step, clock, state.cells, state.statics, given)
        decoded = self._call(run.read, state.statics, frontier, given)
        events, sent = as_events(state.sent, decoded, clock)
        return state.after(1, cells, decoded, sent), as_given(events, given)

    def _continued(self, state: State, given: Mapping[str, Any]) -> State:
        """The state that inputs of one step go on from; the first ones say what holds for the whole run."""
        check_shapes(given, self.graph)
        check_numbers(given, self.graph)
        moving = sequences(given, self.graph)
        if state.statics is not None:
            check_goes_on(state, given, moving, self.code)
            return state
        _, statics = self._prepared(given, moving)
        still: FrozenMap[str, Any] = FrozenMap({name: value for name, value in given.items() if name not in moving})
        return State(0, EMPTY, FrozenMap(statics), None, shapes_of(given), still, self.code)

    def sequence(self, /, *inputs: Any, state: State | None = None, **named: Any) -> Any:
        """Run an event sequence: ``x_seq`` (T, B, ...) to ``y_seq`` (T, B, ...), from a fresh state or the one given.

        Under TD, ``y_seq.cumsum(0)[t] == model(x_seq.cumsum(0)[t])`` at every t when there are no neurons.  Inputs that
        are whole numbers or booleans (indices, masks), or were named in ``trace(static=...)``, do not change: they are
        given as the ANN takes them, without a time axis.

        Args:
            *inputs, **named: event sequences and static inputs, as the ANN takes them; an argument of the ANN that is
                called ``state`` is given by position.
            state: from ``init``, ``step`` or an earlier ``sequence``, where the run goes on; by default it begins.

        Returns:
            ``y_seq``; with ``state``, ``(state, y_seq)``, so that a sequence may be cut anywhere.

        Raises:
            InputError: inputs without a time axis, of different lengths, of length 0, or that do not fit the state.
        """
        begun = NOTHING if state is None else state
        check_is_state("sequence", begun)
        given = bind(self.graph, inputs, named)
        moving = sequences(given, self.graph)
        length = steps(given, moving, self.graph)
        check_numbers(given, self.graph)
        first = given | {name: part_of(given[name], 0) for name in moving}
        begun = self._continued(begun, first)
        run, cells, decoded, events = self._program(moving), begun.cells, begun.decoded, list[Any]()
        sent = begun.sent
        for start in range(0, length, CHUNK):
            part = slice(start, min(start + CHUNK, length))
            clocks = [self.code.clock(begun.t + t + 1) for t in range(part.start, part.stop)]
            now = given | {name: part_of(given[name], part) for name in moving}
            cells, outputs = self._call(run.window, clocks, cells, begun.statics, now)
            for t, clock in enumerate(clocks):
                decoded = of_step(outputs, t)
                made, sent = as_events(sent, decoded, clock)
                events.append(made)
        y_seq = as_given(stacked(events), given)
        return y_seq if state is None else (begun.after(length, cells, decoded, sent), y_seq)

    def _program(self, sequences: frozenset[str]) -> Program:
        """The program for these inputs being event sequences; the others do not change."""
        return lifted_program(self.graph, self.code, sequences)

    def _prepared(self, given: Mapping[str, Any], sequences: frozenset[str]) -> tuple[Program, Any]:
        """The program, and what it computes once."""
        run = self._program(sequences)
        return run, self._call(run.once, given)

    def _call(self, function: Callable[..., Any], *given: Any) -> Any:
        """A function of the program; its last argument are the inputs."""
        with explained(given[-1], self):
            return function(self, *given)

    def _params(self) -> dict[str, Tensor]:
        """The tensors by key."""
        return {key: held(self, key) for key in sorted(self.graph.param_keys())}

    def neurons(self) -> dict[str, SpikingNeuron]:
        """The neurons by name: the path of the module they stand in, ``__``, and what they are."""
        found = self.named_modules()
        return {name: module for name, module in found if isinstance(module, SpikingNeuron)}

    def __repr__(self) -> str:
        lines = [f"SpikingNetwork(code={self.code}, {len(self.neurons())} neuron layers)"]
        lines += [f"  {name}: {neuron.extra_repr()}" for name, neuron in self.neurons().items()]
        graded = [node.path for node in graded_units(self.graph, temporal_inputs=False)]
        graded += [name for name, neuron in self.neurons().items() if neuron.neuron.unit == "graded"]
        if graded:
            lines.append(f"  not fully spiking, graded (float) units: {', '.join(graded)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return shown.network(repr(self).partition("\n")[0], self.neurons(), self.made, self.history)

    def __reduce__(self) -> Any:
        kept = self.graph, self._params(), self.code, self.history, self.training, self.budget
        return _rebuilt, kept, {"made": self.made, "constants": self.constants}


#: For arguments that are converted networks.
NETWORK = instance(
    SpikingNetwork, "must be a converted network", "write pipe(model, trace, fuse, calibrate(loader), to_snn); of a "
    "recipe's answer take .snn",
)  # fmt: skip


def _rebuilt(
    graph: Graph, params: dict[str, Tensor], code: Code, history: tuple[Event, ...], training: bool, budget: int | None
) -> Any:
    made = SpikingNetwork(graph, params, code, history).train(training)
    made.budget = budget
    return made
