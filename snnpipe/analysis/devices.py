"""Devices by what their operations cost, each with its source.

What is not published is ``None``, and no number stands for it.
"""

from __future__ import annotations

import math

import attrs

from snnpipe.checks import valid
from snnpipe.errors import SnnpipeError
from snnpipe.options import TEXT, instance, number, optional, several

_PRICE = optional(number("must be a number of picojoules, at least 0", lambda value: 0 <= value < math.inf))


@attrs.frozen
class Device:
    """What operations cost on a device, in picojoules.

    Attributes:
        name: what tables call it.
        ac: adding a weight for one spike; on a chip, a synaptic operation.
        mac: multiplying a number by a weight and adding it; ``None`` where it cannot, or nothing is published.
        update: reading and writing a number that is kept from step to step; on a chip, updating a neuron.
        sources: documents that say so.
        notes: how these numbers came about, and what they leave out.
    """

    name: str = attrs.field(validator=valid(TEXT))
    ac: float | None = attrs.field(validator=valid(_PRICE))
    mac: float | None = attrs.field(validator=valid(_PRICE))
    update: float | None = attrs.field(validator=valid(_PRICE))
    sources: tuple[str, ...] = attrs.field(default=(), validator=valid(several(TEXT, "texts")))
    notes: str = attrs.field(default="", validator=valid(TEXT))

    def __attrs_post_init__(self) -> None:
        if self.ac is None and self.mac is None:
            raise SnnpipeError(f"Device: {self.name} has neither the price of an addition, ac, nor of a MAC, mac")

    def __str__(self) -> str:
        return self.name


_HOROWITZ = "Horowitz 2014, Computing's energy problem (and what we can do about it), ISSCC"

#: 45 nm CMOS, numbers of 32 bits: an addition 0.9, a multiplication 3.7, a 32-bit access to 8 KB of SRAM 5 pJ.
CMOS_FLOAT32 = Device(
    "45 nm, float32", 0.9, 0.9 + 3.7, 2 * 5.0, (_HOROWITZ,),
    "circuits alone; a state is one read and one write of 32 bits in 8 KB of SRAM, ten times that in 1 MB",
)  # fmt: skip

#: 45 nm CMOS, weights of 8 bits and sums of 32: an addition 0.1, a multiplication 0.2 pJ.
CMOS_INT8 = Device(
    "45 nm, int8", 0.1, 0.1 + 0.2, 2 * 5.0, (_HOROWITZ,),
    "circuits alone; sums have 32 bits, weights and events 8; state as for float32",
)  # fmt: skip

#: Intel's Loihi, 14 nm.
LOIHI = Device(
    "Loihi", 23.6, None, 81.0,
    ("Davies et al. 2018, Loihi: a neuromorphic manycore processor with on-chip learning, IEEE Micro, table 2",),
    "simulated before there was silicon; an update is one of an active neuron, taken for each number kept, so a neuron "
    "with two counts twice; without what a spike costs on its way",
)  # fmt: skip

#: IBM's TrueNorth, 28 nm.
TRUENORTH = Device(
    "TrueNorth", 26.0, None, None,
    ("Merolla et al. 2014, A million spiking-neuron integrated circuit with a scalable communication network and "
     "interface, Science",),
    "the power of the whole chip, idle parts and neurons too, by its synaptic events at 20 Hz and 128 synapses; its "
    "makers also have 2.5 pJ at high activity (Akopyan et al. 2015)",
)  # fmt: skip

#: SpiNNaker 2, 22 nm.
SPINNAKER_2 = Device(
    "SpiNNaker 2", 10.0, None, None,
    ("Höppner et al. 2021, The SpiNNaker 2 processing element architecture for hybrid digital neuromorphic computing, "
     "arXiv:2103.08392; as listed by Tang et al. 2023, SENECA, Frontiers in Neuroscience, table 3",),
    "a synaptic operation, which varies with the application; its MAC arrays are not priced here",
)  # fmt: skip

#: All of them.
DEVICES = (CMOS_FLOAT32, CMOS_INT8, LOIHI, TRUENORTH, SPINNAKER_2)

#: For arguments that are devices.
DEVICE_VALUES = several(instance(Device, "must be a Device", "write LOIHI"), "devices, such as LOIHI")
