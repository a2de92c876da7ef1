"""Which values of a graph hold the samples of a batch in their rows, none of which depends on another sample.

Where that holds of the whole graph, a batch may be cut: ``f(x[rows]) = f(x)[rows]``.  What is not listed here is not
known to keep samples apart.

Knows the operands of the table's ops and the ranks of the inputs; says nothing where it is not sure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.frozen import EMPTY, FrozenMap, leaves
from snnpipe.graph import Graph, Node, Param, Ref
from snnpipe.ops.table import UNARY


@attrs.frozen
class Rows:
    """A tensor of so many axes, sample b in its row b; or, if ``of`` is not ``""``, what is told of it: its shape,
    the number of its rows, or a tuple of pieces like it."""

    rank: int
    of: str = ""


@attrs.frozen
class Same:
    """What is the same for every sample, of so many axes, the first of them of that size, if these are known."""

    rank: int | None = None
    first: int | None = None


Kind = Rows | Same
#: The kinds of a node's operands and the node -> the kind of its value; ``None``: it may mix samples.
Rule = Callable[[Node, Callable[[Any], "Kind | None"]], "Kind | None"]


def rows(graph: Graph, params: Mapping[str, Tensor], inputs: Mapping[str, Kind]) -> FrozenMap[str, Rows] | None:
    """The nodes whose values have to do with the number of samples, by name; ``None`` if samples may meet anywhere.

    Args:
        inputs: what each input is, by its name.

    >>> from torch import nn
    >>> import snnpipe
    >>> state = snnpipe.trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    >>> rows(state.graph, state.params, {"input": Rows(2)})["_1"]
    Rows(rank=2, of='')
    >>> rows(snnpipe.trace(nn.Softmax(0)).graph, {}, {"input": Rows(2)}) is None
    True
    """
    kinds: dict[str, Kind] = {}

    def kind(leaf: Any) -> Kind | None:
        if isinstance(leaf, Ref):
            return kinds[leaf.name]
        if isinstance(leaf, Param):
            tensor = params[leaf.key]
            return Same(tensor.ndim, tensor.shape[0] if tensor.ndim else None)
        return Same(0)

    for node in graph:
        found = inputs.get(node["name"]) if node.op == "input" else _kind(node, kind)
        if found is None:
            return None
        kinds[node.name] = found
    given = [kind(leaf) for leaf in leaves(graph.output)]
    if not all(isinstance(found, Rows) and not found.of for found in given):
        return None
    return FrozenMap({name: found for name, found in kinds.items() if isinstance(found, Rows)})


def of_batch(
    graph: Graph, params: Mapping[str, Tensor], given: Mapping[str, Any], count: int, axes: Mapping[str, int] = EMPTY
) -> FrozenMap[str, Rows]:
    """``rows`` for a batch of so many samples, its inputs by name; nothing if samples may meet.

    Args:
        axes: the axis of an input that counts the samples, where that is not the first.
    """
    inputs = dict[str, Kind]()
    for name, value in given.items():
        if isinstance(value, Tensor):
            shape = value.shape[axes.get(name, 0) :]
            inputs[name] = Rows(len(shape)) if shape[:1] == (count,) else Same(len(shape), *shape[:1])
        elif not tensors(value):
            inputs[name] = Same(0)
    return rows(graph, params, inputs) or EMPTY


def _kind(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    if not any(isinstance(kind(leaf), Rows) for leaf in leaves(node.operands) if isinstance(leaf, Ref)):
        return Same()
    rule = RULES.get(node.op)
    return None if rule is None else rule(node, kind)


def _only(node: Node, kind: Callable[[Any], Kind | None], *names: str) -> int | None:
    """The rank of the operands ``names``, rows of one rank, where all others are the same for every sample."""
    kinds = {name: [kind(leaf) for leaf in leaves(value)] for name, value in node.operands.items()}
    mine = [found for name in names for found in kinds.pop(name, ())]
    others = [found for found_of in kinds.values() for found in found_of]
    ranks = {found.rank for found in mine if isinstance(found, Rows) and not found.of}
    clean = len(ranks) == 1 and all(isinstance(found, Rows) and not found.of for found in mine)
    return ranks.pop() if clean and all(isinstance(found, Same) for found in others) else None


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
        rank = _only(node, kind, "input")
        if rank is None or rank < least or node.get("training", False) or node.get("axis") in (0, -rank):
            return None
        return Rows(rank)

    return rule


def spatial(axes: int) -> Rule:
    """Ops on (B, C, ...) of exactly so many axes: of one less the first is no batch."""

    def rule(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
        return Rows(axes) if _only(node, kind, "input") == axes else None

    return rule


def normalised(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """Over the last axes alone."""
    rank, over = _only(node, kind, "input"), node["normalized_shape"]
    axes = 1 if isinstance(over, int) else len(over) if isinstance(over, tuple) else None
    return Rows(rank) if rank is not None and axes is not None and rank > axes else None


def _axes(value: Any, rank: int) -> set[int] | None:
    """Axes counted from the front; ``None`` where one is the first, or no number."""
    dims = [value] if isinstance(value, int) else leaves(value) if isinstance(value, tuple) else ()
    found = {dim % rank for dim in dims if isinstance(dim, int) and -rank <= dim < rank} if rank else set()
    return found if found and len(found) == len([*dims]) and 0 not in found else None


def along(*names: str, tensor: str = "input", more: int = 0) -> Rule:
    """Ops along axes that are not the first; ``more`` is by how many the result has more of them."""

    def rule(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
        rank = _only(node, kind, tensor)
        if rank is None or any(_axes(node.get(name), rank + max(more, 0)) is None for name in names):
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
    rank = _only(node, kind, "input")
    axes = None if rank is None else _axes(node.get("dim", ()), rank)
    return None if rank is None or axes is None else Rows(rank - (0 if node.get("keepdim", False) else len(axes)))


def flattened(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """flatten behind the first axis."""
    rank = _only(node, kind, "input")
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
            fits = node.op == "expand" and source is not None and _is_one(source, len(sizes))
        return Rows(len(sizes)) if fits else None

    return rule


def _is_one(source: Same, rank: int) -> bool:
    """Whether something has one row, or none, where ``rank`` axes are wanted."""
    return source.rank is not None and (source.rank < rank or source.first == 1)


def permuted(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """permute, the first axis staying where it is."""
    rank, dims = _only(node, kind, "input"), node["dims"]
    dims = dims[0] if isinstance(dims, tuple) and len(dims) == 1 and isinstance(dims[0], tuple) else dims
    stays = isinstance(dims, tuple) and dims and dims[0] in (0, -len(dims))
    return Rows(rank) if stays and rank == len(dims) else None


def padded(node: Node, kind: Callable[[Any], Kind | None]) -> Kind | None:
    """pad of axes behind the first."""
    rank, sizes = _only(node, kind, "input"), node["pad"]
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
    rank, mask = _only(node, kind, "query", "key", "value"), kind(node.get("attn_mask"))
    shared = isinstance(mask, Same) and rank is not None and _is_one(mask, rank)
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
