"""Values made again of what ``exchange.values`` has written: each tag has a row here, and nothing else is made.

Knows tags; what the values are for, and files, are other files' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.containers import Record, Registered
from snnpipe.errors import SnnpipeError
from snnpipe.exchange import known, torch_functions, torch_modules
from snnpipe.exchange.graph_read import check_graph
from snnpipe.exchange.values import Writer, is_dense
from snnpipe.frontend.shadow import shadow
from snnpipe.frozen import FrozenList, FrozenMap, Packed, is_namedtuple
from snnpipe.graph import Param, Ref
from snnpipe.ops.functions import Opaque
from snnpipe.ops.modules import weightless
from snnpipe.text import Call, Configured, shown


@attrs.define
class Reader:
    """Makes values again: ``reader(json)``.

    Attributes:
        tensors: those of the file, by name.
        own: the user's own, by name.
    """

    tensors: Mapping[str, Tensor]
    own: Mapping[str, Any]
    _made: dict[str, Tensor] = attrs.field(factory=dict)

    def __call__(self, said: Any) -> Any:
        """The value.

        Raises:
            SnnpipeError: there is no such value.
        """
        if said is None or isinstance(said, bool | int | float | str):
            return said
        if isinstance(said, list):
            return tuple(map(self, said))
        if not isinstance(said, dict) or len(said) != 1:
            raise SnnpipeError("it is damaged: an object has one tag")
        ((tag, content),) = said.items()
        if tag in known.KINDS:
            return self.record(tag, content)
        if tag not in _MADE:
            raise SnnpipeError(f"it holds a {tag!r}, which this snnpipe does not know; upgrade snnpipe")
        return _MADE[tag](self, content)

    def record(self, tag: str, content: dict[str, Any]) -> Any:
        """A record of this package; one with functions of the user's own may be given whole."""
        name = content.get("name")
        given = self.own.get(name) if isinstance(name, str) and tag in _WHOLE else None
        if type(given) is known.KINDS[tag].cls:
            return self.whole(name, given, tag, content)
        fields = self.fields(content)
        if tag not in _OF_NODES and any(known.is_operation(value) for value in fields.values()):
            raise SnnpipeError(f"a {tag} holds a function that only nodes of a graph may call")
        if "graph" in fields:
            check_graph(fields["graph"], fields["params"])
        return known.KINDS[tag].make(**fields)

    def whole(self, name: Any, given: Any, tag: str, content: dict[str, Any]) -> Any:
        """What the user has given, if it is what was saved."""
        there = Writer()(given, name)[tag]
        other = [key for key in content if key != "made" and there.get(key) != content[key]]
        if other:
            raise SnnpipeError(f"own[{name!r}] is not the {tag} that was saved: it differs in {', '.join(other)}")
        return given

    def fields(self, content: dict[str, Any]) -> dict[str, Any]:
        """Values by name."""
        return {name: self(value) for name, value in content.items()}

    def pairs(self, content: Any) -> dict[Any, Any]:
        """Keys and values."""
        return {self(key): self(value) for key, value in content}

    def tensor(self, content: Any) -> Tensor:
        """A tensor as it was: one of a name is one tensor, however often it is met."""
        name = content["name"] if isinstance(content, dict) else content
        if name not in self._made:
            self._made[name] = self._tensor(name, content if isinstance(content, dict) else {})
        return self._made[name]

    def _tensor(self, name: str, said: dict[str, Any]) -> Tensor:
        if name not in self.tensors:
            raise SnnpipeError(f"it has no tensor {name!r}")
        found = self.tensors[name]
        found = torch.view_as_complex(found) if said.get("complex") else found
        if "stride" in said:
            stride = tuple(said["stride"])
            if len(stride) != found.ndim or not is_dense(found.shape, stride):
                raise SnnpipeError(f"the tensor {name!r}, {tuple(found.shape)}, cannot lie in memory so: {stride}")
            found = torch.empty_strided(found.shape, stride, dtype=found.dtype, device=found.device).copy_(found)
        return found if "parameter" not in said else nn.Parameter(found, requires_grad=said["parameter"])

    def owned(self, name: str) -> Any:
        """Something of the user's own."""
        return self.own[name]

    def cls(self, content: Any) -> Any:
        """A class."""
        found = self(content)
        if not isinstance(found, type):
            raise SnnpipeError(f"own[{content.get('own')!r}] must be a class, got {shown(found)}")
        return found

    def partial(self, content: Any, kind: type) -> Any:
        """A function with some of its arguments."""
        fn = self(content[0])
        if known.is_operation(fn):
            raise SnnpipeError("it fixes arguments of a function that only nodes of a graph may call")
        return kind(fn, *map(self, content[1]), **self.fields(content[2]))

    def call(self, content: Any) -> Call | None:
        """What a record was made by, if that makes it."""
        fn = known.MAKERS[content[0]]
        name = content[0].removeprefix("recipes.")
        module = "snnpipe.recipes" if name != content[0] else fn.__module__
        made = Call(module, name, FrozenMap(self.fields(content[1])))
        made.again()
        return made

    def module(self, content: Any) -> Opaque:
        """One of torch's modules kept as one call."""
        return Opaque(torch_modules.make_module(content[0], self.fields(content[1])))

    def own_module(self, content: Any) -> Opaque:
        """A module of the user's own, kept as one call; its numbers are those of the file."""
        name, facts = content
        if not isinstance(self.own[name], nn.Module):
            raise SnnpipeError(f"own[{name!r}] must be a module, such as the model's, got {shown(self.own[name])}")
        made = weightless(shadow(self.own[name], share=True))
        there = torch_modules.facts(made)
        if there != facts:
            paths = [path or "itself" for path in {**facts, **there} if facts.get(path) != there.get(path)]
            raise SnnpipeError(f"own[{name!r}] is not the module that was saved: it differs in {', '.join(paths)}")
        return Opaque(made)

    def tuple_of(self, content: Any) -> Any:
        """A named tuple of the user's own."""
        cls = self.cls(content[0])
        made = cls(*map(self, content[1]))
        if not is_namedtuple(made):
            raise SnnpipeError(f"own[{content[0].get('own')!r}] must be a named tuple, got {shown(cls)}")
        return made

    def container(self, content: Any) -> Packed:
        """A container taken apart."""
        return Packed(self(content[0]), tuple(map(self, content[1])))


def missing(said: Any, own: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """What values need of the user's own and is not given: its name, and that of the record that may be given whole."""
    if isinstance(said, list):
        for item in said:
            yield from missing(item, own, within)
    for tag, content in said.items() if isinstance(said, dict) else ():
        if tag in ("own", "own module"):
            name = content if tag == "own" else content[0]
            yield from [(name, within)] * (name not in own)
        name = content.get("name") if tag in _WHOLE and isinstance(content, dict) else None
        whole = name if isinstance(name, str) else ""
        if not whole or type(own.get(whole)) is not known.KINDS[tag].cls:
            yield from missing(content, own, whole or within)


#: Records that hold what nodes of a graph call.
_OF_NODES = frozenset({"Node", "OnCopies", "WriteThrough"})
#: Records that may be given whole.
_WHOLE = frozenset({"Neuron", "Code", "Threshold", "Statistic", "Codebook", "Recipe"})


def _of_torch(kind: type) -> Callable[[Reader, Any], Any]:
    def made(reader: Reader, content: Any) -> Any:
        found = getattr(torch, content, None)
        if type(found) is not kind:
            raise SnnpipeError(f"this torch ({torch.__version__}) has no {kind.__name__} called {content!r}")
        return found

    return made


def _function(reader: Reader, content: Any) -> Any:
    if content not in known.FUNCTIONS:
        raise SnnpipeError(f"it names the function {content!r}, which this snnpipe does not have; upgrade snnpipe")
    return known.FUNCTIONS[content]


def _float(reader: Reader, content: Any) -> float:
    return {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}[content]


#: What each tag makes.
_MADE: dict[str, Callable[[Reader, Any], Any]] = {
    "float": _float,
    "complex": lambda reader, content: complex(*map(reader, content)),
    "ellipsis": lambda reader, content: ...,
    "list": lambda reader, content: [reader(item) for item in content],
    "frozen list": lambda reader, content: FrozenList(map(reader, content)),
    "size": lambda reader, content: torch.Size(content),
    "map": lambda reader, content: FrozenMap(reader.pairs(content)),
    "dict": lambda reader, content: reader.pairs(content),
    "slice": lambda reader, content: slice(*map(reader, content)),
    "range": lambda reader, content: range(*content),
    "ref": lambda reader, content: Ref(content),
    "param": lambda reader, content: Param(content),
    "dtype": _of_torch(torch.dtype),
    "layout": _of_torch(torch.layout),
    "memory format": _of_torch(torch.memory_format),
    "device": lambda reader, content: torch.device(content),
    "tensor": Reader.tensor,
    "function": _function,
    "torch": lambda reader, content: torch_functions.function(content),
    "partial": lambda reader, content: reader.partial(content, partial),
    "configured": lambda reader, content: reader.partial(content, Configured),
    "call": Reader.call,
    "module": Reader.module,
    "own": Reader.owned,
    "own record": lambda reader, content: reader.cls(content[0])(**reader.fields(content[1])),
    "own tuple": Reader.tuple_of,
    "own module": Reader.own_module,
    "packed": Reader.container,
    "class": lambda reader, content: torch_functions.class_of(content),
    "member": lambda reader, content: reader.cls(content[0])[content[1]],
    "opened": lambda reader, content: Record(reader.cls(content[0]), tuple(content[1]), tuple(map(reader, content[2]))),
    "pytree": lambda reader, content: Registered(reader.cls(content[0]), reader(content[1])),
}
