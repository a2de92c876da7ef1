"""A formula under trial: its model, its values by PyTorch alone, and the networks it stands in."""

import random
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from property_tests.operators.calls import MODELS, Formula, copied, may_move
from property_tests.operators.compare import difference, is_float
from property_tests.operators.outcomes import Outcome
from snnpipe import RATE, TD, Code, fixed, graded, instrument, pipe, replace, td_rewrite, to_snn, trace
from snnpipe.graph import Graph, Node
from snnpipe.rules.sites import Match
from snnpipe.runtime.encoding import events

THETA = 0.25
STEPS = 3
#: What the inputs decode to after each step, in units of the sample; the first at which the model runs.
COURSES = ((0.5, 1.25, 1.0), (0.5, 0.75, 1.0), (1.0, 1.0, 1.0))
CODES = {"TD": TD, "RATE": RATE}


@attrs.frozen(eq=False)
class Subject:
    """A formula on inputs, and the tensors its model holds.

    Attributes:
        formula: ``(model, *inputs) -> output``.
        inputs: a sample.
        constants: by name; they are kept as buffers, attributes or numbers (``kept``).
        writes: whether it writes to what is kept, so that it may stand in a model once only.
        only_shape: whether its values are not defined.
    """

    formula: Formula
    inputs: tuple[Tensor, ...]
    constants: dict[str, Tensor] = attrs.field(factory=dict)
    kept: str = "buffer"
    writes: bool = False
    only_shape: bool = False

    def model(self, formula: Formula) -> torch.nn.Module:
        return MODELS[len(self.inputs)](formula, self.constants, self.kept).eval()

    def eager(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Leaves of the formula's value, by PyTorch itself."""
        return copied(self.value(inputs))

    def value(self, inputs: Sequence[Tensor]) -> Any:
        return self.model(self.formula)(*[x.clone() for x in inputs])

    @property
    def moves(self) -> bool:
        return all(map(may_move, self.inputs))


def plain(formula: Formula) -> Formula:
    """The formula on the inputs."""

    def both(net: Any, *xs: Any) -> Any:
        return {"x": [x.clone() for x in xs], "y": formula(net, *xs)}

    return both


def signed(net: Any, xs: Sequence[Any]) -> list[Any]:
    """Values of both signs behind neurons."""
    return [net.neurons(x) - net.neurons(-x) for x in xs]


def behind(formula: Formula, follows: bool) -> Formula:
    """The formula behind neurons, with neurons after it where one may follow."""

    def both(net: Any, *xs: Any) -> Any:
        hs = signed(net, xs)
        kept = [h.clone() for h in hs]
        z = formula(net, *hs)
        found: dict[str, Any] = {"x": kept, "y": z}
        if follows:
            found["n"] = net.neurons(z)
        return found

    return both


def twice(formula: Formula, follows: bool) -> Formula:
    """Both in one model."""
    first, second = behind(formula, follows), plain(formula)
    return lambda net, *xs: [first(net, *xs), second(net, *xs)]


@attrs.frozen(eq=False)
class Eager:
    """What is known of a formula from PyTorch alone.

    Attributes:
        course: what the inputs decode to, for each step.
        random: whether it draws.
        follows: whether a neuron may follow.
        behind: the neurons' outputs for each code and step, empty where the formula does not run on them.
    """

    course: tuple[tuple[Tensor, ...], ...]
    random: bool
    follows: bool
    behind: dict[str, Any]

    @classmethod
    def of(cls, subject: Subject) -> "Eager | Outcome":
        for factors in COURSES if subject.moves else COURSES[-1:]:
            try:
                course = tuple(
                    tuple(x * f for x in subject.inputs) if subject.moves else subject.inputs for f in factors
                )
                values = [subject.eager(xs) for xs in course]
                break
            except Exception as error:
                why = error
        else:
            return Outcome("not applicable", type(why).__name__, str(why)[:200])
        if any(isinstance(leaf, Tensor) and leaf.is_nested for leaf in values[-1]):
            return Outcome("not applicable", "nested", "nested tensors cannot be compared")
        before = _generators()
        differs = not subject.only_shape and difference(subject.eager(course[-1]), values[-1], 0.0) is not None
        drew = differs and before != _generators()
        if differs and not drew:
            return Outcome("not applicable", "undefined", "two runs of the model differ")
        value = subject.value(course[-1])
        follows = is_float(value) and not value.is_complex()
        behind = _neurons(course) if subject.moves and not drew else {}
        try:
            for steps in behind.values():
                for hs in steps:
                    subject.eager(hs)
        except Exception:
            behind = {}
        return cls(course, drew, follows, behind)


def _generators() -> Any:
    """Whatever a model may draw from."""
    numbers = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), numbers[1].tolist(), numbers[2:]  # type: ignore[union-attr]


def _neurons(course: Any) -> dict[str, Any]:
    """What the neurons before a formula send, decoded."""
    nets = {name: _neuron_layer(len(course[0]), name) for name in CODES}
    return {name: [copied(out) for out in run(nets[name], encoded(course, CODES[name]))] for name in CODES}


@cache
def _neuron_layer(inputs: int, code: str) -> Any:
    return network(trace(MODELS[inputs](lambda net, *xs: signed(net, xs), {}, "buffer")), CODES[code])


def own_site(node: Node, graph: Graph) -> Match | None:
    """The neurons of ``Model``."""
    return Match(node["input"]) if node.op == "relu" and node.path.startswith("neurons") else None


NEURONS = (instrument(rules=(own_site,)), replace(neuron=graded(), threshold=fixed(THETA)))


def network(state: Any, code: Code, neurons: bool = True) -> Any:
    """The state carried to ``code``, with neurons for those of the model."""
    return pipe(state, *(NEURONS if neurons else ()), td_rewrite(code=code), to_snn)


def encoded(course: Any, code: Code) -> list[Tensor]:
    """Event sequences (T, ...) that decode to ``course``."""
    sequences = []
    for values in zip(*course, strict=True):
        made, before = [], torch.zeros_like(values[0])
        for t, X in enumerate(values, 1):
            clock = code.clock(t)
            made.append((X - clock.alpha * before) / clock.a if t > 1 else X / clock.a)
            before = X
        sequences.append(torch.stack(made))
    return sequences


def run(net: Any, sequences: list[Tensor]) -> Iterator[Any]:
    yield from net.iterate(*sequences, T=len(sequences[0]), encoding=events())
