"""Where the user's code is that is being followed, and what to say when it cannot be."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from pathlib import Path

import torch
from torch import nn

_TORCH = str(Path(torch.__file__).parent) + os.sep
_HERE = str(Path(__file__).parent)
_PACKAGE = str(Path(__file__).parents[1])
_OPS = str(Path(_PACKAGE, "ops"))
#: Where modules live that stand for one operator: its node is called as the module is.
LIBRARIES = ("torch.", "torchao.", "onnx2torch.", "snnpipe.ops.")


def is_torch(module: nn.Module) -> bool:
    """Whether a module is one of torch's, or of a library whose modules stand for one operator."""
    return type(module).__module__.startswith(LIBRARIES)


def is_users_file(name: str) -> bool:
    """Whether code in this file is the user's, neither torch's nor ours."""
    return not name.startswith((_TORCH, _PACKAGE, "<")) and "toolz" not in Path(name).parts


def user_line() -> str:
    """``file:line`` of the user's code that is running, "" if none is."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if frame.f_code.co_name == "symbolic" and name.startswith(_HERE):
            return ""
        if not name.startswith((_TORCH, _HERE, _OPS, "<")):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def untraceable(error: BaseException, root: nn.Module, failed: str = "", *, example: bool = False) -> str:
    """Why ``forward`` cannot be followed, where, and what to do.

    Args:
        error: what was raised while it ran.
        root: the model.
        failed: the class of the module whose ``forward`` it was, if known.
        example: whether an example input was given.
    """
    while example and error.__context__ is not None:  # export raises its errors anew
        error = error.__context__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_users_file(f.filename)]
    running = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    inner = [
        type(m).__name__ for m in running if isinstance(m, nn.Module) and not is_torch(m) and type(m) is not type(root)
    ]
    failed = failed or (inner[-1] if inner and example else "")
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "the model's forward"
    code = f"\n    {frames[-1].line}" if frames and frames[-1].line else ""
    if failed:
        leaf = f"keep the module that does it as one call: trace(leaves=({failed},))"
    else:
        leaf = f"keep the model as one call: trace(leaves=({type(root).__name__},))"
    why = (
        "  Values of the input are not known while forward runs, so Python cannot branch on them or turn them into\n"
        "  numbers.  Do one of these:\n"
        if example
        else "  A symbol stands for the input while forward runs, so Python cannot branch on its values, loop over\n"
        "  its shape or turn it into a number.  Do one of these:\n"
        "   - where only its shape decides, give an example: trace(example=x);\n"
    )
    return (
        f"trace: cannot follow the model at {place}:{code}\n"
        f"  cause: {_cause(error)}\n"
        f"{why}"
        f"   - {leaf};\n"
        "     it is then converted as a whole, on decoded values, and stays a graded (float) unit;\n"
        f"{_parts(root)}"
        "   - fix an argument that only selects a branch: trace(constants={'flag': True});\n"
        "   - write the branch with torch.where, and the loop over a known length"
        + "\n   - leave out its cache of keys and values: trace(constants={'use_cache': False})"
        * _has_cache(root)
    )


_TRANSFORMS = {str(Path(torch.__file__).parent / "_functorch" / name) for name in ("apis.py", "eager_transforms.py")}
#: Why a model that uses one is refused.
TRANSFORM = "a transform of torch.func (grad, vmap, jvp, ...) is used, which cannot be followed"


def _cause(error: BaseException) -> str:
    """What was raised, in words that help whoever wrote the model."""
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if any(frame.filename in _TRANSFORMS for frame in traceback.extract_tb(error.__traceback__)):
        return TRANSFORM
    if said.startswith("Expected FakeTensor, got"):
        return f"{TRANSFORM}, or a tensor is made where torch.export does not see it ({said})"
    if type(error).__name__ == "DataDependentOutputException":
        return f"{said} gives a Python value that depends on the input"
    if type(error).__name__ == "DynamicOutputShapeException":
        return f"{said} gives a tensor whose shape depends on the input's values"
    if said.startswith("Node arity mismatch"):
        what = "exports no model that changes the length of a list or dict it keeps; trace without an example"
        return f"this torch ({torch.__version__}) {what} ({said})"
    if said.startswith("Encountered an unsupported object of type"):
        what = "exports no weight of a class of its own; trace without an example, or use a later one"
        return f"this torch ({torch.__version__}) {what} ({said})"
    if said.startswith("descriptor ") and "'Symbol'" in said:
        return f"an unbound method of torch.Tensor takes no symbol; write x.add(1), not torch.Tensor.add(x, 1) ({said})"
    return said


def _parts(root: nn.Module) -> str:
    """The largest block right below: it may be followed alone."""
    blocks = [(name, module) for name, module in root.named_children() if [*module.children()]]
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in blocks}
    if not sizes:
        return ""
    largest = max(sizes, key=sizes.__getitem__)
    return f"   - convert one of its modules and leave the rest as it is: trace(part={largest!r});\n"


def _has_cache(root: nn.Module) -> bool:
    """Whether a model is one of the decoders that keep keys and values unless they are told not to."""
    return "use_cache" in inspect.signature(root.forward).parameters
