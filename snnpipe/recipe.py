"""What a conversion method is: a choice of threshold rule, neuron, code, schedule and corrections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

import attrs
from torch import nn

from snnpipe.checks import Check, RefusalError, takes, valid
from snnpipe.codes import CODE, RATE, Code, low_pass
from snnpipe.errors import InputError, SnnpipeError, StageError
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.neuron import NEURON, Neuron
from snnpipe.kernels.optimal import mmse
from snnpipe.kernels.threshold import RULE, Threshold
from snnpipe.options import STEPS, TEXT, function, functions, instance, optional, several, whole
from snnpipe.rules.operands import BOTTLENECK_RULES, TRANSFORMER_RULES
from snnpipe.rules.sites import SITE_RULES, SiteRule
from snnpipe.runtime import shown
from snnpipe.runtime.batches import Forward, Reader
from snnpipe.runtime.delay import readout_delay
from snnpipe.runtime.depth import depth
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stage import pipe
from snnpipe.stages.batches import BATCHES
from snnpipe.stages.calibrate import calibrate
from snnpipe.stages.fuse import fuse
from snnpipe.stages.instrument import marked
from snnpipe.stages.prefix import read_by_name
from snnpipe.stages.replace import replace
from snnpipe.stages.siteless import advice, nonlinear
from snnpipe.stages.td_rewrite import td_rewrite
from snnpipe.stages.to_snn import to_snn
from snnpipe.stages.together import GROUP, Together
from snnpipe.stages.trace import MODEL, trace
from snnpipe.state import ConversionState, Event, Levels, Site
from snnpipe.text import Call, expression, written
from snnpipe.waves import SCHEDULE, STEP, Wave

Choice = TypeVar("Choice")


def _of_steps(value: Any) -> Any:
    """A rule or a code is no function of T, though a rule can be called."""
    if isinstance(value, Threshold | Code):
        raise RefusalError(f"write always({value!r})")
    return function("T").accept(value)


_OF_T = Check("must be a function (T)", _of_steps, "write always(...) for what does not depend on T")
_CORRECTIONS = several(function("batches", options=True), "functions (batches, T=, code=, schedule=)")
#: For arguments that are models or the states they were traced to.
MODEL_OR_STATE = Check(MODEL.wanted, lambda value: value if isinstance(value, ConversionState) else MODEL.accept(value))


def _as_wave(value: Any) -> Wave:
    made: Wave = SCHEDULE.hold(value, "schedule", "Recipe", SnnpipeError)
    return made


@attrs.frozen
class Recipe:
    """A conversion method; call it to convert.

    Args:
        name: what tables call it.
        threshold: ``threshold(T)``, the rule that gives theta.
        neuron: the neuron.
        code: ``code(T)``, the code.
        schedule: ``"step"``, ``"layer"`` or ``wave(K)``, as ``SpikingNetwork`` takes it.
        pre: steps of a first pass; the code must begin anew after them.
        corrections: stages ``correct(batches, T=, code=, schedule=)`` made behind ``replace``, in order; in several
            processes they get ``group=`` too.
        delay: ``delay(snn, batches, T)``, how many of the T steps the readout leaves out.
        rules: where the sites are; ``TRANSFORMER_RULES`` take the place of the default ones where these find none, and
            ``BOTTLENECK_RULES`` where there are linear bottlenecks and the neuron has events of either sign.
    """

    name: str = attrs.field(validator=valid(TEXT))
    threshold: Callable[[int], Threshold] = attrs.field(validator=valid(_OF_T))
    neuron: Neuron = attrs.field(validator=valid(NEURON))
    code: Callable[[int], Code] = attrs.field(factory=lambda: always(RATE), validator=valid(_OF_T))
    schedule: Wave = attrs.field(default=STEP, converter=_as_wave)
    pre: int = attrs.field(default=0, validator=valid(whole(0)))
    corrections: tuple[Callable[..., Any], ...] = attrs.field(default=(), validator=valid(_CORRECTIONS))
    delay: Callable[[SpikingNetwork, Iterable[Any], int], int] | None = attrs.field(
        default=None, validator=valid(optional(function("snn", "batches", "T")))
    )
    rules: tuple[SiteRule, ...] = attrs.field(default=SITE_RULES, validator=valid(functions("node", "graph")))
    made: Call | None = attrs.field(default=None, kw_only=True, eq=False)

    @takes(InputError, model=MODEL_OR_STATE, batches=BATCHES, T=STEPS, group=GROUP)
    def __call__(
        self, model: nn.Module | ConversionState, batches: Iterable[Any], *, T: int, forward: Forward | None = None,
        group: Any = ...,
    ) -> Converted:  # fmt: skip
        """Convert for ``T`` steps; the model or state is unchanged.

        Args:
            model: a network, or the state it was traced to (fused or not), when ``trace`` needs options.
            batches: calibration data as ``calibrate`` takes it, readable more than once.
            T: steps, those of a first pass not counted.
            forward: as for ``calibrate``; every stage that reads the data calls it.
            group: processes, as for ``calibrate``; every stage that reads the data runs in all of them.

        Raises:
            StageError: the network has no site for a neuron of this kind; or, of a group, the recipe trains weights.
        """
        state = model if isinstance(model, ConversionState) else pipe(model, trace)
        constants = state.whole.constants if state.whole else EMPTY
        if forward is not None or state.whole is not None:
            batches, state = read_by_name(state, batches, self.name, forward), state.evolve(whole=None, made=state.made)
        measured = pipe(state, fuse, begun(self, T), calibrate(batches, group=group))
        return finished(self, measured, batches, T, constants, group)

    def __repr__(self) -> str:
        return expression(self)

    def __str__(self) -> str:
        return self.name


def begun(recipe: Recipe, T: int) -> Callable[[ConversionState], ConversionState]:
    """How a recipe for T steps begins, on a fused state: the sites are marked, and what is to be measured there."""
    rule = RULE.hold(recipe.threshold(T), f"threshold({T})", recipe.name, StageError)
    return partial(_sited, recipe, rule)


def finished(
    recipe: Recipe, state: ConversionState, batches: Iterable[Any], T: int,
    constants: FrozenMap[str, Any] = EMPTY, group: Any = ...,
) -> Converted:  # fmt: skip
    """What a recipe for T steps makes of a state that ``begun`` marked and ``calibrate`` measured."""
    code = CODE.hold(recipe.code(T), f"code({T})", recipe.name, StageError)
    state = pipe(state, replace(neuron=recipe.neuron, threshold=state.threshold))
    several = {} if group is ... else {"group": group}
    for correct in recipe.corrections:
        state = correct(batches, T=recipe.pre + T, code=code, schedule=recipe.schedule, **several)(state)
    snn = pipe(state, td_rewrite(code=code), to_snn)
    snn.__dict__.update(made=(repr(recipe),), constants=constants)
    return Converted(recipe, snn, T, _delay(recipe, snn, batches, T, group) if recipe.delay else 0)


def _delay(recipe: Recipe, snn: SpikingNetwork, batches: Iterable[Any], T: int, group: Any) -> int:
    """How many steps the readout leaves out, by the data of the first process that has any."""
    assert recipe.delay is not None
    with Together(group, recipe.name, str) as everyone:
        some = not everyone.several or next(iter(batches), None) is not None
        delays = everyone.shares(recipe.delay(snn, batches, T) if some else None)
        return next(delay for delay in delays if delay is not None)


def _sited(recipe: Recipe, statistic: Threshold, state: ConversionState) -> ConversionState:
    """The sites of a recipe's rules; of ``TRANSFORMER_RULES`` where the default ones find none, and of
    ``BOTTLENECK_RULES`` where convolutions read what other convolutions send, and neurons of either sign may say it."""
    made = marked(state, recipe.rules, statistic)
    if made.sites and recipe.rules == SITE_RULES and recipe.neuron.two_sided:
        wider = marked(state, BOTTLENECK_RULES, statistic)
        bottlenecks = [site.name for site in wider.sites.values() if _is_bottleneck(site, made, wider)]
        if bottlenecks:
            said = f"neurons at {len(bottlenecks)} linear bottlenecks too ({bottlenecks[0]}, ...)"
            made = wider.evolve(Event("recipe", recipe.name, "BOTTLENECK_RULES", said))
    if not made.sites and recipe.rules == SITE_RULES:
        note = Event("recipe", recipe.name, "TRANSFORMER_RULES", "no ReLU or the like; neurons stand before products")
        made = marked(state, TRANSFORMER_RULES, statistic).evolve(note)
    found = nonlinear(made.graph, made.params)
    if not made.sites:
        raise StageError(
            f"{recipe}: this network has no site for a neuron (not linear: {found or 'nothing'}); "
            f"{advice(made.graph, made.params)}. Without neurons: pipe(model, trace, td_rewrite, to_snn)"
        )
    signed = [site.name for site in made.sites.values() if site.signed and not isinstance(site.cap, Levels)]
    if signed and not recipe.neuron.two_sided:
        raise StageError(
            f"{recipe}: {len(signed)} of {len(made.sites)} sites have values of both signs ({signed[0]}, ...; "
            f"not linear: {found}), of which {recipe.neuron} says nothing below zero; use a recipe "
            "with events of both signs: cascade_mmse, ecmt, dcgs, hmt, snm or spikezip"
        )
    return made


def _is_bottleneck(site: Site, narrow: ConversionState, wide: ConversionState) -> bool:
    """Whether a site is a current of either sign that a convolution reads, and no activation."""
    readers = (wide.graph[name].op for name in wide.graph.users[site.node] if name != "output")
    return site.signed and site.node not in narrow.sites and any(op.startswith("conv") for op in readers)


#: For arguments that are recipes.
RECIPE = instance(Recipe, "must be a recipe", "write recipes.snm()")


@attrs.frozen(eq=False)
class Converted:
    """A network and how to run it; call it like the ANN.

    Attributes:
        recipe: what it was made by.
        snn: the network.
        T: steps that count.
        delay: how many of them the readout leaves out.
    """

    recipe: Recipe
    snn: SpikingNetwork
    T: int
    delay: int = 0

    @property
    def steps(self) -> int:
        """Steps each layer takes, those of a first pass too."""
        return self.recipe.pre + self.T

    @property
    def latency(self) -> int:
        """Steps until the answer; of a wave, K more for each neuron but one on the longest path."""
        return self.recipe.schedule.latency(self.steps, depth(self.snn.graph))

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The decoded output."""
        return self.snn(*inputs, **self.run, **named)

    @property
    def run(self) -> FrozenMap[str, Any]:
        """The options of a run of the network."""
        first = self.recipe.pre + self.delay if self.delay else 0
        return FrozenMap(T=self.steps, schedule=self.recipe.schedule, delay=first)

    def _repr_html_(self) -> str:
        head = f"{self.recipe!r}: {self.steps} steps, schedule {self.recipe.schedule}, answer after {self.latency}"
        return shown.network(head, self.snn.neurons(), self.snn.made, self.snn.history)


@attrs.frozen
class _Always(Generic[Choice]):
    choice: Choice

    def __call__(self, T: int) -> Choice:
        return self.choice

    def __repr__(self) -> str:
        return f"always({written(self.choice)})"


def always(choice: Choice) -> Callable[[int], Choice]:
    """What is chosen whatever T is."""
    return _Always(choice)


@attrs.frozen
class _With:
    correction: Callable[..., Any]
    options: FrozenMap[str, Any]

    def __call__(self, batches: Any, **given: Any) -> Any:
        return self.correction(batches, **self.options | given)

    def __repr__(self) -> str:
        return f"correcting({written(self.correction)}, {', '.join(f'{k}={v!r}' for k, v in self.options.items())})"


def correcting(correction: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A correction with options of its own."""
    return _With(correction, FrozenMap(options))


def estimated(snn: SpikingNetwork, batches: Iterable[Any], T: int) -> int:
    """The ``readout_delay`` on the first batch."""
    delays: list[int] = []
    reader = Reader("readout_delay", snn.graph, snn.weights)
    reader.each(batches, lambda number, given: delays.append(readout_delay(snn, T=T, **given)), limit=1)
    return delays[0]


@attrs.frozen
class _Part:
    share: float
    K: int

    def __call__(self, snn: SpikingNetwork, batches: Iterable[Any], T: int) -> int:
        return self.K * int(self.share * T / self.K)

    def __repr__(self) -> str:
        return f"part({self.share}{f', {self.K}' * (self.K > 1)})"


def part(share: float, K: int = 1) -> Callable[[SpikingNetwork, Iterable[Any], int], int]:
    """A delay of a share of the steps, in whole chunks of ``K``."""
    return _Part(share, K)


@attrs.frozen
class _Fades:
    share: float

    def __call__(self, T: int) -> Code:
        return low_pass(max(self.share * T, 1.5))

    def __repr__(self) -> str:
        return f"fades({self.share})"


def fades(share: float) -> Callable[[int], Code]:
    """``low_pass`` with a share of the steps as its time constant."""
    return _Fades(share)


@attrs.frozen
class _Fitted:
    neuron: Neuron
    rule: Callable[..., Threshold]

    def __call__(self, T: int) -> Threshold:
        book: Codebook = self.neuron.options["codebook"]
        return self.rule(T, levels=int(book.high), top=float(book.top))

    def __repr__(self) -> str:
        return f"fitted({written(self.neuron)}, {written(self.rule)})"


def fitted(neuron: Neuron, rule: Callable[..., Threshold] = mmse) -> Callable[[int], Threshold]:
    """``rule`` for what a neuron can say in T steps: the number of its levels, and the largest in units of theta."""
    return _Fitted(neuron, rule)
