"""Tensors that two hold: the same memory under another object, and whether somebody has written to it since.

Knows tensors; whose they are is the business of ``trace`` and ``to_snn``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from snnpipe.frozen import FrozenMap

#: What tells that a tensor was written to or put elsewhere: torch's count of the writes, and its address.
Mark = tuple[int, int]


def tied(params: Mapping[str, Tensor], make: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """What ``make`` makes of each tensor, by key; of tensors that are one, one."""
    made: dict[int, Tensor] = {}
    for tensor in params.values():
        if id(tensor) not in made:
            made[id(tensor)] = make(tensor)
    return {key: made[id(tensor)] for key, tensor in params.items()}


def aliased(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as objects of one's own in the same memory, without gradients; tied ones still tied.

    >>> import torch
    >>> weight = nn.Parameter(torch.ones(2))
    >>> alias = aliased({"weight": weight})["weight"]
    >>> alias.data_ptr() == weight.data_ptr(), alias.requires_grad, weight.requires_grad
    (True, False, True)
    """
    return tied(params, _alias)


def _alias(tensor: Tensor) -> Tensor:
    alias = tensor.detach()
    return nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias


def marks(tensors: Mapping[str, Tensor]) -> FrozenMap[str, Mark]:
    """What ``written`` compares with later."""
    return FrozenMap({key: _mark(tensor) for key, tensor in tensors.items()})


def written(tensors: Mapping[str, Tensor], before: Mapping[str, Mark]) -> list[str]:
    """The keys of the tensors that were written to, or moved, since their marks were taken.

    A write that hides from torch's count, to ``x.data`` or through numpy, is not seen.

    >>> import torch
    >>> tensors = {"a": torch.ones(2), "b": torch.ones(2)}
    >>> before = marks(tensors)
    >>> _ = tensors["b"].mul_(2)
    >>> written(tensors, before)
    ['b']
    """
    return [key for key, mark in before.items() if key in tensors and _mark(tensors[key]) != mark]


def _mark(tensor: Tensor) -> Mark:
    if is_lazy(tensor):
        return 0, 0
    version = 0 if tensor.is_inference() else tensor._version
    try:
        return version, tensor.data_ptr()
    except (NotImplementedError, RuntimeError):  # it has no memory of its own
        return version, 0


def common(tensors: Mapping[str, Tensor], others: Iterable[Tensor]) -> dict[str, Tensor]:
    """The tensors that lie in memory of others.

    >>> import torch
    >>> weight = torch.ones(4)
    >>> [*common({"a": weight[1:], "b": weight.clone()}, [weight])]
    ['a']
    """
    theirs = {_address(tensor) for tensor in others}
    return {key: tensor for key, tensor in tensors.items() if _address(tensor) in theirs}


def size_of(tensors: Iterable[Tensor]) -> str:
    """How many tensors, and how much memory they take, in words; what several lie in counts once.

    >>> import torch
    >>> weight = torch.zeros(2**18)
    >>> size_of([weight, weight[1:], torch.zeros(2**18)])
    '3 tensors, 2.0 MiB'
    """
    found = list(tensors)
    sizes = {_address(tensor): _nbytes(tensor) for tensor in found}
    return f"{len(found)} tensor{'s' * (len(found) != 1)}, {sum(sizes.values()) / 2**20:.1f} MiB"


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _nbytes(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        return tensor.numel() * tensor.element_size()


def without_values(tensors: Mapping[str, Tensor]) -> list[str]:
    """The keys of the tensors that are on the meta device: they have a shape and no values.

    >>> import torch
    >>> without_values({"a": torch.ones(2), "b": torch.ones(2, device="meta")})
    ['b']
    """
    return [key for key, tensor in tensors.items() if tensor.is_meta]
