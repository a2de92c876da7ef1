r"""The law, as a few tensor functions: every operator is carried to a code by what stands here.

A value v has two forms under a code :math:`(\alpha_t, a_t)`: the *events* :math:`v_t` that travel, and the
*decoded* value :math:`V_t = \alpha_t V_{t-1} + a_t v_t` they stand for.  ``accumulate`` goes from the first to the
second, ``difference`` back, and ``constant`` makes events of a value that does not change.

All act on tensors or on trees of them (tuples, lists, dicts, containers of any kind).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from snnpipe.codes import Clock
from snnpipe.containers import opened
from snnpipe.frozen import FrozenList, FrozenMap, is_namedtuple


def constant(value: Any, clock: Clock, like: Any = None) -> Any:
    """Events of the constant ``value``: ``c_t = kappa_t c``; whole numbers become floats as precise as ``like``.

    >>> from snnpipe.codes import TD
    >>> constant(torch.tensor(3.0), TD.clock(1)), constant(torch.tensor(3.0), TD.clock(2))
    (tensor(3.), tensor(0.))
    """
    if clock.kappa == 1.0:
        return value
    return zip_leaves(lambda c: _scale(c, clock.kappa, like), value)


def accumulate(decoded: Any, events: Any, clock: Clock) -> Any:
    """Decode: ``X_t = alpha_t X_{t-1} + a_t x_t``; ``decoded`` is ``None`` before the first step (X_0 = 0).

    >>> from snnpipe.codes import RATE
    >>> x1 = accumulate(None, torch.tensor(1.0), RATE.clock(1))
    >>> accumulate(x1, torch.tensor(0.0), RATE.clock(2))
    tensor(0.5000)
    """
    if decoded is None:
        return zip_leaves(lambda x: clock.a * x if _moves(x) else x, events)
    return zip_leaves(lambda X, x: clock.alpha * X + clock.a * x if _moves(x) else x, decoded, events)


def difference(before: Any, decoded: Any, clock: Clock) -> Any:
    """Encode without loss: ``y_t = (Y_t - alpha_t Y_{t-1}) / a_t``; ``before`` is ``None`` when t = 1 (Y_0 = 0).

    Accumulating the result gives ``decoded`` back, whatever ``before`` was (telescoping); so an operator f runs
    exactly under any code as ``difference(f(accumulate(x)))``.
    """
    if before is None:
        return zip_leaves(lambda Y: Y / clock.a, decoded)
    return zip_leaves(lambda Y, Y_before: _change(Y, Y_before, clock.alpha) / clock.a, decoded, before)


def since(early: Any, decoded: Any, kept: float) -> Any:
    """What the events after an earlier step decode to alone: ``(X_t - p X_d) / (1 - p)``, p = alpha_{d+1} ... alpha_t.

    ``X_t = p X_d + (what came since)``, and of a constant, c, what came since is ``(1 - p) c``.  What is no float (a
    class index) has no events and is passed on.

    >>> since(torch.tensor(4.0), torch.tensor(2.0), 0.5)
    tensor(0.)
    """

    def one(X: Any, X_d: Any) -> Any:
        return _change(X, X_d, kept) / (1.0 - kept) if isinstance(X, torch.Tensor) and X.is_floating_point() else X

    return zip_leaves(one, decoded, early)


def zip_leaves(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply ``fn`` to corresponding leaves of values of one structure, which is kept; ``None`` stays ``None``.

    >>> zip_leaves(lambda a, b: a + b, {"x": [1, None]}, {"x": [2, None]})
    {'x': [3, None]}
    """
    if tree is None or isinstance(tree, torch.Tensor):
        return None if tree is None else fn(tree, *others)
    if is_namedtuple(tree):
        return type(tree)(*(zip_leaves(fn, *parts) for parts in zip(tree, *others, strict=True)))
    if type(tree) in (tuple, list, FrozenList):
        return type(tree)(zip_leaves(fn, *parts) for parts in zip(tree, *others, strict=True))
    if type(tree) in (dict, FrozenMap):
        return type(tree)({key: zip_leaves(fn, tree[key], *(other[key] for other in others)) for key in tree})
    found = opened(tree)
    if found is None:
        return fn(tree, *others)
    kind, parts = found
    rest = [_parts(other) for other in others]
    return kind(*(zip_leaves(fn, *parts) for parts in zip(parts, *rest, strict=True)))


def _parts(container: Any) -> tuple[Any, ...]:
    found = opened(container)
    return (container,) if found is None else found[1]


def _moves(leaf: Any) -> bool:
    """Whether a leaf of an input can be events: text and numbers beside its tensors are the same at every step."""
    return isinstance(leaf, torch.Tensor)


def _change(now: Any, before: Any, alpha: float) -> Any:
    """``now - alpha before``, and 0 where both are the same infinity (a mask)."""
    change = now - alpha * before
    if not isinstance(change, torch.Tensor):
        return change
    return change.masked_fill(change.isnan() & (now == before), 0.0)


def _scale(value: Any, kappa: float, like: Any) -> Any:
    whole = isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex())
    if whole and isinstance(like, torch.Tensor):
        value = value.to(like.dtype)
    if kappa == 0.0:  # not 0 * value: a mask of -inf must vanish too
        return torch.zeros_like(value) if isinstance(value, torch.Tensor) else 0.0
    return value * kappa
