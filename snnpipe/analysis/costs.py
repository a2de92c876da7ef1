"""What a run costs, as data and as a table."""

from __future__ import annotations

import attrs

from snnpipe.analysis.tables import aligned, short
from snnpipe.frozen import FrozenMap
from snnpipe.markup.style import piece
from snnpipe.markup.tables import table
from snnpipe.markup.tags import Markup, tag
from snnpipe.options import instance


@attrs.frozen
class Layer:
    """A layer of neurons, per sample and run.

    Attributes:
        name: as in ``snn.neurons()``.
        neuron, unit, alphabet: what it is, what kind of event it sends, and its events in words.
        wires, bits: the lines its events travel on in parallel, and the bits one line carries in a step: 1 for a
            spike, 2 with a sign, more for a burst or a number.
        neurons: how many.
        events: spikes on all wires, as ``spike_counts`` counts them; an event that carries a number counts once.
        state: floats they remember from step to step.
    """

    name: str
    neuron: str
    unit: str
    alphabet: str
    wires: int
    bits: int
    neurons: int
    events: float
    state: float

    @property
    def per_neuron(self) -> float:
        """Events per neuron."""
        return self.events / self.neurons


@attrs.frozen
class Operator:
    """An operator of the network, per sample and run.

    Attributes:
        name, op: where it stands, and its row in the operator table.
        runs: how often it is computed in the run: 1 where it sees a constant input or the decoded output, else T.
        on_events: whether it runs on events, and not on decoded values or a constant input.
        ac: additions of a weight, or of a number.
        mac: multiplications of a float by a weight or another float.
        graded: elements that it handles as a nonlinear operator on floats.
        ann: multiplications of the same operator in the ANN.
        unseen: a module kept whole that has weights, but whose multiplications cannot be seen from outside.
        part: ``"before"`` the first neuron, ``"between"`` neurons, or ``"behind"`` the last; before, if there are none.
    """

    name: str
    op: str
    runs: int
    on_events: bool
    ac: float
    mac: float
    graded: float
    ann: float
    unseen: bool = False
    part: str = "between"


@attrs.frozen
class Account:
    """What a run of T steps costs, per sample: the mean over the batch.  Printed, a table.

    Attributes:
        T, code, encoding, schedule, batch: what was run.
        layers: the neurons, layer by layer.
        operators: the operators that cost anything.
        state: floats carried from step to step by ``"neurons"``, ``"accumulators"`` and ``"differences"``.  Each is
            updated once per step; these updates are counted here and nowhere else.
    """

    T: int
    code: str
    encoding: str
    schedule: str
    batch: int
    layers: tuple[Layer, ...]
    operators: tuple[Operator, ...]
    state: FrozenMap[str, float]

    @property
    def neurons(self) -> int:
        return sum(layer.neurons for layer in self.layers)

    @property
    def events(self) -> float:
        return sum(layer.events for layer in self.layers)

    @property
    def per_neuron(self) -> float:
        """Events per neuron, 0 without neurons."""
        return self.events / max(self.neurons, 1)

    @property
    def sop(self) -> float:
        """Synaptic operations: events x fan-out, additions for spikes and multiplications for numbers."""
        return sum(operator.ac + operator.mac * operator.on_events for operator in self.operators)

    @property
    def ac(self) -> float:
        """Accumulates: a spike that is added to what it reaches, once for each wire and target."""
        return sum(operator.ac for operator in self.operators)

    @property
    def mac(self) -> float:
        """Multiply-accumulates that are left: operators on floats, wherever the floats come from."""
        return sum(operator.mac for operator in self.operators)

    @property
    def graded(self) -> float:
        """Elements that nonlinear operators on floats handle, over all steps."""
        return sum(operator.graded for operator in self.operators)

    @property
    def ann(self) -> float:
        """Multiply-accumulates of the ANN on one sample."""
        return sum(operator.ann for operator in self.operators)

    @property
    def updates(self) -> float:
        """Updates of state: every number that is carried, once in a step."""
        return self.T * sum(self.state.values())

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def _repr_html_(self) -> str:
        return piece(*shown(self))


_HEAD = ("layer", "an event is one of", "wires x bits", "neurons", "events", "per neuron", "state floats")


def head(account: Account) -> str:
    """What was run, in words."""
    return (
        f"{account.T} step{_s(account.T)} under {account.code}, {account.encoding} input"
        f"{f', schedule {account.schedule}' * (account.schedule != 'step')}; "
        f"per sample and run, mean of {account.batch} sample{_s(account.batch)}"
    )


def layers(account: Account) -> list[tuple[str, ...]]:
    """The neurons layer by layer, cell by cell, their head first and their sum last; empty without neurons."""
    rows = [
        (n.name, n.alphabet or n.unit, f"{n.wires} x {n.bits}",
         *map(short, (n.neurons, n.events, n.per_neuron, n.state)))
        for n in account.layers
    ]  # fmt: skip
    whole = (account.neurons, account.events, account.per_neuron, account.state["neurons"])
    return [_HEAD, *rows, ("all", "", "", *map(short, whole))] if rows else []


def operations(account: Account) -> list[tuple[str, ...]]:
    """The operations beside those of the ANN, cell by cell, their head first."""
    return [
        ("operations", "this run", "ANN", ""),
        ("additions (AC)", short(account.ac), "", _where(account, "ac")),
        ("multiplications (MAC)", short(account.mac), short(account.ann), _where(account, "mac")),
        ("synaptic, of both (SOP)", short(account.sop), "", "events x fan-out"),
        ("graded units, elements", short(account.graded), "", _where(account, "graded")),
        ("updates of state", short(account.updates), "", "floats of state x steps"),
    ]


def notes(account: Account) -> list[str]:
    """What stands below the tables."""
    state = ", ".join(f"{short(floats)} in {where}" for where, floats in account.state.items())
    return [f"floats of state: {state}", *_warnings(account)]


def shown(account: Account) -> list[Markup]:
    """The tables as parts of a page."""
    rows = layers(account)
    count = len(rows) - 2
    parts = [tag("p", head(account))]
    parts.append(table(rows, label="neurons", left=2, strong=(count,)) if rows else tag("p", "no neurons"))
    parts.append(table(operations(account), label="operations", words=1))
    return parts + [tag("p", note, class_="note") for note in notes(account)]


def _lines(account: Account) -> list[str]:
    rows = layers(account)
    return [
        head(account), "", *aligned(rows or [("no neurons",)], left=2), "",
        *aligned(operations(account), left=1, right=1), "", *notes(account),
    ]  # fmt: skip


def _s(count: int) -> str:
    return "s" * (count != 1)


def _where(account: Account, kind: str) -> str:
    """The operators with most of the operations of this kind, and how often they run."""
    found = sorted((o for o in account.operators if getattr(o, kind)), key=lambda o: -getattr(o, kind))
    named = [f"{o.name} ({o.op}, {'once' if o.runs == 1 else f'x {o.runs}'}) {short(getattr(o, kind))}" for o in found]
    return "; ".join(named[:3] + [f"{len(found) - 3} more"] * (len(found) > 3))


def _warnings(account: Account) -> list[str]:
    notes = ["energy: print(energy(account(...))) has the joules of these on named devices, and what they leave out"]
    if any(layer.unit == "multi-level" for layer in account.layers):
        notes.append("multi-level events: an AC is a shift and an addition where levels are powers of two")
    unseen = [operator.name for operator in account.operators if operator.unseen]
    return notes + [f"MACs not seen inside {', '.join(unseen)}: a module kept whole"] * bool(unseen)


#: For arguments that are accounts.
ACCOUNT = instance(Account, "must be an Account", "write account(snn, x, T=...)")
