"""A call on tensors as a model: which tensors are inputs, and where the others are kept.

Knows neither the operator table nor how a call may be spelled.
"""

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

#: Where a model may have a tensor that is no input.
KEPT = ("buffer", "attribute", "made")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LITERAL = 200  # numbers written into ``forward``, at most

Formula = Callable[..., Any]  # (model, *inputs) -> output


@attrs.frozen
class Slot:
    """The place of tensor ``k`` in a tree of arguments."""

    k: int


@attrs.frozen(eq=False)
class Call:
    """Arguments of a call, a tree in which tensors stand apart.

    Attributes:
        tensors: those among the arguments, in order.
        tree: ``(args, kwargs)`` with a ``Slot`` for each tensor.
        moving: the tensors that are the inputs of the model.
    """

    tensors: tuple[Tensor, ...]
    tree: Any
    moving: tuple[int, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(self.tensors[k] for k in self.moving)

    def floats(self) -> tuple[int, ...]:
        """Tensors that may be event sequences."""
        return tuple(k for k, tensor in enumerate(self.tensors) if may_move(tensor))

    def formula(self, apply: Formula) -> Formula:
        """``apply(model, args, kwargs)`` as a function ``(model, *inputs)``."""
        place, tree = {k: j for j, k in enumerate(self.moving)}, self.tree

        def formula(net: Model, *inputs: Any) -> Any:
            def value(leaf: Any) -> Any:
                if not isinstance(leaf, Slot):
                    return leaf
                return inputs[place[leaf.k]] if leaf.k in place else net.tensor(f"c{leaf.k}")

            args, kwargs = pytree.tree_map(value, tree)
            return apply(net, args, kwargs)

        return formula

    def constants(self) -> dict[str, Tensor]:
        """The tensors that the model holds, by the names that ``formula`` reads."""
        return {f"c{k}": tensor for k, tensor in enumerate(self.tensors) if k not in self.moving}


def call(args: Any, kwargs: Any) -> Call | None:
    """The call ``(*args, **kwargs)``, whose input is the first tensor of floats, else the first tensor."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = tuple(leaf.detach() for leaf in leaves if isinstance(leaf, Tensor))
    if not tensors:
        return None
    slots: Iterator[Slot] = iter([Slot(k) for k in range(len(tensors))])
    tree = pytree.tree_unflatten([next(slots) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
    found = Call(tensors, tree, (0,))
    return attrs.evolve(found, moving=(found.floats() or (0,))[:1])


def may_move(tensor: Tensor) -> bool:
    """Whether a tensor may change in time: one of floats that can be added."""
    return tensor.dtype in FLOATS and tensor.layout is torch.strided


class Model(nn.Module):
    """``forward`` is ``formula(self, *inputs)``; tensors are kept as buffers, as attributes, or written as numbers.

    ``neurons`` are the only ReLUs that neurons are to stand for; those of an operator under trial stay what they are.
    """

    def __init__(self, formula: Formula, constants: dict[str, Tensor], kept: str) -> None:
        super().__init__()
        self.formula = formula
        self.neurons = nn.ReLU()
        for name, value in constants.items():
            tensor = value.clone()
            plain = tensor.layout is torch.strided and not tensor.is_quantized and tensor.numel() <= LITERAL
            if kept == "made" and plain:
                setattr(self, name, (tensor.tolist(), tensor.dtype, tuple(tensor.shape)))
            elif kept == "buffer":
                self.register_buffer(name, tensor)
            else:
                setattr(self, name, tensor)

    def tensor(self, name: str) -> Tensor:
        value = getattr(self, name)
        if not isinstance(value, tuple):
            return value
        numbers, dtype, shape = value
        return torch.tensor(numbers, dtype=dtype).reshape(shape)


class One(Model):
    def forward(self, x: Any) -> Any:
        return self.formula(self, x)


class Two(Model):
    def forward(self, x: Any, y: Any) -> Any:
        return self.formula(self, x, y)


class Three(Model):
    def forward(self, x: Any, y: Any, z: Any) -> Any:
        return self.formula(self, x, y, z)


MODELS = {1: One, 2: Two, 3: Three}


def leaves(tree: Any) -> list[Any]:
    """Leaves of an output: of tuples of any kind, lists and mappings."""
    if isinstance(tree, np.ndarray):
        return [torch.from_numpy(tree)]
    if isinstance(tree, tuple | list):
        return [leaf for part in tree for leaf in leaves(part)]
    if isinstance(tree, dict):
        return [leaf for part in tree.values() for leaf in leaves(part)]
    return [tree]


def at_step(stacked: Any, like: Any, t: int) -> Any:
    """Step ``t`` of an output stacked over time, of the structure of ``like``."""
    if isinstance(like, tuple | list) and not isinstance(like, torch.Size):
        return [at_step(part, one, t) for part, one in zip(stacked, like, strict=True)]
    if isinstance(like, dict):
        return {key: at_step(stacked[key], like[key], t) for key in like}
    return stacked[t] if isinstance(stacked, Tensor | list | np.ndarray) else stacked


def copied(tree: Any) -> Any:
    """Leaves of an output, as they are now."""
    return [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves(tree)]
