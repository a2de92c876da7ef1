"""What chips can take, as far as it is published: frozen values, each with its sources.

A limit that is not here was not found in a public document, and is not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from snnpipe.checks import Check, valid
from snnpipe.frozen import EMPTY, FrozenMap, as_map
from snnpipe.kernels.codebook import UNIT
from snnpipe.options import FLAG, TEXT, WHOLE, instance, optional, several, whole

_SIZES = several(whole(0), "whole numbers")
_NAMES = several(TEXT, "names")


@attrs.frozen(kw_only=True)
class LayerLimits:
    """What one kind of layer of a chip can be; an empty tuple and ``None`` say nothing.

    Attributes:
        kernels, strides, paddings: the sizes there are, along each axis.
        square: whether a kernel has one size along both axes.
        bits: of its weights.
        inputs: the most inputs, of a convolution the most input channels.
        outputs: the most outputs, of a convolution the most output channels.
    """

    kernels: tuple[int, ...] = attrs.field(default=(), validator=valid(_SIZES))
    strides: tuple[int, ...] = attrs.field(default=(), validator=valid(_SIZES))
    paddings: tuple[int, ...] = attrs.field(default=(), validator=valid(_SIZES))
    square: bool = attrs.field(default=False, validator=valid(FLAG))
    bits: tuple[int, ...] = attrs.field(default=(), validator=valid(_SIZES))
    inputs: int | None = attrs.field(default=None, validator=valid(optional(WHOLE)))
    outputs: int | None = attrs.field(default=None, validator=valid(optional(WHOLE)))


@attrs.frozen
class Core:
    """What one core of a chip holds, a layer: so many words of weights, and so many potentials."""

    weights: int = attrs.field(validator=valid(WHOLE))
    neurons: int = attrs.field(validator=valid(WHOLE))


def _map_of(check: Check) -> Callable[[Any], Any]:
    def accept(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise TypeError
        return {TEXT.accept(key): check.accept(item) for key, item in value.items()}

    return accept


_LAYERS = Check("must be a dictionary of LayerLimits by kind of layer", _map_of(instance(LayerLimits, "")))
_POOLS = Check('must be a dictionary of sizes by op, such as {"avg_pool2d": (1, 2)}', _map_of(_SIZES))
_CORES = several(instance(Core, "must be a Core"), "Cores")


@attrs.frozen(kw_only=True)
class Target:
    """A chip; an empty value and ``None`` say nothing.

    Attributes:
        name: what it is called.
        sources: where its limits are published.
        layers: its kinds of layer: ``"first"`` (a convolution that reads the network's input), ``"convolution"``,
            ``"depthwise"``, ``"linear"``; a kind that it does not have is missing.
        pools: sizes of the windows of its pools, by op; they do not overlap.
        operators: what else may lie before a neuron, by op.
        units: the events its neurons can send (``"binary"``, ``"signed"``, ``"multi-level"``, ``"graded"``).
        one_threshold: whether all neurons of a layer have one threshold.
        one_layer: whether a neuron's current is what one layer gives, with nothing in between.
        readers: how many layers may read what a layer sends.
        cores: each takes one layer.
        input_size, map_size: the longest side of what a layer reads, and of what its neurons are arranged in.
        neurons, weights: how many there are in all.
        unchecked: what else is known of it, in words.
    """

    name: str = attrs.field(validator=valid(TEXT))
    sources: tuple[str, ...] = attrs.field(validator=valid(_NAMES))
    layers: FrozenMap[str, LayerLimits] = attrs.field(default=EMPTY, converter=as_map, validator=valid(_LAYERS))
    pools: FrozenMap[str, tuple[int, ...]] = attrs.field(default=EMPTY, converter=as_map, validator=valid(_POOLS))
    operators: tuple[str, ...] = attrs.field(default=(), validator=valid(_NAMES))
    units: tuple[str, ...] = attrs.field(default=(), validator=valid(several(UNIT, "units")))
    one_threshold: bool = attrs.field(default=False, validator=valid(FLAG))
    one_layer: bool = attrs.field(default=False, validator=valid(FLAG))
    readers: int | None = attrs.field(default=None, validator=valid(optional(WHOLE)))
    cores: tuple[Core, ...] = attrs.field(
        default=(), validator=valid(several(instance(Core, "must be a Core"), "Cores"))
    )
    input_size: int | None = attrs.field(default=None, validator=valid(optional(WHOLE)))
    map_size: int | None = attrs.field(default=None, validator=valid(optional(WHOLE)))
    neurons: int | None = attrs.field(default=None, validator=valid(optional(whole(most=2**40))))
    weights: int | None = attrs.field(default=None, validator=valid(optional(whole(most=2**40))))

    unchecked: tuple[str, ...] = attrs.field(default=(), validator=valid(_NAMES))

    def __str__(self) -> str:
        return self.name


_Ki = 1024
_SPECK_LAYER = LayerLimits(
    kernels=tuple(range(1, 17)), strides=(1, 2, 4, 8), paddings=tuple(range(8)), square=True, bits=(8,), inputs=1024,
    outputs=1024,
)  # fmt: skip

#: SynSense Speck 2e: 9 cores, each a convolution, integrate-and-fire neurons and a sum pool.  A linear layer is a
#: convolution as large as what it reads, one with groups a whole one with zeros.  The memories of the cores are those
#: in sinabs' code for the DYNAP-CNN, from which its code for Speck 2e takes them.
SPECK_2E = Target(
    name="Speck 2e",
    sources=(
        "https://synsense-sys-int.gitlab.io/samna/models/speckSeries/speck2e.html",
        "https://sinabs.readthedocs.io/en/develop/speck/overview.html",
        "https://github.com/synsense/sinabs docs/speck/faqs/available_network_arch.md",
        "https://github.com/synsense/sinabs docs/speck/faqs/available_algorithmic_operation.md",
        "https://github.com/synsense/sinabs sinabs/backend/dynapcnn/chips/dynapcnn.py, discretize.py",
    ),
    layers={"first": _SPECK_LAYER, "convolution": _SPECK_LAYER, "depthwise": _SPECK_LAYER,
            "grouped": _SPECK_LAYER, "linear": LayerLimits(bits=(8,), outputs=1024)},
    pools={"avg_pool2d": (1, 2, 4)},
    operators=("flatten", "add", "cat"),
    units=("binary",),
    one_threshold=True,
    one_layer=True,
    readers=2,
    cores=tuple(Core(w * _Ki, n * _Ki) for w, n in zip((16, 16, 16, 32, 32, 64, 64, 16, 16),
                                                      (64, 64, 64, 32, 32, 16, 16, 16, 16), strict=True)),
    input_size=128,
    map_size=64,
    unchecked=("biases, which a clock adds there, not a step", "potentials have 16 bits"),
)  # fmt: skip

#: BrainChip Akida 1.0, the AKD1000.
AKIDA_1 = Target(
    name="Akida 1.0",
    sources=("https://brainchip-inc.github.io/akida_examples_2.4.0-doc-1/user_guide/1.0_hw_constraints.html",),
    layers={
        "first": LayerLimits(kernels=(3, 5, 7), strides=(1, 2, 3), square=True, bits=(1, 2, 4, 8), inputs=3),
        "convolution": LayerLimits(kernels=(1, 3, 5, 7), strides=(1, 2), square=True, bits=(1, 2, 4)),
        "depthwise": LayerLimits(kernels=(3, 5, 7), strides=(1, 2), square=True, bits=(2, 4)),
        "linear": LayerLimits(bits=(1, 2, 4), inputs=57334),
    },
    pools={"max_pool2d": (1, 2)},
    operators=("flatten", "adaptive_avg_pool2d", "mean"),
    unchecked=('convolutions are padded as "same"', "the first layer has fewer filters the larger its kernel",
               "activations have 1, 2 or 4 bits"),
)  # fmt: skip

#: Intel Loihi 2.  Weights have 8 bits in lava-dl's layers; one that a convolution uses in many places is counted once.
LOIHI_2 = Target(
    name="Loihi 2",
    sources=(
        "https://open-neuromorphic.org/neuromorphic-computing/hardware/loihi-2-intel/",
        "https://lava-nc.org/lava-lib-dl/netx/utils.html",
    ),
    layers={kind: LayerLimits(bits=(8,)) for kind in ("first", "convolution", "depthwise", "grouped", "linear")},
    neurons=1_000_000,
    weights=120_000_000,
    unchecked=("what fits one of its 128 cores, which the compiler decides",),
)  # fmt: skip
