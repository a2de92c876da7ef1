"""Values as text: the expression that makes a value, and how an error shows what it was given.

Knows functions and records, not what they are for.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import attrs
from torch import Tensor, nn

from snnpipe.frozen import FrozenMap

P = ParamSpec("P")
R = TypeVar("R")

#: Options that say where and on what something runs, not what it makes.
_HERE = ("batches", "checkpoint", "group")
#: The longest text of a value nobody here made.
LONGEST = 60


@attrs.frozen
class Call:
    """The call of a public function that made a value; ``str`` of it is the expression.

    >>> from snnpipe import percentile
    >>> str(percentile(99.9).made), percentile(99.9).made.again() == percentile(99.9)
    ('percentile(99.9)', True)
    """

    module: str
    name: str
    options: FrozenMap[str, Any]

    @property
    def fn(self) -> Callable[..., Any]:
        """The function."""
        found: Callable[..., Any] = getattr(sys.modules[self.module], self.name)
        return found

    def again(self, **changes: Any) -> Any:
        """What the call makes, with some options changed."""
        return self.fn(**self.options | changes)

    def __str__(self) -> str:
        return self._written(self.options)

    @property
    def text(self) -> str:
        """The expression without the data in it: what ``parse`` reads."""
        given = {key: _unfilled(key, value) for key, value in self.options.items() if key not in _HERE}
        found = self._written(given)
        return found.removesuffix("()") if "batches" in self.options else found

    def _written(self, options: Mapping[str, Any]) -> str:
        parameters = inspect.signature(self.fn).parameters
        given = {key: value for key, value in options.items() if not same(value, parameters[key].default)}
        by_position = [key for key in given if parameters[key].kind is not inspect.Parameter.KEYWORD_ONLY]
        place = "recipes." if self.module == "snnpipe.recipes" else ""
        return f"{place}{self.name}({_arguments(given, by_position)})"


def remembered(fn: Callable[P, R]) -> Callable[P, R]:
    """Let a function that makes a record write its call into the record's field ``made``, no part of its value."""
    signature = inspect.signature(fn)

    @functools.wraps(fn)
    def making(*args: P.args, **kwargs: P.kwargs) -> R:
        made: Any = fn(*args, **kwargs)
        options: FrozenMap[str, Any] = FrozenMap(signature.bind(*args, **kwargs).arguments)
        found: R = attrs.evolve(made, made=Call(fn.__module__, fn.__name__, options))
        return found

    return making


class Configured(functools.partial[Any]):
    """A function with some of its options given; ``repr`` is the call that gave them."""

    def __repr__(self) -> str:
        return self._written(self.keywords)

    @property
    def text(self) -> str:
        """The expression without the data in it: what ``parse`` reads."""
        return self._written({key: _unfilled(key, value) for key, value in self.keywords.items()})

    def _written(self, options: Mapping[str, Any]) -> str:
        return f"{written(self.func)}({_arguments(self._given(options), [])})"

    def _given(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that are not as by default."""
        parameters = inspect.signature(self.func).parameters
        return {key: value for key, value in options.items() if not same(value, parameters[key].default)}

    def __eq__(self, other: Any) -> bool:
        if type(other) is not Configured or self.func != other.func:
            return False
        mine, theirs = self._given(self.keywords), other._given(other.keywords)
        return mine.keys() == theirs.keys() and all(_alike(mine[k], theirs[k]) for k in mine)

    def __hash__(self) -> int:
        return hash((self.func, *self._given(self.keywords)))


def _alike(a: Any, b: Any) -> bool:
    """Whether two options are equal; of data, whether they are the same."""
    return same(a, b) or (isinstance(a, list | dict) and not _is_data((a, b)) and type(a) is type(b) and bool(a == b))


class _Name(str):
    """Stands for a value that a text leaves out; it is written without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _unfilled(key: str, value: Any) -> Any:
    """A value as a text has it: data are the name they are given by."""
    return _Name(key) if _is_data(value) else value


def _is_data(value: Any) -> bool:
    if isinstance(value, list | tuple | dict):
        return any(map(_is_data, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Tensor)


def text_of(value: Any) -> str:
    """A stage or another value as the text that ``parse`` reads.

    >>> import snnpipe
    >>> text_of(snnpipe.calibrate([1.0], max_batches=3)), text_of(snnpipe.trace), text_of(snnpipe.RATE)
    ('calibrate(max_batches=3)', 'trace', 'RATE')
    """
    found = getattr(value, "text", None)
    return found if isinstance(found, str) and not isinstance(value, type) else written(value)


def expression(record: Any) -> str:
    """The call that makes a record: of the function it was made by, where that gives the same, or of its class."""
    call = record.made
    return str(call) if call is not None and call.again() == record else constructor(record)


def constructor(record: Any) -> str:
    """The call of a record's class, without what is as by default."""
    given: dict[str, Any] = {}
    by_position = []
    for field in attrs.fields(type(record)):
        value, default = getattr(record, field.name), field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = default.factory()  # type: ignore[union-attr]
        if field.eq and not same(value, default):
            given[field.name] = value
            by_position += [field.name] if field.default is attrs.NOTHING else []
    return f"{type(record).__name__.lstrip('_')}({_arguments(given, by_position)})"


def _arguments(given: Mapping[str, Any], by_position: list[str]) -> str:
    shown = [written(value) if key in by_position else f"{key}={written(value)}" for key, value in given.items()]
    return ", ".join(shown)


def same(a: Any, b: Any) -> bool:
    """Whether two plain values or records are equal."""
    plain = isinstance(a, bool | int | float | str | tuple | FrozenMap) or attrs.has(type(a))
    return a is b or (plain and type(a) is type(b) and bool(a == b))


def written(value: Any) -> str:
    """A value as an expression: functions and classes by name, containers item by item, tensors by shape.

    >>> written((written, {"a": 0.5}, functools.partial(written, value=1)))
    "(written, {'a': 0.5}, partial(written, value=1))"
    """
    if isinstance(value, functools.partial) and not isinstance(value, Configured):
        arguments = [written(item) for item in value.args] + [f"{k}={written(v)}" for k, v in value.keywords.items()]
        return f"partial({', '.join([written(value.func), *arguments])})"
    if inspect.isroutine(value) or inspect.isclass(value):
        return str(value.__name__)
    if type(value) is list:
        return f"[{', '.join(map(written, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(written, value))}{',' * (len(value) == 1)})"
    if type(value) in (dict, FrozenMap):
        return f"{{{', '.join(f'{key!r}: {written(item)}' for key, item in value.items())}}}"
    if isinstance(value, Tensor):
        return f"<Tensor {tuple(value.shape)}>"
    text = _said(value)
    short = attrs.has(type(value)) or isinstance(value, Configured) or len(text) <= LONGEST
    return text if text and short and " at 0x" not in text else f"<{type(value).__name__}>"


def _said(value: Any) -> str:
    """``repr``, where it does not fail as that of a number with too many digits does."""
    try:
        return repr(value)
    except Exception:
        return ""


def shown(value: Any) -> str:
    """What an error says it got.

    >>> import torch
    >>> [shown(given) for given in (3, "TD!", shown, torch.zeros(2, 3), nn.ReLU())]
    ['3', "'TD!'", 'the function shown', 'a tensor of shape (2, 3)', 'a ReLU']
    """
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    if isinstance(value, Tensor) and value.ndim:
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, nn.Module):
        return _kind(value)
    text = repr(value) if type(value) in (bool, float, str) else written(value)
    if len(text) > LONGEST and isinstance(value, str):
        return f"{text[:LONGEST]}..."
    return text if len(text) <= LONGEST and text[:1] != "<" else _kind(value)


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


def called(value: Any) -> str:
    """``call it: write poisson()`` where a function was given, ``""`` elsewhere."""
    if not (inspect.isroutine(value) or inspect.isclass(value)):
        return ""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ""
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return f"call it: write {value.__name__}({', '.join(f'{name}=...' for name in needed)})"
