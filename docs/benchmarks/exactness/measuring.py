"""One model: carried to each code and held against the ANN at every step."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import snnpipe
from snnpipe import (
    RATE,
    TD,
    Code,
    ConversionState,
    Neuron,
    SnnpipeError,
    embed,
    fixed,
    instrument,
    pipe,
    replace,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.frozen import FrozenMap, leaves, map_leaves
from snnpipe.graph import Graph, Node, Ref
from snnpipe.rules.sites import Match

Inputs = tuple[Any, ...]  # tensors, or lists of them
LIMIT = {torch.float32: 1e-5, torch.float64: 1e-12}
#: Some networks (deep ones with random weights, those with float32 inside) are so sensitive that the ANN's own output
#: moves beyond the limit when its input is rounded otherwise; this many times that is rounding.
ROUNDING = 20
#: Millions of parameters beyond which float64 is left out, and beyond which a model is.
LIMIT_DOUBLE, LIMIT_PARAMS = 10, 150
STEPS = 2


@attrs.frozen
class Built:
    """A model with inputs for it.  Of a part, ``model`` is the part, and ``whole`` with ``images`` that around it."""

    model: nn.Module
    inputs: Inputs
    whole: nn.Module | None = None
    path: str = ""
    images: Any = None


class Call(nn.Module):
    """A model of many arguments as a function of one tensor, which is given as the argument ``name``."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], output: Any, given: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.names, self.output, self.given = model, names, output, given

    def call(self, *inputs: Tensor) -> Tensor:
        found = self.model(**dict(zip(self.names, inputs, strict=True)), **self.given)
        return found if self.output is None else found[self.output]

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


class Call2(Call):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call(x, y)


class Call3(Call):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return self.call(x, y, z)


def called(model: nn.Module, output: Any = 0, given: dict[str, Any] | None = None, **inputs: Tensor) -> Built:
    """The model as a function of ``inputs``; other arguments are ``given``, ``output`` is read off what it gives."""
    kind = (Call, Call2, Call3)[len(inputs) - 1]
    return Built(kind(model, tuple(inputs), output, given or {}).eval(), tuple(inputs.values()))


def settle(norm: nn.Module, inputs: Inputs) -> None:
    """Running statistics that bring the layer to size one half.  With the initial ones the signal dies in deep nets;
    with those of every channel deep random nets are chaotic: in float32 the ANN itself is far from float64."""
    size, like = inputs[0].square().mean(), torch.ones_like(norm.running_mean)
    norm.running_mean = 0.1 * size.sqrt() * torch.randn_like(like)
    norm.running_var = 4 * size * (0.8 + 0.4 * torch.rand_like(like))


def randomise(model: nn.Module, inputs: Inputs) -> None:
    """No parameter is constant (zero heads, layer scales, biases), and batch norms know the layer before."""
    for p in model.parameters():
        if p.numel() > 1 and bool((p == p.flatten()[0]).all()):
            scale = 0.1 if p.ndim == 1 else p.shape[-1] ** -0.5
            noise, large = torch.randn_like(p), bool(p.flatten()[0].abs() > 0.5)
            p.copy_(p * (1 + 0.1 * noise) if large else scale * noise)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms if norm.track_running_stats]
    if hooks:  # decoded inputs may be larger than the inputs on the way
        model(*pytree.tree_map(lambda x: 2 * x if x.is_floating_point() else x, inputs))
    for hook in hooks:
        hook.remove()
    model.eval()  # some keep what they computed of the parameters that were


def traced(built: Built) -> tuple[Any, str, float]:
    """State, front end, seconds: symbolic tracing, or else torch.export."""
    model, options = (built.model, {}) if built.whole is None else (built.whole, {"part": built.path})
    start = time.perf_counter()
    try:
        return pipe(model, trace(**options)), "symbolic", time.perf_counter() - start
    except SnnpipeError:
        start = time.perf_counter()
    return pipe(model, trace(example=built.inputs, **options)), "export", time.perf_counter() - start


def decoded(events: Tensor, code: Code) -> Iterator[Tensor]:
    value = torch.zeros((), dtype=torch.float64)
    for t, event in enumerate(events, 1):
        clock = code.clock(t)
        value = clock.alpha * value + clock.a * event.double()
        yield value


def split(x: Tensor, code: Code, T: int) -> Tensor:
    """Random unequal events that decode to x at step T."""
    share = torch.rand(T, *x.shape, dtype=torch.float64) ** 2 + 0.02
    events, worth = share / share.sum(0) * x, 1.0
    for t in range(T, 0, -1):  # an event of step t is worth a_t alpha_{t+1} ... alpha_T in the end
        events[t - 1] /= worth * code.clock(t).a
        worth *= code.clock(t).alpha
    return events.to(x.dtype)


def floats(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def distance(got: list[Tensor], expected: list[Tensor]) -> float:
    """Largest relative error over the outputs; not a number counts as infinite."""
    pairs = [(a.double(), b.double()) for a, b in zip(got, expected, strict=True)]
    worst = [((a - b).norm() / b.norm()).item() if not torch.equal(a, b) else 0.0 for a, b in pairs]
    return max(float("inf") if value != value else value for value in worst)


def steps(inputs: Inputs, code: Code, T: int) -> tuple[Inputs, list[Inputs]]:
    """The inputs as events (those that do not move as they are), and what these decode to after each step."""
    flat, tree = pytree.tree_flatten(inputs)
    events = [split(x, code, T) if x.is_floating_point() else x for x in flat]
    values = [[X.to(x.dtype) for X in decoded(e, code)] if x.is_floating_point() else [x] * T
              for x, e in zip(flat, events, strict=True)]  # fmt: skip
    together = [pytree.tree_unflatten(list(X), tree) for X in zip(*values, strict=True)]
    return pytree.tree_unflatten(events, tree), together


#: A neuron that passes its events on, in the place of what stands behind each output.
WIRE = Neuron("wire", lambda theta, **_: theta, lambda v, z, *_, **__: (v, z), unit="graded", two_sided=True)


def behind(node: Node, graph: Graph) -> Match | None:
    return Match(node["input"], signed=True, axis=None) if node.name.endswith("_wire") else None


def wired(state: ConversionState) -> ConversionState:
    """With a neuron behind each output, so that all operators that may work on events do."""
    ends = dict.fromkeys(leaf.name for leaf in leaves(state.graph.output) if isinstance(leaf, Ref))
    nodes = [Node(f"{name}_wire", "clone", FrozenMap(input=Ref(name))) for name in ends]
    output = map_leaves(lambda leaf: Ref(f"{leaf.name}_wire") if isinstance(leaf, Ref) else leaf, state.graph.output)
    state = attrs.evolve(state, graph=Graph((*state.graph.nodes, *nodes), output))
    return pipe(state, instrument(rules=(behind,)), replace(neuron=WIRE, threshold=fixed(1.0)))


def measured(built: Built, state: Any) -> tuple[float, float]:
    """Largest error, and largest move of the ANN's output."""
    errors, moves = [], []
    moving = bool(floats(built.inputs))
    for code in (TD, RATE):
        events, values = steps(built.inputs, code, STEPS)
        values = values if moving else values[:1]
        expected = [floats(built.model(*X)) for X in values]
        moves += [distance(y, expected[0]) for y in expected]
        for stages in ((wired,), ()) if moving else ((),):
            snn = pipe(state, *stages, td_rewrite(code=code), to_snn)
            if moving:
                outputs = [decoded(y, code) for y in floats(snn.sequence(*events))]
                got = [[next(y) for y in outputs] for _ in values]
            else:
                got = [floats(snn(*built.inputs, T=STEPS))]
            errors += [distance(Y, y) for Y, y in zip(got, expected, strict=True)]
        if built.whole is not None and built.images[0].dtype is torch.float64:  # rounding decides which boxes are kept
            found = floats(embed(built.whole, {built.path: snn}, T=STEPS)(built.images))
            errors.append(distance(found, floats(built.whole(built.images))))
    return max(errors), max(moves)


def cast(built: Built, dtype: torch.dtype) -> Built:
    def to(x: Tensor) -> Tensor:
        return x.to(dtype) if x.is_floating_point() else x

    if isinstance(built.model, Call):
        built.model.given = {k: to(v) if isinstance(v, Tensor) else v for k, v in built.model.given.items()}
    whole = None if built.whole is None else built.whole.to(dtype)
    images = None if built.images is None else [to(image) for image in built.images]
    model, inputs = built.model.to(dtype), pytree.tree_map(to, built.inputs)
    return attrs.evolve(built, model=model, inputs=inputs, whole=whole, images=images)


def place(error: BaseException) -> str:
    """The innermost line of this package that an error went through."""
    home = str(Path(snnpipe.__file__).parent)
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(home)]
    return f" (snnpipe{lines[-1].filename.removeprefix(home)}:{lines[-1].lineno})" if lines else ""


def first_words(error: BaseException) -> str:
    words = re.sub(r"\S*-packages/", "", " ".join(str(error).split()))
    return f"{type(error).__name__}: {words[:300]}"


def sensitivity(built: Built, dtype: torch.dtype) -> float:
    """How far the ANN's own output moves when its inputs are rounded otherwise: no conversion can be better."""
    eps, exact = torch.finfo(dtype).eps, floats(built.model(*built.inputs))

    def nudged(x: Tensor) -> Tensor:
        return x * (1 + 2 * eps * torch.randn_like(x)) if x.is_floating_point() else x

    return max(distance(floats(built.model(*pytree.tree_map(nudged, built.inputs))), exact) for _ in range(3))


def outcome(build: Callable[[], Built], report: Callable[[dict[str, Any]], None], *, single: bool) -> None:
    """Report what is found, in pieces: ``outcome`` is exact, refused, wrong, error, or unavailable."""
    torch.manual_seed(0)
    try:
        built = build()
        if built.whole is None:
            randomise(built.model, built.inputs)
        built.model(*built.inputs)
    except Exception as error:
        return report({"outcome": "unavailable", "says": first_words(error)})
    millions = sum(p.numel() for p in built.model.parameters()) / 1e6
    shapes = " ".join("x".join(map(str, x.shape)) for x in pytree.tree_leaves(built.inputs))
    report({"input": shapes, "params": round(millions, 1)} | ({} if floats(built.inputs) else {"on": "values"}))
    if millions > LIMIT_PARAMS:
        return report({"outcome": "limit", "says": f"more than {LIMIT_PARAMS} M parameters"})
    for dtype, limit in LIMIT.items():
        if dtype is torch.float64 and (single or millions > LIMIT_DOUBLE):
            break
        try:
            built = cast(built, dtype)
            built.model(*built.inputs)
        except Exception as error:
            return report({"says": f"the model itself has no float64: {first_words(error)}"})
        try:
            state, front, took = traced(built)
            if dtype is torch.float32:
                report({"front": front, "nodes": len(state.graph.nodes), "seconds": round(took, 2)})
            error, moves = measured(built, state)
        except SnnpipeError as refusal:
            return report({"outcome": "refused", "says": first_words(refusal)})
        except Exception as error:
            return report({"outcome": "error", "says": first_words(error) + place(error)})
        name = str(dtype).removeprefix("torch.")
        report({name: float(f"{error:.1e}"), "moves": float(f"{moves:.1e}")})
        if error > limit:
            own = sensitivity(built, dtype)
            rounds = error <= ROUNDING * own
            words = f"{name} rounds: the ANN itself moves by {own:.1e} when its input is rounded otherwise"
            report({"outcome": "exact", "says": words} if rounds else {"outcome": "wrong"})
            if not rounds:
                return None
        else:
            report({"outcome": "exact"})
    return None
