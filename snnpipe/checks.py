"""Holding the arguments of public functions against what they must be, on entry.

What they can be is vocabulary (``options``), said once for all of them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import attrs

from snnpipe.errors import SnnpipeError
from snnpipe.text import called, shown

P = ParamSpec("P")
R = TypeVar("R")


class RefusalError(ValueError):
    """A check's own words on a value, added to the message."""


@attrs.frozen
class Check:
    """What an argument must be.

    Attributes:
        wanted: in words that follow the argument's name: ``"must be a positive number"``.
        accept: the value as it will be used; ``TypeError`` or ``ValueError`` refuse it, and a ``SnnpipeError`` with a
            message of its own.
        write: what to write instead; ``{where}`` stands for the function.
        error: the kind of error, by default that of the function's other arguments.
    """

    wanted: str
    accept: Callable[[Any], Any]
    write: str = ""
    error: type[SnnpipeError] | None = None

    def hold(self, value: Any, name: str, where: str, error: type[SnnpipeError] = SnnpipeError) -> Any:
        """The value as it will be used.

        Raises:
            SnnpipeError: of the kind ``error``, with the value and what to write.

        >>> from snnpipe.options import whole
        >>> whole().hold(0, "levels", "graded")
        Traceback (most recent call last):
        snnpipe.errors.SnnpipeError: graded: levels must be a whole number of at least 1, got 0
        """
        try:
            return self.accept(value)
        except SnnpipeError:
            raise
        except (TypeError, ValueError, OverflowError, RuntimeError) as refusal:
            advice = str(refusal) if isinstance(refusal, RefusalError) else called(value) or self.write
            words = [
                f"{where}: {name} {self.wanted}, got {shown(value)}",
                *[advice.replace("{where}", where)] * bool(advice),
            ]
            raise (self.error or error)("; ".join(words)) from None


def takes(error: type[SnnpipeError] = SnnpipeError, /, **checks: Check) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Hold the arguments of a function against their checks before it runs.

    >>> from snnpipe.options import number, whole
    >>> @takes(n=whole(), v=number())
    ... def f(n, *, v=0.5):
    ...     return n, v
    >>> f(3, v=1)
    (3, 1.0)
    >>> f(3, v="1")
    Traceback (most recent call last):
    snnpipe.errors.SnnpipeError: f: v must be a finite number, got '1'
    """

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        signature, where = inspect.signature(fn), _place(fn)

        @functools.wraps(fn)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = _bound(signature, args, kwargs)
            if bound is None:
                return fn(*args, **kwargs)  # Python says what is missing
            given = bound.arguments
            given.update(
                {key: check.hold(given[key], key, where, error) for key, check in checks.items() if key in given}
            )
            return fn(*bound.args, **bound.kwargs)

        return checked

    return decorate


def _place(fn: Callable[..., Any]) -> str:
    """What messages call a function: a class stands for its constructor and its call."""
    return fn.__qualname__.removesuffix(".__init__").removesuffix(".__call__").removesuffix(".forward")


def _bound(signature: inspect.Signature, args: Any, kwargs: Any) -> inspect.BoundArguments | None:
    try:
        return signature.bind(*args, **kwargs)
    except TypeError:
        return None


def valid(check: Check, error: type[SnnpipeError] = SnnpipeError) -> Callable[[Any, Any, Any], None]:
    """What holds a field of a record against a check when the record is made; ``attrs.field(validator=valid(...))``."""

    def validate(record: Any, attribute: Any, value: Any) -> None:
        check.hold(value, attribute.name, type(record).__name__.lstrip("_"), error)

    return validate
