"""Encoded inputs: what they stand for, and the same events for several runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
from torch import Tensor

from snnpipe.containers import tensors
from snnpipe.errors import InputError
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.runtime.encoding import Encoding, constant
from snnpipe.runtime.inputs import encoded, sequences
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.state import feed


@attrs.frozen(eq=False)
class Shown:
    """What networks are shown: all of them the same events.

    Attributes:
        inputs: by name.
        encoding: how they are turned into events.
        back: sets the source of its random numbers back.
    """

    inputs: Mapping[str, Any]
    encoding: Encoding = constant()
    back: Callable[[], None] = lambda: None

    def to(self, snn: SpikingNetwork, **how: Any) -> Any:
        """What a network answers."""
        self.back()
        return snn(*(self.inputs[node["name"]] for node in snn.graph.inputs), encoding=self.encoding, **how)


def meant(given: Mapping[str, Any], snn: SpikingNetwork, encoding: Encoding, T: int, where: str) -> dict[str, Any]:
    """The values that inputs stand for, by name: they themselves, and of ``events()`` what the first T decode to.

    Raises:
        InputError: events of another shape than the input's, of which nobody knows what they stand for.
    """
    if encoding.encode is None:
        return dict(given)
    moving, run = sequences(given, snn.graph), snn.code.chunk(1, T)
    if encoding.is_events:
        sent = encoded(given, moving, encoding.encode, run)
        return {name: zip_leaves(partial(_worth, run.a), x) if name in moving else x for name, x in sent.items()}
    with encoding.undrawn():
        first = encoded(given, moving, encoding.encode, snn.code.clock(1))
    for name in sorted(moving):
        for x, event in zip(tensors(given[name]), tensors(first[name]), strict=True):
            if x.shape != event.shape:
                raise InputError(
                    f"{where}: {encoding.name} makes events of shape {tuple(event.shape)} of {name}, whose shape is "
                    f"{tuple(x.shape)}, so what the ANN is to be given is not known. Make the sequences (T, B, ...) "
                    "yourself and write encoding=events(): the ANN is given what they decode to"
                )
    return dict(given)


def _worth(a: float, event: Any) -> Any:
    return a * event if isinstance(event, Tensor) else event


def check_replays(given: Mapping[str, Any], snn: SpikingNetwork, encoding: Encoding, T: int, where: str) -> None:
    """Complain of an encoding whose events cannot be had a second time.

    Raises:
        InputError: says where random numbers are to come from.
    """
    if encoding.encode is None or encoding.is_events:
        return
    moving, made = sequences(given, snn.graph), set()
    with encoding.undrawn() as back:
        for _ in range(2):
            back()
            h = hashlib.blake2b()
            for clock in map(snn.code.clock, range(1, T + 1)):
                for x in tensors(encoded(given, moving, encoding.encode, clock)):
                    feed(h, "", x)
            made.add(h.digest())
    if len(made) > 1:
        raise InputError(
            f"{where}: {encoding.name} makes other events of the same input each time, so networks cannot be compared; "
            "draw random numbers from torch's own generator, or from one that encode has as its attribute generator"
        )
