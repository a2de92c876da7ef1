"""Four independent nets for impurity; each has holes, together they have few.

``snapshot`` (a digest of everything a user can see), ``WriteGuard`` (no op may write to protected memory),
``storages`` (who shares memory with whom) and ``loose`` (what in a record could be changed).
"""

import enum
import hashlib
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from snnpipe import ConversionState, SpikingNetwork, digest
from snnpipe.frozen import FrozenMap
from snnpipe.ops.functions import Opaque

# (1) content: the same before and after


def content(value: Any) -> str:
    """A hash of bytes, shape and dtype of a tensor; the text of anything else, containers opened."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        grad = content(value.grad) if value.is_leaf and value.grad is not None else ""
        return f"{hashlib.blake2b(raw).hexdigest()[:16]}{tuple(value.shape)}{value.dtype}{value.requires_grad}{grad}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {content(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple | set):
        return type(value).__name__ + str([content(item) for item in value])
    if isinstance(value, types.FunctionType):
        return f"{value.__name__}@{id(value)}{[_shallow(cell.cell_contents) for cell in value.__closure__ or ()]}"
    if isinstance(value, nn.Module | type):
        return f"{type(value).__name__}@{id(value)}"
    held = {name: _shallow(item) for name, item in getattr(value, "__dict__", {}).items()}
    return f"{value!r}{held or ''}"


def _shallow(value: Any) -> str:
    """The content of what functions and objects hold, which may be themselves."""
    plain = isinstance(value, Tensor | list | dict | set | str | int | float)
    return content(value) if plain else f"{type(value).__name__}@{id(value)}"


def snapshot(model: nn.Module) -> dict[str, str]:
    """What a user could notice about a model: each field of each module, tensors by identity and content."""
    seen: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        seen[f"{path}:class"] = f"{type(module)}@{id(module)}"
        identities = {name: id(value) for name, value in vars(module).items()}
        seen[f"{path}:fields"] = f"{id(vars(module))}: {identities}"
        for name, value in module.__dict__.items():
            seen[f"{path}.{name}"] = content(value)
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            seen[f"{path}.{name}:identity"] = f"{id(tensor)}, {tensor.data_ptr() if tensor is not None else ''}"
    return seen


@contextmanager
def unchanged(*values: Any) -> Iterator[None]:
    """Complain when a model, a state or a tensor is not the same afterwards, whether or not the body raised."""
    before = [_print(value) for value in values]
    try:
        yield
    finally:
        for value, was in zip(values, before, strict=True):
            now = _print(value)
            moved = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
            assert not moved, f"{type(value).__name__} was changed at {moved}"


def _print(value: Any) -> dict[str, str]:
    if isinstance(value, nn.Module):
        return snapshot(value)
    if isinstance(value, ConversionState):
        identities = str([id(p) for p in value.params.values()])
        return {"digest": digest(value), "history": repr(value.history), "identities": identities}
    return {"content": content(value)}


# (2) writes: none to protected memory


class ProtectedWrite(AssertionError):
    """An op wrote where it must not."""


class WriteGuard(TorchDispatchMode):
    """Raises when an op whose schema says that it writes touches the memory of ``protected`` tensors."""

    def __init__(self, *protected: Any) -> None:
        super().__init__()
        self.held = tensors(*protected)  # keep them alive, so that their memory is not used again
        self.storages = storages(self.held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for position, argument in enumerate(func._schema.arguments):
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and storages(tree_leaves(given)) & self.storages:
                raise ProtectedWrite(f"{func} writes to protected memory through {argument.name}")
        return func(*args, **kwargs)


# (3) memory: who shares it


def tensors(*values: Any) -> list[Tensor]:
    """Every tensor in models, states and trees of tensors."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, nn.Module):
            for module in value.modules():
                held = {k: v for k, v in module.__dict__.items() if k not in ("_modules", "history")}
                found += [leaf for leaf in tree_leaves(held) if isinstance(leaf, Tensor)]
        elif isinstance(value, ConversionState):
            found += [leaf for _, leaf in walk(value) if isinstance(leaf, Tensor)]
        else:
            found += [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return found


def storages(*values: Any) -> set[int]:
    """Addresses of the memory that the values hold; what has no memory (meta tensors, empty ones) does not count."""
    held = [t for t in tensors(*values) if t.device.type != "meta" and t.untyped_storage().nbytes()]
    return {t.untyped_storage().data_ptr() for t in held}


def assert_disjoint(a: Any, b: Any) -> None:
    shared = storages(a) & storages(b)
    assert not shared, f"{type(a).__name__} and {type(b).__name__} share {len(shared)} storages"


# (4) records: nothing in them can be changed


_ATOMS = (
    str, bytes, int, float, complex, bool, type(None), type(...), type, enum.Enum, Tensor, torch.dtype, torch.device,
    torch.memory_format, torch.layout, types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType,
    types.BuiltinMethodType, types.WrapperDescriptorType,
)  # fmt: skip


def walk(value: Any, path: str = "state") -> Iterator[tuple[str, Any]]:
    """Every leaf of a record with its path; a container that can be changed is a leaf too."""
    if isinstance(value, tuple | frozenset) and not hasattr(value, "__dict__"):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}[{index}]")
    elif isinstance(value, slice):
        yield from walk((value.start, value.stop, value.step), path)
    elif type(value) is FrozenMap:
        for key, item in value.items():
            yield from walk(item, f"{path}[{key!r}]")
    elif isinstance(value, Opaque):
        skeleton = value._skeleton[0]
        for name, tensor in [*skeleton.named_parameters(), *skeleton.named_buffers()]:
            yield f"{path}.{name}", tensor
    elif attrs.has(type(value)) and _is_frozen(value):
        for field in attrs.fields(type(value)):
            yield from walk(getattr(value, field.name), f"{path}.{field.name}")
    else:
        yield path, value


def _is_frozen(value: Any) -> bool:
    name = attrs.fields(type(value))[0].name if attrs.fields(type(value)) else "anything"
    try:
        setattr(value, name, getattr(value, name, None))
    except (attrs.exceptions.FrozenInstanceError, AttributeError):
        return True
    return False


def loose(value: Any) -> list[str]:
    """Paths at which a record could be changed by assignment: lists, dicts, sets, objects that are not frozen."""
    return [f"{path}: {type(leaf).__name__}" for path, leaf in walk(value) if not isinstance(leaf, _ATOMS)]


def result_content(snn: SpikingNetwork) -> dict[str, str]:
    """The weights of a finished network."""
    return {key: content(tensor) for key, tensor in snn.state_dict().items()}
