"""What conversion would do with a model, before any data is run."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import attrs
from torch import nn

from snnpipe.checks import takes
from snnpipe.errors import SiteWarning, StageError, TraceError, UnsupportedError
from snnpipe.graph import Node
from snnpipe.ops.lift import Case, Form, graded_units, place
from snnpipe.stages.fuse import fuse
from snnpipe.stages.instrument import instrument
from snnpipe.stages.replace import replace
from snnpipe.stages.thresholds import fixed
from snnpipe.stages.trace import MODEL, trace
from snnpipe.state import ConversionState


@attrs.frozen
class NodeVerdict:
    """What becomes of one operator.

    Attributes:
        path: what people call it.
        op: its row in the operator table.
        case: why it is carried as it is (``Case``).
        form: whether its value travels as events or decoded, or is static.
        unit: ``"binary"`` for a site of a neuron, ``"graded"`` for an operator between neurons that is not linear,
            ``"readout"`` for one after the last neuron, ``""`` for the others.
        where: ``file:line``.
    """

    path: str
    op: str
    case: Case
    form: Form
    unit: str
    where: str


@attrs.frozen
class Verdict:
    """The answer of ``check``: data, and readable with ``print``.

    Attributes:
        nodes: one verdict for each operator, in order.
        refusal: why the model cannot be converted, "" if it can.
        front_end: which front end followed the model.
        notes: what the stages would record, such as batch norms that stay.
    """

    nodes: tuple[NodeVerdict, ...]
    refusal: str
    front_end: str
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the model can be converted."""
        return not self.refusal

    @property
    def fully_spiking(self) -> bool:
        """Whether every unit between input and readout is a neuron."""
        units = {node.unit for node in self.nodes}
        return self.ok and "graded" not in units and "binary" in units

    @property
    def on_events(self) -> float:
        """The share of the operators between neurons that run on events."""
        fixed_or_neuron = (Case.STATIC, Case.NEURON)
        between = [node for node in self.nodes if node.case not in fixed_or_neuron and node.unit != "readout"]
        return sum(node.form is Form.EVENTS for node in between) / len(between) if between else 0.0

    def __str__(self) -> str:
        if self.refusal:
            return f"cannot be converted\n{self.refusal}"
        counts = Counter(node.case.value for node in self.nodes)
        graded = [node for node in self.nodes if node.unit == "graded"]
        width = max((len(node.path) for node in graded), default=0)
        lines = [
            f"can be converted (followed by {self.front_end})",
            f"operators: {', '.join(f'{n} {case}' for case, n in sorted(counts.items()))}",
            f"on events: {100 * self.on_events:.0f} % of the operators between neurons",
            "fully spiking" if self.fully_spiking else "not fully spiking",
        ]
        lines += [f"  graded  {node.path:{width}}  {node.op}  {node.where}".rstrip() for node in graded]
        return "\n".join([*lines, *(f"  note    {note}" for note in self.notes)])


@takes(StageError, model=MODEL)
def check(model: nn.Module, **options: Any) -> Verdict:
    """Say what conversion would do with a model, without data; the model is unchanged.

    Args:
        model: a trained network.
        **options: as for ``trace``.

    Returns:
        A ``Verdict``: for every operator its case, its form and its unit, or the refusal.

    >>> print(check(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 3),
    ...     nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))))
    can be converted (followed by torch.fx)
    operators: 1 general, 4 linear, 2 neuron, 1 static
    on events: 33 % of the operators between neurons
    not fully spiking
      graded  3  sigmoid
    """
    try:
        state = trace(model, **options)
    except (TraceError, UnsupportedError) as error:
        return Verdict((), str(error), "nothing")
    assert isinstance(state, ConversionState)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SiteWarning)  # the verdict says it
        state = replace(threshold=fixed(1.0))(instrument(fuse(state)))
    placed = place(state.graph, temporal_inputs=False)
    graded = {node.name for node in graded_units(state.graph, temporal_inputs=False)}
    before_neuron = state.graph.ancestors(node.name for node in state.graph if node.op == "encode")
    nodes = tuple(
        NodeVerdict(
            node.path,
            _op(node),
            placed[node.name].case,
            placed[node.name].form,
            _unit(node, graded, before_neuron),
            node.where,
        )
        for node in state.graph
        if node.op != "input"
    )
    notes = tuple(f"{e.subject} {e.action}: {e.detail}" for e in state.history if e.action == "not folded")
    return Verdict(nodes, "", _front_end(state), notes)


def _unit(node: Node, graded: set[str], before_neuron: set[str]) -> str:
    if node.op == "encode":
        return "binary"
    if node.name in graded:
        return "graded"
    return "" if node.name in before_neuron else "readout"


def _op(node: Node) -> str:
    target = node.get("target")
    return node.op if target is None else str(getattr(target, "__name__", type(target).__name__.lower()))


def _front_end(state: ConversionState) -> str:
    exported = any("export" in event.action for event in state.history if event.stage == "trace")
    return "torch.export" if exported else "torch.fx"
