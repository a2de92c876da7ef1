"""The functions and classes of torch that a file may name, and nothing else of it.

Knows torch; graphs and files are other files' business.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snnpipe.errors import SnnpipeError
from snnpipe.exchange import torch_names as names
from snnpipe.frontend.overloads import Overload
from snnpipe.frozen import FrozenMap

_KNOWN = frozenset(names.TENSORS.split())
#: Where functions are looked up, and which of them may be; a name may have the ``_`` of a write behind it.
_HOMES: FrozenMap[str, tuple[Any, frozenset[str]]] = FrozenMap({
    "torch": (torch, _KNOWN | {*names.SYMBOLS.split()}),
    "torch.nn.functional": (F, _KNOWN),
    "torch.Tensor": (Tensor, _KNOWN),
    "torch.linalg": (torch.linalg, frozenset(names.LINALG.split())),
    "torch.fft": (torch.fft, frozenset(names.FFT.split())),
    "torch.special": (torch.special, frozenset(names.SPECIAL.split())),
    "operator": (operator, frozenset(names.OPERATOR.split())),
    "math": (math, frozenset(names.MATH.split())),
    "builtins": (builtins, frozenset(names.BUILTINS.split())),
})  # fmt: skip
_ATEN = _KNOWN | {*names.OF_ATEN.split()} | {
    f"{home}_{name}" for home in ("linalg", "fft", "special") for name in _HOMES[f"torch.{home}"][1]
}  # fmt: skip

#: Methods of containers that a graph may call, beside those of tensors.
_OF_CONTAINERS = frozenset({"get", "items", "keys", "values", "count", "index", "copy"})


def is_method(name: Any) -> bool:
    """Whether it is the name of a method that a graph of a file may call.

    >>> is_method("view"), is_method("add_"), is_method("__class__"), is_method("tofile")
    (True, True, False, False)
    """
    return isinstance(name, str) and (_may_be(name, _KNOWN) or name in _OF_CONTAINERS)


def _may_be(name: str, known: frozenset[str]) -> bool:
    return name in known or (name[-1:] == "_" and name[-2:] != "__" and name[:-1] in known)


@cache
def _names() -> dict[Any, str]:
    found: dict[Any, str] = {}
    for home, (place, known) in _HOMES.items():
        for name in sorted(known | {f"{name}_" for name in known}):
            value = getattr(place, name, None)
            if callable(value) and _is_hashable(value):
                found.setdefault(value, f"{home}.{name}")
    return found


def _is_hashable(value: Any) -> bool:
    return type(value).__hash__ is not None


def name_of(function: Any) -> str:
    """What a file calls a function of torch, an operator or one of ``math``; ``""`` for any other.

    >>> name_of(torch.rsqrt), name_of(Overload("aten::rsqrt.default")), name_of(torch.load)
    ('torch.rsqrt', 'aten::rsqrt.default', '')
    """
    if isinstance(function, Overload):
        return function.qualified if _is_overload(function.qualified) else ""
    return _names().get(function, "") if _is_hashable(function) else ""


def function(name: Any) -> Callable[..., Any]:
    """The function that a file calls so.

    Raises:
        SnnpipeError: it is not one of those a file may name, or this torch has none of that name.
    """
    if isinstance(name, str) and _is_overload(name):
        overload = Overload(name)
        try:
            overload.found  # noqa: B018
        except AttributeError:
            raise SnnpipeError(f"this torch ({torch.__version__}) has no operator {name}; use a later one") from None
        return overload
    home, _, last = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    place, known = _HOMES.get(home, (None, frozenset[str]()))
    if not _may_be(last, known):
        raise SnnpipeError(f"it names the function {name!r}, which is none of those that a file may name")
    found = getattr(place, last, None)
    if not callable(found):
        raise SnnpipeError(f"this torch ({torch.__version__}) has no {name}; use a later one")
    return found  # type: ignore[no-any-return]


def _is_overload(name: str) -> bool:
    space, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    return space == "aten" and _may_be(base, _ATEN) and (not overload or overload.isidentifier())


_CLASSES: dict[str, type] = {
    "OrderedDict": OrderedDict, "defaultdict": defaultdict, "deque": deque, "SimpleNamespace": SimpleNamespace,
    "UserDict": UserDict, "UserList": UserList, "dict": dict, "list": list, "tuple": tuple, "int": int, "float": float,
    "bool": bool,
}  # fmt: skip
_CLASSES |= {f"torch.return_types.{name}": cls for name, cls in vars(torch.return_types).items() if type(cls) is type}
_CLASS_NAMES = {cls: name for name, cls in _CLASSES.items()}


def class_name(cls: type) -> str:
    """What a file calls a class of containers, of Python's or torch's; ``""`` for any other."""
    return _CLASS_NAMES.get(cls, "")


def class_of(name: str) -> type:
    """The class that a file calls so.

    Raises:
        SnnpipeError: it is not one of those that a file may name.
    """
    if name not in _CLASSES:
        raise SnnpipeError(f"it names the class {name!r}, which is none of those that a file may name")
    return _CLASSES[name]
