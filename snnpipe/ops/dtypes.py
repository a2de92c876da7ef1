"""What a graph alone says of dtypes: whether a value is surely made of floats.

Linear operators are linear over floats; where the result is of whole numbers (``sum(dtype=int)``, a write into a mask)
they are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from snnpipe.graph import Graph, Param, Ref
from snnpipe.ops.table import OPS


def is_float(leaf: Any, graph: Graph, surely: Callable[[str], bool]) -> bool:
    """Whether a dtype, or the dtype of a value, is one of floats; what says no dtype (sizes, a device) changes none.

    Args:
        leaf: an operand.
        graph: where it stands.
        surely: whether the node of this name is known to give floats.
    """
    if isinstance(leaf, torch.dtype):
        return leaf.is_floating_point or leaf.is_complex
    if not isinstance(leaf, Ref):
        return not isinstance(leaf, Param)
    if surely(leaf.name):
        return True
    node = graph[leaf.name]
    op = OPS.get(node.op)
    if op is None or op.groups or op.shape_only != {"input"}:
        return False
    return is_float(node["input"] if node.get("dtype") is None else node["dtype"], graph, surely)
