"""What the arguments of stages that read data must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import nn

from snnpipe.checks import Check, RefusalError
from snnpipe.errors import CalibrationError
from snnpipe.options import WHOLE, instance, optional
from snnpipe.state import ConversionState


def _iterable(value: Any) -> Iterable[Any]:
    """Not one batch, nor what stands elsewhere in a pipeline."""
    other = isinstance(value, Mapping | str | bytes | ConversionState | nn.Module) or hasattr(value, "__array__")
    if other or not isinstance(value, Iterable):
        raise TypeError
    return value


#: For arguments that are data.
BATCHES = Check(
    "must be an iterable of batches", _iterable, "write {where}(loader), or {where}([x]) for one tensor",
    CalibrationError,
)  # fmt: skip
#: The same, where the number of steps is an argument too.
BATCHES_AND_T = attrs.evolve(BATCHES, write="write {where}(loader, T=...), or {where}([x], T=...) for one tensor")
#: For arguments that say how many batches to read.
MAX_BATCHES = optional(WHOLE)

_DEVICE = instance(torch.device, 'must be a device, such as "cpu" or "cuda"')


def _device(value: Any) -> torch.device:
    return usable(value if isinstance(value, str) else _DEVICE.accept(value))


def usable(named: str | torch.device) -> torch.device:
    """The device, if it is there and holds numbers; the refusal says what is there."""
    try:
        device = torch.device(named)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        there = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        said = str(error).partition("\n")[0]
        raise RefusalError(f"{named} cannot be used ({said}); there is {', '.join(there)}") from error
    return device


#: For arguments that are devices, or their names.
DEVICE = attrs.evolve(_DEVICE, accept=_device)
