"""Every public function with wrong values: a result or a ``SnnpipeError`` comes out, soon and without a warning.

A row of ``CALLS`` is a call that works; junk takes the place of one or two of its arguments.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import snnpipe
from snnpipe import (
    RATE,
    TD,
    Code,
    Codebook,
    ConversionState,
    Encoding,
    Neuron,
    SnnpipeError,
    SpikeCount,
    SpikingNetwork,
    Statistic,
    Sweep,
    Threshold,
    calibrate,
    correct_bias,
    fuse,
    instrument,
    integrate_and_fire,
    maximum,
    pipe,
    recipes,
    replace,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.kernels.levels import whole
from snnpipe.recipe import Recipe, always
from snnpipe.rules.sites import SITE_RULES
from tests.language_models import causal

# a few samples do here
pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")

OWN_WARNINGS = [kind for kind in vars(snnpipe.errors).values() if isinstance(kind, type) and issubclass(kind, Warning)]
FOLDER = Path(tempfile.mkdtemp())


@cache
def things() -> SimpleNamespace:
    """What valid calls are made of."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = torch.randn(6, 4)
    traced = trace(model)
    measured = pipe(traced, fuse, calibrate([x]))
    snn = to_snn(measured)
    path = FOLDER / "statistics.pt"
    snnpipe.save_statistics(measured, path)
    saved = FOLDER / "conversion"
    snnpipe.save(snn, saved)
    labelled = [(x, model(x).argmax(1))]
    return SimpleNamespace(
        model=model, x=x, traced=traced, measured=measured, spiking=replace(measured), snn=snn, path=path, saved=saved,
        state=snn.init(x), counts=snnpipe.spike_counts(snn, x, T=2), data=labelled,
        swept=snnpipe.sweep(model, ["opi"], batches=[x], data=labelled, T=(1,)), made=recipes.opi()(model, [x], T=2),
        evaluated=snnpipe.evaluate(snn, labelled, T=2, ann=model), costs=snnpipe.account(snn, x, T=2),
        program=torch.export.export(nn.Linear(2, 2), (x[:, :2],)),
    )  # fmt: skip


def text() -> torch.Tensor:
    return torch.tensor([[3, 5, 7]])


@cache
def decoder() -> SpikingNetwork:
    return pipe(snnpipe.trace_decoder(causal(depth=1), example=text()), snnpipe.td_rewrite, to_snn)


def likeliest(logits: Any) -> Any:
    return logits.argmax(-1)


def half(theta: Any) -> Any:
    return 0.5 * theta


def fire(v: Any, z: Any, theta: Any, clock: Any) -> Any:
    s = (v + z >= theta) * theta
    return v + z - s, s


def one(t: int) -> float:
    return 1.0


def same(value: Any) -> Any:
    return value


def first_scores(output: Any, labels: Any) -> Any:
    return output[:, 0]


def second(batch: Any) -> Any:
    return batch[1] if isinstance(batch, tuple) else batch


def called_on_first(model: Any, batch: Any) -> Any:  # what a function of the user's own raises is the user's own
    return model(batch[0] if isinstance(batch, tuple) else batch)


def site_has_no_cap(site: Any) -> bool:
    return site.cap is None


def selected_by(selector: Any) -> Any:
    return snnpipe.report(things().snn, only=selector)


def edited(gm: Any) -> None:
    return None


#: name -> (function, arguments of a call that works); ``*`` stands for the arguments by position
CALLS: dict[str, Callable[[], tuple[Callable[..., Any], dict[str, Any]]]] = {}


def call(name: str, fn: Callable[..., Any], /, **given: Any) -> None:
    """Write a row; a lambda stands for what it returns."""
    CALLS[name] = lambda: (fn, {key: value() if _is_lambda(value) else value for key, value in given.items()})


def _is_lambda(value: Any) -> bool:
    return getattr(value, "__name__", "") == "<lambda>"


def on_state(stage: Callable[..., Any], state: str) -> Callable[..., Any]:
    """A stage, configured and applied."""
    def applied(**options: Any) -> Any:
        return stage(**options)(getattr(things(), state))
    return applied


def listed(stage: Callable[..., Any]) -> Callable[..., Any]:
    return lambda **options: list(stage(**options))


def method(owner: Callable[[], Any], name: str) -> Callable[..., Any]:
    def called(*args: Any, **options: Any) -> Any:
        return getattr(owner(), name)(*args, **options)
    return called


def neuron(make: Callable[..., Any], code: Code = RATE) -> Callable[..., Any]:
    """A neuron, and that it runs."""
    def used(**options: Any) -> Any:
        made = make(**options)
        snn = pipe(things().measured, replace(neuron=made), snnpipe.td_rewrite(code=code), to_snn)
        assert snn(things().x, T=3).isfinite().all()
        return made
    return used


def threshold(make: Callable[..., Any]) -> Callable[..., Any]:
    """A threshold rule, and that a network with its thresholds runs."""
    def used(**options: Any) -> Any:
        made = make(**options)
        state = things().measured if made.statistic == things().measured.threshold.statistic else None
        measure = pipe(things().traced, instrument(statistic=made), calibrate([things().x])) if state is None else state
        snn = pipe(measure, replace(threshold=made), to_snn)
        assert snn(things().x, T=3).isfinite().all()
        return made
    return used


def code(make: Callable[..., Any]) -> Callable[..., Any]:
    """A code, and that it decodes to the ANN in a few steps."""
    def used(**options: Any) -> Any:
        made = make(**options)
        net = pipe(things().traced, snnpipe.td_rewrite(code=made), to_snn)
        assert torch.allclose(net(things().x, T=3), things().model(things().x), rtol=1e-3, atol=1e-4)
        return made
    return used


def where_nir_is(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A call that needs the package nir; where that is missing it says so, which is an answer."""
    def called(**options: Any) -> Any:
        try:
            return fn(**options)
        except SnnpipeError as error:
            if "need the package nir" in str(error):
                return error
            raise
    return called


def nir_graph() -> Any:
    """Something like a ``nir.NIRGraph``: an input that is put out."""
    nodes = {name: type(name, (), {})() for name in ("Input", "Output")}
    return type("NIRGraph", (), {"nodes": nodes, "edges": [("Input", "Output")]})()


def constructed(kind: Any) -> Callable[..., Any]:
    return lambda **options: kind(**options)


# stages
call("pipe", lambda value, stage: pipe(value, stage), value=lambda: things().model, stage=trace)
call("pipeline", lambda first, second: snnpipe.pipeline(first, second)(things().model), first=trace, second=fuse)
call("parse", snnpipe.parse, text="trace | calibrate(99.9%)", data=lambda: [things().x], own=lambda: {})
call("trace", trace, model=lambda: things().model, inputs=("input",), constants=lambda: {}, leaves=(nn.Linear,),
     unsafe_share=False)  # fmt: skip
call("trace exported", trace, model=lambda: things().model, example=lambda: things().x, constants=lambda: {})
call("trace of a part", lambda part: calibrate([things().x])(trace(part=part)(things().model)), part="2")
call("trace_decoder", snnpipe.trace_decoder, model=lambda: causal(depth=1), example=lambda: text(), memory=None,
     memory_mask=None, unsafe_share=False)  # fmt: skip
call("prompt", snnpipe.prompt, network=lambda: decoder(), input_ids=lambda: text(), attention_mask=None, memory=None,
     memory_mask=None)  # fmt: skip
call("generate", snnpipe.generate, network=lambda: decoder(), input_ids=lambda: text(), tokens=1, T=1,
     attention_mask=None, memory=None, memory_mask=None, choose=likeliest, end=3, schedule="step",
     delay=0)  # fmt: skip
call("perplexity", snnpipe.perplexity, network=lambda: decoder(), texts=lambda: [text()], T=1, schedule="step",
     delay=0)  # fmt: skip
call("embed", snnpipe.embed, model=lambda: nn.Sequential(things().model), parts=lambda: {"0": things().snn}, T=2,
     schedule="step", delay=0, encoding=snnpipe.constant())  # fmt: skip
call("fuse", on_state(fuse, "traced"), rules=snnpipe.FUSE_RULES)
call("instrument", on_state(instrument, "traced"), rules=SITE_RULES, statistic=maximum())
call("calibrate", on_state(calibrate, "traced"), batches=lambda: [things().x], forward=None, mask=None, max_batches=2,
     progress=False, device="cpu", checkpoint=None, group=...)  # fmt: skip
call("checkpoint", lambda path, every: calibrate([things().x], checkpoint=snnpipe.checkpoint(path, every=every))(
    things().traced), path=lambda: FOLDER / "kept", every=2)  # fmt: skip
call("replace", on_state(replace, "measured"), neuron=integrate_and_fire(), threshold=maximum(), rules=(),
     keep=None)  # fmt: skip
call("td_rewrite", on_state(snnpipe.td_rewrite, "measured"), code=TD)
for correct in (correct_bias, snnpipe.correct_potential, snnpipe.correct_threshold):
    call(correct.__name__, on_state(correct, "spiking"), batches=lambda: [things().x], T=2, per="channel", code=RATE,
         schedule=snnpipe.wave(2), max_batches=1, budget=2**20, device="cpu", group=...)  # fmt: skip
call("correct_weights", on_state(snnpipe.correct_weights, "spiking"), batches=lambda: [things().x], T=2, code=RATE,
     schedule="step", epochs=1, lr=0.01, batch_size=3, max_batches=1, progress=False, group=...)  # fmt: skip
call("balance", on_state(snnpipe.balance, "spiking"), batches=lambda: [things().x], T=2, per="layer", code=RATE,
     max_batches=1, budget=2**20, device="cpu", group=...)  # fmt: skip
call("quantise_weights", on_state(snnpipe.quantise_weights, "traced"), bits=8, per="channel")
call("roundings", snnpipe.roundings, state=lambda: things().traced, bits=8, per="layer")
call("absorb", lambda state: snnpipe.absorb(state), state=lambda: things().spiking)
call("to_snn", on_state(to_snn, "measured"), unsafe_share=False)
for stage in (fuse, instrument, replace, snnpipe.td_rewrite, to_snn, snnpipe.to_module):
    call(f"{stage.__name__} of", lambda state, stage=stage: stage(state), state=lambda: things().measured)
call("merge_statistics", lambda other, state: snnpipe.merge_statistics(other)(state), other=lambda: things().measured,
     state=lambda: things().measured)  # fmt: skip
call("save_statistics", snnpipe.save_statistics, state=lambda: things().measured, path=lambda: FOLDER / "other.pt")
call("to_nir", where_nir_is(snnpipe.to_nir), snn=lambda: things().snn, example=lambda: things().x, profile="exact",
     dt=1.0)  # fmt: skip
call("from_nir", snnpipe.from_nir, graph=lambda: nir_graph(), dt=1.0)
call("save", snnpipe.save, thing=lambda: things().measured, path=lambda: FOLDER / "saved")
call("load", snnpipe.load, path=lambda: things().saved, own=lambda: {})
call("load_statistics", lambda path, state: snnpipe.load_statistics(path)(state), path=lambda: things().path,
     state=lambda: things().traced)  # fmt: skip

# records
call("digest", snnpipe.digest, state=lambda: things().measured)
call("state_equal", snnpipe.state_equal, a=lambda: things().measured, b=lambda: things().traced)
call("evolve", method(lambda: things().measured, "evolve"), graph=lambda: things().measured.graph,
     params=lambda: things().measured.params, sites=lambda: things().measured.sites, code=None)  # fmt: skip
call("evolve with events", lambda event: things().measured.evolve(event), event=snnpipe.Event("a", "b", "c"))
call("edit", method(lambda: things().traced, "edit"), fn=edited)
call("snn", lambda x, **options: things().snn(x, **options), x=lambda: things().x, T=2, encoding=snnpipe.constant(),
     readout="last", schedule="step", delay=0, until=None)  # fmt: skip
call("stream", listed(snnpipe.stream), snn=lambda: things().snn, inputs=lambda: [things().x], state=None)
call("frames", listed(snnpipe.frames), events=lambda: [(0, 1, 0, 1), (7, 0, 0, 0)], window=2.0, height=2, width=2,
     polarities=2)  # fmt: skip
call("confident", lambda **options: things().snn(things().x, T=3, until=snnpipe.confident(**options)), probability=0.5,
     steady=1)  # fmt: skip
call("iterate", lambda x, **options: list(things().snn.iterate(x, **options)), x=lambda: things().x, T=2,
     encoding=snnpipe.constant(), delay=0)  # fmt: skip
call("init", method(lambda: things().snn, "init"), input=lambda: things().x)
call("step", lambda state, x: things().snn.step(state, x), state=lambda: things().state, x=lambda: things().x)
call("sequence", method(lambda: things().snn, "sequence"), input=lambda: things().x[None])
call("SpikingNetwork", constructed(SpikingNetwork), graph=lambda: things().snn.graph,
     params=lambda: things().snn.state_dict(), code=RATE)  # fmt: skip
call("check", snnpipe.check, model=lambda: things().model, target=snnpipe.SPECK_2E, inputs=("input",), leaves=())
call("check of a state", snnpipe.check, model=lambda: things().spiking, target=snnpipe.AKIDA_1)
call("Target", snnpipe.Target, name="mine", sources=("a page",), layers={}, pools={}, operators=("add",),
     units=("binary",), one_threshold=True, one_layer=False, readers=2, cores=(snnpipe.Core(1, 1),), input_size=1,
     map_size=1, neurons=1, weights=1, unchecked=())  # fmt: skip
call("LayerLimits", snnpipe.LayerLimits, kernels=(1,), strides=(1,), paddings=(0,), square=True, bits=(8,), inputs=1,
     outputs=1)  # fmt: skip
call("Core", snnpipe.Core, weights=1, neurons=1)
call("report", snnpipe.report, subject=lambda: things().snn, html=lambda: FOLDER / "page.html", explanation=None,
     evaluation=lambda: things().evaluated, account=lambda: things().costs, only=snnpipe.at("2"))  # fmt: skip
call("at", lambda first, second: selected_by(snnpipe.at(first, second)), first="2", second="*")
call("of_op", lambda op: selected_by(snnpipe.of_op(op)), op="relu")
call("such_that", lambda predicate: selected_by(snnpipe.such_that(predicate)), predicate=site_has_no_cap)
call("Selector", constructed(snnpipe.Selector), word="at", terms=("2",))
call("use", lambda choice: replace(rules=(snnpipe.at("2").use(choice),))(things().measured), choice=maximum())
call("wires", snnpipe.wires, subject=lambda: things().snn)
call("spike_counts", lambda snn, x, **options: snnpipe.spike_counts(snn, x, **options), snn=lambda: things().snn,
     x=lambda: things().x, T=2, encoding=snnpipe.constant())  # fmt: skip
call("spikes_per_neuron", snnpipe.spikes_per_neuron, counts=lambda: things().counts)
call("SpikeCount", constructed(SpikeCount), per_step=lambda: torch.ones(2), size=3, wires=1)
call("account", lambda snn, x, **options: snnpipe.account(snn, x, **options), snn=lambda: things().snn,
     x=lambda: things().x, T=2, encoding=snnpipe.constant(), schedule="step")  # fmt: skip
call("energy", snnpipe.energy, costs=lambda: things().costs,
     devices=(snnpipe.LOIHI,))  # fmt: skip
call("Device", constructed(snnpipe.Device), name="mine", ac=1.0, mac=2.0, update=3.0, sources=("a page",), notes="")
call("latency", snnpipe.latency, snn=lambda: things().snn, T=3, schedule="layer")
call("to_exported", snnpipe.to_exported, snn=lambda: things().snn, example=lambda: things().x, T=2, schedule="step")
call("to_exported_step", snnpipe.to_exported_step, snn=lambda: things().snn, example=lambda: things().x)
call("to_onnx", snnpipe.to_onnx, program=lambda: things().program, path=lambda: FOLDER / "x.onnx")
call("readout_delay", lambda snn, x, **options: snnpipe.readout_delay(snn, x, **options), snn=lambda: things().snn,
     x=lambda: things().x, T=8)  # fmt: skip
call("sweep", snnpipe.sweep, model=lambda: things().model, recipes=lambda: ["opi"], batches=lambda: [things().x],
     data=lambda: things().data, T=(1,), networks=lambda: {"mine": things().snn}, progress=False,
     group=...)  # fmt: skip
call("evaluate", snnpipe.evaluate, snn=lambda: things().snn, loader=lambda: things().data, T=2,
     ann=lambda: things().model, top=1, metric=first_scores, labels=second, forward=called_on_first,
     encoding=snnpipe.constant(), schedule="step", delay=0, until=snnpipe.confident(0.9), confidence=0.9, max_batches=1,
     progress=False, group=...)  # fmt: skip
call("Evaluation.plot", method(lambda: things().evaluated, "plot"), path=lambda: FOLDER / "figure.png")
call("explain", snnpipe.explain, model=lambda: things().model, snn=lambda: things().snn, batches=lambda: [things().x],
     T=2, schedule="step", encoding=snnpipe.constant(), delay=0, try_advice=False, max_batches=1,
     progress=False)  # fmt: skip
call("sensitivity", snnpipe.sensitivity, model=lambda: things().model, snn=lambda: things().snn,
     batches=lambda: [things().x], T=2, schedule="step", encoding=snnpipe.constant(),
     others=lambda: {"other": things().snn}, max_batches=1, progress=False)  # fmt: skip
call("first_fault", snnpipe.first_fault, model=lambda: things().model, snn=lambda: things().snn,
     batches=lambda: [things().x], T=2, tolerance=0.1, schedule="step", encoding=snnpipe.constant(),
     max_batches=1)  # fmt: skip
call("verify", snnpipe.verify, model=lambda: things().model, snn=lambda: things().snn, batches=lambda: [things().x],
     T=2, schedule="step", encoding=snnpipe.constant(), delay=0, error=100.0, agreement=0.0, drop=None,
     causes=lambda: {"clipping": 100.0}, isolated=100.0, dead=1.0, saturated=1.0, max_batches=1)  # fmt: skip
call("suggest", snnpipe.suggest, model=lambda: things().model, batches=lambda: [things().x], data=lambda: things().data,
     accuracy=0.9, latency=None, wires=None, seconds=0.01, recipes=lambda: ["opi"], T=(1,), confidence=0.9, seed=0,
     progress=False)  # fmt: skip
call("Sweep.plot", method(lambda: things().swept, "plot"), path=lambda: FOLDER / "figure.png")
call("converted", lambda x: things().made(x), x=lambda: things().x)

# values
call("geometric", code(snnpipe.geometric), beta=2.0)
call("low_pass", code(snnpipe.low_pass), tau=4.0)
call("wave", lambda **options: things().snn(things().x, T=3, schedule=snnpipe.wave(**options)), K=2)
call("restarted", code(snnpipe.restarted), tau=4)
call("Code", lambda **options: Code(**options).worth(3), name="mine", alpha=one, a=one)
call("Codebook", constructed(Codebook), name="mine", quantise=whole, unit="multi-level", low=-1, high=3, parts=1,
     wires=1, alphabet="", spikes=same, bounds=(-4.0, 4.0), options=lambda: {})  # fmt: skip
call("encoder", neuron(snnpipe.encoder), codebook=Codebook("mine", whole, "multi-level", 0, 3), v_init=0.5)
call("Neuron", constructed(Neuron), name="mine", init=half, step=fire, unit="binary", options=lambda: {}, wires=1,
     alphabet="", state=1, two_sided=False, caps=False)  # fmt: skip
call("integrate_and_fire", neuron(integrate_and_fire), v_init=0.5, v_reset=0.0)
call("leaky_integrate_and_fire", neuron(snnpipe.leaky_integrate_and_fire), tau=2.0, v_init=0.5, v_reset=None)
call("signed_memory", neuron(snnpipe.signed_memory), v_init=0.5)
call("burst", neuron(snnpipe.burst), cap=3, two_sided=False, v_init=0.5)
call("group", neuron(snnpipe.group), m=3, v_init=0.5)
call("one_of_n", neuron(snnpipe.one_of_n), n=3, v_init=0.5)
call("cascade", neuron(snnpipe.cascade), n=3, two_sided=True, v_init=0.5)
call("st_bif", neuron(snnpipe.st_bif, TD), levels=3, low=-2, parts=3, v_init=0.5)
call("graded", neuron(snnpipe.graded), levels=3, parts=2, v_init=0.5)
call("compiled", constructed(snnpipe.compiled), neuron=integrate_and_fire())
call("repaired", neuron(snnpipe.repaired, snnpipe.restarted(1)), neuron=integrate_and_fire(), how="carry", clip=3.0)
call("matching_levels", snnpipe.matching_levels, site=lambda: next(iter(things().measured.sites.values())),
     neuron=integrate_and_fire())  # fmt: skip
call("every_fake_quantize_site", snnpipe.every_fake_quantize_site, node=lambda: things().traced.graph.nodes[0],
     graph=lambda: things().traced.graph)  # fmt: skip
call("maximum", threshold(maximum), per="layer")
call("percentile", threshold(snnpipe.percentile), q=99.0, nonzero=True, scale=1.0, per="layer")
call("scaled", threshold(snnpipe.scaled), k=0.8, per="layer")
call("ema", threshold(snnpipe.ema), momentum=0.1, of=maximum(), per="layer")
call("mmse", threshold(snnpipe.mmse), T=4, levels=2, rounding=0.5, top=1.0, per="layer")
call("threshold_iteration", threshold(snnpipe.threshold_iteration), T=4, levels=2, top=1.0, two_sided=False,
     iterations=3, per="layer")  # fmt: skip
call("local_threshold_balancing", threshold(snnpipe.local_threshold_balancing), iterations=3, lr=1.0, per="layer")
call("fixed", lambda theta: to_snn(replace(threshold=snnpipe.fixed(theta))(things().traced))(things().x, T=3),
     theta=1.0)  # fmt: skip
call("Threshold", constructed(Threshold), name="mine", statistic=maximum().statistic, theta=same, options=lambda: {},
     per="layer", signed=lambda: {})  # fmt: skip
call("Statistic", constructed(Statistic), name="mine", summarise=maximum().statistic.summarise,
     merge=maximum().statistic.merge, options=lambda: {}, at="output", signed=None, ordered=False)  # fmt: skip
call("QCFS", lambda **options: snnpipe.QCFS(**options)(things().x), levels=4, theta=2.0, axis=None)
call("poisson", snnpipe.poisson, generator=None)
call("Encoding", constructed(Encoding), name="mine", encode=None)
call("Recipe", constructed(Recipe), name="mine", threshold=always(maximum()), neuron=integrate_and_fire(),
     code=always(RATE), schedule="step", pre=0, corrections=(correct_bias,), delay=None, rules=SITE_RULES)  # fmt: skip
call("a recipe", lambda **options: recipes.opi()(**options), model=lambda: things().model,
     batches=lambda: [things().x], T=2)  # fmt: skip
call("recipes.named", recipes.named, recipe="opi")
call("ltb", recipes.ltb, iterations=3)
for name, option, value in (
    ("calibration_advanced", "epochs", 1), ("fading", "share", 0.5), ("fading_advanced", "share", 0.5),
    ("fading_advanced", "epochs", 1), ("srp", "tau", 2), ("offset", "tau", 2), ("spikezip", "levels", 3),
    ("burst_spikes", "cap", 3), ("group_neuron", "m", 3), ("ecmt", "n", 3), ("dcgs", "n", 3), ("hmt", "n", 3),
    ("cascade_mmse", "n", 3), ("cascade_mmse", "code", RATE), ("cascade_calibrated", "n", 3),
    ("sigma_delta", "levels", 3), ("progressive", "levels", 3), ("progressive", "beta", 2.0),
):  # fmt: skip
    call(f"{name}({option})", getattr(recipes, name), **{option: value})


class Odd:
    """A value of a user's own that says nothing."""


JUNK: list[Any] = [
    None, "", "x", "step", "TD", "if", "max", math.nan, math.inf, -math.inf, -1, -0.5, 0, 0.0, 1.5, 99.9, 10**30,
    -(10**30), 10**5000, 1e300, True, False, [], {}, (), [None], {"x": 1}, {"x": None}, object(), Odd(), Odd, len,
    lambda: None, lambda *given: None, lambda a, b: a, 1j, b"x", range(3), iter(()), ..., np.float32("nan"),
    np.int64(-3), np.int64(2), np.bool_(True), np.zeros(3), np.array(["a"]), Path("/nowhere/at/all"), torch.float32,
    torch.zeros(()), torch.tensor(2), torch.tensor(math.nan), torch.zeros(0), torch.zeros(0, 4), torch.ones(2, 3),
    torch.ones(6, 4), torch.full((6, 4), math.inf), torch.ones(6, 4).double(), torch.ones(2, 6, 4).bool(),
    torch.ones(6, 4, dtype=torch.complex64), torch.ones(2, 2, device="meta"), nn.ReLU(), nn.Linear, nn.Linear(2, 2),
    maximum, maximum(), snnpipe.percentile, integrate_and_fire, integrate_and_fire(), snnpipe.poisson,
    snnpipe.poisson(), snnpipe.events(), snnpipe.low_pass, RATE, recipes, recipes.snm, recipes.snm(), trace, calibrate,
    correct_bias, to_snn, SITE_RULES, snnpipe.FUSE_RULES, snnpipe.Event("a", "b", "c"), Code, Neuron, ConversionState,
    Sweep, SnnpipeError("not raised"), [recipes.snm], [maximum], (fuse, "x"), [[]], [torch.zeros(0, 4)], [Odd()],
    {"input": torch.ones(6, 4)}, [torch.ones(6, 4), None], [torch.ones(6, 9)], ["x"], [torch.ones(6, 4).double()],
    [torch.full((6, 4), math.nan)], [(torch.ones(6, 4), torch.ones(6))], [(torch.ones(6, 4), None)], [0], (2.5,),
    [10**30], slice(3), Exception, {1, 2}, frozenset(), memoryview(b"x"),
]  # fmt: skip


#: Arguments that are functions; one that can be called so is called, and may then raise what it likes.
FUNCTIONS = {
    "stage", "first", "second", "fn", "forward", "alpha", "a", "threshold", "rules", "corrections", "encode", "until",
    "metric", "labels",
}  # fmt: skip
#: Arguments that are data or files; what these hold is checked where it is read.
CONTENTS = {"x", "loader", "input", "batches", "path", "html", "example", "text"}
ROWS_OF_CONTENTS = {"save", "load", "save_statistics", "merge_statistics", "sweep", "suggest"}


def is_content(name: str, argument: str) -> bool:
    return argument in CONTENTS or name in ROWS_OF_CONTENTS


def fits(argument: str, junk: Any) -> bool:
    """Whether the library, not the junk, decides what happens."""
    return argument not in FUNCTIONS or not any(map(callable, junk if isinstance(junk, list | tuple) else [junk]))


@cache
def pairs(content: bool) -> list[tuple[str, str]]:
    """All rows and arguments, of data and files or of anything else."""
    every = [(name, argument) for name in sorted(CALLS) for argument in sorted(CALLS[name]()[1])]
    return [pair for pair in every if is_content(*pair) == content]


@st.composite
def bad_calls(draw: Any, content: bool = False) -> tuple[str, dict[str, int]]:
    """A row, and by which junk to replace one or two of its arguments."""
    name, first = draw(st.sampled_from(pairs(content)))
    others = [argument for row, argument in pairs(content) if row == name and argument != first]
    wrong = [first, *(draw(st.lists(st.sampled_from(others), max_size=1)) if others else [])]
    return name, {argument: draw(st.sampled_from([k for k, junk in enumerate(JUNK) if fits(argument, junk)]))
                  for argument in wrong}  # fmt: skip


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Relative paths lead there: some junk is a good name for a file."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def tried(name: str, wrong: dict[str, int]) -> None:
    """Make the call; a result, or a ``SnnpipeError`` that says something."""
    fn, given = CALLS[name]()
    given |= {argument: JUNK[k] for argument, k in wrong.items()}
    with warnings.catch_warnings(), inside(FOLDER):
        warnings.simplefilter("error")
        for kind in OWN_WARNINGS:
            warnings.simplefilter("ignore", kind)
        try:
            said = repr(fn(**given))
        except SnnpipeError as error:
            said = str(error)
        except OSError as error:  # the file system's own words
            said = str(error) if {"path", "html"} & wrong.keys() else ""
    assert said


#: Rows that work where a package is installed, and refuse by name elsewhere.
NEEDS = {"to_onnx": "onnxscript"}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_the_rows_are_calls_that_work(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    fn, given = CALLS[name]()
    fn(**given)


def test_every_public_function_has_a_row():
    rows = {name.split("(")[0].split()[0] for name in CALLS}
    functions = {name for name in snnpipe.__all__ if callable(getattr(snnpipe, name)) and name[0].islower()}
    assert functions - rows <= {"constant", "events"}  # which take nothing
    assert {name for name, make in recipes.RECIPES.items() if make.__wrapped__.__code__.co_argcount
            or make.__wrapped__.__code__.co_kwonlyargcount} <= rows  # fmt: skip


@settings(max_examples=20 * settings().max_examples)
@given(bad=bad_calls())
def test_wrong_arguments_are_refused_by_name(bad):
    tried(*bad)


@settings(max_examples=2 * settings().max_examples)
@given(bad=bad_calls(content=True))
def test_wrong_data_is_refused_by_name(bad):
    tried(*bad)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_wrong_number_of_arguments_is_pythons_to_refuse(name):
    fn, given = CALLS[name]()
    with pytest.raises((TypeError, SnnpipeError)):
        fn(**given, no_such_argument=3)
