r"""The operator table: every op of the graph vocabulary, one row each.

A row says how to compute the op and in which *groups of operands* it is jointly linear:

    f is jointly linear in the group {a, b}  <=>  f(p a1 + q a2, p b1 + q b2) = p f(a1, b1) + q f(a2, b2)

with the other operands fixed.  ``add`` has one group of two, ``mul`` two groups of one, ``relu`` none.  That is all
the law of ``ops.lift`` needs to know about an op; one that is missing here is a ``call``, which has no group and is
still converted correctly.

Knows torch functions; which user's spelling means which op is ``frontend.spellings``' business.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import attrs
import torch
import torch.nn.functional as F

from snnpipe.frozen import FrozenMap
from snnpipe.graph import Graph, Node, Ref
from snnpipe.kernels import quantiser
from snnpipe.ops import functions
from snnpipe.ops.signature import Signature


@attrs.frozen
class Op:
    """One row of the table.

    Attributes:
        name: the op's name in a graph.
        fn: computes it; called with the operands in the order of ``signature``.
        signature: operand names and defaults.
        groups: the sets of operands in which it is jointly linear.
        shape_only: operands of which only shape, dtype or device is read; what comes out of such an op alone is
            the same at every step.
        typed_by: operands that say the dtype of the result, a dtype or a tensor that has it; only over floats is the
            op linear.
        aliases: the result may share memory with an operand.
    """

    name: str
    fn: Callable[..., Any]
    signature: Signature
    groups: tuple[frozenset[str], ...] = ()
    shape_only: frozenset[str] = frozenset()
    typed_by: frozenset[str] = frozenset()
    aliases: bool = False


def row(
    name: str, fn: Callable[..., Any], signature: str, linear: str = "", shape_only: str = "", typed_by: str = "",
    aliases: bool = False,
) -> Op:  # fmt: skip
    """Write a row; ``linear`` lists the groups, as in ``"input bias | weight bias"``."""
    groups = tuple(frozenset(group.split()) for group in linear.split("|") if group.strip())
    read, typed = frozenset(shape_only.split()), frozenset(typed_by.split())
    return Op(name, fn, Signature.parse(signature), groups, read, typed, aliases)


_T = torch.Tensor
_CONV = "input weight bias=None stride=1 padding=0 dilation=1 groups=1"
_CONV_T = "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1"
_POOL = "input kernel_size stride=() padding=0 ceil_mode=False count_include_pad=True"
_MAX_POOL = "input kernel_size stride=() padding=0 dilation=1 ceil_mode=False"
_AFFINE = "input bias | weight bias"

#: Functions of one tensor, element by element, finite everywhere, that torch has under the same name; none is linear.
UNARY: FrozenMap[str, Callable[..., Any]] = FrozenMap({
    "relu": F.relu, "gelu": F.gelu, "silu": F.silu, "mish": F.mish, "elu": F.elu, "selu": F.selu, "celu": F.celu,
    "leaky_relu": F.leaky_relu, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "softplus": F.softplus,
    "logsigmoid": F.logsigmoid, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "exp": torch.exp, "abs": torch.abs,
    "square": torch.square, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos, "floor": torch.floor,
    "round": torch.round,
})  # fmt: skip
_OPTIONS = {
    "gelu": " * approximate='none'", "elu": " alpha=1.0", "celu": " alpha=1.0", "leaky_relu": " negative_slope=0.01",
    "softplus": " beta=1 threshold=20",
}  # fmt: skip

TABLE: tuple[Op, ...] = (
    # affine maps: y = W x + b
    row("linear", F.linear, "input weight bias=None", _AFFINE),
    row("conv1d", F.conv1d, _CONV, _AFFINE),
    row("conv2d", F.conv2d, _CONV, _AFFINE),
    row("conv3d", F.conv3d, _CONV, _AFFINE),
    row("conv_transpose1d", F.conv_transpose1d, _CONV_T, _AFFINE),
    row("conv_transpose2d", F.conv_transpose2d, _CONV_T, _AFFINE),
    row("conv_transpose3d", F.conv_transpose3d, _CONV_T, _AFFINE),
    # batch norm with running statistics: y = (x - mean) g + bias, g = weight / sqrt(var + eps)
    row(
        "batch_norm",
        F.batch_norm,
        "input running_mean running_var weight=None bias=None training=False momentum=0.1 eps=1e-05",
        "input running_mean bias",
    ),
    # arithmetic
    row("add", operator.add, "a b", "a b"),
    row("sub", operator.sub, "a b", "a b"),
    row("neg", operator.neg, "a", "a"),
    row("mul", operator.mul, "a b", "a | b"),
    row("div", operator.truediv, "a b", "a"),
    row("matmul", torch.matmul, "a b", "a | b"),
    # reductions and averages
    row("sum", torch.sum, "input dim=() keepdim=False * dtype=None", "input", typed_by="dtype"),
    row("mean", torch.mean, "input dim=() keepdim=False * dtype=None", "input", typed_by="dtype"),
    row("cumsum", torch.cumsum, "input dim * dtype=None", "input", typed_by="dtype"),
    row("avg_pool1d", F.avg_pool1d, _POOL, "input"),
    row("avg_pool2d", F.avg_pool2d, _POOL + " divisor_override=None", "input"),
    row("avg_pool3d", F.avg_pool3d, _POOL + " divisor_override=None", "input"),
    row("adaptive_avg_pool1d", F.adaptive_avg_pool1d, "input output_size", "input"),
    row("adaptive_avg_pool2d", F.adaptive_avg_pool2d, "input output_size", "input"),
    row("adaptive_avg_pool3d", F.adaptive_avg_pool3d, "input output_size", "input"),
    row(
        "interpolate",
        F.interpolate,
        "input size=None scale_factor=None mode='nearest' align_corners=None recompute_scale_factor=None"
        " antialias=False",
        "input",
    ),
    # rearrangement
    row("flatten", torch.flatten, "input start_dim=0 end_dim=-1", "input", aliases=True),
    row("unflatten", _T.unflatten, "input dim sizes", "input", aliases=True),
    row("view", _T.view, "input *size", "input", typed_by="size", aliases=True),
    row("reshape", _T.reshape, "input *shape", "input", aliases=True),
    row("permute", _T.permute, "input *dims", "input", aliases=True),
    row("transpose", torch.transpose, "input dim0 dim1", "input", aliases=True),
    row("movedim", torch.movedim, "input source destination", "input", aliases=True),
    row("squeeze", torch.squeeze, "input dim=None", "input", aliases=True),
    row("unsqueeze", torch.unsqueeze, "input dim", "input", aliases=True),
    row("expand", _T.expand, "input *size", "input", aliases=True),
    row("expand_as", _T.expand_as, "input other", "input", shape_only="other", aliases=True),
    row("view_as", _T.view_as, "input other", "input", shape_only="other", aliases=True),
    row("narrow", torch.narrow, "input dim start length", "input", aliases=True),
    row("select", torch.select, "input dim index", "input", aliases=True),
    row("getitem", operator.getitem, "a index", "a", aliases=True),
    row("field", functions.field, "input name", "input", aliases=True),
    row("child", functions.child_of, "input k", "input", aliases=True),
    row("set_item", functions.set_item, "input index value", "input value", typed_by="input"),
    row("filled_like", functions.filled_like, "input value", "value", shape_only="input", typed_by="input"),
    row("chunk", torch.chunk, "input chunks dim=0", "input", aliases=True),
    row("split", torch.split, "tensor split_size_or_sections dim=0", "tensor", aliases=True),
    row("unbind", torch.unbind, "input dim=0", "input", aliases=True),
    row("cat", torch.cat, "tensors dim=0", "tensors"),
    row("stack", torch.stack, "tensors dim=0", "tensors"),
    row("repeat", _T.repeat, "input *repeats", "input"),
    row("flip", _T.flip, "input *dims", "input"),
    row("roll", torch.roll, "input shifts dims=()", "input"),
    row("index_select", torch.index_select, "input dim index", "input"),
    row("pixel_shuffle", F.pixel_shuffle, "input upscale_factor", "input"),
    row("pixel_unshuffle", F.pixel_unshuffle, "input downscale_factor", "input"),
    row("channel_shuffle", F.channel_shuffle, "input groups", "input"),
    row("unfold", F.unfold, "input kernel_size dilation=1 padding=0 stride=1", "input"),
    row("fold", F.fold, "input output_size kernel_size dilation=1 padding=0 stride=1", "input"),
    row("pad", F.pad, "input pad mode='constant' value=None", "input value"),
    row("where", torch.where, "condition input other", "input other"),
    row("masked_fill", torch.masked_fill, "input mask value", "input value"),
    # the same value in another place or precision
    row("identity", functions.identity, "input", "input", aliases=True),
    row("contiguous", _T.contiguous, "input * memory_format=None", "input", aliases=True),
    row("clone", torch.clone, "input * memory_format=None", "input"),
    row("detach", torch.detach, "input", "input", aliases=True),
    row("to", _T.to, "input dtype", "input", typed_by="dtype", aliases=True),
    row("type_as", _T.type_as, "input other", "input", shape_only="other", typed_by="other", aliases=True),
    # what only the shape decides
    row("size", _T.size, "input dim=None", shape_only="input"),
    row("dim", _T.dim, "input", shape_only="input"),
    row("numel", torch.numel, "input", shape_only="input"),
    row("attribute", functions.attribute, "input name", shape_only="input"),
    row("zeros_like", torch.zeros_like, "input * dtype=None device=None", shape_only="input"),
    row("ones_like", torch.ones_like, "input * dtype=None device=None", shape_only="input"),
    row("full_like", torch.full_like, "input fill_value * dtype=None device=None", shape_only="input"),
    row("new_zeros", _T.new_zeros, "input *size * dtype=None device=None", shape_only="input"),
    row("new_ones", _T.new_ones, "input *size * dtype=None device=None", shape_only="input"),
    row("new_full", _T.new_full, "input size fill_value * dtype=None device=None", shape_only="input"),
    # products of several tensors
    row("einsum", functions.einsum, "equation a b=None c=None", "a | b | c"),
    row(
        "scaled_dot_product_attention",
        F.scaled_dot_product_attention,
        "query key value attn_mask=None dropout_p=0.0 is_causal=False * scale=None enable_gqa=False",
        "value",
    ),
    # no linear group
    *(row(name, fn, f"input{_OPTIONS.get(name, '')}") for name, fn in UNARY.items()),
    row("pow", operator.pow, "a b"),
    row("softmax", F.softmax, "input dim=None * dtype=None"),
    row("log_softmax", F.log_softmax, "input dim=None * dtype=None"),
    row("layer_norm", F.layer_norm, "input normalized_shape weight=None bias=None eps=1e-05"),
    row("rms_norm", F.rms_norm, "input normalized_shape weight=None eps=None"),
    row("group_norm", F.group_norm, "input num_groups weight=None bias=None eps=1e-05"),
    row("clamp", torch.clamp, "input min=None max=None"),
    row("qcfs", torch.ops.snnpipe.qcfs.default, "input theta levels axis=None"),
    row("fake_quantize", quantiser.fake_quantize, "input scale zero_point quant_min quant_max axis=None"),
    row("max_pool1d", torch.max_pool1d, _MAX_POOL),
    row("max_pool2d", torch.max_pool2d, _MAX_POOL),
    row("max_pool3d", torch.max_pool3d, _MAX_POOL),
    row("adaptive_max_pool1d", F.adaptive_max_pool1d, "input output_size"),
    row("adaptive_max_pool2d", F.adaptive_max_pool2d, "input output_size"),
    row("adaptive_max_pool3d", F.adaptive_max_pool3d, "input output_size"),
    row("call", functions.call, "target args kwargs", aliases=True),
)

#: The table by name.
OPS: FrozenMap[str, Op] = FrozenMap({op.name: op for op in TABLE})

#: Ops that are no function of tensors alone: sources, neurons and the three temporal ops of ``kernels.temporal``.
STRUCTURAL = frozenset({"input", "encode", "constant", "accumulate", "difference"})

#: Ops that take batches of a fixed number of axes, (B, C, *spatial).
_BATCHED_RANK = {f"{kind}{n}d": n + 2 for n in (1, 2, 3) for kind in ("conv", "conv_transpose")}


def batched_rank(node: Node, graph: Graph) -> int | None:
    """The number of axes a batch of this value has, where a convolution reads it directly; else ``None``."""
    readers = (graph[user] for user in graph.users[node.name] if user != "output")
    ranks = (_BATCHED_RANK.get(reader.op) for reader in readers if reader.get("input") == Ref(node.name))
    return next(filter(None, ranks), None)
