"""Inputs as they come: frames of an event camera, and a network that runs along."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from snnpipe.checks import takes
from snnpipe.errors import InputError
from snnpipe.options import POSITIVE, WHOLE, instance, optional, whole
from snnpipe.runtime.network import NETWORK, SpikingNetwork
from snnpipe.runtime.progress import NOTHING, State
from snnpipe.text import shown

_FIELDS = ("t", "x", "y", "p")
_STATE = optional(instance(State, "must be a state", "write what an earlier stream gave"))
_ITERABLE = instance(Iterable, "must be an iterable", "write [frame_1, frame_2, ...]")


@takes(InputError, snn=NETWORK, inputs=_ITERABLE, state=_STATE)
def stream(snn: SpikingNetwork, inputs: Iterable[Any], *, state: State | None = None) -> Iterator[tuple[State, Any]]:
    """The network on inputs as they come: after each step ``(state, output)``, the output decoded so far.

    Args:
        snn: a converted network.
        inputs: the events of each step: a tensor (B, ...), a tuple of inputs or a dictionary of them by name.
        state: where an earlier stream was left; by default it begins.

    >>> from torch import nn
    >>> from snnpipe import fixed, pipe, replace, to_snn, trace
    >>> snn = pipe(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), trace, replace(threshold=fixed(1.0)), to_snn)
    >>> for state, output in stream(snn, [torch.ones(1, 1)] * 3):
    ...     pass
    >>> state.t, bool(torch.equal(output, snn(torch.ones(1, 1), T=3)))
    (3, True)
    """
    now = NOTHING if state is None else state
    for given in inputs:
        if isinstance(given, Mapping):
            now, _ = snn.step(now, **given)
        else:
            now, _ = snn.step(now, *(given if type(given) in (tuple, list) else (given,)))
        yield now, now.decoded


@takes(InputError, events=_ITERABLE, window=POSITIVE, height=WHOLE, width=WHOLE, polarities=whole(1, 2))
def frames(
    events: Iterable[Any], *, window: float, height: int, width: int, polarities: int = 2
) -> Iterator[Tensor]:  # fmt: skip
    """Frames of an event camera, one for each window of time: how many events each pixel sent in it.

    The first window begins with the first event; a window without events is a frame of zeros, for time goes on.  How
    events are handed over, one by one or in arrays of any length, changes nothing.

    Args:
        events: ``(t, x, y, p)``, one by one, or structured arrays with these fields, as tonic's datasets have them; t
            must not go back.
        window: the time of a frame, in the unit of t.
        height, width: of the sensor, in pixels.
        polarities: 2 for a channel for each polarity (p = 0, p = 1), 1 for one channel of both.

    Returns:
        Tensors (1, polarities, height, width), float32.

    Raises:
        InputError: an event before the one before it, beside the sensor, or of another polarity.

    >>> found = list(frames([(0, 1, 0, 1), (3, 1, 0, 1), (25, 0, 1, 0)], window=10, height=2, width=2))
    >>> len(found), found[0][0, 1].tolist(), found[1].sum().item(), found[2][0, 0].tolist()
    (3, [[0.0, 2.0], [0.0, 0.0]], 0.0, [[0.0, 0.0], [1.0, 0.0]])
    """
    frame, begin, last = torch.zeros(1, polarities, height, width), None, -math.inf
    for t, x, y, p in _columns(events):
        _check(t, x, y, p, last, (height, width))
        begin, last = (float(t[0]) if begin is None else begin), float(t[-1])
        number = ((t - begin) / window).floor()
        pixel = ((p * (polarities - 1) * height + y) * width + x).long()
        for k in range(int(number[-1]) + 1):
            if k:
                yield frame
                frame = torch.zeros_like(frame)
            frame.view(-1).index_put_((pixel[number == k],), torch.ones(()), accumulate=True)
        begin += int(number[-1]) * window
    if begin is not None:
        yield frame


def _columns(events: Iterable[Any]) -> Iterator[tuple[Tensor, ...]]:
    """Times, columns, rows and polarities, as many at a time as they come, in float64."""
    every: Iterable[Any] = [events] if _fields(events) else events
    for some in every:
        names = _fields(some)
        if names and not set(_FIELDS) <= set(names):
            raise InputError(f"frames: events have the fields t, x, y and p, these have {', '.join(names)}")
        if not names and not (isinstance(some, tuple | list) and len(some) == len(_FIELDS)):
            raise InputError(f"frames: an event is (t, x, y, p), or an array has these fields; got {shown(some)}")
        try:
            found = [_tensor(some[name] if names else some[k]) for k, name in enumerate(_FIELDS)]
            t, x, y, p = (part.double().reshape(-1) for part in found)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"frames: t, x, y and p of an event are numbers; got {shown(some)}") from None
        if len({len(part) for part in (t, x, y, p)}) > 1:
            raise InputError("frames: there are as many times, columns, rows and polarities")
        if len(t):
            yield t, x, y, p


def _tensor(value: Any) -> Tensor:
    """A number, a list of them or an array, which may lie between other fields."""
    return torch.as_tensor(value.copy() if hasattr(value, "strides") else value)


def _fields(value: Any) -> tuple[str, ...]:
    """The fields of a structured array, () of anything else."""
    return getattr(getattr(value, "dtype", None), "names", None) or ()


def _check(t: Tensor, x: Tensor, y: Tensor, p: Tensor, last: float, size: tuple[int, int]) -> None:
    """Times go on, pixels are on the sensor, polarities are 0 or 1."""
    back = t.diff(prepend=t.new_tensor([last])) < 0
    if bool(back.any()) or not bool(t.isfinite().all()):
        k = int((back | ~t.isfinite()).nonzero()[0])
        raise InputError(f"frames: times go on, but {float(t[k]):g} comes after {float(t[k - 1] if k else last):g}")
    for name, value, most in (("x", x, size[1]), ("y", y, size[0]), ("p", p, 2)):
        wrong = (value != value.floor()) | (value < 0) | (value >= most)
        if bool(wrong.any()):
            raise InputError(
                f"frames: {name} of an event is a whole number from 0 to {most - 1}, got {float(value[wrong][0]):g}"
            )
