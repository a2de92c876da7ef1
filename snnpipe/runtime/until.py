"""Runs in which each sample stops as soon as its answer is good enough, and the others go on without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.codes import Clock
from snnpipe.containers import tensors
from snnpipe.errors import InputError
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.options import WHOLE, function, number, optional
from snnpipe.rules.rows import Rows, of_batch
from snnpipe.runtime.presented import Presented, cut
from snnpipe.runtime.program import Program
from snnpipe.runtime.window import of_step

#: ``until(memory, output) -> (memory, done)``.
Until = Callable[[Any, Any], tuple[Any, Tensor]]

#: For arguments that say when a sample may stop.
UNTIL = optional(function("memory", "output", write="write confident(0.9)"))

#: A batch is cut when no more than this part of it still runs.
_FEW = 0.75


class Stopped(NamedTuple):
    """What a run with ``until`` gives.

    Attributes:
        output: the ANN's output structure; of each sample what was decoded when it stopped.
        steps: (B,), the step at which each sample stopped.
    """

    output: Any
    steps: Tensor


class Confident(NamedTuple):
    """The rule of ``confident``."""

    probability: float
    steady: int

    def __call__(self, memory: Any, output: Any) -> tuple[Any, Tensor]:
        if not isinstance(output, Tensor) or output.ndim != 2 or not output.is_floating_point():
            shown = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise InputError(
                f"confident: reads the scores of classes, one tensor (B, classes), and the network gives {shown}; "
                "write a rule of your own: until=lambda memory, output: (memory, done), done (B,) booleans"
            )
        likely, chosen = output.softmax(-1).max(-1)
        before, count = (chosen, torch.zeros_like(chosen)) if memory is None else memory
        count = torch.where(chosen == before, count + 1, 1)
        return (chosen, count), (likely >= self.probability) & (count >= self.steady)


@takes(InputError, probability=number("must be a probability, from 0 to 1", lambda p: 0 <= p <= 1), steady=WHOLE)
def confident(probability: float = 0.9, *, steady: int = 1) -> Confident:
    r"""Stop a sample when its readout is sure: for ``snn(x, T=..., until=confident(0.9))``.

    .. math:: \max_c \mathrm{softmax}(Y_t)_c \ge p, \qquad \arg\max_c Y_t \text{ the same at the last } n
        \text{ readouts}

    Args:
        probability: p; with 0 a readout need only be steady.
        steady: n.

    Reference: Li et al. 2023, "SEENN: towards temporal spiking early-exit neural networks", NeurIPS.

    >>> rule = confident(0.8, steady=2)
    >>> memory, done = rule(None, torch.tensor([[0.0, 2.0], [0.0, 1.0]]))
    >>> rule(memory, torch.tensor([[0.0, 3.0], [0.0, 3.0]]))[1], done
    (tensor([True, True]), tensor([False, False]))
    """
    return Confident(probability, steady)


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


def stopped(
    run: Presented, call: Callable[..., Any], params: Mapping[str, Tensor], ahead: Sequence[Clock], until: Until
) -> Stopped:
    """Run until every sample has stopped, at the last of the steps ``ahead`` at the latest.

    Args:
        call: ``call(function of the program, *arguments)``.
        params: the network's tensors by key.
    """
    statics, steps = run.statics, iter(ahead)
    cells: Any = {}
    memory = kinds = ledger = None
    while part := cut(steps, run.size(cells), 0):
        shown = run.at(part)
        axes = {name: run.axis(name, part) for name in shown}
        now = shown if ledger is None else _rows_of(shown, axes, ledger)
        cells, outputs = _decoded(run.program, call, part, cells, statics, now)
        for clock, output in zip(part, outputs, strict=True):
            memory, done = until(memory, output)
            ledger = ledger or begun(output)
            ledger = ledger.read(output, said(done, ledger) | (clock is ahead[-1]), clock.t)
        assert ledger is not None
        going = int(ledger.running.sum())
        if not going:
            break
        if going <= _FEW * len(ledger.left):
            if kinds is None:
                kinds = of_batch(run.program.lifted, params, shown, len(ledger.steps), axes)
            if kinds and _keeps_rows({**statics, **cells}, kinds, len(ledger.left)):
                cells, statics = _cut(cells, kinds, ledger.running), _cut(statics, kinds, ledger.running)
                memory, ledger = taken(memory, ledger.running), ledger.without()
    assert ledger is not None
    return Stopped(ledger.output, ledger.steps)


def _decoded(
    program: Program, call: Callable[..., Any], clocks: Sequence[Clock], cells: Any, statics: Any, now: Any
) -> tuple[Any, Iterator[Any]]:
    """The cells after some steps, and the output decoded after each."""
    if len(clocks) == 1:
        cells, frontier = call(program.step, clocks[0], cells, statics, now)
        return cells, iter([call(program.read, statics, frontier, now)])
    cells, outputs = call(program.window, clocks, cells, statics, now)
    return cells, (of_step(outputs, t) for t in range(len(clocks)))


def check_alone(readout: str, delay: int) -> None:
    """What a run with ``until`` leaves out."""
    if readout != "last" or delay:
        raise InputError(
            'until: each sample is read when it stops, so leave out readout="every" and delay=; iterate gives the '
            "readouts one by one"
        )


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


def _rows_of(shown: Mapping[str, Any], axes: Mapping[str, int], ledger: Ledger) -> Mapping[str, Any]:
    """What is shown, for the samples that are still run."""
    if len(ledger.left) == len(ledger.steps):
        return shown

    def one(name: str, value: Any) -> Any:
        whole = isinstance(value, Tensor) and value.shape[axes[name] :][:1] == ledger.steps.shape
        return value.index_select(axes[name], ledger.left) if whole else value

    return {name: one(name, value) for name, value in shown.items()}


def _keeps_rows(values: Mapping[str, Any], kinds: Mapping[str, Rows], count: int) -> bool:
    """Whether what is known of a node has, in each of its tensors, a row for each sample or one for all."""
    held = [(leaf, kinds[name].rank) for name, value in values.items() if name in kinds for leaf in tensors(value)]
    return all(x.ndim == 0 or (x.ndim == rank and x.shape[0] in (1, count)) for x, rank in held)


def _cut(values: Mapping[str, Any], kinds: Mapping[str, Rows], going: Tensor) -> dict[str, Any]:
    """What is known of the samples that go on, of cells or statics, by node name."""
    return {name: _going(value, kinds[name].of, going) if name in kinds else value for name, value in values.items()}


def _going(value: Any, of: str, going: Tensor) -> Any:
    if of == "count":
        return int(going.sum())
    return torch.Size((int(going.sum()), *value[1:])) if of == "shape" else taken(value, going)


def taken(tree: Any, going: Tensor) -> Any:
    """The rows that go on, of tensors that have a row for each sample."""

    def one(leaf: Any) -> Any:
        whole = isinstance(leaf, Tensor) and leaf.shape[:1] == going.shape
        return leaf[going] if whole else leaf

    return zip_leaves(one, tree)
