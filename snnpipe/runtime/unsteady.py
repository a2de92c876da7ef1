"""Values whose shape hangs on the input: what to say when one changes from step to step."""

from __future__ import annotations

import torch

from snnpipe.errors import UnsupportedError
from snnpipe.graph import Graph, Node, refs
from snnpipe.kernels.temporal import Unsteady

#: Calls that give as many numbers as the values say, beside torch's operators with a tag for it.
_SHAPED = frozenset({"argwhere", "unique"})


def unsteady(error: Unsteady, graph: Graph) -> UnsupportedError:
    """What a value that does not keep its shape is refused with: which operators may have made it, and what to do."""
    found = [f"`{_name(node)}`" + f" at {node.where}" * bool(node.where) for node in graph if _is_shaped(node)]
    makers = f", as {', '.join(found)} may give it" * bool(found)
    return UnsupportedError(
        f"the network cannot run through time: a result that depends on the input's values has no events{makers} "
        f"({error}).\n  Keep its shape whatever the values are: torch.where(mask, x, 0), not x[mask]"
    )


def _is_shaped(node: Node) -> bool:
    if node.op == "getitem":
        return any(True for _ in refs(node["index"]))
    if node.op != "call":
        return False
    packet = getattr(torch.ops.aten, _name(node), None)
    tagged = packet is not None and any(
        torch.Tag.dynamic_output_shape in getattr(packet, name).tags for name in packet.overloads()
    )
    return tagged or _name(node) in _SHAPED or (_name(node) == "where" and len(node["args"]) == 1)


def _name(node: Node) -> str:
    target = node.get("target")
    if target is None:
        return "x[index]"
    name = str(getattr(target, "__name__", ""))
    return str(node["args"][1]) if name == "call_method" else name
