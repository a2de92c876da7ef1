"""What a run costs in joules, on devices with stated constants, beside the ANN.  Data, and a table."""

from __future__ import annotations

import attrs

from snnpipe.analysis.costs import ACCOUNT, Account
from snnpipe.analysis.devices import DEVICE_VALUES, DEVICES, Device
from snnpipe.analysis.tables import aligned, short
from snnpipe.checks import takes
from snnpipe.errors import InputError
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table as tabled
from snnpipe.markup.tags import Markup, tag

#: Which price of a device an amount is multiplied by.
_KINDS = ("ac", "mac", "update")

#: Where operators stand.
PARTS = {"before": "before the first neuron", "between": "between neurons", "behind": "behind the last neuron"}

#: What no row of a bill holds.
LEFT_OUT = (
    "reading weights and events from memory, and where they lie",
    "the way of a spike to other neurons, and of the input to the device",
    "graded units, biases, additions of decoded values",
    "what a device takes while nothing happens, which grows with the time of a step",
)


@attrs.frozen
class Item:
    """So many operations of one kind, per sample and run.

    Attributes:
        name: what they are.
        kind: ``"ac"``, ``"mac"`` or ``"update"``, the price they have; ``""`` where nobody has one.
        amount: how many.
    """

    name: str
    kind: str
    amount: float

    def on(self, device: Device) -> float | None:
        """Joules on a device, ``None`` where a price is missing."""
        price = getattr(device, self.kind) if self.kind else None
        return 0.0 if not self.amount else None if price is None else self.amount * price * 1e-12


@attrs.frozen
class Bill:
    """The answer of ``energy``.

    Attributes:
        devices: where.
        spiking: the items of the spiking network, in the order of the table.
        ann: those of the ANN.
    """

    devices: tuple[Device, ...]
    spiking: tuple[Item, ...]
    ann: tuple[Item, ...]

    def joules(self, device: Device, *, ann: bool = False) -> float | None:
        """The sum on a device; ``None`` where one of its items has no price, but for graded units, which never have.

        An ANN has none on a device that cannot multiply.
        """
        if ann and device.mac is None:
            return None
        found = [item.on(device) for item in (self.ann if ann else self.spiking) if item.kind]
        return None if None in found else sum(amount for amount in found if amount is not None)

    def priced(self, device: Device) -> float:
        """The sum of what has a price: at least so much."""
        return sum(item.on(device) or 0.0 for item in self.spiking)

    def _repr_html_(self) -> str:
        return piece(*shown(self))

    def __str__(self) -> str:
        rows = table(self)
        lines = aligned(rows, left=1)
        at = 1 + len(self.spiking) + 1
        return "\n".join([*lines[:at], "", *lines[at:], "", *notes(self)])


def table(bill: Bill) -> list[tuple[str, ...]]:
    """The table, cell by cell, its head first: the spiking network and its sum, then the ANN and its sum."""
    rows = [("joules per sample and run, an estimate", "operations", *(device.name for device in bill.devices))]
    rows += [_row(item, bill.devices) for item in bill.spiking]
    rows.append(("spiking network", "", *(_sum(bill, device) for device in bill.devices)))
    rows += [_row(item, bill.devices, ann=True) for item in bill.ann]
    sums = [bill.joules(device, ann=True) for device in bill.devices]
    rows.append(("ANN", "", *("-" if amount is None else joules(amount) for amount in sums)))
    return rows


def shown(bill: Bill) -> list[Markup]:
    """The table as parts of a page."""
    sums = (len(bill.spiking), len(bill.spiking) + len(bill.ann) + 1)
    made = tabled(table(bill), label="energy on devices", strong=sums)
    return [made, *(tag("p", note, class_="note") for note in notes(bill))]


def notes(bill: Bill) -> list[str]:
    """What stands below the table: what is left out, and whose constants these are."""
    lines = ["published prices times counted operations; nobody measured this on a device"]
    lines.append("not in these numbers: " + "; ".join(LEFT_OUT))
    lines.append("?: no price is published, and the sum is at least what is there; -: the device is not for that")
    for device in bill.devices:
        prices = [(price, getattr(device, price)) for price in _KINDS]
        said = ", ".join(f"{name} {amount:g} pJ" for name, amount in prices if amount is not None)
        lines.append(f"{device.name}: {said}; {device.notes}. {'; '.join(device.sources)}".replace("; .", "."))
    return lines


def joules(amount: float) -> str:
    """An energy with its unit.

    >>> [joules(amount) for amount in (0.0, 2.5e-10, 1.234e-6)]
    ['0', '250 pJ', '1.234 µJ']
    """
    units = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"), (1e-12, "pJ"))
    size, unit = next(((size, unit) for size, unit in units if amount >= size), units[-1])
    return f"{amount / size:.4g} {unit}" if amount else "0"


def _row(item: Item, devices: tuple[Device, ...], ann: bool = False) -> tuple[str, ...]:
    return (f"  {item.name}", short(item.amount), *(_cell(item, device, ann) for device in devices))


def _cell(item: Item, device: Device, ann: bool) -> str:
    if ann and device.mac is None:
        return "-"
    found = item.on(device)
    return "?" if found is None else joules(found)


def _sum(bill: Bill, device: Device) -> str:
    whole = bill.joules(device)
    return f">= {joules(bill.priced(device))}" if whole is None or bill.spiking[-1].amount else joules(whole)


@takes(InputError, costs=ACCOUNT, devices=DEVICE_VALUES)
def energy(costs: Account, *, devices: tuple[Device, ...] = DEVICES) -> Bill:
    """What a run costs in joules per sample: each kind of operation by its price on each device, beside the ANN.

    Items are kept apart that are often left out: what happens before the first neuron, where an input is a current
    and every step or the first one multiplies; operators on floats between neurons and behind the last; the state, of
    which every number is read and written once in a step.  The ANN's activations are written and read once too.  Items
    without a price on a device have none, and the sum is then a bound from below; see ``Bill.priced``.

    Args:
        costs: what ``account`` counted.
        devices: whose prices; also values of your own, ``Device("mine", ac=1.0, mac=4.0, update=10.0)``.

    >>> import torch
    >>> from torch import nn
    >>> from snnpipe import CMOS_FLOAT32, LOIHI, account, fixed, pipe, replace, to_snn, trace
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn)
    >>> bill = energy(account(snn, torch.zeros(5, 2), T=8))
    >>> [(item.name, item.amount) for item in bill.spiking if item.kind == "mac"]
    [('before the first neuron, MAC', 6.0), ('between neurons, MAC', 0.0), ('behind the last neuron, MAC', 4.0)]
    >>> bill.joules(LOIHI), joules(bill.joules(CMOS_FLOAT32, ann=True))  # 22 x 4.6 + 7 x 10
    (None, '171.2 pJ')
    """
    spiking = [
        Item(f"{where}, {kind.upper()}", kind, sum(getattr(o, kind) for o in costs.operators if o.part == part))
        for part, where in PARTS.items() for kind in ("ac", "mac")
    ]  # fmt: skip
    spiking.append(Item("state, numbers x steps", "update", costs.updates))
    spiking.append(Item("graded units, elements", "", costs.graded))
    ann = (Item("MAC of the ANN", "mac", costs.ann), Item("activations of the ANN", "update", costs.neurons))
    return Bill(tuple(devices), tuple(spiking), ann)
