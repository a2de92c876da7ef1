"""The samples of a run that may stop: who has, what they said, and who goes on."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.errors import InputError
from snnpipe.kernels.temporal import zip_leaves


@attrs.frozen(eq=False)
class Ledger:
    """The samples of a run: what those that have stopped said, and who goes on.

    Attributes:
        output, steps: of the whole batch, as of ``Stopped``.
        left: the rows of the whole batch that the network still runs.
        running: (left,), those of them that have not stopped.
    """

    output: Any
    steps: Tensor
    left: Tensor
    running: Tensor

    def read(self, output: Any, done: Tensor, t: int) -> Ledger:
        """After a readout: those that are done stop at step t."""
        new = self.running & done
        if not bool(new.any()):
            return self
        rows = self.left[new]
        kept = zip_leaves(lambda all_, now: all_.index_copy(0, rows, now[new]), self.output, output)
        return attrs.evolve(self, output=kept, steps=self.steps.index_fill(0, rows, t), running=self.running & ~done)

    def without(self) -> Ledger:
        """Only those that go on are run."""
        return attrs.evolve(self, left=self.left[self.running], running=self.running[self.running])


def begun(output: Any) -> Ledger:
    """Before the first readout; every tensor of the output must have a row for each sample."""
    found = tensors(output)
    counts = {x.shape[0] if x.ndim else 0 for x in found}
    if len(counts) != 1 or 0 in counts:
        shapes = ", ".join(str(tuple(x.shape)) for x in found) or "no tensor"
        raise InputError(f"until: the output must have a row for each sample, and is {shapes}; write snn.iterate(...)")
    rows = torch.arange(*counts, device=found[0].device)
    return Ledger(output, torch.zeros_like(rows), rows, torch.ones_like(rows, dtype=torch.bool))


def said(done: Any, ledger: Ledger) -> Tensor:
    """What a rule said, if it is a boolean for each sample."""
    if isinstance(done, Tensor) and done.dtype is torch.bool and done.shape == ledger.left.shape:
        return done
    found = f"{done.dtype} {tuple(done.shape)}" if isinstance(done, Tensor) else f"a {type(done).__name__}"
    raise InputError(
        f"until: the rule says of each sample whether it is done, booleans {tuple(ledger.left.shape)}, and gave {found}"
    )
