"""The records and functions of this package that a file may name, by the names it has for them.

Names in files stay what they are when a class or function is moved or called otherwise here.  Knows the package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from snnpipe import codes, recipe, recipes
from snnpipe.errors import SnnpipeError
from snnpipe.frontend.attention_mask import additive_mask
from snnpipe.frozen import EMPTY, FrozenMap
from snnpipe.graph import Graph, Node, Traced
from snnpipe.kernels import (
    encoder,
    gaussian,
    histogram,
    levels,
    moments,
    moving,
    multilevel,
    neuron,
    optimal,
    repair,
    statistic,
    threshold,
)
from snnpipe.kernels.codebook import Codebook
from snnpipe.ops import functions
from snnpipe.rules import operands, sites
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stages import balance, correct, matching, tune
from snnpipe.state import ConversionState, Event, Levels, Site
from snnpipe.waves import Wave


@attrs.frozen
class Kind:
    """How a record is taken apart and made again.

    Attributes:
        cls: its class.
        fields: what it is made of, by name.
        make: makes it of these.
    """

    cls: type
    fields: Callable[[Any], dict[str, Any]]
    make: Callable[..., Any]


def fields_of(record: Any) -> dict[str, Any]:
    """The fields that make an attrs record."""
    made_of = (field for field in attrs.fields(type(record)) if field.init)
    return {field.alias: getattr(record, field.name) for field in made_of}


def _state(state: ConversionState) -> dict[str, Any]:
    if state.whole is not None:
        raise SnnpipeError(
            f"the state is of a part of a model ({state.whole.path}), and no file can say what the rest computes; save "
            "the network, save(to_snn(state), path), or the part alone, save(state.evolve(whole=None), path)"
        )
    fields = fields_of(state)
    del fields["whole"], fields["shared"]
    return fields


def _network(snn: SpikingNetwork) -> dict[str, Any]:
    _, (graph, params, code, history, training, budget) = snn.__reduce__()[:2]
    run = {"training": training, "budget": budget, "made": snn.made}
    run |= {"constants": snn.constants} if snn.constants else {}
    return {"graph": graph, "params": params, "code": code, "history": history} | run


def _as_network(
    training: bool, budget: int | None, made: tuple[str, ...] = (), constants: FrozenMap[str, Any] = EMPTY, **given: Any
) -> SpikingNetwork:
    snn = SpikingNetwork(**given).train(training)
    snn.__dict__.update(budget=budget, made=made, constants=constants)
    return snn


_RECORDS: dict[str, type] = {
    "Graph": Graph, "Node": Node, "Traced": Traced, "Site": Site, "Levels": Levels,
    "Event": Event, "Code": codes.Code, "Rate": codes._Rate, "LowPass": codes._LowPass, "Restarted": codes._Restarted,
    "Geometric": codes._Geometric, "Newest": codes._Newest, "Rest": codes._Rest, "Wave": Wave, "Neuron": neuron.Neuron,
    "Codebook": Codebook, "RepairedInit": repair._Init, "RepairedStep": repair._Step, "Threshold": threshold.Threshold,
    "Statistic": statistic.Statistic, "Extrema": statistic.Extrema, "Histogram": histogram.Histogram,
    "Moments": moments.Moments, "MovingAverage": moving.MovingAverage, "OfBatch": moving._OfBatch,
    "Recipe": recipe.Recipe, "Converted": recipe.Converted, "Always": recipe._Always, "With": recipe._With,
    "Part": recipe._Part, "Fades": recipe._Fades, "Fitted": recipe._Fitted, "OnCopies": functions.OnCopies,
    "WriteThrough": functions.WriteThrough,
}  # fmt: skip

#: The records by the names that files have for them.
KINDS: FrozenMap[str, Kind] = FrozenMap({
    **{name: Kind(cls, fields_of, cls) for name, cls in _RECORDS.items()},
    "State": Kind(ConversionState, _state, ConversionState),
    "Network": Kind(SpikingNetwork, _network, _as_network),
})  # fmt: skip

#: What each class is called.
KIND_NAMES: FrozenMap[type, str] = FrozenMap({kind.cls: name for name, kind in KINDS.items()})

#: The functions that nodes of a graph may call, beside torch's.
OPERATIONS: FrozenMap[str, Callable[..., Any]] = FrozenMap({
    fn.__name__: fn
    for fn in (
        functions.identity, functions.set_item, functions.filled_like, functions.einsum, functions.attribute,
        functions.field, functions.child_of, functions.call_method, additive_mask,
    )
})  # fmt: skip

_VALUES: tuple[Callable[..., Any], ...] = (
    # neurons
    neuron.nonzero, neuron.any_code, neuron._forgets, neuron.lif_step, multilevel._too_small, encoder.encode_init,
    encoder.encode, encoder.encode_chunk, encoder.encode_scan, encoder.wire_spikes, levels.reaches, levels.whole,
    levels.power_of_two, levels.one_spike, levels.unary, levels.binary_digits,
    # codes
    codes._one, codes._reciprocal, codes._before,
    # statistics and thresholds
    statistic.summarise_extrema, statistic.merge_extrema, histogram.summarise_histogram, histogram.merge_histogram,
    moments.summarise_moments, moments.summarise_signed_moments, moments.merge_moments, moving.merge_average,
    threshold.theta_maximum, threshold.theta_percentile, moving.theta_average, optimal.theta_mmse,
    optimal.theta_balanced, gaussian.theta_gaussian,
    # recipes
    matching.matching_levels, recipe.estimated, recipes._balanced, correct.correct_bias, correct.correct_potential,
    correct.correct_threshold, tune.correct_weights, balance.balance, operands.operand_site, sites.relu_site,
    sites.capped_site, sites.qcfs_site, sites.fake_quantize_site, sites.every_fake_quantize_site,
)  # fmt: skip

#: The functions that make records, and write into them what they were called with; recipes are ``recipes.NAME``.
MAKERS: FrozenMap[str, Callable[..., Any]] = FrozenMap({
    **{fn.__name__: fn for fn in (
        neuron.encoder, neuron.integrate_and_fire, neuron.leaky_integrate_and_fire, neuron.signed_memory,
        multilevel.burst, multilevel.group, multilevel.one_of_n, multilevel.cascade, multilevel.st_bif,
        multilevel.graded, repair.repaired, codes.geometric, codes.low_pass, codes.restarted, threshold.maximum,
        threshold.scaled, threshold.percentile, moving.ema, optimal.mmse, optimal.local_threshold_balancing,
        gaussian.threshold_iteration,
    )},
    **{f"recipes.{name}": fn for name, fn in recipes.RECIPES.items()},
})  # fmt: skip

#: All functions of this package by the names that files have for them.
FUNCTIONS: FrozenMap[str, Callable[..., Any]] = FrozenMap({
    **{fn.__name__.lstrip("_"): fn for fn in _VALUES},
    **MAKERS,
    **OPERATIONS,
})  # fmt: skip


def is_operation(value: Any) -> bool:
    """Whether it is a function that reads or calls what its arguments name, so that these must be looked at."""
    return value is getattr or any(value is operation for operation in OPERATIONS.values())


_FUNCTION_NAMES: dict[int, str] = {}
for _name, _fn in FUNCTIONS.items():
    _FUNCTION_NAMES.setdefault(id(_fn), _name)


def name_of(function: Any) -> str:
    """What a file calls a function of this package, ``""`` for any other."""
    return _FUNCTION_NAMES.get(id(function), "")
