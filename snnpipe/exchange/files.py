"""Conversions in files: a state, a network, or what a recipe gave, saved and loaded."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch

from snnpipe.checks import takes
from snnpipe.errors import SnnpipeError
from snnpipe.exchange.graph_read import check_graph
from snnpipe.exchange.summaries import check_summary
from snnpipe.exchange.tensor_file import TensorFile, open_tensors, write_tensors
from snnpipe.exchange.values import Writer
from snnpipe.exchange.values_read import Reader, missing
from snnpipe.frozen import EMPTY
from snnpipe.options import MAPPING, PATH, instance
from snnpipe.recipe import Converted
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.state import ConversionState, Site

_FORMAT = "snnpipe conversion"
VERSION = 1
#: What makes the content of a file of each version but the last one of the next version.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

_THING = instance(
    (ConversionState, SpikingNetwork, Converted), "must be a state, a network or what a recipe gave",
    "write save(pipe(model, trace, ...), path)",
)  # fmt: skip
_EXPECTED = "expected a file that snnpipe.save has written"


@takes(thing=_THING, path=PATH)
def save(thing: ConversionState | SpikingNetwork | Converted, path: str | PathLike[str]) -> None:
    """Write a conversion to a file, from which ``load`` makes it again, bit for bit, in any process.

    The file is a safetensors file: the tensors stand under their keys, and everything else (graph, sites, statistics,
    neurons, code, schedule, history; of a recipe's answer the recipe and T) as JSON in its metadata.  Functions and
    classes are names in it, never code.  Whatever happens on the way, ``path`` holds its old content or all of the new.

    Args:
        thing: a state between any two stages, a network, or what a recipe gave.
        path: where to; its folder must exist.

    Raises:
        SnnpipeError: something in it cannot be said in a file, which is named; or the file cannot be written.

    >>> import tempfile, torch, snnpipe
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> x = torch.rand(8, 4)
    >>> snn = snnpipe.pipe(model, snnpipe.trace, snnpipe.calibrate([x]), snnpipe.to_snn)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     snnpipe.save(snn, f"{folder}/snn.safetensors")
    ...     again = snnpipe.load(f"{folder}/snn.safetensors")
    >>> torch.equal(again(x, T=4), snn(x, T=4))
    True
    """
    try:
        writer = Writer({id(tensor): key for key, tensor in reversed([*_tensors(thing).items()])})
        network = thing.snn if isinstance(thing, Converted) else thing
        check_graph(network.graph, _tensors(thing))
        content = {"format": _FORMAT, "version": VERSION, "snnpipe": _release(), "torch": torch.__version__}
        content["thing"] = writer(thing, "")
        write_tensors(os.fspath(path), writer.tensors, json.dumps(content, allow_nan=False))
    except (SnnpipeError, ValueError, RecursionError) as error:
        raise SnnpipeError(f"save: {error}") from error


@takes(path=PATH, own=MAPPING)
def load(path: str | PathLike[str], *, own: Mapping[str, Any] = EMPTY) -> Any:
    """What ``save`` has written: a state, a network or what a recipe gave, on the CPU.

    Nothing of the file is run: it names functions and modules, of the operator table and of lists of this package's and
    torch's, and what it names beside these is the user's to give.

    Args:
        path: of the file.
        own: what was the user's own, by name: functions, classes, modules kept as one call, and whole neurons or codes
            by their ``name``.  The error says what is needed.

    Raises:
        SnnpipeError: there is no such file, it is damaged or of another kind or a later version, it names what nobody
            knows, or something of the user's own was not given; before anything is allocated for its tensors.
    """
    file = open_tensors(os.fspath(path))
    try:
        thing = _thing(file, own)
    except SnnpipeError as error:
        raise SnnpipeError(f"load: {file.path}: {error}") from error
    except (ArithmeticError, LookupError, AttributeError, TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise SnnpipeError(f"load: {file.path} is damaged ({type(error).__name__}: {error}); {_EXPECTED}") from error
    return thing


def _thing(file: TensorFile, own: Mapping[str, Any]) -> Any:
    content = _current(file.text)
    lacking = dict(missing(content["thing"], own))
    if lacking:
        raise SnnpipeError(_lacking(lacking))
    for tensors in (file.empty, file.tensors):  # first without their numbers, so that nothing is allocated in vain
        thing = Reader(tensors(), own)(content["thing"])
        _check(thing, final=tensors == file.tensors)
    return thing


def _current(text: str) -> dict[str, Any]:
    """The content of a file in this version's words."""
    content: Any = json.loads(text)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise SnnpipeError(f"it holds something else; {_EXPECTED}")
    version = content.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise SnnpipeError(f"it is of version {version!r}, this snnpipe reads {VERSION} and older; upgrade snnpipe")
    for old in range(version, VERSION):
        content = MIGRATIONS[old](content)
    return dict(content)


def _lacking(lacking: Mapping[str, str]) -> str:
    """What to write for what was not given."""
    given = ", ".join(f'"{name}": ...' for name in lacking)
    whole = [f'"{name}"' for name in dict.fromkeys(lacking.values()) if name]
    instead = f", or give {' and '.join(whole)} whole" if whole else ""
    return f"it needs {', '.join(lacking)}, which are not snnpipe's; write load(path, own={{{given}}}){instead}"


def _release() -> str:
    """The version of this package."""
    return str(sys.modules[__name__.partition(".")[0]].__version__)


def _tensors(thing: Any) -> Mapping[str, Any]:
    """The parameters of a thing, by key."""
    if isinstance(thing, ConversionState):
        return thing.params
    snn = thing.snn if isinstance(thing, Converted) else thing
    params: Mapping[str, Any] = snn.__reduce__()[1][1]
    return params


def _check(thing: Any, *, final: bool) -> None:
    """Refuse what is no conversion."""
    _THING.hold(thing, "what it holds", "load")
    if not isinstance(thing, ConversionState):
        return
    names = thing.graph.by_name
    sites = [key for key, site in thing.sites.items()
             if not isinstance(site, Site) or key not in names or site.input not in names]  # fmt: skip
    odd = [*sites, *({*thing.statistics} - {*names})]
    if odd:
        raise SnnpipeError(f"its sites or statistics are of no node of its graph: {', '.join(map(str, odd))}")
    for summary in thing.statistics.values() if final else ():
        check_summary(summary)
