"""Ways to write that PyTorch's table has not: one line of Python each, in ``lines/``, the body of ``forward``.

``x`` (4, 6) is the input.  ``c`` (4, 6), ``v`` (6,), ``idx`` (3,), ``mask`` (4, 6) and ``labels`` (4,) are tensors that
the model keeps.  In ``y.txt`` a copy ``y`` of the input is written to, in ``b.txt`` a tensor ``b`` made in ``forward``,
in ``kept.txt`` what the model keeps; ``value.txt`` holds functions of the input, ``random.txt`` what is none.
"""

import math
import random
import re
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

KNOWN = {
    "torch": torch, "F": F, "nn": nn, "np": np, "math": math, "random": random, "Pair": namedtuple("Pair", "one other"),
    "OrderedDict": OrderedDict, "checkpoint": checkpoint,
}  # fmt: skip
#: What stands before and after a line of each file.
AROUND = {
    "y": ("y = x.clone()", "return y"),
    "b": ("b = torch.zeros(4, 6, dtype=torch.float64)", "return b"),
    "value": ("", "return"),
    "kept": ("", ""),
    "random": ("", "return"),
}


def names() -> list[str]:
    """``file: line`` of everything that is written."""
    here = Path(__file__).parent / "lines"
    return [f"{file}: {line}" for file in AROUND for line in (here / f"{file}.txt").read_text().splitlines()]


def written(name: str) -> tuple[Any, tuple[Tensor, ...], dict[str, Tensor]]:
    """A formula ``(model, x)``, its input, and the tensors its model keeps."""
    file, _, line = name.partition(": ")
    before, after = AROUND[file]
    statements = [before, *line.split("; "), after]
    if after == "return":
        statements = [before, line if "return" in line else f"return {line}"]
    used = {key: value for key, value in _kept().items() if re.search(rf"\b{key}\b", line)}
    body = [f"{key} = net.tensor({key!r})" for key in used] + "; ".join(filter(None, statements)).split("; ")
    space: dict[str, Any] = dict(KNOWN)
    source = "\n    ".join(["def formula(net, x):", *body])
    exec(compile(source, f"<{name}>", "exec"), space)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return space["formula"], (x,), used


def _kept() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "c": torch.randn(4, 6, generator=generator, dtype=torch.float64),
        "v": torch.randn(6, generator=generator, dtype=torch.float64),
        "idx": torch.tensor([2, 0, 3]),
        "mask": torch.rand(4, 6, generator=generator) > 0.5,
        "labels": torch.tensor([1, 0, 3, 2]),
    }
