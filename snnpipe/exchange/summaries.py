"""What each kind of summary must hold, and summaries as plain values and back.

Knows the kinds of ``kernels``; a kind is added by a row.  Sites and files are other files' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from snnpipe.errors import CalibrationError
from snnpipe.frozen import FrozenMap
from snnpipe.kernels.histogram import BINS, COUNTS, Histogram, octave
from snnpipe.kernels.moments import Moments
from snnpipe.kernels.moving import MovingAverage
from snnpipe.kernels.statistic import Extrema


@attrs.frozen
class Field:
    """What a field holds: in words, and as a test of the value."""

    words: str
    holds: Callable[[Any], bool]


def _numbers(value: Any, *dtypes: torch.dtype) -> bool:
    """Whether it is a plain vector of finite numbers."""
    shaped = _is_plain(value) and value.dtype in dtypes and value.ndim == 1 and len(value) > 0
    return shaped and bool(value.isfinite().all())


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor that has each of its numbers in memory."""
    return type(value) is Tensor and value.layout is torch.strided and value.is_contiguous()


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**63


def _are_counts(value: Any) -> bool:
    shaped = _is_plain(value) and value.dtype in COUNTS and value.ndim == 2 and value.shape[1] == BINS
    return shaped and bool((value >= 0).all())


_COUNT = Field("a positive whole number", _is_count)
_VALUES = Field("finite float32 or float64 numbers, (C,)", lambda x: _numbers(x, torch.float32, torch.float64))
_MEANS = Field("finite float64 numbers, (C,)", lambda x: _numbers(x, torch.float64))
_SQUARES = Field("float64 numbers of at least 0, (C,)", lambda x: _numbers(x, torch.float64) and bool((x >= 0).all()))
_OCTAVE = Field("a whole number from 0 to 254", lambda x: type(x) is int and 0 <= x <= 254)
_COUNTS = Field(f"counts of at least 0, uint8 to int64, (C, {BINS})", _are_counts)

#: The kinds of summaries that files can hold, and their fields.
KINDS: FrozenMap[Any, FrozenMap[str, Field]] = FrozenMap({
    Extrema: FrozenMap(count=_COUNT, max=_VALUES),
    MovingAverage: FrozenMap(value=_VALUES, max=_VALUES),
    Moments: FrozenMap(count=_COUNT, mean=_MEANS, m2=_SQUARES, max=_VALUES),
    Histogram: FrozenMap(count=_COUNT, max=_VALUES, top=_OCTAVE, counts=_COUNTS),
})  # fmt: skip
_BY_NAME = {kind.__name__: kind for kind in KINDS}


def as_plain(summary: Any) -> dict[str, Any]:
    """A summary as a dictionary of plain values, with its ``kind``.

    >>> as_plain(Extrema(2, torch.tensor([3.0, 5.0])))
    {'kind': 'Extrema', 'count': 2, 'max': tensor([3., 5.])}

    Raises:
        CalibrationError: it is of another kind, or does not hold what it must.
    """
    kind = type(summary)
    if kind not in KINDS:
        raise CalibrationError(f"is a {kind.__name__}; files hold {', '.join(_BY_NAME)}")
    check_summary(summary)
    fields = {name: getattr(summary, name) for name in KINDS[kind]}
    return {"kind": kind.__name__} | fields


def from_plain(plain: Any) -> Any:
    """The summary that a dictionary describes.

    >>> from_plain({"kind": "Extrema", "count": -2, "max": torch.tensor([3.0])})
    Traceback (most recent call last):
    snnpipe.errors.CalibrationError: count is -2, expected a positive whole number

    Raises:
        CalibrationError: it describes none.
    """
    if not isinstance(plain, Mapping) or not isinstance(plain.get("kind"), str):
        raise CalibrationError("is no statistic")
    if plain["kind"] not in _BY_NAME:
        raise CalibrationError(f"is a {plain['kind']!r}, expected one of {', '.join(_BY_NAME)}")
    kind = _BY_NAME[plain["kind"]]
    if plain.keys() != {"kind", *KINDS[kind]}:
        fields = ", ".join(str(key) for key in plain if key != "kind") or "nothing"
        raise CalibrationError(f"holds {fields}, expected the {', '.join(KINDS[kind])} of {kind.__name__}")
    summary = kind(**{name: plain[name] for name in KINDS[kind]})
    check_summary(summary)
    return summary


def check_summary(summary: Any) -> None:
    """Refuse a summary that no measurement gives.

    Raises:
        CalibrationError: a field does not hold what it must; says which.
    """
    for name, field in KINDS[type(summary)].items():
        value = getattr(summary, name)
        if not field.holds(value):
            raise CalibrationError(f"{name} is {described(value)}, expected {field.words}")
    lengths = {name: len(value) for name, value in tensors(summary)}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise CalibrationError(f"is of different numbers of channels: {counted}")
    if isinstance(summary, Histogram):
        if bool((summary.counts.sum(1) != summary.count).any()):
            raise CalibrationError(f"its counts do not add up to {summary.count} in every channel")
        if summary.top != octave(float(summary.max.amax())):
            raise CalibrationError(f"its bins end at 2**{summary.top - 126}, which does not fit its largest value")


def tensors(summary: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a summary, by name."""
    for name in (field.name for field in attrs.fields(type(summary))):
        if isinstance(value := getattr(summary, name), Tensor):
            yield name, value


def moved(summary: Any, device: torch.device) -> Any:
    """The same summary on a device."""
    return attrs.evolve(summary, **{name: tensor.to(device) for name, tensor in tensors(summary)})


def described(value: Any) -> str:
    """A value in a few words."""
    if not isinstance(value, Tensor):
        text = repr(value)
        return text if len(text) <= 40 else f"a {type(value).__name__}"
    kind = f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if value.is_floating_point() and _is_plain(value) and len(value.reshape(-1)):
        return f"{kind}, {float(value.min()):g}..{float(value.max()):g}"
    return kind
