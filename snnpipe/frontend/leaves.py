"""Modules kept as one call while ``torch.export`` follows the rest: each call becomes one operator of the program.

``export`` asks an operator for the shapes of its results, and a module that cannot be followed cannot tell.  So the
model is run on the example first, and what each kept module gave there is remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@attrs.define
class Call:
    """One call of a kept module on the example.

    Attributes:
        path: of the module.
        given: the structure of its arguments, and those that are no tensors.
        taken: the structure of its result.
        results: shape, type and device of the tensors in it.
        batch: the size of the first axis of its first tensor.
    """

    path: str
    given: tuple[Any, pytree.TreeSpec]
    taken: pytree.TreeSpec
    results: tuple[tuple[tuple[int, ...], torch.dtype, torch.device], ...]
    batch: int | None

    def arguments(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the module, its tensors being ``tensors``."""
        left = iter(tensors)
        leaves = [next(left) if isinstance(leaf, _Hole) else leaf for leaf in self.given[0]]
        args, kwargs = pytree.tree_unflatten(leaves, self.given[1])
        return args, kwargs


class _Hole:
    """Stands for a tensor among arguments."""


#: The calls of the program that is being exported, by key; both front ends run one at a time.
CALLS: dict[str, Call] = {}


@torch.library.custom_op("snnpipe::leaf", mutates_args=(), schema="(Tensor[] tensors, str key) -> Tensor[]")
def leaf(tensors: Sequence[Tensor], key: str) -> list[Tensor]:
    """A call of a kept module; it has a meaning in an exported program only."""
    raise NotImplementedError(key)


@leaf.register_fake
def _shapes_of(tensors: Sequence[Tensor], key: str) -> list[Tensor]:
    call = CALLS[key]
    made = []
    for shape, dtype, device in call.results:
        moves = bool(tensors) and tensors[0].ndim > 0 and shape[:1] == (call.batch,)
        sizes = (tensors[0].shape[0], *shape[1:]) if moves else shape
        made.append(torch.empty(sizes, dtype=dtype, device=device))
    return made


class Leaf(nn.Module):
    """Stands for a kept module: the first time through it runs it and remembers, afterwards it is one operator."""

    def __init__(self, module: nn.Module, path: str) -> None:
        super().__init__()
        self.__dict__["kept"] = module  # its weights are no parameters of the program
        self.path, self.count, self.learning = path, 0, True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        key = f"{self.path}#{self.count}"
        self.count += 1
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = [value for value in leaves if isinstance(value, Tensor)]
        if self.learning:
            result = self.__dict__["kept"](*args, **kwargs)
            flat, taken = pytree.tree_flatten(result)
            if not all(isinstance(value, Tensor) for value in flat):
                raise TypeError(f"{type(self.__dict__['kept']).__name__}, kept as one call, returns what is no tensor")
            results = tuple((tuple(value.shape), value.dtype, value.device) for value in flat)
            given = [_Hole() if isinstance(value, Tensor) else value for value in leaves], spec
            batch = tensors[0].shape[0] if tensors and tensors[0].ndim else None
            CALLS[key] = Call(self.path, given, taken, results, batch)
            return result
        return pytree.tree_unflatten(torch.ops.snnpipe.leaf(tensors, key), CALLS[key].taken)


def keep(root: nn.Module, classes: tuple[type[nn.Module], ...]) -> list[Leaf]:
    """Put a ``Leaf`` in place of every module of the given classes; the root stays as it is."""
    made: list[Leaf] = []
    for path, module in list(root.named_modules()):
        for name, child in list(module.named_children()) if not isinstance(module, (*classes, Leaf)) else ():
            if isinstance(child, classes):
                made.append(Leaf(child, f"{path}.{name}" if path else name))
                module._modules[name] = made[-1]
    return made


def learn(root: nn.Module, leaves: Sequence[Leaf], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run the model on the example, so that its leaves know what they give."""
    for one in leaves:
        one.count, one.learning = 0, True
    with torch.no_grad():
        root(*args, **kwargs)
    for one in leaves:
        one.count, one.learning = 0, False
