"""Which ops keep the samples of a batch apart, and where: a rule for each row of the operator table that does.

A rule gives the kind of a value, ``None`` where samples may meet.  Knows the operands of the table's ops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from snnpipe.frozen import FrozenMap, leaves
from snnpipe.graph import Node
from snnpipe.ops.table import UNARY
from snnpipe.rules.row_kinds import Kind, Rows, Rule, Same, axes_behind_first, has_one_row, only


def elementwise(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """Operands of one rank, or such as have nothing along the first axis."""
    kinds = [kind(leaf) for leaf in leaves(node.operands)]
    tensors = [found for found in kinds if isinstance(found, Rows)]
    ranks = {found.rank for found in tensors}
    if len(ranks) != 1 or any(found.of for found in tensors):
        return None
    rank = ranks.pop()
    below = all(
        found.rank is not None and (found.rank < rank or (found.rank == rank and found.first == 1))
        for found in kinds if isinstance(found, Same)
    )  # fmt: skip
    return Rows(rank) if below and rank else None


def batched(least: int) -> Rule:
    """Ops on a first operand of so many axes at least, the first of which is the batch."""

    def rule(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
        rank = only(node, kind, "input")
        if rank is None or rank < least or node.get("training", False) or node.get("axis") in (0, -rank):
            return None
        return Rows(rank)

    return rule


def spatial(axes: int) -> Rule:
    """Ops on (B, C, ...) of exactly so many axes: of one less the first is no batch."""

    def rule(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
        return Rows(axes) if only(node, kind, "input") == axes else None

    return rule


def normalised(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """Over the last axes alone."""
    rank, over = only(node, kind, "input"), node["normalized_shape"]
    axes = 1 if isinstance(over, int) else len(over) if isinstance(over, tuple) else None
    return Rows(rank) if rank is not None and axes is not None and rank > axes else None


def along(*names: str, tensor: str = "input", more: int = 0) -> Rule:
    """Ops along axes that are not the first; ``more`` is by how many the result has more of them."""

    def rule(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
        rank = only(node, kind, tensor)
        if rank is None or any(axes_behind_first(node.get(name), rank + max(more, 0)) is None for name in names):
            return None
        return Rows(rank + more)

    return rule


def pieces(tensor: str) -> Rule:
    """Ops that give a tuple of parts along an axis."""

    def rule(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
        found = along("dim", tensor=tensor)(node, kind)
        return Rows(found.rank, "pieces") if isinstance(found, Rows) else None

    return rule


def reduced(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """sum, mean."""
    rank = only(node, kind, "input")
    axes = None if rank is None else axes_behind_first(node.get("dim", ()), rank)
    return None if rank is None or axes is None else Rows(rank - (0 if node.get("keepdim", False) else len(axes)))


def flattened(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """flatten behind the first axis."""
    rank = only(node, kind, "input")
    ends = node.get("start_dim", 0), node.get("end_dim", -1)
    if rank is None or not all(isinstance(dim, int) and -rank <= dim < rank for dim in ends):
        return None
    start, end = (dim % rank for dim in ends)
    return Rows(rank - (end - start)) if start else None


def sized(name: str) -> Rule:
    """Ops that are told the sizes of their result, the first of which is the number of samples."""

    def rule(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
        sizes, source = node[name], kind(node["input"])
        if not isinstance(sizes, tuple) or not sizes or kind(sizes[0]) != Rows(0, "count"):
            return None
        if not all(isinstance(kind(size), Same) for size in sizes[1:]):
            return None
        if isinstance(source, Rows):
            fits = not source.of and (node.op != "expand" or source.rank == len(sizes))
        else:
            fits = node.op == "expand" and source is not None and has_one_row(source, len(sizes))
        return Rows(len(sizes)) if fits else None

    return rule


def permuted(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """permute, the first axis staying where it is."""
    rank, dims = only(node, kind, "input"), node["dims"]
    dims = dims[0] if isinstance(dims, tuple) and len(dims) == 1 and isinstance(dims[0], tuple) else dims
    stays = isinstance(dims, tuple) and dims and dims[0] in (0, -len(dims))
    return Rows(rank) if stays and rank == len(dims) else None


def padded(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """pad of axes behind the first."""
    rank, sizes = only(node, kind, "input"), node["pad"]
    return Rows(rank) if rank is not None and isinstance(sizes, tuple) and len(sizes) // 2 < rank else None


def indexed(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """getitem: a piece, the first of a shape, or whole rows."""
    source, index = kind(node["a"]), node["index"]
    if not isinstance(source, Rows):
        return None
    if source.of == "pieces":
        return Rows(source.rank) if type(index) is int else None
    if source.of == "shape":
        return None if type(index) is not int else Rows(0, "count") if index in (0, -source.rank) else Same(0)
    index = index if type(index) is tuple else (index,)
    plain = all(part is None or part is Ellipsis or type(part) in (int, slice) for part in index)
    taken = sum(type(part) in (int, slice) for part in index)
    whole = bool(index) and (index[0] == slice(None) or (index[0] is Ellipsis and taken < source.rank))
    return Rows(source.rank - sum(type(part) is int for part in index) + index.count(None)) \
        if plain and whole and not source.of and Ellipsis not in index[1:] else None  # fmt: skip


def product(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """matmul: of matrices of each sample, or with one matrix for all."""
    a, b = kind(node["a"]), kind(node["b"])
    if isinstance(a, Rows) and isinstance(b, Rows):
        return Rows(a.rank) if a.rank == b.rank >= 3 and not (a.of or b.of) else None
    one = isinstance(a, Rows) and isinstance(b, Same) and not a.of and a.rank >= 2 and b.rank == 2
    return Rows(a.rank) if one and isinstance(a, Rows) else None


def attended(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """scaled_dot_product_attention without a mask, or with one for all samples."""
    rank, mask = only(node, kind, "query", "key", "value"), kind(node.get("attn_mask"))
    shared = isinstance(mask, Same) and rank is not None and has_one_row(mask, rank)
    return Rows(rank) if rank is not None and rank >= 3 and shared and node.get("dropout_p", 0.0) == 0.0 else None


def told(of: str) -> Rule:
    """The shape of a value, or its number of rows."""

    def rule(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
        source, dim = kind(node["input"]), node.get("dim", node.get("name"))
        if not isinstance(source, Rows) or source.of:
            return None
        if dim in ("dtype", "device", "ndim"):
            return Same(0)
        if of == "size" and type(dim) is int:
            return Rows(0, "count") if dim in (0, -source.rank) else Same(0)
        return Rows(source.rank, "shape") if (of == "size" and dim is None) or dim == "shape" else None

    return rule


def passed(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """What is as its input is."""
    return kind(node["input"])


_BY_RULE: tuple[tuple[Rule, str], ...] = (
    (elementwise, "add sub mul div neg pow clamp where masked_fill identity clone detach contiguous"),
    (elementwise, " ".join(UNARY)),
    (elementwise, "zeros_like ones_like expand_as type_as"),
    (passed, "accumulate difference constant"),
    (batched(1), "encode to qcfs fake_quantize"),
    (batched(2), "linear batch_norm group_norm channel_shuffle"),
    (batched(3), "interpolate"),
    (batched(4), "pixel_shuffle pixel_unshuffle"),
    *((spatial(n + 2), f"conv{n}d conv_transpose{n}d max_pool{n}d avg_pool{n}d adaptive_avg_pool{n}d "
       f"adaptive_max_pool{n}d") for n in (1, 2, 3)),
    (normalised, "layer_norm rms_norm"),
    (along("dim"), "softmax log_softmax cumsum index_select narrow"),
    (along("dim", tensor="tensors"), "cat"),
    (along("dim", tensor="tensors", more=1), "stack"),
    (along("dim", more=-1), "select"),
    (along("dim", more=1), "unsqueeze"),
    (along("dims"), "flip roll"),
    (along("dim0", "dim1"), "transpose"),
    (pieces("input"), "chunk"),
    (pieces("tensor"), "split"),
    (reduced, "sum mean"),
    (flattened, "flatten"),
    (sized("size"), "view expand"),
    (sized("shape"), "reshape"),
    (permuted, "permute"),
    (padded, "pad"),
    (indexed, "getitem"),
    (product, "matmul"),
    (attended, "scaled_dot_product_attention"),
    (told("size"), "size"),
    (told("shape"), "attribute"),
)  # fmt: skip

#: The rule of each op that keeps samples apart.
RULES: FrozenMap[str, Rule] = FrozenMap({name: rule for rule, ops in _BY_RULE for name in ops.split()})
