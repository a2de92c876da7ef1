"""Folding batch normalisation into the layer before it."""

from __future__ import annotations

from snnpipe.options import functions
from snnpipe.rewrite import RewriteRule, rewrite
from snnpipe.rules.fusion import FUSE_RULES
from snnpipe.stage import stage
from snnpipe.state import ConversionState, Event

NOT_LIFTED = (
    lambda state: state.code is None,
    "the graph is already carried to a code; put this stage before td_rewrite",
)


@stage(NOT_LIFTED, rules=functions("node", "graph", "params"))
def fuse(state: ConversionState, *, rules: tuple[RewriteRule, ...] = FUSE_RULES) -> ConversionState:
    """Fold Conv1-3d, ConvTranspose1-3d or Linear + BatchNorm into one layer; the input is unchanged.

    A batch norm that may not be folded (its input has other readers, its axis is not the layer's) stays as it is,
    which is exact too; the history says why.  New weights have new keys (``conv1__bn1.weight``).

    Args:
        rules: what to fold.

    Reference: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", CVPR.

    >>> from torch import nn
    >>> import snnpipe
    >>> state = snnpipe.pipe(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), snnpipe.trace, snnpipe.fuse)
    >>> sorted(state.params)
    ['0__1.bias', '0__1.weight']
    """
    result = rewrite(state.graph, state.params, rules)
    events = [Event("fuse", name, note) for name, note in result.done]
    events += [Event("fuse", name, "not folded", reason) for name, reason in result.declined]
    new = tuple(event for event in events if event not in state.history)
    if not new:
        return state
    return state.evolve(*new, graph=result.graph, params=result.params)
