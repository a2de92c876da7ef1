"""Pools and reshapings in NIR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from snnpipe.exchange.nir.layers import averaging, sizes
from snnpipe.exchange.nir.parts import Given, Made, NotSaidError, Part, Wire, alone, joined, numel

#: ``pool(given, wire, kernel, stride, padding, of) -> Made``: the mean over windows of a value (C, H, W), by a profile.
Pool = Callable[[Given, Wire, tuple[int, ...], tuple[int, ...], tuple[int, ...], str], Made]


def same(given: Given) -> Made:
    """An operator that gives what it takes."""
    return Made((), given.wire("input"))


def cast(given: Given) -> Made:
    """``to`` and ``type_as`` where the dtype is that already."""
    x = given.node["input"]
    if given.values[x.name].dtype != given.values[given.node.name].dtype:
        raise NotSaidError(
            f"it makes {given.values[given.node.name].dtype} of its input", "let the network have one dtype"
        )
    return same(given)


def reshaped(given: Given) -> Made:
    """``flatten``, ``view``, ``reshape``, ``squeeze``: axes that lie side by side become one."""
    return _flattened(given, given.wire("input"), "")


def by_mean(
    given: Given, x: Wire, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], of: str
) -> Made:  # fmt: skip
    """Windows of two axes by ``AvgPool2d``, of one by a convolution."""
    name = given.name(of)
    if len(kernel) == 1:
        return alone(averaging(given, x, kernel[0], stride[0], padding[0], name), _pooled(x, kernel, stride, padding))
    return alone(_pool("AvgPool2d", name, x, kernel, stride, padding), _pooled(x, kernel, stride, padding))


def by_sum(
    given: Given, x: Wire, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], of: str
) -> Made:  # fmt: skip
    """Windows by ``SumPool2d``; what a spike is worth falls by the size of the window."""
    if len(kernel) == 1:
        raise NotSaidError("it pools along one axis, and chips pool along two")
    if any(padding):
        raise NotSaidError("it pads, and importers leave out the padding of SumPool2d", "put nn.ZeroPad2d before it")
    made = alone(_pool("SumPool2d", given.name(of), x, kernel, stride, padding), _pooled(x, kernel, stride, padding))
    return attrs.evolve(made, wire=attrs.evolve(made.wire, factor=x.factor / numel(kernel)))


def average_pool(given: Given, pool: Pool) -> Made:
    """``avg_pool1d`` and ``avg_pool2d``."""
    x = given.wire("input")
    axes = len(x.shape) - 1
    kernel = sizes(given.static("kernel_size"), axes)
    stride = sizes(given.static("stride", None) or kernel, axes)
    padding = sizes(given.static("padding", 0), axes)
    if given.static("divisor_override") is not None:
        raise NotSaidError("it divides by another number than the size of its windows", "scale its result instead")
    if any(padding) and not given.static("count_include_pad", True):
        raise NotSaidError("it leaves the padding out of the mean", "write count_include_pad=True, or no padding")
    if _pooled(x, kernel, stride, padding) != given.shape:
        raise NotSaidError("its last windows stand out over the edge", "write ceil_mode=False")
    return pool(given, x, kernel, stride, padding, "")


def adaptive_pool(given: Given, pool: Pool) -> Made:
    """``adaptive_avg_pool1d`` and ``adaptive_avg_pool2d`` whose windows are all of one size."""
    x = given.wire("input")
    if any(size % out for size, out in zip(x.shape[1:], given.shape[1:], strict=True)):
        raise NotSaidError(f"its windows differ in size, from {x.shape[1:]} to {given.shape[1:]}", "pool to a divisor")
    kernel = tuple(size // out for size, out in zip(x.shape[1:], given.shape[1:], strict=True))
    return pool(given, x, kernel, kernel, (0,) * len(kernel), "")


def mean(given: Given, pool: Pool) -> Made:
    """The mean over all places of each channel."""
    x, dims = given.wire("input"), given.static("dim", ())
    rank = len(x.shape) + 1
    axes = {d % rank for d in (dims if isinstance(dims, tuple | list) else (dims,))} if dims not in ((), None) else {0}
    if axes != set(range(2, rank)) or given.static("dtype") is not None or rank < 3:
        raise NotSaidError("it is no mean over all places of a channel", "average with AdaptiveAvgPool2d(1)")
    kernel = x.shape[1:]
    made = pool(given, x, kernel, kernel, (0,) * len(kernel), "pooled")
    return joined(made, _flattened(given, made.wire, ""))


def _flattened(given: Given, x: Wire, of: str) -> Made:
    if x.shape == given.shape:
        return Made((), x)
    ends = ((s, e) for s in range(len(x.shape)) for e in range(s + 1, len(x.shape)))
    for start, end in ends:
        if (*x.shape[:start], numel(x.shape[start : end + 1]), *x.shape[end + 1 :]) == given.shape:
            last = -1 if end == len(x.shape) - 1 else end
            fields = {"input_type": x.shape, "start_dim": start, "end_dim": last}
            made = alone(Part(given.name(of), "Flatten", fields, x.sources), given.shape)
            return attrs.evolve(made, wire=attrs.evolve(made.wire, factor=x.factor))
    raise NotSaidError(f"it makes {given.shape} of {x.shape}, and NIR only flattens", "flatten to (B, features)")


def _pool(kind: str, name: str, x: Wire, kernel: Any, stride: Any, padding: Any) -> Part:
    if len(kernel) != 2:
        raise NotSaidError(f"NIR pools along two axes, not along {len(kernel)}")
    return Part(name, kind, {"kernel_size": kernel, "stride": stride, "padding": padding}, x.sources)


def _pooled(x: Wire, kernel: Any, stride: Any, padding: Any) -> tuple[int, ...]:
    along = zip(x.shape[1:], kernel, stride, padding, strict=True)
    return (x.shape[0], *((size + 2 * p - k) // s + 1 for size, k, s, p in along))
