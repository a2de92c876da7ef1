"""What a stage is, and how stages are joined.

A stage is any function from a ``ConversionState`` to a new one.  ``pipe`` is nothing but nested calls.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import toolz
from torch import nn

from snnpipe.errors import GraphError, StageError, listing
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.rules.spec import SPEC
from snnpipe.state import ConversionState


class Stage(Protocol):
    """The contract of a stage: pure, total on the states it accepts, ``StageError`` on the others.

    The state is the last argument and is unchanged; configuration is keyword-only.  A stage that has nothing to do
    returns the state it was given.
    """

    def __call__(self, state: ConversionState, /) -> Any: ...


#: A precondition: what the stage wants, as (holds, sentence that says which stage to add).
Requirement = tuple[Callable[[ConversionState], bool], str]


@attrs.frozen
class BoundStage:
    """A stage with its configuration; call it with a state, or with keywords to configure it."""

    fn: Callable[..., Any]
    requires: tuple[Requirement, ...]
    config: FrozenMap[str, Any] = EMPTY

    def __call__(self, *state: Any, **config: Any) -> Any:
        if len(state) > 1:
            raise StageError(f"{self.name}: takes one state; options are keywords: {self.name}(option=...)(state)")
        configured = attrs.evolve(self, config=self.config | config)
        configured._check_options()
        return configured._apply(state[0]) if state else configured

    def _check_options(self) -> None:
        options = list(inspect.signature(self.fn).parameters)[1:]
        unknown = [name for name in self.config if name not in options]
        if unknown:
            raise StageError(f"{self.name}: has no option {', '.join(unknown)}; it has {', '.join(options) or 'none'}")

    def _apply(self, state: Any) -> Any:
        check_state(self.name, state)
        for holds, sentence in self.requires:
            if not holds(state):
                raise StageError(f"{self.name}: {sentence}")
        result = self.fn(state, **self.config)
        return check_spec(self.name, result) if isinstance(result, ConversionState) else result

    @property
    def name(self) -> str:
        return self.fn.__name__.lstrip("_")

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={_short(value)}" for key, value in self.config.items())
        return f"{self.name}({options})" if options else self.name


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"<{type(value).__name__}>"


def stage(*requires: Requirement) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a stage of ``fn(state, *, option=...)``: usable bare (``fuse``) and configured (``fuse(rules=...)``).

    ``requires`` are checked before ``fn`` runs and the validity rules of ``rules.spec`` after it.
    """

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        bound = BoundStage(fn, requires)

        @functools.wraps(fn)
        def staged(*state: Any, **config: Any) -> Any:
            return bound(*state, **config)

        return staged

    return decorate


def check_state(name: str, value: Any) -> None:
    """Complain, with the code to write, when a stage was not given a state."""
    if isinstance(value, ConversionState):
        return
    if isinstance(value, nn.Module):
        raise StageError(
            f"{name}: got a {type(value).__name__}, not a ConversionState; trace it first: pipe(model, trace, {name})"
        )
    kind = type(value).__name__
    raise StageError(f"{name}: expected a ConversionState, got {kind}; start with pipe(model, trace, ...)")


def check_spec(name: str, state: ConversionState) -> ConversionState:
    """Hold a stage's result against every validity rule."""
    problems = [problem for rule in SPEC for problem in rule(state.graph, state.params)]
    if problems:
        raise GraphError(listing(f"{name} left an invalid graph", problems))
    return state


def pipe(value: Any, *stages: Callable[..., Any]) -> Any:
    """``pipe(model, f, g)`` is ``g(f(model))``: thread a value through stages, left to right.

    >>> pipe(3, lambda x: x + 1, str)
    '4'
    """
    return toolz.pipe(value, *stages)
