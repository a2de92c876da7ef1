"""How much two computations of one value may differ: derived from the arithmetic, never guessed.

``rounding`` measures the condition of a function at a point: it perturbs the result of every operation by one unit of
roundoff, with random signs, and looks how far the output moves (stochastic arithmetic, Vignes 1974).  Everything else
counts how often a quantity is rounded.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from snnpipe import Code

SAMPLES = 4  # of the random signs
REDUCTION = 16  # a reduction over n terms rounds n times with random signs: sqrt(n) units, here n <= 256


class Perturb(TorchDispatchMode):
    """Multiplies the result of every operation by 1 +- eps and remembers the largest value seen."""

    def __init__(self, eps: float, seed: int) -> None:
        super().__init__()
        self.eps, self.largest = eps, 0.0
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        for tensor in [] if views else tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                signs = torch.randint(0, 2, tensor.shape, generator=self.generator) * 2 - 1
                tensor.mul_(1 + self.eps * signs.to(tensor.dtype))
                finite = tensor[torch.isfinite(tensor)]
                self.largest = max(self.largest, finite.abs().max().item() if finite.numel() else 0.0)
        return out


def floats(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def rounding(fn: Callable[..., Any], *args: Any, eps: float | None = None) -> float:
    """By how much the output of ``fn(*args)`` moves when every operation in it rounds once."""
    args = tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)
    dtype = next(iter(floats(args))).dtype
    unit = torch.finfo(dtype).eps if eps is None else eps
    injected = max(unit, 64 * torch.finfo(dtype).eps)  # well above the arithmetic's own noise; scaled back below
    copies = lambda: (arg.clone() if isinstance(arg, Tensor) else arg for arg in args)  # noqa: E731
    with torch.no_grad():
        exact = floats(fn(*copies()))
        moved = 0.0
        for seed in range(SAMPLES):
            with Perturb(injected, seed) as mode:
                found = fn(*[arg * 1.0 if isinstance(arg, Tensor) and arg.is_floating_point() else arg
                             for arg in copies()])  # fmt: skip
            moved = max([moved, *(_distance(a, b) for a, b in zip(exact, floats(found), strict=True))])
    return unit * (moved / injected + mode.largest)


def _distance(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().nan_to_num(0.0).max().item() if a.numel() else 0.0


def temporal(fn: Callable[..., Any], code: Code, *decoded: Tensor) -> float:
    """How far a lifted ``fn`` may be from ``fn`` of the decoded inputs, at any of the steps of ``decoded`` (T, ...).

    At each of T steps, each value is rounded by the op itself, twice by ``accumulate`` and twice by ``difference``,
    and its events are ``growth`` times as large, in decoded units, as the value.
    """
    steps = len(decoded[0])
    return 5 * steps * REDUCTION * growth(code, steps) * max(rounding(fn, *X) for X in zip(*decoded, strict=True))


def growth(code: Code, steps: int) -> float:
    """Largest ratio of what is added at one step (``a_t x_t``) to what is decoded: ``|X_t - alpha_t X_{t-1}|``.

    Times what later steps make of an error in it: ``alpha`` > 1 multiplies it.  The factors ``a_t`` and ``1 / a_t``
    that a value passes on its way cancel, but each is rounded in the tensor's dtype: their spread does not count
    unless an error made at one step is read at another in units of events, as a membrane does (``membrane``).
    """
    kept = [code.clock(t).alpha for t in range(2, steps + 1)]
    carried = 1.0
    for alpha in kept:
        carried *= max(1.0, abs(alpha))
    return carried * (1.0 + max([1.0, *map(abs, kept)]))


def membrane(code: Code, steps: int, scale: float, dtype: torch.dtype) -> float:
    """Rounding of ``v_t = gain_t v_{t-1} + z_t - s_t`` after ``steps`` steps, for terms up to ``scale``."""
    error = 0.0
    for t in range(1, steps + 1):
        error = abs(code.clock(t).gain) * error + 4 * scale
    return torch.finfo(dtype).eps * error


def folding(model: torch.nn.Module, x: Tensor) -> float:
    """How far a network with folded batch norms may be from ``model``: every weight is rounded once more."""
    return 4 * REDUCTION * rounding(model, x)


def summed(dtype: torch.dtype, terms: int, scale: float) -> float:
    """Rounding of a sum of products of up to ``scale``, in another order: one unit per term, and per reduction."""
    return 4 * REDUCTION * terms * scale * torch.finfo(dtype).eps


def absorbing(snn: Callable[..., Any], x: Tensor, steps: int) -> float:
    """How far a network in other scales may be from ``snn`` after ``steps``: every weight is rounded once more.

    Where that moves a potential across the threshold, the perturbation does so too.
    """
    return 4 * REDUCTION * rounding(lambda x: snn(x, T=steps), x)
