"""The two kinds of module that stand for nodes in generated code, a neuron and a module kept as one call; no call
changes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snnpipe.codes import RATE, Clock
from snnpipe.errors import ThresholdError
from snnpipe.graph import Param
from snnpipe.kernels.neuron import Neuron, check_signed, in_turn
from snnpipe.kernels.precision import keep_finite, narrowed, wide
from snnpipe.kernels.statistic import fitted
from snnpipe.kernels.temporal import each_step, stacked_alike
from snnpipe.ops.functions import Opaque


class SpikingNeuron(nn.Module):
    """An ``encode`` node: ``(events, state) = neuron(z, state, clock)``, ``state`` ``None`` before the first step.

    Args:
        neuron: its equations.
        threshold: theta, (C,) along ``axis`` of the current, (1,), or one for each element but the batch axis.
        axis: the channel axis.
        origin: the ANN operator it stands for, as people know it.
        key: where the threshold lies in the state's parameters.
        charge: one more event before the first step, from ``correct_potential``.
        **facts: what the neuron is told of its site: ``signed=True`` where it stands for a value of either sign and
            not for a ReLU, ``cap=6.0`` where it stands for a ReLU6; a tensor, which may be the threshold itself,
            where it stands for a quantised activation.
    """

    threshold: Tensor
    charge: Tensor | None

    def __init__(
        self,
        neuron: Neuron,
        threshold: Tensor,
        axis: int | None,
        origin: str,
        key: str,
        charge: Tensor | None = None,
        **facts: Any,
    ) -> None:
        super().__init__()
        if facts.get("signed", False):
            check_signed(neuron)
        self.neuron, self.axis, self.origin, self.key, self.facts = neuron, axis, origin, key, facts
        self.register_buffer("threshold", threshold)
        self.register_buffer("charge", charge)
        self.capped_by = ""
        if isinstance(facts.get("cap"), Tensor):
            self.capped_by = "threshold" if facts["cap"] is threshold else "cap"
            self.register_buffer(self.capped_by, facts.pop("cap"))

    def forward(self, z: Tensor, state: Any = None, clock: Clock | None = None) -> tuple[Tensor, Any]:
        clock = clock or RATE.clock(1)
        theta, options = self._given(z.shape)
        state, z = self._begun(state, z, theta, clock, options)
        state, events = self._sent(state, z, theta, clock, options)
        return narrowed(events, z), state

    def scan(self, z: Tensor, state: Any, clocks: Sequence[Clock], timed: bool) -> tuple[Tensor, Any]:
        """The events (T, ...) at each of some steps, and the state after the last.

        Args:
            z: the currents (T, ...), or the one that is the same at every step.
            state: before the first of them.
            clocks: the code at each step.
            timed: whether ``z`` has a time axis.
        """
        first, *rest = each_step(z, len(clocks), timed)
        theta, options = self._given(first.shape)
        state, first = self._begun(state, first, theta, clocks[0], options)
        made = None
        if self.neuron.scan is not None:
            made = self.neuron.scan(state, (first, *rest), theta, clocks, **options)
        if made is not None:
            return made[1], made[0]
        events = []
        for now, clock in zip((first, *rest), clocks, strict=True):
            state, sent = self._sent(state, now, theta, clock, options)
            events.append(narrowed(sent, now))
        return stacked_alike(events), state

    def _given(self, shape: torch.Size) -> tuple[Tensor, dict[str, Any]]:
        """The threshold as it broadcasts against a current, and what the neuron is told."""
        theta = fitted(wide(self.threshold), shape, self.axis)
        if theta is None:
            channels = 1 if self.axis is None else shape[self.axis]
            raise ThresholdError(
                f"the neuron made of {self.origin} has {self.threshold.numel()} thresholds, its current {channels} "
                f"channels (shape {tuple(shape)}, axis {self.axis}); were the statistics taken from another network, "
                "or, per neuron, for another size of input?"
            )
        options = {**self.neuron.options, **self.facts}
        if self.capped_by:
            options["cap"] = fitted(wide(getattr(self, self.capped_by).detach()), shape, self.axis)
        return theta, options

    def _begun(self, state: Any, z: Tensor, theta: Tensor, clock: Clock, options: dict[str, Any]) -> tuple[Any, Tensor]:
        """The state before a step, and its current; at first there may be one event more."""
        if state is not None:
            return state, z
        if self.charge is not None:
            z = z + self.charge * (clock.worth[0] / clock.a)  # in what stands for the steps of a chunk
        return self.neuron.init(theta, **options), z

    def _sent(self, state: Any, z: Tensor, theta: Tensor, clock: Clock, options: dict[str, Any]) -> tuple[Any, Tensor]:
        """What the neuron sends in a step, or in the steps of a chunk."""
        made = None
        if self.neuron.scan is not None:
            made = self.neuron.scan(state, (z,), theta, (clock,), **options)
        if made is not None:
            return made[0], made[1][0]
        if not clock.parts:
            return self.neuron.step(state, z, theta, clock, **options)
        if self.neuron.chunk is not None:
            made = self.neuron.chunk(state, z, theta, clock, **options)
        return in_turn(self.neuron, state, z, theta, clock, options) if made is None else made

    def as_node(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The operands of its ``encode`` node but the current, and its tensors by key."""
        tensors = {self.key: self.threshold}
        operands = {"threshold": Param(self.key), "neuron": self.neuron, "axis": self.axis, "origin": self.origin}
        operands |= self.facts
        for operand, name in (("cap", self.capped_by), ("charge", "charge" * (self.charge is not None))):
            if name:
                key = f"{self.key.removesuffix('threshold')}{name}"
                operands[operand], tensors[key] = Param(key), getattr(self, name)
        return operands, tensors

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> SpikingNeuron:
        super()._apply(fn, recurse)
        keep_finite(self.threshold)
        return self

    @property
    def ends(self) -> tuple[str, str]:
        """The lowest and the highest threshold, in words."""
        if self.threshold.is_meta:
            return "?", "?"
        return f"{self.threshold.min().item():.3g}", f"{self.threshold.max().item():.3g}"

    def extra_repr(self) -> str:
        wires = f" ({self.neuron.wires} wire{'s' * (self.neuron.wires > 1)})" * (self.neuron.unit == "multi-level")
        sides = ", two-sided" * self.facts.get("signed", False)
        return f"{self.neuron}, {self.neuron.unit}{wires}{sides}, theta {'..'.join(self.ends)}, from {self.origin}"


class OpaqueModule(nn.Module):
    """A module kept as one call, its weights given from outside."""

    def __init__(self, opaque: Opaque) -> None:
        super().__init__()
        self.opaque = opaque

    def forward(self, weights: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return self.opaque(weights, *args, **kwargs)

    def extra_repr(self) -> str:
        return repr(self.opaque)


def assign(root: nn.Module, path: str, value: nn.Module | Tensor) -> None:
    """Put a module or tensor at a dotted path below ``root``, making plain modules on the way.

    >>> m = nn.Module(); assign(m, "a.b.weight", nn.Parameter(torch.zeros(1))); list(m.state_dict())
    ['a.b.weight']
    """
    *parents, name = path.split(".")
    for part in parents:
        child = root._modules.setdefault(part, nn.Module())
        assert child is not None
        root = child
    kind = "_modules" if isinstance(value, nn.Module) else "_buffers"
    kind = "_parameters" if isinstance(value, nn.Parameter) else kind
    root.__dict__[kind][name] = value  # not by setattr: torch has attributes of its own


def held(root: nn.Module, path: str) -> Any:
    """The tensor, module or attribute at a dotted path below ``root``, whatever else has that name.

    >>> m = nn.Module(); assign(m, "half.weight", torch.zeros(1)); held(m, "half.weight")
    tensor([0.])
    """
    value: Any = root
    for name in filter(None, path.split(".")):
        own = (value._modules, value._parameters, value._buffers) if isinstance(value, nn.Module) else ()
        found = [kept[name] for kept in own if name in kept]
        value = found[0] if found else getattr(value, name)
    return value


def clone(tensor: Tensor, *, requires_grad: bool, to: str | None = None) -> Tensor:
    """A copy, on another device if asked for, that can be trained; of a parameter a parameter.

    It is made under ``inference_mode`` or not.
    """
    with torch.inference_mode(False):
        copy = tensor.detach().to(to, copy=True) if to else tensor.detach().clone()
        if not isinstance(tensor, nn.Parameter):
            return copy
        return nn.Parameter(copy, requires_grad=requires_grad and (copy.is_floating_point() or copy.is_complex()))


def weightless(module: nn.Module) -> nn.Module:
    """Move the tensors of a module to the meta device, in place, keeping its structure."""
    return module.to_empty(device=torch.device("meta"))
