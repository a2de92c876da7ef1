"""What arguments can be, as checks: whole numbers, positive numbers, one of some words, functions of some arguments.

Numbers of numpy and tensors of no axes are numbers.  Knows values, not what they are for.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import attrs
from torch import nn

from snnpipe.checks import Check, RefusalError
from snnpipe.errors import InputError, SnnpipeError
from snnpipe.text import called, written

#: Whole numbers up to here are exact in float32, in which events are counted.
COUNTABLE = 2**24


def plain(value: Any) -> Any:
    """A number of numpy, or a tensor of no axes, as Python has it."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def whole(least: int = 1, most: int = COUNTABLE, wanted: str = "") -> Check:
    """A whole number between two bounds, no boolean."""
    return Check(wanted or f"must be a whole number of at least {least}", functools.partial(_whole, least, most))


def _whole(least: int, most: int, value: Any) -> int:
    value = plain(value)
    if isinstance(value, bool) or operator.index(value) < least:
        raise TypeError
    if value > most:
        raise RefusalError(f"the most is {most}" if most > 0 else "")
    return operator.index(value)


def number(
    wanted: str = "must be a finite number", holds: Callable[[float], bool] = math.isfinite, write: str = ""
) -> Check:
    """A number of which something holds."""
    return Check(wanted, functools.partial(_number, holds), write)


def _number(holds: Callable[[float], bool], value: Any) -> float:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    found = float(value)
    if not holds(found):
        raise ValueError
    return found


def _flag(value: Any) -> bool:
    value = plain(value)
    if not isinstance(value, bool):
        raise TypeError
    return value


def one_of(*values: str, wanted: str = "") -> Check:
    """One of some words."""
    return Check(wanted or f"is {_listed(values)}", functools.partial(_one_of, values))


def _listed(values: tuple[str, ...]) -> str:
    quoted = [f'"{value}"' for value in values]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if quoted[1:] else quoted)


def _one_of(values: tuple[str, ...], value: Any) -> str:
    if not isinstance(value, str) or value not in values:
        raise TypeError
    return value


def instance(kinds: type | tuple[type, ...], wanted: str, write: str = "") -> Check:
    """A value of some type."""
    return Check(wanted, functools.partial(_instance, kinds), write)


def _instance(kinds: Any, value: Any) -> Any:
    if not isinstance(value, kinds):
        raise TypeError
    return value


def optional(check: Check) -> Check:
    """``None``, or what another check accepts."""
    return attrs.evolve(check, wanted=f"{check.wanted}, or None", accept=functools.partial(_optional, check))


def _optional(check: Check, value: Any) -> Any:
    return None if value is None else check.accept(value)


def function(*arguments: str, options: bool = False, write: str = "") -> Check:
    """A function that can be called with such arguments, and gets ``options`` by keyword or none."""
    accept = functools.partial(_function, len(arguments), options)
    return Check(f"must be a function ({', '.join(arguments)}{', ...' * options})", accept, write)


def _function(count: int, options: bool, value: Any) -> Any:
    if not callable(value):
        raise TypeError
    try:
        signature = inspect.signature(value.forward if isinstance(value, nn.Module) else value)  # a call takes anything
    except (TypeError, ValueError):  # of C functions nobody knows
        return value
    parameters = signature.parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    most = math.inf if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
    further = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
    if not needed <= count <= most or (further and not options):
        ours = (getattr(value, "__module__", None) or "").partition(".")[0] == __name__.partition(".")[0]
        raise RefusalError(called(value) if ours else f"it takes {signature}")
    return value


def several(check: Check, what: str) -> Check:
    """A tuple of what another check accepts."""
    return Check(f"must be a tuple of {what}", functools.partial(_several, check))


def _several(check: Check, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        try:
            check.accept(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError from None
        raise RefusalError(f"write ({written(value).replace('<lambda>', 'rule')},)")
    return tuple(check.accept(item) for item in value)


def functions(*arguments: str) -> Check:
    """A tuple of functions that can be called with such arguments."""
    return several(function(*arguments), f"functions ({', '.join(arguments)})")


def countable(where: str, error: type[SnnpipeError], **factors: int) -> None:
    """Refuse a product of counts beyond what float32 counts to."""
    if math.prod(factors.values()) > COUNTABLE:
        names, values = " * ".join(factors), " * ".join(map(str, factors.values()))
        raise error(f"{where}: {names} must be at most {COUNTABLE}, got {values}")


WHOLE = whole()
NUMBER = number()
POTENTIAL = number(f"must be a number of at most {COUNTABLE} events", lambda value: abs(value) <= COUNTABLE)
POSITIVE = number("must be a positive number", lambda value: 0 < value < math.inf)
LONGER_THAN_ONE = number("must be greater than 1 step", lambda value: 1 < value <= 2**52)
FLAG = Check("must be True or False", _flag)
TEXT = instance(str, "must be a string")
PATH = instance((str, PathLike), "must be a path")
MAPPING = instance(Mapping, "must be a dictionary")
STEPS = whole(wanted="is the number of time steps, a whole number of at least 1")
#: The same for runs.
RUN = attrs.evolve(STEPS, error=InputError)
