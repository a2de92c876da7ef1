"""What stands in a model in the place of a part of it: it is called as the part is.

Knows how the part is called; what answers is the caller's business.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import nn

from snnpipe.errors import InputError, StageError
from snnpipe.frontend.met import entry
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.runtime.attributes import NOT_OWN, plain_attributes
from snnpipe.text import same, shown


@attrs.frozen(eq=False)
class Called:
    """How a part is called, and what is read of it.

    Attributes:
        path: what the model calls it.
        kind: its class, for messages.
        arguments: those of its ``forward``.
        inputs: which of them are inputs.
        constants: what others were traced as, where that is not their default.
        facts: its plain attributes.
        hidden: names of its others.
    """

    path: str
    kind: str
    arguments: tuple[inspect.Parameter, ...]
    inputs: frozenset[str]
    constants: FrozenMap[str, Any]
    facts: FrozenMap[str, Any]
    hidden: frozenset[str]

    @classmethod
    def like(cls, part: nn.Module, path: str, inputs: frozenset[str], constants: FrozenMap[str, Any] = EMPTY) -> Called:
        """How ``part`` is called."""
        parameters = inspect.signature(entry(part)).parameters.values()
        arguments = tuple(p.replace(annotation=p.empty) for p in parameters)
        facts: FrozenMap[str, Any] = FrozenMap(plain_attributes(part))
        hidden = frozenset(name for name in dir(part) if not name.startswith("__")) - NOT_OWN - facts.keys()
        return cls(path, type(part).__name__, arguments, inputs, constants, facts, hidden)

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs by name.

        Raises:
            InputError: they are not the part's arguments, or one that is no input is not what it was traced as.
        """
        signature = inspect.Signature(self.arguments)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InputError(f"{self.path}: {error}; it takes {signature}") from error
        for name in given.keys() - self.inputs:
            wanted = self.constants.get(name, signature.parameters[name].default)
            if not same(given[name], wanted):
                traced = f"{name}={shown(wanted)}" if wanted is not inspect.Parameter.empty else f"no {name}"
                raise InputError(
                    f"{self.path} is called with {name}={shown(given[name])}, it was traced with {traced}; write "
                    f"trace(part={self.path!r}, constants={{{name!r}: ...}}), or name it in inputs=(...)"
                )
        return {name: value for name, value in given.items() if name in self.inputs}


class Border(nn.Module):
    """Hands the arguments of a part on as its inputs by name.

    The rest of the model may read plain attributes of the part (``out_channels``, a configuration).  What it would
    reach layers or methods by is refused by name, since it would then go past what stands here.
    """

    def __init__(self, called: Called, answer: Callable[[dict[str, Any]], Any] | None = None) -> None:
        super().__init__()
        self._called, self._answer = called, answer
        self.eval()

    def __getattr__(self, name: str) -> Any:
        called: Called | None = self.__dict__.get("_called")
        if called is not None and name in called.facts:
            return called.facts[name]
        if called is not None and name in called.hidden:
            raise StageError(
                f"the model reads {called.path}.{name}, and so goes past what stands for {called.path} "
                f"({called.kind}); convert a part that the rest of the model only calls"
            )
        return super().__getattr__(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        assert self._answer is not None
        return self._answer(self._called.named(args, kwargs))
