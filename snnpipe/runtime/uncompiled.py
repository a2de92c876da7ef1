"""Methods that ``torch.compile`` leaves alone, without the seconds it takes to import what compiles."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any

import torch


class uncompiled:  # noqa: N801
    """Decorate a method that decides in Python what runs: in a compiled module it runs as it is."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        update_wrapper(self, method)  # type: ignore[arg-type]

    @cached_property
    def _left_alone(self) -> Callable[..., Any]:
        return torch.compiler.disable(self.method)  # type: ignore[no-any-return]

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        followed = "torch._dynamo" in sys.modules  # else nobody compiles
        method: Any = self._left_alone if followed else self.method
        return method if instance is None else method.__get__(instance, owner)
