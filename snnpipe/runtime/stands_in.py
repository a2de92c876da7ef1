"""A model that runs as it is, but for a part of it, whose inputs are handed to somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from torch import nn

from snnpipe.frontend.part import Whole, around
from snnpipe.graph import Graph
from snnpipe.runtime.border import Border, Called

_To = Callable[[dict[str, Any]], Any]


@attrs.define(eq=False)
class StandsIn:
    """What answers for a part.

    Attributes:
        to: who is handed the inputs of the part, by name, and answers.
        calls: how often the part was called.
    """

    to: _To | None = None
    calls: int = 0

    def __call__(self, given: dict[str, Any]) -> Any:
        self.calls += 1
        assert self.to is not None
        return self.to(given)

    @contextmanager
    def handing(self, to: _To) -> Iterator[None]:
        """Hand the inputs of the part to ``to``."""
        self.to = to
        try:
            yield
        finally:
            self.to = None


def standing_in(whole: Whole, graph: Graph) -> tuple[StandsIn, nn.Module]:
    """What stands in for the part that became a graph, and a copy of the whole model around it."""
    made, inputs = StandsIn(), frozenset(node["name"] for node in graph.inputs)
    border = Border(Called.like(whole.part, whole.path, inputs, whole.constants), made)
    return made, around(whole.model, {whole.part: border})
