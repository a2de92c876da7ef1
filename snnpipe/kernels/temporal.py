r"""The law, as a few tensor functions: every operator is carried to a code by what stands here.

A value v has two forms under a code :math:`(\alpha_t, a_t)`: the *events* :math:`v_t` that travel, and the
*decoded* value :math:`V_t = \alpha_t V_{t-1} + a_t v_t` they stand for.  ``accumulate`` goes from the first to the
second, ``difference`` back, and ``constant`` makes events of a value that does not change.

All act on tensors or on trees of them (tuples, lists, dicts, containers of any kind).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from snnpipe.codes import Clock
from snnpipe.containers import opened
from snnpipe.frozen import FrozenList, FrozenMap, is_namedtuple
from snnpipe.kernels.precision import is_narrow, narrowed, wide


class Unsteady(ValueError):  # noqa: N818
    """A value changes where only tensors' numbers may: in its shape, or though it is no tensor."""


def constant(value: Any, clock: Clock, like: Any = None) -> Any:
    """Events of the constant ``value``: ``c_t = kappa_t c``; whole numbers become floats as precise as ``like``.

    >>> from snnpipe.codes import TD
    >>> constant(torch.tensor(3.0), TD.clock(1)), constant(torch.tensor(3.0), TD.clock(2))
    (tensor(3.), tensor(0.))
    """
    if clock.kappa == 1.0:
        return value
    return zip_leaves(lambda c: _scale(c, clock.kappa, like), value)


def accumulate(total: Any, events: Any, clock: Clock) -> tuple[Any, Any]:
    """Decode: ``X_t = alpha_t X_{t-1} + a_t x_t``; ``total`` is ``None`` before the first step (X_0 = 0).

    Returns:
        X_t in the dtype of the events, and the next ``total``: X_t in float32 at least.

    >>> from snnpipe.codes import RATE
    >>> _, total = accumulate(None, torch.tensor(1.0), RATE.clock(1))
    >>> accumulate(total, torch.tensor(0.0), RATE.clock(2))
    (tensor(0.5000), tensor(0.5000))
    """
    if total is None:
        total = zip_leaves(lambda x: clock.a * wide(x) if _moves(x) else x, events)
    else:
        total = zip_leaves(lambda x, X: clock.alpha * X + clock.a * wide(x) if _moves(x) else x, events, total)
    return zip_leaves(lambda X, x: narrowed(X, x) if _moves(x) else x, total, events), total


def difference(sent: Any, decoded: Any, clock: Clock) -> Any:
    """Encode without loss: ``y_t = (Y_t - alpha_t Y_{t-1}) / a_t``; ``sent`` is ``None`` when t = 1 (Y_0 = 0).

    Accumulating the result gives ``decoded`` back, whatever was before (telescoping); so an operator f runs exactly
    under any code as ``difference(f(accumulate(x)))``.  ``after`` is the ``sent`` of the next step.
    """
    if sent is None:
        return zip_leaves(lambda Y: sendable(wide(Y) / clock.a, Y), decoded)
    return zip_leaves(lambda Y, S: sendable(_change(wide(Y), S, clock.alpha) / clock.a, Y), decoded, sent)


def after(sent: Any, decoded: Any, events: Any, clock: Clock) -> Any:
    """What all ``events`` up to now decode to, those of ``difference(sent, decoded)`` the newest: Y_t.

    Events of a dtype below float32 are rounded; what they decode to is then not quite Y_t, and what is lacking is made
    up for at the next step.  So their rounding errors do not add up.
    """

    def one(Y: Any, y: Any, S: Any = None) -> Any:
        return accumulate(S, y, clock)[1] if is_narrow(y) else Y

    return zip_leaves(one, decoded, events, *(() if sent is None else (sent,)))


def sendable(y: Any, like: Any) -> Any:
    """Events in the dtype of ``like``; none is too large for it, and what is lacking is sent later."""
    if not is_narrow(like):
        return y
    largest = torch.finfo(like.dtype).max
    return narrowed(y if y.is_complex() else torch.where(y.isinf(), y, y.clamp(-largest, largest)), like)


def since(early: Any, total: Any, kept: float) -> Any:
    """What the events after an earlier step decode to alone: ``(X_t - p X_d) / (1 - p)``, p = alpha_{d+1} ... alpha_t.

    ``X_t = p X_d + (what came since)``, and of a constant, c, what came since is ``(1 - p) c``.  What is no float (a
    class index) has no events and is passed on.

    >>> since(torch.tensor(4.0), torch.tensor(2.0), 0.5)
    tensor(0.)
    """

    def one(X: Any, X_d: Any) -> Any:
        coded = isinstance(X, Tensor) and X.is_floating_point()
        return _change(wide(X), wide(X_d), kept) / (1.0 - kept) if coded else X

    return zip_leaves(one, total, early)


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


def stacked_alike(steps: Sequence[Tensor]) -> Tensor:
    """Tensors on a new first axis, laid out in memory as the first of them is.

    Raises:
        Unsteady: they differ in shape.
    """
    for before, now in pairwise(steps):
        check_shape(before, now)
    first = steps[0]
    if len(steps) == 1:
        return first[None]
    axes = range(first.ndim)
    order = sorted(axes, key=first.stride, reverse=True) if first.layout is torch.strided else [*axes]
    if order == [*axes]:
        return torch.stack([*steps])
    back = [1 + order.index(axis) for axis in axes]
    return torch.stack([step.permute(order) for step in steps]).permute(0, *back)


def each_step(value: Any, count: int, timed: bool) -> Sequence[Any]:
    """The value at each step; of a tensor without one gradient as large as the window for each step of it."""
    if not timed:
        return [value] * count
    if isinstance(value, Tensor):
        return value.unbind()
    return [zip_leaves(lambda leaf: leaf[t] if isinstance(leaf, Tensor) else leaf, value) for t in range(count)]  # noqa: B023


def _parts(container: Any) -> tuple[Any, ...]:
    found = opened(container)
    return (container,) if found is None else found[1]


def _moves(leaf: Any) -> bool:
    """Whether a leaf of an input can be events: text and numbers beside its tensors are the same at every step."""
    return isinstance(leaf, torch.Tensor)


def _change(now: Any, before: Any, alpha: float) -> Any:
    """``now - alpha before``, and 0 where both are the same infinity (a mask)."""
    check_shape(before, now)
    change = now - alpha * before
    if not isinstance(change, torch.Tensor):
        return change
    return change.masked_fill(change.isnan() & (now == before), 0.0)


def check_shape(before: Any, now: Any) -> None:
    """Hold the shape of a value against the one it had at the step before: torch would broadcast one to the other.

    Raises:
        Unsteady: they differ.
    """
    if isinstance(now, torch.Tensor) and isinstance(before, torch.Tensor) and now.shape != before.shape:
        raise Unsteady(f"a value of shape {tuple(before.shape)} at one step is {tuple(now.shape)} at the next")


def _scale(value: Any, kappa: float, like: Any) -> Any:
    whole = isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex())
    if whole and isinstance(like, torch.Tensor):
        value = value.to(like.dtype)
    if kappa == 0.0:  # not 0 * value: a mask of -inf must vanish too
        return torch.zeros_like(value) if isinstance(value, torch.Tensor) else 0.0
    return value * kappa
