"""A conversion in a few lines, and the same for programs."""

from __future__ import annotations

from typing import Any

from torch.export import ExportedProgram

from snnpipe.analysis.check import check
from snnpipe.analysis.report import unit_lines
from snnpipe.commands.command import Answer
from snnpipe.recipe import Converted
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.state import ConversionState
from snnpipe.text import shown


def described(thing: Any) -> Answer:
    """What a network, a state, a recipe's answer or a program is."""
    if isinstance(thing, Converted):
        return _converted(thing)
    if isinstance(thing, ExportedProgram):
        return _program(thing)
    if not isinstance(thing, SpikingNetwork | ConversionState):
        return Answer(f"a model: {shown(thing)}", {"kind": "model", "class": type(thing).__name__})
    kind = "network" if isinstance(thing, SpikingNetwork) else "state"
    tensors = thing.state_dict() if isinstance(thing, SpikingNetwork) else thing.params
    numbers, dtypes = sum(t.numel() for t in tensors.values()), sorted({str(t.dtype)[6:] for t in tensors.values()})
    made = " | ".join(thing.made)
    inputs = [node["name"] for node in thing.graph.inputs]
    units = unit_lines(thing)
    code = f"under {thing.code}" if thing.code else "not carried to a code"
    lines = [
        f"a {kind} {code}: {len(thing.graph.nodes)} operators, {numbers} numbers ({', '.join(dtypes) or 'none'}), "
        f"inputs {', '.join(inputs)}",
        *[f"pipeline: {made}"] * bool(made),
        *units,
    ]
    data: dict[str, Any] = {
        "kind": kind, "code": str(thing.code) if thing.code else None, "pipeline": made, "inputs": inputs,
        "operators": len(thing.graph.nodes), "numbers": numbers, "dtypes": dtypes, "units": units,
    }  # fmt: skip
    if isinstance(thing, SpikingNetwork):
        neurons = {name: neuron.extra_repr() for name, neuron in thing.neurons().items()}
        lines += [f"  {name}: {words}" for name, words in neurons.items()]
        data |= {"neurons": neurons, "fully_spiking": check(thing).fully_spiking}
    else:
        data["sites"] = [site.name for site in thing.sites.values()]
        data["measured"] = len(thing.statistics)
        lines += [f"sites measured: {len(thing.statistics)} of {len(thing.sites)}"] * bool(thing.sites)
    return Answer("\n".join(lines), data)


def _converted(thing: Converted) -> Answer:
    inner = described(thing.snn)
    head = f"by {thing.recipe!r} for T = {thing.T}: {thing.steps} steps, the answer after {thing.latency}"
    said = {"recipe": repr(thing.recipe), "T": thing.T, "steps": thing.steps, "latency": thing.latency}
    return Answer(f"{head}\n{inner.text}", {**inner.data, **said, "kind": "recipe's answer", "delay": thing.delay})


def _program(program: ExportedProgram) -> Answer:
    nodes = {node.name: node for node in program.graph.nodes}
    inputs = {name: _kind(nodes[name].meta.get("val")) for name in program.graph_signature.user_inputs
              if isinstance(name, str)}  # fmt: skip
    count = sum(node.op == "call_function" for node in program.graph.nodes)
    listed = ", ".join(f"{name} {kind}" for name, kind in inputs.items())
    return Answer(f"a program of {count} operators, inputs: {listed}",
                  {"kind": "program", "operators": count, "inputs": inputs})  # fmt: skip


def _kind(value: Any) -> str:
    if not hasattr(value, "shape"):
        return shown(value)
    return f"{str(value.dtype)[6:]} ({', '.join(map(str, value.shape))})"
