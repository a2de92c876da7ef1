"""Frozen values as JSON and tensors, and back: one rule for all records.

What JSON has stands for itself, an array for a tuple; everything else is an object with one key, its *tag*:
``{"ref": "conv1"}``, ``{"tensor": "conv1.weight"}``, ``{"Neuron": {...}}``.  A function is a name, of a list of this
package's (``exchange.known``) or torch's (``exchange.torch_functions``), or of the user's own.

Knows values; what they are for, and files, are other files' business.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.containers import Record, Registered
from snnpipe.errors import SnnpipeError
from snnpipe.exchange import known, torch_functions, torch_modules
from snnpipe.exchange.tensor_file import DTYPES, METADATA
from snnpipe.frozen import FrozenList, FrozenMap, Packed, is_namedtuple
from snnpipe.graph import Param, Ref, unique_name
from snnpipe.ops.functions import Opaque
from snnpipe.text import Call, Configured, shown

#: Attributes of torch that stand for themselves, and what a file calls their kind.
_NAMED: dict[type, str] = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory format"}
_FIXED = frozenset(DTYPES.values())
_BITS = 4096  # of a whole number: JSON is read by Python, which reads some thousand digits


@attrs.define
class Writer:
    """Takes values apart: ``writer(value, place)`` is JSON, and the tensors and things of the user's own are kept.

    Attributes:
        names: what tensors are called in the file, by identity; others are called by their place.
        tensors: those met, contiguous and on the CPU.
        own: things of the user's own, by name.
    """

    names: dict[int, str] = attrs.field(factory=dict)
    tensors: dict[str, Tensor] = attrs.field(factory=dict)
    own: dict[str, Any] = attrs.field(factory=dict)
    _done: dict[int, Any] = attrs.field(factory=dict)

    def __call__(self, value: Any, place: str) -> Any:
        """The value as JSON.

        Raises:
            SnnpipeError: a file cannot say it; names the place.
        """
        kind = type(value)
        if value is None or kind in (bool, str) or (kind is int and value.bit_length() <= _BITS):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is tuple:
            return self.items(value, place)
        if kind in known.KIND_NAMES:
            name = known.KIND_NAMES[kind]
            return {name: self.fields(known.KINDS[name].fields(value), place)}
        for base, take in _TAKEN.items():
            if isinstance(value, base):
                return take(self, value, place)
        if attrs.has(kind) and not kind.__module__.startswith("snnpipe."):
            return {"own record": [self.cls(kind, place), self.fields(known.fields_of(value), place)]}
        if callable(value):
            return self.function(value, place)
        raise refused(value, place)

    def items(self, values: Any, place: str) -> list[Any]:
        """Each value, in a list."""
        return [self(item, _within(place, k)) for k, item in enumerate(values)]

    def fields(self, values: dict[str, Any], place: str) -> dict[str, Any]:
        """Each value, under its name."""
        return {name: self(value, _within(place, name)) for name, value in values.items()}

    def pairs(self, values: Any, place: str) -> list[Any]:
        """Each key and its value."""
        return [[self(key, place), self(item, _within(place, key))] for key, item in values.items()]

    def function(self, value: Any, place: str) -> Any:
        """A function by name."""
        if name := known.name_of(value):
            return {"function": name}
        if name := torch_functions.name_of(value):
            return {"torch": name}
        if isinstance(value, type) and (name := torch_functions.class_name(value)):
            return {"class": name}
        return {"own": self.owned(value, place)}

    def owned(self, value: Any, place: str) -> str:
        """The name of something of the user's own."""
        name = str(getattr(value, "__name__", ""))
        if not name or name == "<lambda>":
            raise refused(value, place, "give it a name: write def my_function(...), and not lambda")
        if self.own.setdefault(name, value) is not value and self.own[name] != value:
            raise refused(value, place, f"there are two things called {name}; call one of them otherwise")
        return name

    def cls(self, value: type, place: str) -> Any:
        """A class by name."""
        name = torch_functions.class_name(value)
        return {"class": name} if name else {"own": self.owned(value, place)}

    def member(self, value: enum.Enum, place: str) -> Any:
        """A member of an enumeration, by name."""
        if value.name not in type(value).__members__:
            raise refused(value, place)
        return {"member": [self.cls(type(value), place), value.name]}

    def tensor(self, value: Tensor, place: str) -> Any:
        """A tensor, under its name; one that was met before, under the name it has."""
        if id(value) not in self._done:
            self._done[id(value)] = value, self._tensor(value, self.names.get(id(value), place), place)
        return self._done[id(value)][1]

    def _tensor(self, value: Tensor, name: str, place: str) -> Any:
        flat = value.detach()
        plain = type(flat) in (Tensor, nn.Parameter) and flat.layout is torch.strided and not flat.is_meta
        if not plain or flat.is_quantized or not (flat.dtype in _FIXED or flat.is_complex()):
            raise refused(value, place, "a file holds tensors of numbers that are in memory, of at least one byte each")
        said: dict[str, Any] = {}
        if isinstance(value, nn.Parameter):
            said["parameter"] = value.requires_grad
        if flat.stride() != torch.empty(flat.shape, device="meta").stride() and is_dense(flat.shape, flat.stride()):
            said["stride"] = list(flat.stride())
        if flat.is_complex():
            said["complex"] = True
            flat = torch.view_as_real(flat.resolve_conj())
        name = unique_name(name, {*self.tensors, METADATA})
        self.tensors[name] = flat.resolve_neg().cpu().contiguous()
        return {"tensor": {"name": name} | said if said else name}

    def call(self, value: Call, place: str) -> Any:
        """What a record was made by, which is no part of its value: left out where a file cannot say it."""
        name = known.name_of(value.fn)
        try:
            options = Writer()
            said = options.fields(dict(value.options), place)
        except SnnpipeError:
            return None
        return {"call": [name, said]} if name and not options.own and not options.tensors else None

    def partial(self, value: Any, place: str) -> Any:
        """A function with some of its arguments."""
        tag = "configured" if isinstance(value, Configured) else "partial"
        given = self.items(value.args, place), self.fields(value.keywords, place)
        return {tag: [self(value.func, place), *given]}

    def opaque(self, value: Opaque, place: str) -> Any:
        """A module kept as one call: torch's by its class and arguments, one of the user's own by name."""
        module = value._skeleton[0]
        given = torch_modules.module_arguments(module)
        if given is None:
            facts = torch_modules.facts(module)
            stem = type(module).__name__
            alike = (name for name, other in self.own.items() if other == facts and name.startswith(stem))
            name = next(alike, unique_name(stem, self.own))
            self.own[name] = facts
            return {"own module": [name, facts]}
        return {"module": [type(module).__name__, self.fields(given, place)]}

    def container(self, value: Any, place: str) -> Any:
        """What builds a container again."""
        if isinstance(value, Record):
            return {"opened": [self.cls(value.cls, place), list(value.names), self.items(value.keys, place)]}
        return {"pytree": [self.cls(value.cls, place), self(value.context, place)]}


def _within(place: str, part: Any) -> str:
    return f"{place}.{part}".lstrip(".")


def is_dense(shape: Any, stride: Any) -> bool:
    """Whether the numbers of a tensor fill its memory, each once."""
    steps = sorted((step, size) for step, size in zip(stride, shape, strict=True) if size != 1)
    wanted = 1
    for step, size in steps:
        if step != wanted:
            return False
        wanted *= size
    return all(type(step) is int and 0 <= step < 2**48 for step in stride) and 0 not in shape


def refused(value: Any, place: str, write: str = "") -> SnnpipeError:
    """The error for a value that a file cannot say."""
    advice = write or "keep it a number, a text, a tensor, a container or record of these, or a function with a name"
    return SnnpipeError(f"at {place or 'its top'} is {shown(value)}, which a file cannot say; {advice}")


def _packed(writer: Writer, value: Packed, place: str) -> Any:
    return {"packed": [writer.container(value.kind, place), writer.items(value.children, place)]}


def _tuple(writer: Writer, value: Any, place: str) -> Any:
    """A tuple of another kind."""
    if isinstance(value, Packed):
        return _packed(writer, value, place)
    if is_namedtuple(value):
        return {"own tuple": [writer.cls(type(value), place), writer.items(value, place)]}
    tag = {FrozenList: "frozen list", torch.Size: "size"}.get(type(value))
    if tag is None:
        raise refused(value, place)
    return {tag: writer.items(value, place)}


#: How values of each type are taken apart.
_TAKEN: dict[Any, Callable[[Writer, Any, str], Any]] = {
    tuple: _tuple,
    list: lambda writer, value, place: {"list": writer.items(value, place)},
    FrozenMap: lambda writer, value, place: {"map": writer.pairs(value, place)},
    dict: lambda writer, value, place: {"dict": writer.pairs(value, place)},
    slice: lambda writer, value, place: {"slice": writer.items((value.start, value.stop, value.step), place)},
    range: lambda writer, value, place: {"range": writer.items((value.start, value.stop, value.step), place)},
    complex: lambda writer, value, place: {"complex": writer.items((value.real, value.imag), place)},
    enum.Enum: Writer.member,
    type(...): lambda writer, value, place: {"ellipsis": None},
    Ref: lambda writer, value, place: {"ref": value.name},
    Param: lambda writer, value, place: {"param": value.key},
    Tensor: Writer.tensor,
    torch.device: lambda writer, value, place: {"device": str(value)},
    Call: Writer.call,
    Opaque: Writer.opaque,
    Record: Writer.container,
    Registered: Writer.container,
    partial: Writer.partial,
    **{kind: lambda writer, value, place: {_NAMED[type(value)]: str(value).removeprefix("torch.")} for kind in _NAMED},
}
