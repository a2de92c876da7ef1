"""What a conversion method is: a choice of threshold rule, neuron, code, schedule and corrections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import attrs
from torch import nn

from snnpipe.codes import RATE, Code
from snnpipe.errors import StageError
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.neuron import Neuron
from snnpipe.kernels.optimal import mmse
from snnpipe.kernels.threshold import Threshold
from snnpipe.rules.operands import TRANSFORMER_RULES
from snnpipe.rules.sites import SITE_RULES, SiteRule
from snnpipe.runtime.delay import readout_delay
from snnpipe.runtime.layers import depth
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stage import pipe
from snnpipe.stages.calibrate import arguments, calibrate
from snnpipe.stages.fuse import fuse
from snnpipe.stages.instrument import marked
from snnpipe.stages.replace import replace
from snnpipe.stages.siteless import advice, nonlinear
from snnpipe.stages.td_rewrite import td_rewrite
from snnpipe.stages.to_snn import to_snn
from snnpipe.stages.trace import trace
from snnpipe.state import ConversionState, Event, Levels

Choice = TypeVar("Choice")


@attrs.frozen
class Recipe:
    """A conversion method; call it to convert.

    Args:
        name: what tables call it.
        threshold: ``threshold(T)``, the rule that gives theta.
        neuron: the neuron.
        code: ``code(T)``, the code.
        schedule: ``"step"`` or ``"layer"``, as ``SpikingNetwork`` takes it.
        pre: steps of a first pass; the code must begin anew after them.
        corrections: stages ``correct(batches, T=, code=, schedule=)`` made behind ``replace``, in order.
        delay: ``delay(snn, batches, T)``, how many of the T steps the readout leaves out.
        rules: where the sites are; where the default ones find none, ``TRANSFORMER_RULES`` take their place.
    """

    name: str
    threshold: Callable[[int], Threshold]
    neuron: Neuron
    code: Callable[[int], Code] = attrs.field(factory=lambda: always(RATE))
    schedule: str = "step"
    pre: int = 0
    corrections: tuple[Callable[..., Any], ...] = ()
    delay: Callable[[SpikingNetwork, Iterable[Any], int], int] | None = None
    rules: tuple[SiteRule, ...] = SITE_RULES

    def __call__(self, model: nn.Module | ConversionState, batches: Iterable[Any], *, T: int) -> Converted:
        """Convert for ``T`` steps; the model or state is unchanged.

        Args:
            model: a network, or the state it was traced to (fused or not), when ``trace`` needs options.
            batches: calibration data as ``calibrate`` takes it, readable more than once.
            T: steps, those of a first pass not counted.

        Raises:
            StageError: the network has no site for a neuron of this kind.
        """
        state = model if isinstance(model, ConversionState) else pipe(model, trace)
        rule, code = self.threshold(T), self.code(T)
        state = pipe(state, fuse, partial(_sited, self, rule), calibrate(batches))
        state = pipe(state, replace(neuron=self.neuron, threshold=rule))
        for correct in self.corrections:
            state = correct(batches, T=self.pre + T, code=code, schedule=self.schedule)(state)
        snn = pipe(state, td_rewrite(code=code), to_snn)
        return Converted(self, snn, T, self.delay(snn, batches, T) if self.delay else 0)

    def __str__(self) -> str:
        return self.name


def _sited(recipe: Recipe, statistic: Threshold, state: ConversionState) -> ConversionState:
    """The sites of a recipe's rules; of ``TRANSFORMER_RULES`` where the default ones find none."""
    made = marked(state, recipe.rules, statistic)
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
        """Steps until the answer; of the layer schedule, T for each neuron on the longest path."""
        return self.steps * max(1, depth(self.snn.graph)) if self.recipe.schedule == "layer" else self.steps

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The decoded output."""
        first = self.recipe.pre + self.delay if self.delay else 0
        return self.snn(*inputs, T=self.steps, schedule=self.recipe.schedule, delay=first, **named)


def always(choice: Choice) -> Callable[[int], Choice]:
    """What is chosen whatever T is."""
    return lambda T: choice


def estimated(snn: SpikingNetwork, batches: Iterable[Any], T: int) -> int:
    """The ``readout_delay`` on the first batch."""
    first = next(iter(batches))
    args, kwargs = arguments(first, tuple(node["name"] for node in snn.graph.inputs))
    return readout_delay(snn, *args, T=T, **kwargs)


def part(share: float) -> Callable[[SpikingNetwork, Iterable[Any], int], int]:
    """A delay of a share of the steps."""
    return lambda snn, batches, T: int(share * T)


def fitted(neuron: Neuron, rule: Callable[..., Threshold] = mmse) -> Callable[[int], Threshold]:
    """``rule`` for what a neuron can say in T steps: the number of its levels, and the largest in units of theta."""
    book: Codebook = neuron.options["codebook"]
    return lambda T: rule(T, levels=int(book.high), top=float(book.top))
