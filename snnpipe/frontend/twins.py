"""Copies of whatever a module may keep as an attribute, so that what it reaches is the copy and never the original.

Each object is copied once; copies refer to copies.  What cannot change and refers to nothing that can is shared.
"""

from __future__ import annotations

import enum
import functools
import gc
import random
import re
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from snnpipe.frontend.rebound import contents, function_of, is_user_code, named_globals
from snnpipe.frontend.uncopied import Uncopied

#: What no copy is needed of.
_ATOMS = (
    type(None), type(...), type(NotImplemented), bool, int, float, complex, str, bytes, range, slice, type, enum.Enum,
    types.ModuleType, types.CodeType, types.GenericAlias, re.Pattern, torch.dtype, torch.device, torch.layout,
    torch.memory_format, torch.Size, torch.ScriptObject, Uncopied,
)  # fmt: skip
#: Machinery without weights or state of a model: its objects are shared.
_MACHINERY = (
    "logging", "threading", "queue", "multiprocessing", "concurrent", "asyncio", "typing", "torch._ops", "torch._C",
    "torch.library", "torch._library", "torch.fx.graph", "torch.fx.node", "torch.distributed", "torch.utils.data",
)  # fmt: skip
_RANDOM = "it is a random generator, and random numbers are no function of the input"
_CONSUMED = "reading it changes it"
_HIDDEN = "it refers to modules or tensors in a way that cannot be followed"
_MOST = 20_000  # objects that are looked at before an object counts as one that refers to everything


@attrs.define(eq=False)
class Twins:
    """The copies made so far.

    Args:
        rules: further classes and how they are copied, ``rule(original, twins, path)``.
    """

    rules: tuple[tuple[Any, Rule], ...] = ()
    made: dict[int, tuple[Any, Any]] = attrs.field(factory=dict)  # originals are kept, so that no id is used again
    worlds: dict[int, dict[str, Any]] = attrs.field(factory=dict)

    def of(self, original: Any, path: str) -> Any:
        """The copy of a value found at ``path``, or the value itself where none is needed."""
        kind = type(original)
        if id(original) in self.made:
            return self.made[id(original)][1]
        if issubclass(kind, _ATOMS):
            return original
        rule = next((rule for known, rule in (*self.rules, *_RULES) if issubclass(kind, known)), _object)
        return self.keep(original, rule(original, self, path))

    def keep(self, original: Any, twin: Any) -> Any:
        """Note a copy: at once where its parts may refer back to it."""
        self.made[id(original)] = (original, twin)
        return twin


Rule = Callable[[Any, Twins, str], Any]


def blank(kind: Any) -> Any:
    """An object of a class, its ``__new__`` and ``__init__`` not run; ``None`` if it keeps what Python cannot see."""
    base = next((base for base in kind.__mro__ if base in BUILT), object)
    try:
        twin = base.__new__(kind)
    except TypeError:
        return None
    room = object.__basicsize__ + 8 * (2 + len(list(_slots(kind))))  # its slots, a dictionary, weak references
    return twin if base is not object or kind.__basicsize__ <= room else None


def fill(twin: Any, original: Any, twins: Twins, path: str) -> Any:
    """Copy attributes and slots."""
    if _has_dict(original):
        for name, value in list(fields(original).items()):
            fields(twin)[name] = twins.of(value, f"{path}.{name}")
    return fill_slots(twin, original, twins, path)


def fill_slots(twin: Any, original: Any, twins: Twins, path: str) -> Any:
    """Copy what lies in ``__slots__``."""
    for slot in _slots(type(original)):
        try:
            value = slot.__get__(original)
        except AttributeError:
            continue
        slot.__set__(twin, twins.of(value, f"{path}.{slot.__name__}"))
    return twin


def fields(value: Any) -> dict[str, Any]:
    """``vars(value)``, whatever its class makes of attributes."""
    held: dict[str, Any] = object.__getattribute__(value, "__dict__")
    return held


def _has_dict(value: Any) -> bool:
    try:
        return isinstance(fields(value), dict)
    except AttributeError:
        return False


def _slots(kind: type) -> Iterator[Any]:
    for base in kind.__mro__:
        if base not in BUILT and "__slots__" in vars(base):
            yield from (member for member in vars(base).values() if isinstance(member, types.MemberDescriptorType))


# containers


def _mapping(original: Any, twins: Twins, path: str) -> Any:
    twin = twins.keep(original, blank(type(original)))
    base = OrderedDict if isinstance(twin, OrderedDict) else dict
    for key, value in list(base.items(original)):
        base.__setitem__(twin, twins.of(key, f"{path}.keys()"), twins.of(value, f"{path}[{key!r}]"))
    if isinstance(twin, defaultdict):
        twin.default_factory = twins.of(original.default_factory, f"{path}.default_factory")
    return fill(twin, original, twins, path)


def _sequence(original: Any, twins: Twins, path: str) -> Any:
    twin = twins.keep(original, blank(type(original)))
    base: Any = deque if isinstance(twin, deque) else list
    if base is deque:
        deque.__init__(twin, maxlen=original.maxlen)
    for k, item in enumerate(list(base.__iter__(original))):
        base.append(twin, twins.of(item, f"{path}[{k}]"))
    return fill(twin, original, twins, path)


def _set(original: Any, twins: Twins, path: str) -> Any:
    twin = twins.keep(original, blank(type(original)))
    for item in list(set.__iter__(original)):
        set.add(twin, twins.of(item, f"{path}.pop()"))
    return fill(twin, original, twins, path)


def _frozen(original: Any, twins: Twins, path: str) -> Any:
    """Tuples and frozen sets: themselves if nothing in them is copied."""
    kind: Any = type(original)
    base: Any = tuple if isinstance(original, tuple) else frozenset
    items = list(base.__iter__(original))
    copies = [twins.of(item, f"{path}[{k}]") for k, item in enumerate(items)]
    if all(a is b for a, b in zip(items, copies, strict=True)) and not _has_dict(original):
        return original
    if id(original) in twins.made:  # one of its items refers back to it
        return twins.made[id(original)][1]
    if hasattr(kind, "n_sequence_fields"):  # what torch returns, as torch.return_types.max
        return kind(copies)
    return fill(base.__new__(kind, copies), original, twins, path)


def _view(original: Any, twins: Twins, path: str) -> Any:
    return types.MappingProxyType(twins.of(dict(original), path))


# what can be called


def _function(original: Any, twins: Twins, path: str) -> Any:
    compiled = getattr(original, "_torchdynamo_orig_callable", None)
    if compiled is not None:
        return twins.of(compiled, path)
    if is_inert(original):
        return original
    world = original.__globals__
    if is_user_code(original):
        world = twins.worlds.setdefault(id(world), dict(world))
    cells = tuple(types.CellType() for _ in original.__closure__ or ())
    twin = twins.keep(original, function_of(original, world, cells))
    for cell, kept, name in zip(cells, original.__closure__ or (), original.__code__.co_freevars, strict=True):
        try:
            cell.cell_contents = twins.of(kept.cell_contents, f"{path}<{name}>")
        except ValueError:  # an empty cell
            continue
    for name, value in named_globals(original).items():
        world[name] = twins.of(value, name)
    if original.__defaults__:
        twin.__defaults__ = tuple(twins.of(value, f"{path}<default>") for value in original.__defaults__)
    if original.__kwdefaults__:
        twin.__kwdefaults__ = {key: twins.of(v, f"{path}<{key}>") for key, v in original.__kwdefaults__.items()}
    twin.__dict__.update({key: twins.of(value, f"{path}.{key}") for key, value in original.__dict__.items()})
    return twin


def _method(original: Any, twins: Twins, path: str) -> Any:
    owner = twins.of(original.__self__, f"{path}.__self__")
    function = twins.of(original.__func__, path)
    same = owner is original.__self__ and function is original.__func__
    return original if same else types.MethodType(function, owner)


def _builtin(original: Any, twins: Twins, path: str) -> Any:
    """A function of C, or a method of an object of C: ``[].append``."""
    owner = twins.of(original.__self__, f"{path}.__self__")
    return original if owner is original.__self__ else getattr(owner, original.__name__)


def _partial(original: Any, twins: Twins, path: str) -> Any:
    function = twins.of(original.func, path)
    args = tuple(twins.of(value, f"{path}.args[{k}]") for k, value in enumerate(original.args))
    kwargs = {key: twins.of(value, f"{path}.keywords[{key!r}]") for key, value in original.keywords.items()}
    twin = type(original)(function, *args, **kwargs)
    twin.__dict__.update({key: twins.of(value, f"{path}.{key}") for key, value in original.__dict__.items()})
    return twin


def _cached(original: Any, twins: Twins, path: str) -> Any:
    function = twins.of(original.__wrapped__, path)
    again = functools.lru_cache(**original.cache_parameters())
    return original if function is original.__wrapped__ else again(function)


# references


def _reference(original: Any, twins: Twins, path: str) -> Any:
    target = original()
    return original if target is None else weakref.ref(twins.of(target, f"{path}()"))


def _proxy(original: Any, twins: Twins, path: str) -> Any:
    return weakref.proxy(twins.of(original.__init__.__self__, path))


# everything else


def _object(original: Any, twins: Twins, path: str) -> Any:
    kind = type(original)
    if _lives_in(kind, _MACHINERY) or _is_sentinel(original):
        return original
    if _lives_in(kind, ("numpy",)) and hasattr(original, "dtype"):
        return Uncopied(path, kind, _HIDDEN) if original.dtype.hasobject else original.copy()
    if _lives_in(kind, ("numpy.random",)):
        return Uncopied(path, kind, _RANDOM)
    twin = blank(kind)
    if twin is not None:
        return fill(twins.keep(original, twin), original, twins, path)
    if hasattr(kind, "__next__"):
        return Uncopied(path, kind, _CONSUMED)
    return Uncopied(path, kind, _HIDDEN) if _reaches(original) else original


def _refused(reason: str) -> Rule:
    return lambda original, twins, path: Uncopied(path, type(original), reason)


def _lives_in(kind: type, homes: tuple[str, ...]) -> bool:
    return any(kind.__module__ == home or kind.__module__.startswith(f"{home}.") for home in homes)


def _is_sentinel(value: Any) -> bool:
    """Whether an object is nothing but its identity, or has no parts and says itself how it is copied."""
    held = [*(fields(value).values() if _has_dict(value) else ()), *_slots(type(value))]
    if held and not any(hasattr(type(value), name) for name in ("__copy__", "__deepcopy__")):
        return False
    return all(issubclass(type(item), _ATOMS) for item in held) and blank(type(value)) is not None


def _reaches(value: Any) -> bool:
    """Whether an object of C refers to a module or a tensor, as far as the garbage collector can tell."""
    seen: set[int] = set()
    ahead = [value]
    while ahead:
        item = ahead.pop()
        if isinstance(item, nn.Module | Tensor) or len(seen) > _MOST:
            return True
        if id(item) in seen or issubclass(type(item), _ATOMS):
            continue
        seen.add(id(item))
        ahead += contents(item) if isinstance(item, types.FunctionType) else gc.get_referents(item)
    return False


def is_inert(function: types.FunctionType) -> bool:
    """Whether a function refers to nothing that would have to be copied."""
    seen: set[int] = set()

    def inert(value: Any) -> bool:
        if id(value) in seen or isinstance(value, _ATOMS):
            return True
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            return not hasattr(value, "_torchdynamo_orig_callable") and all(map(inert, contents(value)))
        if isinstance(value, tuple | frozenset):
            return all(map(inert, value))
        if isinstance(value, functools.partial):
            return all(map(inert, (value.func, *value.args, *value.keywords.values())))
        if isinstance(value, types.MethodType | types.BuiltinMethodType):
            return inert(value.__self__)
        described = isinstance(value, types.MethodDescriptorType | types.WrapperDescriptorType)
        return described or _lives_in(type(value), _MACHINERY)

    return inert(function)


BUILT = (list, dict, OrderedDict, defaultdict, deque, set, tuple, frozenset, types.SimpleNamespace)
_RULES: tuple[tuple[Any, Rule], ...] = (
    (dict, _mapping),
    ((list, deque), _sequence),
    (set, _set),
    ((tuple, frozenset), _frozen),
    (types.MappingProxyType, _view),
    (torch.jit.ScriptFunction, _refused("it is TorchScript (scripted or traced), which has no Python code to follow")),
    (types.FunctionType, _function),
    (types.MethodType, _method),
    ((types.BuiltinMethodType, types.MethodWrapperType), _builtin),
    (functools.partial, _partial),
    (functools._lru_cache_wrapper, _cached),
    (weakref.ref, _reference),
    ((weakref.ProxyType, weakref.CallableProxyType), _proxy),
    ((random.Random, torch.Generator), _refused(_RANDOM)),
    (types.GeneratorType, _refused(_CONSUMED)),
    (bytearray, lambda original, twins, path: original[:]),
)
