r"""How an operator is applied to a whole time sequence: the ANN's operator at each step, unchanged.

For operands with a leading time axis, ``(T, ...)``, the result is ``stack([f(x[0]), ..., f(x[T-1])])``: those values,
in that shape and dtype.  For most rows of the operator table there is a *way* (``ops.ways``) to it in one call.  For
what has none, ``torch.vmap`` gives that meaning to an operator, and where that cannot, a loop.

Knows the operator table and its ways; nothing of codes or neurons.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.frozen import FrozenMap, leaves, map_leaves, thaw
from snnpipe.kernels.temporal import Unsteady, stacked_alike, zip_leaves
from snnpipe.ops import functions
from snnpipe.ops.table import Op
from snnpipe.ops.ways import ANY_RANK, WAYS

#: Operators that read how a tensor lies in memory, which is not the same in a part of a sequence.
BY_MEMORY = frozenset({"as_strided", "as_strided_copy", "as_strided_scatter"})


@attrs.frozen
class Hole:
    """Stands for the k-th value in a tree of operands."""

    k: int


@attrs.frozen(eq=False)
class OverTime:
    """An op applied at each step at once: ``over_time(*values)``, those that are ``timed`` with a leading time axis.

    Attributes:
        op: a row of the table.
        operands: its operands, a ``Hole`` for each value.
        timed: for each value whether it has a time axis; such a value may be a tuple or list of tensors.
    """

    op: Op
    operands: FrozenMap[str, Any]
    timed: tuple[bool, ...]

    @property
    def __name__(self) -> str:
        return self.op.name

    @cached_property
    def _open(self) -> tuple[str, ...]:
        """The operands with a hole."""
        return tuple(name for name, tree in self.operands.items() if any(isinstance(x, Hole) for x in leaves(tree)))

    @cached_property
    def _timed(self) -> frozenset[str]:
        """The operands with a hole for a value with a time axis."""
        holes = {
            name: [leaf.k for leaf in leaves(self.operands[name]) if isinstance(leaf, Hole)] for name in self._open
        }
        return frozenset(name for name, ks in holes.items() if any(self.timed[k] for k in ks))

    def __call__(self, *values: Any) -> Any:
        try:
            result = self.at_once(*values)
        except Exception:  # what does not fit is the user's: the steps say it in shapes that the user knows
            result = NotImplemented
        return self.step_by_step(*values) if result is NotImplemented else result

    def at_once(self, *values: Any) -> Any:
        """The result by the row's way, ``NotImplemented`` if it has none that fits these values."""
        way = WAYS.get(self.op.name)
        if way is None or (self.op.name not in ANY_RANK and self._without_axes(values)):
            return NotImplemented
        operands, timed = dict(self.operands), self._timed
        for name in self._open:
            tree = operands[name]
            if type(tree) is Hole:
                operands[name] = values[tree.k]
            else:
                operands[name] = (
                    map_leaves(partial(self._repeated, values), tree) if name in timed else _filled(tree, values)
                )
        taken = way(self.op, operands, timed)
        if taken is None:
            return NotImplemented
        rewritten, back = taken
        result = self._called(rewritten)
        return result if back is None else back(result)

    def step_by_step(self, *values: Any) -> Any:
        """What the result means, for any operator."""
        if not self._without_axes(values) and not self._reads_memory():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # vmap warns of operators it runs one by one
                    return torch.vmap(self._one, in_dims=tuple(0 if timed else None for timed in self.timed))(*values)
            except Exception:  # a result that is no tensor, an operator with data-dependent shapes
                pass
        return stacked([self._one(*now) for now in self._each_step(values)])

    def _one(self, *now: Any) -> Any:
        return self._called({name: _filled(tree, now) for name, tree in self.operands.items()})

    def _each_step(self, values: tuple[Any, ...]) -> Any:
        part = (lambda value, t: zip_leaves(torch.clone, at(value, t))) if self._reads_memory() else at
        pairs = list(zip(values, self.timed, strict=True))
        return ([part(value, t) if timed else value for value, timed in pairs] for t in range(self._steps(values)))

    def _repeated(self, values: tuple[Any, ...], leaf: Any) -> Any:
        """A value without a time axis beside one that has it (``cat``) is the same at every step."""
        if not isinstance(leaf, Hole):
            return leaf
        if self.timed[leaf.k]:
            return values[leaf.k]
        steps = self._steps(values)
        return zip_leaves(lambda x: x.expand(steps, *x.shape) if isinstance(x, Tensor) else x, values[leaf.k])

    def _moving(self, values: tuple[Any, ...]) -> list[Tensor]:
        moving = [value for value, timed in zip(values, self.timed, strict=True) if timed]
        return moving if all(isinstance(value, Tensor) for value in moving) else tensors(moving)

    def _steps(self, values: tuple[Any, ...]) -> int:
        return len(self._moving(values)[0])

    def _without_axes(self, values: tuple[Any, ...]) -> bool:
        """Whether a value that moves is a single number at each step.

        torch lets an axis be named where there is none, and such a number weighs less in the dtype of a result; both
        would be otherwise with a time axis.
        """
        return any(value.ndim == 1 for value in self._moving(values))

    def _reads_memory(self) -> bool:
        if self.op.name != "call":
            return False
        target, args = self.operands["target"], self.operands["args"]
        name = args[1] if target is functions.call_method else getattr(target, "__name__", "")
        return name in BY_MEMORY

    def _called(self, operands: Mapping[str, Any]) -> Any:
        args, kwargs = self.op.signature.call_arguments(operands)
        if self.op.name == "call":
            target, args, kwargs = args
            return target(*thaw(args), **thaw(kwargs))
        return self.op.fn(*thaw(args), **thaw(kwargs))


def at(value: Any, t: int) -> Any:
    """Step ``t``, counted from 0, of a value whose tensors have a time axis."""
    return zip_leaves(lambda leaf: leaf[t] if isinstance(leaf, Tensor) else leaf, value)


def stacked(steps: list[Any]) -> Any:
    """Values of one structure on a new first axis, laid out in memory as they are; the rest must be the same always."""

    def stack(*now: Any) -> Any:
        if isinstance(now[0], Tensor):
            return stacked_alike(now)
        if any(value != now[0] for value in now):
            raise Unsteady(f"a value that is no tensor changes from step to step: {now[0]!r}, {now[-1]!r}")
        return now[0]

    return zip_leaves(stack, *steps)


def _filled(tree: Any, values: Any) -> Any:
    return map_leaves(lambda leaf: values[leaf.k] if isinstance(leaf, Hole) else leaf, tree)
