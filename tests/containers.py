"""Containers of many kinds, as models take and return them."""

import dataclasses
from collections import OrderedDict, UserDict, UserList, defaultdict, deque, namedtuple
from types import SimpleNamespace
from typing import Any

import attrs
from torch.export import register_dataclass
from torch.utils import _pytree as pytree

Pair = namedtuple("Pair", "a b")


@dataclasses.dataclass
class Record:
    """With defaults, and a field that is computed."""

    a: Any
    b: Any = None
    k: int = 3
    twice: Any = dataclasses.field(init=False, default=None)

    def __post_init__(self):
        self.twice = self.a * 2 if hasattr(self.a, "mul") else None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any = None
    note: str = "text"


@attrs.define
class Defined:
    a: Any
    b: Any = None


@dataclasses.dataclass
class Output(OrderedDict):
    """As ``transformers`` has them, not registered."""

    a: Any = None
    b: Any = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)


class Registered:
    """Without names for its children."""

    def __init__(self, a, b):
        self.a, self.b = a, b


pytree.register_pytree_node(Registered, lambda c: ([c.a, c.b], None), lambda children, _: Registered(*children))


@dataclasses.dataclass
class RegisteredRecord:
    a: Any
    b: Any = None


register_dataclass(RegisteredRecord)


class OwnDict(dict):
    pass


class OwnList(list):
    pass


#: ``make(a, b)`` and ``take(container) -> (a, b)``.
KINDS = {
    "dict": (lambda a, b: {"a": a, "b": b, "names": ["x", "y"], "k": 2}, lambda c: (c["a"], c["b"])),
    "list": (lambda a, b: [a, (b,)], lambda c: (c[0], c[1][0])),
    "named tuple": (Pair, lambda c: (c.a, c.b)),
    "named tuple by index": (Pair, lambda c: (c[0], c[1])),
    "dataclass": (lambda a, b: Record(a, [b]), lambda c: (c.a, c.b[0])),
    "frozen dataclass": (lambda a, b: Frozen((a, {"q": b})), lambda c: (c.a[0], c.a[1]["q"])),
    "nested dataclasses": (lambda a, b: Frozen(a, Frozen(b)), lambda c: (c.a, c.b.a)),
    "attrs": (Defined, lambda c: (c.a, c.b)),
    "output of transformers": (Output, lambda c: (c.a, c["b"])),
    "registered": (Registered, lambda c: (c.a, c.b)),
    "registered dataclass": (RegisteredRecord, lambda c: (c.a, c.b)),
    "own dict": (lambda a, b: OwnDict(a=a, b=b), lambda c: (c["a"], c["b"])),
    "own list": (lambda a, b: OwnList([a, b]), lambda c: (c[0], c[1])),
    "OrderedDict": (lambda a, b: OrderedDict(a=a, b=b), lambda c: (c["a"], c["b"])),
    "defaultdict": (lambda a, b: defaultdict(list, a=a, b=b), lambda c: (c["a"], c["b"])),
    "UserDict": (lambda a, b: UserDict(a=a, b=b), lambda c: (c["a"], c["b"])),
    "UserList": (lambda a, b: UserList([a, b]), lambda c: (c[0], c[1])),
    "deque": (lambda a, b: deque([a, b]), lambda c: (c[0], c[1])),
    "namespace": (lambda a, b: SimpleNamespace(a=a, b=b), lambda c: (c.a, c.b)),
}
