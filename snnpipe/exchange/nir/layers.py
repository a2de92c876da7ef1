"""Layers with weights in NIR, and what is written as one: sums of constants, norms, pieces and pads, concatenation.

A convolution is written with one group and a square kernel, zeros where the network has nothing: NIR 1.0.8 takes the
type of a grouped one to be (C / groups, ...) and looks at one side of a kernel, and so refuses to read others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from snnpipe.exchange.nir.parts import Given, Made, NotSaidError, Part, Wire, alone, settled
from snnpipe.graph import Ref


def linear(given: Given) -> Made:
    """``linear`` of a flat value."""
    x = given.wire("input")
    if len(x.shape) != 1:
        raise NotSaidError(f"it acts on the last axis of {x.shape}; NIR's Affine takes flat values")
    return _affine(given, x, given.static("weight"), given.static("bias"))


def convolution(given: Given) -> Made:
    """``conv1d`` and ``conv2d``."""
    x, weight = given.wire("input"), given.static("weight")
    axes = weight.ndim - 2
    if len(x.shape) != axes + 1:
        raise NotSaidError(f"it is applied to a value of shape {x.shape}, without a batch axis")
    stride, dilation = (sizes(given.static(name, 1), axes) for name in ("stride", "dilation"))
    weight = _ungrouped(weight, int(given.static("groups", 1)))
    padding = _padding(given.static("padding", 0), weight, dilation)
    weight, padding = _squared(weight, padding, dilation)
    return alone(_conv(given.name(), x, weight, given.static("bias"), stride, padding, dilation), given.shape)


def batch_norm(given: Given) -> Made:
    """``(x - mean) g + bias`` with ``g = weight / sqrt(var + eps)``, by channel."""
    mean, var = given.static("running_mean"), given.static("running_var")
    if mean is None or given.static("training", False):
        raise NotSaidError("it takes its statistics from the batch", "write track_running_stats=True")
    scale = torch.rsqrt(var.double() + given.static("eps", 1e-5))
    weight, bias = given.static("weight"), given.static("bias")
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale + (0.0 if bias is None else bias.double())
    return _by_channel(given, given.wire("input"), scale.to(mean), shift.to(mean))


def add(given: Given) -> Made:
    """The sum of two values, or of a value and a constant."""
    return _sum(given, "a", "b", 1.0)


def sub(given: Given) -> Made:
    """``a - b``."""
    return _sum(given, "a", "b", -1.0)


def neg(given: Given) -> Made:
    """``-a``."""
    return alone(given.times(given.name(), given.wire("a"), torch.tensor(-1.0)), given.shape)


def mul(given: Given) -> Made:
    """A product with numbers."""
    x, scale = ("a", "b") if given.travels("a") else ("b", "a")
    return _scaled(given, given.wire(x), given.static(scale))


def div(given: Given) -> Made:
    """A quotient by numbers."""
    return _scaled(given, given.wire("a"), 1.0 / _numbers(given.static("b")))


def concatenation(given: Given) -> Made:
    """``cat`` along the channels: each value in its own channels, zeros in the others, and the sum of these."""
    values, dim = given.node["tensors"], given.static("dim", 0)
    wires = [given.wires[v.name] for v in values if isinstance(v, Ref) and v.name in given.wires]
    if len(wires) != len(values):
        raise NotSaidError("it joins values with constants")
    if dim not in (1, -len(given.shape)):
        raise NotSaidError(f"it joins along axis {dim}, and not along the channels")
    parts, first = [], 0
    for k, x in enumerate(wires):
        rows = torch.zeros(given.shape[0], x.shape[0], dtype=_dtype(given))
        rows[first : first + x.shape[0]] = torch.eye(x.shape[0])
        parts.append(_mixed(given.name(f"part{k}"), x, rows, None))
        first += x.shape[0]
    return Made(tuple(parts), Wire(tuple(part.name for part in parts), given.shape))


def piece(given: Given) -> Made:
    """``x[:, a:b, ::s, ::s]``: some channels, every s-th place."""
    x, index = given.wire("a"), given.static("index")
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(i, slice) for i in index) or index[:1] != (slice(None),):
        raise NotSaidError("it takes values from places that no convolution with stride takes", _PIECES)
    slices = [i.indices(size) for i, size in zip(index[1:], x.shape, strict=False)]
    slices += [(0, size, 1) for size in x.shape[len(slices) :]]
    rows = torch.eye(x.shape[0], dtype=_dtype(given))[index[1] if len(index) > 1 else slice(None)]
    strides = {step for _, _, step in slices[1:]}
    whole = all(start == 0 and stop == size for (start, stop, _), size in zip(slices[1:], x.shape[1:], strict=True))
    if not whole or len(strides) > 1:
        raise NotSaidError("it takes values from places that no convolution with stride takes", _PIECES)
    return alone(_mixed(given.name(), x, rows, None, *strides), given.shape)


def pad(given: Given) -> Made:
    """Zeros beside the channels, or the same number on both sides of each other axis."""
    x, sides, value = given.wire("input"), given.static("pad"), given.static("value")
    if given.static("mode", "constant") != "constant" or value not in (None, 0, 0.0):
        raise NotSaidError("it pads with something else than zeros")
    pairs = [(sides[i], sides[i + 1]) for i in range(0, len(sides), 2)][::-1]
    pairs = [(0, 0)] * (len(x.shape) - len(pairs)) + pairs
    (before, after), *around = pairs
    if len(pairs) != len(x.shape) or min(map(min, pairs)) < 0 or any(low != high for low, high in around):
        raise NotSaidError("it pads one side more than the other", "pad both sides of an axis alike")
    zeros = torch.zeros(before, x.shape[0]), torch.eye(x.shape[0]), torch.zeros(after, x.shape[0])
    rows = torch.cat(zeros).to(_dtype(given))
    return alone(_mixed(given.name(), x, rows, None, 1, tuple(low for low, _ in around)), given.shape)


def scaled_layer(name: str, x: Wire, scale: Tensor) -> Part:
    """A product with a number, or one for each channel, as a layer: its weights are a diagonal."""
    return _mixed(name, x, torch.diag(_channels(scale.double(), x.shape, "multiplies by")), None)


def averaging(given: Given, x: Wire, kernel: int, stride: int, padding: int, name: str) -> Part:
    """The mean of ``kernel`` neighbours on one axis, as a convolution."""
    weight = torch.diag(torch.full((x.shape[0],), 1.0 / kernel, dtype=_dtype(given)))
    return _conv(name, x, weight[..., None].expand(-1, -1, kernel), None, (stride,), (padding,), (1,))


_PIECES = "write it as a convolution with fixed weights"


def _sum(given: Given, first: str, second: str, sign: float) -> Made:
    if not given.travels(second):
        return _shifted(given, given.wire(first), sign * _numbers(given.static(second)), 1.0)
    if not given.travels(first):
        return _shifted(given, given.wire(second), _numbers(given.static(first)), sign)
    a, b = given.wire(first), given.wire(second)
    if a.shape != b.shape:
        raise NotSaidError(f"it adds values of shapes {a.shape} and {b.shape}", "give both the same shape")
    made: tuple[Part, ...] = ()
    if sign != 1.0 or set(a.sources) & set(b.sources):
        made += (given.times(given.name("term"), b, torch.tensor(sign)),)
        b = Wire((made[-1].name,), b.shape)
    if a.factor != b.factor:
        left, right = settled(given, a, "left"), settled(given, b, "right")
        a, b, made = left.wire, right.wire, (*made, *left.parts, *right.parts)
    return Made(made, Wire((*a.sources, *b.sources), a.shape, a.factor))


def _shifted(given: Given, x: Wire, constant: Tensor, sign: float) -> Made:
    shift = _channels(constant, x.shape, "adds")
    return _by_channel(given, x, torch.full((x.shape[0],), sign), shift)


def _channels(constant: Tensor, shape: tuple[int, ...], verb: str) -> Tensor:
    """A constant that broadcasts against (B, *shape) as one number for each channel."""
    try:
        full = constant.expand(1, *shape)[0].reshape(shape[0], -1)
    except RuntimeError:
        raise NotSaidError(f"it {verb} a constant of shape {tuple(constant.shape)}, its value has {shape}") from None
    if bool((full != full[:, :1]).any()):
        raise NotSaidError(f"it {verb} numbers that differ from place to place, NIR's layers have one for each channel")
    return full[:, 0]


def _scaled(given: Given, x: Wire, scale: Any) -> Made:
    scale = _numbers(scale)
    if x.shape != given.shape or scale.ndim > len(x.shape) + 1 or (scale.ndim > len(x.shape) and scale.shape[0] != 1):
        raise NotSaidError(f"it multiplies {x.shape} to {given.shape}")
    scale = scale[0] if scale.ndim > len(x.shape) else scale
    return alone(given.times(given.name(), x, scale), given.shape)


def _by_channel(given: Given, x: Wire, scale: Tensor, shift: Tensor) -> Made:
    dtype = _dtype(given)
    return alone(_mixed(given.name(), x, torch.diag(scale).to(dtype), shift.to(dtype)), given.shape)


def _numbers(value: Any) -> Tensor:
    """A constant in float64, so that nothing is rounded before the end."""
    return torch.as_tensor(value).double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _mixed(
    name: str, x: Wire, rows: Tensor, bias: Tensor | None, stride: int = 1, padding: tuple[int, ...] = ()
) -> Part:  # fmt: skip
    """A matrix (C_out, C_in) applied to the channels at every place."""
    axes = len(x.shape) - 1
    if not axes:
        return Part(name, "Affine", _weights(rows * x.factor, bias), x.sources)
    ones = (1,) * axes
    weight = rows.reshape(*rows.shape, *ones)
    return _conv(name, x, weight, bias, (stride,) * axes, padding or (0,) * axes, ones)


def _affine(given: Given, x: Wire, weight: Tensor, bias: Tensor | None) -> Made:
    return alone(Part(given.name(), "Affine", _weights(weight * x.factor, bias), x.sources), given.shape)


def _conv(
    name: str, x: Wire, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...], padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Part:  # fmt: skip
    axes = weight.ndim - 2
    if axes not in (1, 2):
        raise NotSaidError(f"NIR has convolutions of one and two axes, not of {axes}")
    told = {"input_shape": x.shape[1:], "stride": stride, "padding": padding, "dilation": dilation}
    fields = {key: value[0] if axes == 1 else value for key, value in told.items()}
    return Part(name, f"Conv{axes}d", {**fields, "groups": 1, **_weights(weight * x.factor, bias)}, x.sources)


def _weights(weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    weight = weight.detach()
    if not bool(weight.isfinite().all()):
        raise NotSaidError(
            "its weights times what a spike is worth are no longer finite: a neuron before it never fired",
            'calibrate on data at which it fires, or write profile="exact"',
        )
    return {"weight": weight, "bias": weight.new_zeros(weight.shape[0]) if bias is None else bias.detach().to(weight)}


def _ungrouped(weight: Tensor, groups: int) -> Tensor:
    """The same convolution with one group: a block of weights for each, zeros between them."""
    if groups == 1:
        return weight
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    out, inner = blocks.shape[1:3]
    dense = weight.new_zeros(groups, out, groups, inner, *weight.shape[2:])
    for k in range(groups):
        dense[k, :, k] = blocks[k]
    return dense.reshape(groups * out, groups * inner, *weight.shape[2:])


def _padding(padding: Any, weight: Tensor, dilation: tuple[int, ...]) -> tuple[int, ...]:
    axes = weight.ndim - 2
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(span % 2 for span in spans):
            raise NotSaidError('padding="same" pads one side more than the other here', "use a kernel of odd size")
        return tuple(span // 2 for span in spans)
    return (0,) * axes if padding == "valid" else sizes(padding, axes)


def _squared(weight: Tensor, padding: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """The same convolution with a square kernel: as many zeros around it as padding around the value."""
    sides = weight.shape[2:]
    lacking = [max(sides) - side for side in sides]
    if any(each % 2 for each in lacking):
        raise NotSaidError(
            f"its kernel is {' x '.join(map(str, sides))}, and NIR reads square kernels",
            "make it square: zeros beside it, and the same padding",
        )
    halves = [each // 2 for each in lacking]
    around = [each for half in reversed(halves) for each in (half, half)]
    wider = tuple(p + d * half for p, d, half in zip(padding, dilation, halves, strict=True))
    return torch.nn.functional.pad(weight, around) if any(halves) else weight, wider


def sizes(value: Any, axes: int) -> tuple[int, ...]:
    """One number for each axis."""
    given = tuple(value) if isinstance(value, tuple | list) else (value,)
    return tuple(int(each) for each in (given * axes if len(given) == 1 else given))


def _dtype(given: Given) -> torch.dtype:
    floats = [p.dtype for p in given.params.values() if p.is_floating_point()]
    return floats[0] if floats else torch.get_default_dtype()
