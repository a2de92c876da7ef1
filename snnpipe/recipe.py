"""What a conversion method is: a choice of threshold rule, neuron, code, schedule and corrections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
from torch import nn

from snnpipe.codes import RATE, Code
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.neuron import Neuron
from snnpipe.kernels.optimal import mmse
from snnpipe.kernels.threshold import Threshold
from snnpipe.rules.sites import SITE_RULES, SiteRule
from snnpipe.runtime.layers import depth
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stage import pipe
from snnpipe.stages.calibrate import calibrate
from snnpipe.stages.fuse import fuse
from snnpipe.stages.instrument import instrument
from snnpipe.stages.replace import replace
from snnpipe.stages.td_rewrite import td_rewrite
from snnpipe.stages.to_snn import to_snn
from snnpipe.stages.trace import trace
from snnpipe.state import ConversionState


@attrs.frozen
class Recipe:
    """A conversion method.

    Args:
        name: what tables call it.
        threshold: ``threshold(T)``, the rule that gives theta.
        neuron: the neuron.
        code: the code.
        schedule: ``"step"`` or ``"layer"``, as ``SpikingNetwork`` takes it.
        pre: steps of a first pass; the code must begin anew after them.
        corrections: stages ``correct(batches, T=, code=)`` made behind ``replace``, in order.
        rules: where the sites are.
    """

    name: str
    threshold: Callable[[int], Threshold]
    neuron: Neuron
    code: Code = RATE
    schedule: str = "step"
    pre: int = 0
    corrections: tuple[Callable[..., Any], ...] = ()
    rules: tuple[SiteRule, ...] = SITE_RULES

    def network(self, model: nn.Module | ConversionState, batches: Iterable[Any], *, T: int) -> SpikingNetwork:
        """Convert for ``T`` steps; the model or state is unchanged.

        Args:
            model: a network, or the state it was traced to (fused or not), when ``trace`` needs options.
            batches: calibration data as ``calibrate`` takes it, readable more than once if there are corrections.
            T: steps.
        """
        state = model if isinstance(model, ConversionState) else pipe(model, trace)
        rule = self.threshold(T)
        state = pipe(state, fuse, instrument(rules=self.rules, statistic=rule), calibrate(batches))
        state = pipe(state, replace(neuron=self.neuron, threshold=rule))
        for correct in self.corrections:
            state = correct(batches, T=self.pre + T, code=self.code)(state)
        network: SpikingNetwork = pipe(state, td_rewrite(code=self.code), to_snn)
        return network

    def run(self, snn: SpikingNetwork, *inputs: Any, T: int, **named: Any) -> Any:
        """The decoded output after T steps, those of a first pass not counted."""
        return snn(*inputs, T=self.pre + T, schedule=self.schedule, **named)

    def latency(self, snn: SpikingNetwork, T: int) -> int:
        """Steps until the answer: ``T``, a first pass before it, or T for each neuron on the longest path."""
        return T * max(1, depth(snn.graph)) if self.schedule == "layer" else self.pre + T

    def __str__(self) -> str:
        return self.name


def always(rule: Threshold) -> Callable[[int], Threshold]:
    """A threshold rule that does not depend on T."""
    return lambda T: rule


def fitted(neuron: Neuron, rule: Callable[..., Threshold] = mmse) -> Callable[[int], Threshold]:
    """``rule`` for what a neuron can say in T steps: the number of its levels, and the largest in units of theta."""
    book: Codebook = neuron.options["codebook"]
    return lambda T: rule(T, levels=int(book.high), top=float(book.top))
