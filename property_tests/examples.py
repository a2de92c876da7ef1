"""Small operands for every row of the operator table; a row without an example fails ``test_law``.

A tensor operand is written as its shape, ``T(2, 3)``; a float in a linear group is a value that may be static.
"""

import operator
from typing import Any, NamedTuple

import attrs
import torch
from torch import Tensor

from snnpipe.ops.table import UNARY


@attrs.frozen
class T:
    """Stands for a tensor of this shape, drawn anew for every test."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float64

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float64) -> None:
        self.__attrs_init__(shape, dtype)


class Pair(NamedTuple):
    """A container."""

    a: Any
    b: Any


MASK = torch.tensor([True, False, True])
INDEX = torch.tensor([2, 0])
IMAGE = T(2, 4, 4, 4)
LINE, VOLUME = T(2, 4, 5), T(1, 2, 4, 4, 4)
VAR = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

EXAMPLES: dict[str, list[dict[str, object]]] = {
    "linear": [{"input": T(2, 3), "weight": T(4, 3), "bias": T(4)}, {"input": T(2, 5, 3), "weight": T(4, 3)}],
    "conv1d": [
        {"input": LINE, "weight": T(4, 2, 3), "bias": T(4), "padding": 1, "groups": 2},
        {"input": LINE, "weight": T(4, 4, 2), "dilation": 2},
    ],
    "conv2d": [{"input": IMAGE, "weight": T(2, 4, 3, 3), "bias": T(2), "stride": 2, "padding": "valid"}],
    "conv3d": [{"input": VOLUME, "weight": T(2, 2, 2, 2, 2), "bias": T(2)}],
    "conv_transpose1d": [{"input": LINE, "weight": T(4, 3, 3), "bias": T(3), "stride": 2, "output_padding": 1}],
    "conv_transpose2d": [{"input": IMAGE, "weight": T(4, 2, 2, 2), "bias": T(4), "groups": 2}],
    "conv_transpose3d": [{"input": VOLUME, "weight": T(2, 2, 2, 2, 2), "bias": T(2)}],
    "batch_norm": [
        {"input": T(2, 3), "running_mean": T(3), "running_var": VAR, "weight": T(3), "bias": T(3), "eps": 0.1},
        {"input": T(2, 3, 2), "running_mean": T(3), "running_var": VAR},
    ],
    "add": [{"a": T(2, 3), "b": T(3)}, {"a": T(2, 3), "b": 0.5}, {"a": 2, "b": T(2, 3)}],
    "sub": [{"a": T(2, 3), "b": T(3)}, {"a": T(2, 3), "b": 0.5}, {"a": 1, "b": T(2, 3)}],
    "neg": [{"a": T(2, 3)}],
    "mul": [{"a": T(2, 3), "b": T(3)}, {"a": T(2, 3), "b": 0.5}],
    "div": [{"a": T(2, 3), "b": torch.tensor([2.0, -0.5, 3.0], dtype=torch.float64)}, {"a": T(2, 3), "b": 4}],
    "matmul": [{"a": T(2, 3), "b": T(3, 2)}, {"a": T(2, 2, 3), "b": T(2, 3, 4)}],
    "sum": [{"input": T(2, 3)}, {"input": T(2, 3), "dim": -1, "keepdim": True}],
    "mean": [{"input": T(2, 3, 4), "dim": (1, 2)}, {"input": T(2, 4)}],
    "cumsum": [{"input": T(2, 3), "dim": 1}],
    "avg_pool1d": [{"input": LINE, "kernel_size": 2}],
    "avg_pool2d": [{"input": IMAGE, "kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}],
    "avg_pool3d": [{"input": VOLUME, "kernel_size": 2}],
    "adaptive_avg_pool1d": [{"input": LINE, "output_size": 2}],
    "adaptive_avg_pool2d": [{"input": IMAGE, "output_size": (1, 3)}],
    "adaptive_avg_pool3d": [{"input": VOLUME, "output_size": 1}],
    "interpolate": [
        {"input": IMAGE, "scale_factor": 2},
        {"input": IMAGE, "size": (6, 3), "mode": "bilinear", "align_corners": True},
        {"input": IMAGE, "scale_factor": 1.5, "mode": "bicubic", "align_corners": False},
    ],
    "flatten": [{"input": T(2, 3, 2), "start_dim": 1}],
    "unflatten": [{"input": T(2, 6), "dim": 1, "sizes": (2, -1)}],
    "view": [{"input": T(2, 6), "size": (2, 3, 2)}],
    "reshape": [{"input": T(2, 6), "shape": (3, -1)}],
    "permute": [{"input": T(2, 3, 4), "dims": (2, 0, 1)}],
    "transpose": [{"input": T(2, 3), "dim0": 0, "dim1": -1}],
    "movedim": [{"input": T(2, 3, 4), "source": 0, "destination": 2}],
    "squeeze": [{"input": T(2, 1, 3), "dim": 1}, {"input": T(2, 1, 3)}],
    "unsqueeze": [{"input": T(2, 3), "dim": 1}],
    "expand": [{"input": T(1, 3), "size": (2, 3)}],
    "expand_as": [{"input": T(1, 3), "other": T(2, 3)}],
    "view_as": [{"input": T(6), "other": T(2, 3)}],
    "narrow": [{"input": T(2, 4), "dim": 1, "start": 1, "length": 2}],
    "select": [{"input": T(2, 4), "dim": 0, "index": 1}],
    "field": [{"input": Pair(T(2, 4), T(3)), "name": "b"}],
    "child": [{"input": Pair(T(2, 4), T(3)), "k": 1}],
    "getitem": [
        {"a": T(2, 4), "index": (slice(None), 0)}, {"a": T(3, 2), "index": INDEX}, {"a": T(3, 2), "index": MASK},
    ],
    "set_item": [
        {"input": T(2, 4), "index": (slice(None), 0), "value": T(2)},
        {"input": T(2, 4), "index": (slice(None), 1), "value": 0.5},
    ],
    "filled_like": [{"input": T(2, 3), "value": T(3)}],
    "chunk": [{"input": T(2, 4), "chunks": 2, "dim": 1}],
    "split": [{"tensor": T(2, 4), "split_size_or_sections": [1, 3], "dim": 1}],
    "unbind": [{"input": T(2, 4)}],
    "cat": [{"tensors": (T(2, 3), T(2, 1)), "dim": 1}, {"tensors": (T(1, 2), T(2, 2), T(1, 2))}],
    "stack": [{"tensors": (T(2), T(2)), "dim": 1}],
    "repeat": [{"input": T(2, 3), "repeats": (2, 1)}],
    "flip": [{"input": T(2, 3), "dims": (1,)}],
    "roll": [{"input": T(2, 3), "shifts": 1, "dims": 1}],
    "index_select": [{"input": T(3, 2), "dim": 0, "index": INDEX}],
    "pixel_shuffle": [{"input": T(1, 4, 2, 2), "upscale_factor": 2}],
    "pixel_unshuffle": [{"input": T(1, 1, 4, 4), "downscale_factor": 2}],
    "channel_shuffle": [{"input": T(1, 4, 2, 2), "groups": 2}],
    "unfold": [{"input": IMAGE, "kernel_size": 2, "padding": 1}],
    "fold": [{"input": T(1, 4, 9), "output_size": (4, 4), "kernel_size": (2, 2)}],
    "pad": [
        {"input": T(2, 3), "pad": (1, 2), "value": 0.5},
        {"input": T(2, 3), "pad": (1, 2)},
        {"input": T(2, 1, 3), "pad": (1, 1), "mode": "reflect"},
    ],
    "where": [
        {"condition": MASK, "input": T(2, 3), "other": T(3)}, {"condition": MASK, "input": 0.5, "other": T(2, 3)},
    ],
    "masked_fill": [{"input": T(2, 3), "mask": MASK, "value": 0.25}, {"input": T(2, 3), "mask": MASK, "value": T()}],
    "identity": [{"input": T(2, 3)}],
    "contiguous": [{"input": T(2, 3)}],
    "clone": [{"input": T(2, 3)}],
    "detach": [{"input": T(2, 3)}],
    "type_as": [{"input": T(2, 3), "other": torch.ones(1, dtype=torch.float64)}],
    "to": [{"input": T(2, 3), "dtype": torch.float64}],
    # only the shape is read
    "size": [{"input": T(2, 3)}, {"input": T(2, 3), "dim": 1}],
    "dim": [{"input": T(2, 3)}],
    "numel": [{"input": T(2, 3)}],
    "attribute": [{"input": T(2, 3), "name": "shape"}],
    "zeros_like": [{"input": T(2, 3)}],
    "ones_like": [{"input": T(2, 3)}],
    "full_like": [{"input": T(2, 3), "fill_value": 0.5}],
    "new_zeros": [{"input": T(2, 3), "size": (2,)}],
    "new_ones": [{"input": T(2, 3), "size": (2, 1)}],
    "new_full": [{"input": T(2, 3), "size": (2,), "fill_value": 0.5}],
    # products of several tensors
    "einsum": [
        {"equation": "bij,bjk->bik", "a": T(2, 2, 3), "b": T(2, 3, 2)},
        {"equation": "ij,jk,kl->il", "a": T(2, 2), "b": T(2, 2), "c": T(2, 1)},
        {"equation": "ij,kj", "a": T(2, 3), "b": T(2, 3)},
        {"equation": "ii->i", "a": T(2, 2)},
    ],
    "scaled_dot_product_attention": [
        {"query": T(1, 2, 3, 2), "key": T(1, 2, 3, 2), "value": T(1, 2, 3, 2), "is_causal": True},
        {"query": T(2, 3, 2), "key": T(2, 3, 2), "value": T(2, 3, 2), "attn_mask": T(3, 3), "scale": 0.5},
        {"query": T(2, 2, 3, 2), "key": T(2, 1, 3, 2), "value": T(2, 1, 3, 2), "enable_gqa": True},
        {"query": T(2, 1, 3, 2), "key": T(2, 1, 3, 2), "value": T(2, 1, 3, 2), "attn_mask": T(2, 1, 3, 3)},
    ],
    # no group
    **{name: [{"input": T(2, 3)}] for name in UNARY},
    "pow": [{"a": T(2, 3), "b": 2}, {"a": 2, "b": T(2, 3)}, {"a": VAR, "b": T(3)}],
    "softmax": [{"input": T(2, 3), "dim": -1}, {"input": T(2, 3), "dim": 0}],
    "log_softmax": [{"input": T(2, 3), "dim": 1}],
    "layer_norm": [
        {"input": T(2, 3), "normalized_shape": (3,), "weight": T(3), "bias": T(3)},
        {"input": T(2, 3), "normalized_shape": (2, 3)},
    ],
    "rms_norm": [{"input": T(2, 3), "normalized_shape": (3,), "weight": T(3)}],
    "group_norm": [{"input": T(2, 4, 3), "num_groups": 2, "weight": T(4)}, {"input": T(2, 4), "num_groups": 2}],
    "clamp": [{"input": T(2, 3), "min": -0.5, "max": 0.5}, {"input": T(2, 3), "min": T(3)}],
    "qcfs": [
        {"input": T(2, 3), "theta": torch.tensor(1.5, dtype=torch.float64), "levels": 4},
        {"input": T(2, 3, 4), "theta": VAR, "levels": 3, "axis": -2},
    ],
    "fake_quantize": [
        {"input": T(2, 3), "scale": 0.25, "zero_point": 3, "quant_min": 0, "quant_max": 15},
        {"input": T(2, 3), "scale": VAR.float(), "zero_point": 0, "quant_min": -4, "quant_max": 3, "axis": 1},
    ],
    "max_pool1d": [{"input": LINE, "kernel_size": 2}],
    "max_pool2d": [{"input": IMAGE, "kernel_size": 3, "stride": 1, "padding": 1}],
    "max_pool3d": [{"input": VOLUME, "kernel_size": 2}],
    "adaptive_max_pool1d": [{"input": LINE, "output_size": 2}],
    "adaptive_max_pool2d": [{"input": IMAGE, "output_size": 2}],
    "adaptive_max_pool3d": [{"input": VOLUME, "output_size": 1}],
    "call": [
        {"target": torch.atan, "args": (T(2, 3),), "kwargs": {}},
        {"target": torch.softmax, "args": (T(2, 3), -1), "kwargs": {}},
        {"target": operator.pow, "args": (T(2, 3), 2), "kwargs": {}},
        {"target": torch.atan2, "args": (T(2, 3), T(3)), "kwargs": {}},
    ],
}  # fmt: skip


def tensor(shape: T, generator: torch.Generator) -> Tensor:
    return torch.randn(shape.shape, generator=generator, dtype=torch.float64).to(shape.dtype)
