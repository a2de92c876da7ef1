r"""Neurons in NIR.

Soft reset, by primitives alone: an integrator, a threshold and a product that leads back,

.. math:: v'_t = v'_{t-1} + z_t - \lambda\, s_{t-1}, \qquad s_t = [\,v'_t > \mathrm{below}(\lambda - v_0)\,],

where ``below(x)`` is the next float below x, so that ``>`` says ``>=``, and :math:`v' = v - v_0` starts at 0, as every
simulator's integrator does.  A neuron with more levels has one threshold for each of them: as many of the thresholds
k lambda - v_0, k = 1, 2, ..., are passed as it says events of lambda.  Hard reset is NIR's ``IF``, which starts where
it is reset to.
"""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from snnpipe.errors import ThresholdError
from snnpipe.exchange.nir.parts import Given, Made, NotSaidError, Part, Wire, alone, settled
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.encoder import encode, encode_init
from snnpipe.kernels.levels import reaches, whole
from snnpipe.kernels.neuron import Neuron, lif_step
from snnpipe.kernels.precision import wide
from snnpipe.kernels.statistic import fitted

#: The most levels that are told apart by thresholds.
LEVELS = 64
_ONE_SPIKE = "put integrate_and_fire() there: replace(neuron=integrate_and_fire())"
_HARD = "write replace(neuron=integrate_and_fire(v_reset=0.5)) for a hard reset to v_init = 0.5"


@attrs.frozen(eq=False)
class Levels:
    """A neuron as NIR can say it: ``low``, ..., ``high`` events of ``size``, from ``v_init size + extra`` on.

    Attributes:
        low: the lowest level, 0 or negative.
        high: the highest.
        size: lambda of each element, without the batch axis.
        v_init: initial potential in units of it.
        extra: what is added to it, or ``None``.
    """

    low: int
    high: int
    size: Tensor
    v_init: float
    extra: Tensor | None

    def reached(self, level: int) -> Tensor:
        """``v' > reached(k)`` where ``v' + v_0 >= k size``, k > 0."""
        return torch.nextafter(self._above(level), torch.tensor(-math.inf, dtype=self.size.dtype))

    def undercut(self, level: int) -> Tensor:
        """``-v' > undercut(k)`` where ``v' + v_0 < -(k - 1) size``, k > 0: what the k-th negative event asks for."""
        return -self._above(1 - level)

    def _above(self, level: int) -> Tensor:
        found = (level - self.v_init) * self.size
        return found if self.extra is None else found - self.extra


def soft(given: Given) -> Made:
    """A neuron that subtracts what it sends: integrator, thresholds, and the way back."""
    neuron, levels = _told(given)
    if neuron.options.get("v_reset") is not None:
        made = _hard(given, neuron, levels)
        event = given.times(given.name("event"), made.wire, levels.size)
        return Made((*made.parts, event), Wire((event.name,), given.shape))
    current = _single(given, given.wire("input"))
    potential, sign = given.name("potential"), given.name("sign")
    ups = [_threshold(given, "spike", k, levels.reached(k), potential) for k in range(1, levels.high + 1)]
    downs = [_threshold(given, "minus", k, levels.undercut(k), sign) for k in range(1, 1 - levels.low)]
    back = [*_scaled(given, "reset", ups, -levels.size), *_scaled(given, "unset", downs, levels.size)]
    events = [_events(given, "event", ups, levels.size)]
    if downs:
        events.append(_events(given, "unevent", downs, -levels.size))
        downs.insert(0, given.times(sign, Wire((potential,), given.shape), torch.tensor(-1.0)))
    r, sources = torch.full_like(levels.size, 1.0 / given.dt), (*current.wire.sources, *(part.name for part in back))
    parts = (*current.parts, Part(potential, "I", {"r": r}, sources), *ups, *downs, *back, *events)
    return Made(parts, Wire(tuple(part.name for part in events), given.shape))


def _scaled(given: Given, of: str, spikes: list[Part], size: Tensor) -> list[Part]:
    """What each threshold leads back: one product for each, since some simulators delay a sum inside a loop twice."""
    names = (given.name(of if k == 0 else f"{of}{k + 1}") for k in range(len(spikes)))
    wires = (Wire((spike.name,), given.shape) for spike in spikes)
    return [given.times(name, wire, size) for name, wire in zip(names, wires, strict=False)]


def _events(given: Given, of: str, spikes: list[Part], size: Tensor) -> Part:
    return given.times(given.name(of), Wire(tuple(spike.name for spike in spikes), given.shape), size)


def hard(given: Given) -> Made:
    """NIR's ``IF``, one threshold for the layer; its spikes are worth theta, which the next weights take up."""
    neuron, levels = _told(given)
    theta = levels.size.flatten()[0]
    if bool((levels.size != theta).any()):
        raise NotSaidError(
            f"it has thresholds from {levels.size.min().item():g} to {levels.size.max().item():g}, and one spike on a "
            "chip is worth as much as another",
            'measure one for the layer: replace(threshold=percentile(99.9, per="layer"))',
        )
    made = _hard(given, neuron, levels)
    return Made(made.parts, attrs.evolve(made.wire, factor=theta.item()))


def _hard(given: Given, neuron: Neuron, levels: Levels) -> Made:
    options = neuron.options
    if options.get("v_reset") is None:
        raise NotSaidError(f"{neuron} subtracts theta, and NIR's IF is set to v_reset", _HARD)
    if (levels.low, levels.high) != (0, 1):
        raise NotSaidError(f"{neuron} has more than one level, and NIR's IF has one", _HARD)
    if options["v_reset"] != options["v_init"] or levels.extra is not None:
        raise NotSaidError(
            f"{neuron} is not reset to where it starts, and simulators start NIR's IF where it is reset to",
            _HARD,
        )
    current = settled(given, given.wire("input"), "current")
    fields = {
        "r": torch.full_like(levels.size, 1.0 / given.dt),
        "v_threshold": levels.reached(1),
        "v_reset": torch.zeros_like(levels.size),
    }
    spike = Part(given.name("spike"), "IF", fields, current.wire.sources)
    return Made((*current.parts, spike), Wire((spike.name,), given.shape))


def _single(given: Given, x: Wire) -> Made:
    """A current from one part, added up before the way back joins it, in whatever order simulators add."""
    if len(x.sources) == 1:
        return Made((), x)
    return alone(given.times(given.name("current"), x, torch.ones(())), x.shape)


def _threshold(given: Given, of: str, level: int, threshold: Tensor, source: str) -> Part:
    name = given.name(of if level == 1 else f"{of}{level}")
    return Part(name, "Threshold", {"threshold": threshold}, (source,))


def _told(given: Given) -> tuple[Neuron, Levels]:
    """The neuron of an ``encode`` node, and what it is in NIR.

    Raises:
        NotSaidError: NIR has no primitives for it.
    """
    module = given.neuron
    assert module is not None
    neuron, signed = module.neuron, bool(module.facts.get("signed", False))
    capped = "cap" in module.facts or bool(module.capped_by)
    reason = _objection(neuron, signed, capped)
    if reason:
        raise NotSaidError(f"{neuron} {reason}", _ONE_SPIKE)
    book: Codebook = neuron.options["codebook"]
    theta = _elementwise(wide(module.threshold.detach()), given.shape, module.axis, module.origin)
    extra = None if module.charge is None else wide(module.charge.detach()).expand(1, *given.shape)[0]
    low, high = int(book.low) if signed else 0, int(book.high)
    return neuron, Levels(low, high, book.smallest(theta), neuron.options["v_init"], extra)


def _elementwise(theta: Tensor, shape: tuple[int, ...], axis: int | None, origin: str) -> Tensor:
    found = fitted(theta, torch.Size((1, *shape)), axis)
    if found is None:
        raise ThresholdError(f"the neuron made of {origin} has {theta.numel()} thresholds, its current is {shape}")
    return found.expand(1, *shape)[0].contiguous()


def _objection(neuron: Neuron, signed: bool, capped: bool) -> str:
    """Why NIR has no primitives for a neuron, "" if it has."""
    book = neuron.options.get("codebook")
    if neuron.step is lif_step:
        return "leaks from v_init, and a threshold cannot stand for an initial potential that fades"
    if neuron.step is not encode or neuron.init is not encode_init or not isinstance(book, Codebook):
        return "has equations of its own, NIR has thresholds and integrators"
    if book.quantise not in (whole, reaches):
        return "has levels that do not lie evenly, thresholds count even ones"
    if math.isinf(book.high):
        return "sends numbers of any size (graded), NIR's thresholds send spikes"
    if book.remembers(signed, capped):
        return "remembers what it sent, and nothing in NIR looks back"
    if book.high - min(book.low, 0) > LEVELS:
        return f"has {book.high - book.low:g} levels, more than {LEVELS} thresholds are not written"
    return ""
