"""One part of a model, and the rest of it, which runs as it is.

Knows private copies of models (``frontend.shadow``); what stands in the place of the part is the caller's business.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import attrs
from torch import nn

from snnpipe.errors import SnnpipeError
from snnpipe.frontend.shadow import MARK, shadow, unregistered
from snnpipe.frontend.twins import fields
from snnpipe.frozen import EMPTY, FrozenMap


@attrs.frozen(eq=False, repr=False)
class Whole:
    """A model of which a part is converted.

    Attributes:
        model: a private copy in evaluation mode; what of its tensors the part has is the state's own.
        path: of the part.
        constants: arguments of the part that are no inputs, as it was traced.
    """

    model: nn.Module
    path: str
    constants: FrozenMap[str, Any] = EMPTY

    def __repr__(self) -> str:
        return f"Whole({type(self.model).__name__}, path={self.path!r})"

    @property
    def part(self) -> nn.Module:
        """The part, in the private copy."""
        return self.model.get_submodule(self.path)


def part_at(model: nn.Module, path: str, where: str, error: type[SnnpipeError]) -> nn.Module:
    """The module at a path within a model.

    Raises:
        SnnpipeError: of the kind ``error``; there is none, or it is the model itself.
    """
    try:
        found = model.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in model.named_modules() if name]
        near = difflib.get_close_matches(path, known, 3, 0.5) or known[:5]
        said = f"the nearest are {', '.join(near)}" if near else "it has no modules within"
        raise error(f"{where}: {type(model).__name__} has no module {path!r}; {said}") from None
    if found is model:
        raise error(f"{where}: {path!r} is the whole model; name a module within it")
    return found


def around(model: nn.Module, instead: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """A copy of a private model with other modules in the place of some, wherever the model refers to these.

    It shares the parameters and has buffers of its own, so it may be run.  The other modules are not copied.
    """
    copy = shadow(model, share=True, instead=instead)
    theirs = {module for other in instead.values() for module in other.modules()}
    modules = {module for root in (copy, *unregistered(copy).values()) for module in root.modules()} - theirs
    for module in modules:
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
        fields(module).pop(MARK, None)
    return copy
