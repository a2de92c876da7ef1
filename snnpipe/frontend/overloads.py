"""What to call for an ATEN overload that no row fits, and its functional twin.

It is the overload itself: the Python function of its name may have other defaults (``reduction`` of the losses).
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch._ops import OpOverload, OpOverloadPacket

from snnpipe.frontend.facts import name_of


def functional(overload: OpOverload) -> Any:
    """The twin of an overload that writes to its first argument, ``None`` if there is none: ``relu`` for ``relu_``."""
    name = name_of(overload)
    if not name.endswith("_") or name.endswith("__"):
        return None
    return getattr(getattr(torch.ops.aten, name[:-1], None), overload._overloadname, None)


@attrs.frozen
class Overload:
    """An overload as a function that can be compared, hashed and pickled."""

    qualified: str

    @property
    def __name__(self) -> str:
        return self.qualified.split("::")[1].partition(".")[0]

    @property
    def found(self) -> Any:
        """The overload itself."""
        namespace, _, name = self.qualified.partition("::")
        packet, _, overload = name.partition(".")
        found = getattr(getattr(torch.ops, namespace), packet)
        return getattr(found, overload) if overload else found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.found(*args, **kwargs)


def outs(function: Any) -> frozenset[str]:
    """The arguments that a function overwrites whole, by keyword: ``out``, or as an overload calls them."""
    if not isinstance(function, Overload):
        return frozenset({"out"})
    return frozenset(argument.name for argument in function.found._schema.arguments if argument.is_out)


def as_function(overload: OpOverload | OpOverloadPacket) -> Overload:
    """What to call for an overload, or all of a name, that no row fits."""
    if isinstance(overload, OpOverloadPacket):
        return Overload(overload._qualified_op_name)
    return Overload(f"{overload.namespace}::{name_of(overload)}.{overload._overloadname}")
