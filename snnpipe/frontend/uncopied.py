"""What stands in a private copy for an object that could not be copied: any use of it is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from snnpipe.errors import TraceError

_USES = (
    "__call__", "__iter__", "__next__", "__len__", "__getitem__", "__setitem__", "__delitem__", "__contains__",
    "__enter__", "__exit__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__int__", "__float__",
    "__index__", "__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__",
    "__matmul__", "__rmatmul__", "__getattr__", "__setattr__", "__delattr__", "__bool__", "__array__",
)  # fmt: skip


class Uncopied:
    """An object of the user's that the copy does without; it passes for one in ``isinstance`` and nowhere else.

    Args:
        path: where it was found, ``model.part.helper``.
        kind: its class.
        reason: why it could not be copied, as in "it is a random generator".
    """

    def __init__(self, path: str, kind: type, reason: str) -> None:
        object.__setattr__(self, "_uncopied", (path, kind, reason))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return object.__getattribute__(self, "_uncopied")[1]

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        path, kind, _ = object.__getattribute__(self, "_uncopied")
        return f"Uncopied({path}: {kind.__name__})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        path, _, reason = object.__getattribute__(self, "_uncopied")
        return Uncopied, (path, object, reason)


def _use(name: str) -> Callable[..., NoReturn]:
    def use(self: Uncopied, *args: Any, **kwargs: Any) -> NoReturn:
        path, kind, reason = object.__getattribute__(self, "_uncopied")
        raise TraceError(
            f"trace: forward uses {path}, a {kind.__module__}.{kind.__qualname__}, which could not be copied: {reason}."
            "\n  Keep what it holds as an attribute of a module, or pass what it gives as an input."
        )

    use.__name__ = name
    return use


for _name in _USES:
    setattr(Uncopied, _name, _use(_name))
