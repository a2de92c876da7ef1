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

from snnpipe.checks import Check
from snnpipe.errors import GraphError, StageError, listing
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.options import function
from snnpipe.rules.spec import SPEC
from snnpipe.sharing import without_values
from snnpipe.sharing import written as written_to
from snnpipe.state import ConversionState
from snnpipe.text import Call, text_of, written


class Stage(Protocol):
    """The contract of a stage: pure, total on the states it accepts, ``StageError`` on the others.

    The state is the last argument and is unchanged; configuration is keyword-only.  A stage that has nothing to do
    returns the state it was given.
    """

    def __call__(self, state: ConversionState, /) -> Any: ...


_STAGE = function("state", write="write pipe(model, trace, ...)")
#: A precondition: what the stage wants, as (holds, sentence that says which stage to add).
Requirement = tuple[Callable[[ConversionState], bool], str]

#: Of stages that read weights or data.
HAS_VALUES: Requirement = (
    lambda state: not without_values(state.params),
    "the weights are on the meta device and have no values; check(model) needs none, this does: load them "
    "(model.to_empty(device=...), then load_state_dict) and trace again",
)


@attrs.frozen
class BoundStage:
    """A stage with its configuration; call it with a state, or with keywords to configure it.

    Attributes:
        fn: ``fn(state, **config)``.
        requires: what must hold of the state.
        config: its options.
        checks: what they must be.
        made: the call it comes from, where its options are those of another function.
    """

    fn: Callable[..., Any]
    requires: tuple[Requirement, ...]
    config: FrozenMap[str, Any] = EMPTY
    checks: FrozenMap[str, Check] = EMPTY
    made: Call | None = attrs.field(default=None, kw_only=True, eq=False)

    def __call__(self, *state: Any, **config: Any) -> Any:
        if len(state) > 1:
            raise StageError(f"{self.name}: takes one state; options are keywords: {self.name}(option=...)(state)")
        configured = self._configured(config) if config else self
        return configured._apply(state[0]) if state else configured

    def _configured(self, config: dict[str, Any]) -> BoundStage:
        options = list(inspect.signature(self.made.fn if self.made else self.fn).parameters)
        options = options if self.made else options[1:]
        unknown = [name for name in config if name not in options]
        if unknown:
            raise StageError(f"{self.name}: has no option {', '.join(unknown)}; it has {', '.join(options) or 'none'}")
        if self.made:
            again: BoundStage = self.made.again(**config)
            return again
        held = {key: self.checks[key].hold(value, key, self.name, StageError) if key in self.checks else value
                for key, value in config.items()}  # fmt: skip
        return attrs.evolve(self, config=self.config | held)

    def _apply(self, state: Any) -> Any:
        check_state(self.name, state)
        for holds, sentence in self.requires:
            if not holds(state):
                raise StageError(f"{self.name}: {sentence}")
        result = self.fn(state, **self.config)
        if not isinstance(result, ConversionState) or result is state:
            return result
        return attrs.evolve(check_spec(self.name, result), made=(*state.made, self.text))

    @property
    def name(self) -> str:
        return self.made.name if self.made else self.fn.__name__.lstrip("_")

    def __repr__(self) -> str:
        if self.made:
            return str(self.made)
        options = ", ".join(f"{key}={written(value)}" for key, value in self.config.items())
        return f"{self.name}({options})" if options else self.name

    @property
    def text(self) -> str:
        """The expression without the data in it: what ``parse`` reads."""
        return self.made.text if self.made else repr(self)


@attrs.frozen(repr=False)
class _Default:
    """A default value in a signature, as an expression."""

    value: Any

    def __repr__(self) -> str:
        return written(self.value)


def stage(*requires: Requirement, **checks: Check) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a stage of ``fn(state, *, option=...)``: usable bare (``fuse``) and configured (``fuse(rules=...)``).

    ``requires`` are checked before ``fn`` runs and the validity rules of ``rules.spec`` after it; ``checks`` when an
    option is given.  ``help`` shows the defaults as expressions.
    """

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        bound = BoundStage(fn, requires, checks=FrozenMap(checks))

        @functools.wraps(fn)
        def staged(*state: Any, **config: Any) -> Any:
            return bound(*state, **config)

        staged.bound = bound  # type: ignore[attr-defined]
        staged.__signature__ = _readable(inspect.signature(fn))  # type: ignore[attr-defined]
        return staged

    return decorate


def _readable(signature: inspect.Signature) -> inspect.Signature:
    """The signature with expressions for its defaults."""
    parameters = signature.parameters.values()
    return signature.replace(
        parameters=[p if p.default is p.empty else p.replace(default=_Default(p.default)) for p in parameters]
    )


def check_state(name: str, value: Any) -> None:
    """Complain, with the code to write, when a stage was not given a state."""
    if isinstance(value, ConversionState):
        changed = written_to(value.params, value.shared)
        if changed:
            raise StageError(
                f"{name}: {', '.join(changed[:3])}{', ...' * (len(changed) > 3)}: written to or moved since trace, and "
                "the state shares them with the model (unsafe_share=True): what was measured or folded may be wrong. "
                "Trace again"
            )
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


def _bound(stages: tuple[Callable[..., Any], ...]) -> tuple[Callable[..., Any], ...]:
    """Stages, those without options as they are when called with none."""
    return tuple(getattr(given, "bound", given) for given in stages)


@attrs.frozen(repr=False)
class Pipeline:
    """Stages in a row, as one stage; ``str`` of it is its text, which ``parse`` reads.

    Attributes:
        stages: each a stage.
    """

    stages: tuple[Callable[..., Any], ...] = attrs.field(converter=_bound)

    def __call__(self, value: Any) -> Any:
        return pipe(value, *self.stages)

    def __repr__(self) -> str:
        return " | ".join(map(text_of, self.stages))


def pipeline(*stages: Callable[..., Any]) -> Pipeline:
    """Stages as one value, which can be called, compared, written as text and read back by ``parse``.

    >>> from snnpipe import DIFFERENTIAL, cascade, fuse, replace, td_rewrite, trace
    >>> pipeline(trace, fuse, replace(neuron=cascade(n=4)), td_rewrite(code=DIFFERENTIAL))
    trace | fuse | replace(neuron=cascade()) | td_rewrite(code=DIFFERENTIAL)

    Raises:
        StageError: one of the stages is no function.
    """
    for number, given in enumerate(stages, start=1):
        _STAGE.hold(given, f"stage {number}", "pipeline", StageError)
    return Pipeline(stages)


def pipe(value: Any, *stages: Callable[..., Any]) -> Any:
    """``pipe(model, f, g)`` is ``g(f(model))``: thread a value through stages, left to right.

    Raises:
        StageError: one of the stages is no function.

    >>> pipe(3, lambda x: x + 1, str)
    '4'
    """
    for number, given in enumerate(stages, start=1):
        _STAGE.hold(given, f"stage {number}", "pipe", StageError)
    return toolz.pipe(value, *stages)
