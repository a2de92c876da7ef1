"""What an ATEN overload is: its name, its functional twin, the Python function to call for it, whether it is random.

An overload that no row of the table fits becomes a call of the Python function of its name, so that the graphs of both
front ends say ``torch.softmax`` and can be pickled.  Knows torch's schemas, not the table.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import attrs
import torch
from torch._C import DispatchKey
from torch._ops import OpOverload, OpOverloadPacket


def name_of(overload: OpOverload) -> str:
    """``"softmax"`` for ``aten.softmax.int``."""
    return str(overload.overloadpacket.__name__)


def named_arguments(overload: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call by the names of the schema, defaults included."""
    arguments = overload._schema.arguments
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | dict(kwargs)
    return {a.name: a.default_value for a in arguments if a.has_default_value()} | given


def functional(overload: OpOverload) -> tuple[Any, bool]:
    """The twin of an overload that writes to its first argument, and whether it does: ``relu_`` is ``relu``."""
    name = name_of(overload)
    if not name.endswith("_") or name.endswith("__") or name == "detach_":
        return overload, False
    twin = getattr(getattr(torch.ops.aten, name[:-1], None), overload._overloadname, None)
    return twin or python_function(name[:-1]) or overload, True


@attrs.frozen
class Overload:
    """An operator without a Python function, as a function that can be pickled."""

    qualified: str

    @property
    def __name__(self) -> str:
        return self.qualified.split("::")[1].partition(".")[0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        namespace, _, name = self.qualified.partition("::")
        packet, _, overload = name.partition(".")
        found = getattr(getattr(torch.ops, namespace), packet)
        return (getattr(found, overload) if overload else found)(*args, **kwargs)


def as_function(overload: OpOverload | OpOverloadPacket) -> Any:
    """What to call for an overload, or all of a name, that no row fits."""
    if isinstance(overload, OpOverloadPacket):
        return Overload(overload._qualified_op_name)
    if overload.namespace == "aten":
        found = python_function(name_of(overload))
        if found is not None:
            return found
    return Overload(f"{overload.namespace}::{name_of(overload)}.{overload._overloadname}")


def python_function(name: str) -> Any:
    """The function of torch that is made from the schemas of this name, ``None`` if there is none."""
    for module in (torch, *(getattr(torch._C, part) for part in ("_nn", "_linalg", "_special", "_fft"))):
        for spelled in (name, f"{module.__name__.rpartition('._')[2]}_{name}"):
            found = getattr(module, spelled, None)
            if isinstance(found, types.BuiltinFunctionType):
                return found
    return None


def may_alias(overload: OpOverload) -> bool:
    """Whether the result may share memory with an argument: the schema says so, or the op is made of others."""
    schema = overload._schema
    return any(value.alias_info is not None for value in schema.returns) or overload.has_kernel_for_dispatch_key(
        DispatchKey.CompositeImplicitAutograd
    )


def is_random(overload: OpOverload, arguments: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers."""
    if torch.Tag.nondeterministic_seeded not in overload.tags:
        return False
    switches = [arguments[name] for name in ("training", "train", "dropout", "dropout_p") if name in arguments]
    return not switches or all(switch not in (False, 0) for switch in switches)
