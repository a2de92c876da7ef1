"""What each profile of NIR may use, and how it says each operator: tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
from torch import Tensor

from snnpipe.exchange.nir import layers, neurons, shapes
from snnpipe.exchange.nir.layers import scaled_layer
from snnpipe.exchange.nir.parts import NotSaidError, Part, Rows, Wire
from snnpipe.frozen import FrozenMap


@attrs.frozen(eq=False)
class Profile:
    """A way to say networks in NIR.

    Attributes:
        name: what it is called.
        primitives: the kinds of node it may use.
        times: ``times(name, wire, scale) -> Part``, the product with numbers, element by element.
        rows: a row for each op.
    """

    name: str
    primitives: frozenset[str]
    times: Callable[[str, Wire, Tensor], Part]
    rows: Rows


def scale(name: str, x: Wire, numbers: Tensor) -> Part:
    """A product with numbers by NIR's ``Scale``."""
    return Part(name, "Scale", {"scale": numbers.expand(x.shape)}, x.sources)


#: The same in every profile.
_ROWS: Rows = FrozenMap({
    "linear": layers.linear,
    "conv1d": layers.convolution, "conv2d": layers.convolution, "conv3d": layers.convolution,
    "batch_norm": layers.batch_norm,
    "add": layers.add, "sub": layers.sub, "neg": layers.neg, "mul": layers.mul, "div": layers.div,
    "cat": layers.concatenation, "getitem": layers.piece, "pad": layers.pad,
    **dict.fromkeys(("identity", "contiguous", "clone", "detach"), shapes.same),
    "to": shapes.cast, "type_as": shapes.cast,
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "view_as"), shapes.reshaped),
})  # fmt: skip


def _pools(pool: shapes.Pool) -> Rows:
    average, adaptive = partial(shapes.average_pool, pool=pool), partial(shapes.adaptive_pool, pool=pool)
    return FrozenMap({
        "avg_pool1d": average, "avg_pool2d": average, "adaptive_avg_pool1d": adaptive, "adaptive_avg_pool2d": adaptive,
        "mean": partial(shapes.mean, pool=pool),
    })  # fmt: skip


_COMMON = frozenset({"Input", "Output", "Conv2d", "IF", "Flatten", "Affine"})
#: Everything as the network computes it, theta for each neuron, soft reset by primitives.
EXACT = Profile(
    "exact",
    _COMMON | {"Conv1d", "AvgPool2d", "Scale", "I", "Threshold"},
    scale,
    _ROWS | _pools(shapes.by_mean) | {"encode": neurons.soft},
)
#: What neuromorphic chips have: hard reset, one threshold for a layer, weights for all else.
HARDWARE = Profile(
    "hardware",
    _COMMON | {"SumPool2d"},
    scaled_layer,
    _ROWS | _pools(shapes.by_sum) | {"encode": neurons.hard},
)
#: By name.
PROFILES: FrozenMap[str, Profile] = FrozenMap({profile.name: profile for profile in (EXACT, HARDWARE)})


def check_primitives(profile: Profile, parts: tuple[Part, ...]) -> None:
    """Refuse parts that a profile has not.

    Raises:
        NotSaidError: with their kinds.
    """
    lacking = sorted({part.kind for part in parts} - profile.primitives)
    if lacking:
        raise NotSaidError(f"it needs {', '.join(lacking)}, which the {profile.name} profile has not", _OTHER)


_OTHER = 'write to_nir(snn, example, profile="exact")'
