"""Putting spiking networks back into the model whose parts they were made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from snnpipe.checks import takes
from snnpipe.emit import cloned
from snnpipe.errors import StageError
from snnpipe.frontend.part import around, part_at
from snnpipe.frontend.shadow import shadow
from snnpipe.frozen import FrozenMap
from snnpipe.options import MAPPING, RUN, instance, optional
from snnpipe.recipe import Converted
from snnpipe.runtime.border import Border, Called
from snnpipe.runtime.encoding import ENCODING, Encoding, constant
from snnpipe.runtime.inputs import DELAY, bind, check_delay
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.waves import SCHEDULE, STEP, Wave

_MODEL = instance(nn.Module, "must be a torch.nn.Module")
_PART = instance(
    (SpikingNetwork, Converted), "must be a converted network or what a recipe gave",
    "write embed(model, {'backbone': pipe(model, trace(part='backbone'), calibrate(loader), to_snn)}, T=8)",
)  # fmt: skip


class SpikingPart(Border):
    """A spiking network in the place of a part of a model: it is called as the part is, and its output is decoded."""

    def __init__(self, called: Called, snn: SpikingNetwork, run: FrozenMap[str, Any]) -> None:
        super().__init__(called)
        self._modules["snn"] = snn
        self._run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        snn: Any = self._modules["snn"]
        given = bind(snn.graph, (), self._called.named(args, kwargs))
        return snn(*(given[node["name"]] for node in snn.graph.inputs), **self._run)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._run.items())


@takes(
    StageError, model=_MODEL, parts=MAPPING, T=optional(RUN), schedule=SCHEDULE, delay=DELAY, encoding=ENCODING,
)  # fmt: skip
def embed(
    model: nn.Module,
    parts: Mapping[str, SpikingNetwork | Converted],
    *,
    T: int | None = None,
    schedule: Wave | str = STEP,
    delay: int = 0,
    encoding: Encoding = constant(),
) -> nn.Module:
    """A copy of a model, in evaluation mode, in which spiking networks stand for some parts; the model is unchanged.

    A part is called as before, by position or by name, and gives what it gave, decoded after T steps; the rest of the
    model is Python as it was.  The copy shares no memory with the model nor with the networks.  Its ``state_dict`` has
    the model's own keys, and a part's below ``<path>.snn``.  Embed again for parts that run otherwise.

    Args:
        model: the model that the networks are parts of.
        parts: networks, or what recipes gave, by path: ``{"backbone": snn}``.  A module that the model has at two paths
            is one part, named by either, and is replaced at both.
        T, schedule, delay, encoding: how the networks run, as ``snn(x, T=...)`` takes them; what a recipe gave has its
            own T, schedule and delay.

    Raises:
        StageError: there is no such part, one is within another, it takes other inputs than the network, or T is
            missing.  When it runs: the rest of the model reaches into a part instead of calling it.
        InputError: when it runs: a part is called otherwise than it was traced.

    >>> import torch
    >>> from snnpipe import calibrate, pipe, to_snn, trace
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 2)
    ...     def forward(self, x):
    ...         return {"found": self.head(self.body(x)) > 0}
    >>> model, data = Net(), [torch.randn(2000, 4)]
    >>> snn = pipe(model, trace(part="body"), calibrate(data), to_snn)
    >>> hybrid = embed(model, {"body": snn}, T=8)
    >>> hybrid(data[0])["found"].shape
    torch.Size([2000, 2])
    """
    if not parts:
        raise StageError("embed: parts is empty; write embed(model, {'backbone': snn}, T=8)")
    networks = {path: _PART.hold(given, f"parts[{path!r}]", "embed", StageError) for path, given in parts.items()}
    plain = [path for path, given in networks.items() if isinstance(given, SpikingNetwork)]
    if plain and T is None:
        raise StageError(f"embed: {plain[0]} runs for a number of time steps; write embed(model, {{...}}, T=8)")
    if not plain and T is not None:
        raise StageError("embed: what a recipe gave has its own T; leave out T=")
    own: FrozenMap[str, Any] = FrozenMap(T=T, schedule=schedule, delay=delay, encoding=encoding)
    private = shadow(model)
    instead: dict[nn.Module, nn.Module] = {}
    for path, given in networks.items():
        part = part_at(private, path, "embed", StageError)
        _check_apart(private, path, part, instead)
        instead[part] = _spiking(part, path, given, own)
    return around(private, instead)


def _spiking(part: nn.Module, path: str, given: SpikingNetwork | Converted, own: FrozenMap[str, Any]) -> SpikingPart:
    """A copy of a network as it stands for a part."""
    snn, run = (given.snn, given.run) if isinstance(given, Converted) else (given, own)
    check_delay(run["delay"], run["T"], snn.code, run["schedule"])
    inputs = [node["name"] for node in snn.graph.inputs]
    called = Called.like(part, path, frozenset(inputs), snn.constants)
    known = [argument.name for argument in called.arguments]
    if not set(inputs) <= set(known):
        raise StageError(
            f"embed: {path} ({called.kind}) takes {', '.join(known)}, the network {', '.join(inputs)}; was it made of "
            f"this part? Write pipe(model, trace(part={path!r}), ..., to_snn)"
        )
    make, (graph, params, *rest), further = snn.__reduce__()
    copy = make(graph, cloned(params), *rest)
    copy.__dict__.update(further)
    return SpikingPart(called, copy, run)


def _check_apart(model: nn.Module, path: str, part: nn.Module, instead: Mapping[nn.Module, nn.Module]) -> None:
    """Complain of a part that is another one too, or lies within it."""
    for other, spiking in instead.items():
        theirs = spiking._called.path  # type: ignore[union-attr]
        if other is part:
            raise StageError(f"embed: {theirs} and {path} are one module; name it once, it is replaced at both paths")
        if part in set(other.modules()) or other in set(part.modules()):
            raise StageError(f"embed: {theirs} and {path} lie within one another; embed the outer one alone")
