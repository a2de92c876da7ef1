"""What a line says is to be done with a model: a pipeline or a recipe as text, or in a TOML file."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from snnpipe.commands.command import UsageError
from snnpipe.commands.data import first_of
from snnpipe.commands.devices import moved
from snnpipe.commands.own import owned
from snnpipe.commands.parser import Parser, nearest, whole
from snnpipe.errors import SnnpipeError
from snnpipe.exchange.expressions import parse
from snnpipe.recipe import Converted, Recipe
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stage import Pipeline, pipeline
from snnpipe.state import ConversionState
from snnpipe.text import shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What is done with a model where the line does not say.
USUAL = "trace | fuse | calibrate | to_snn"
_KEYS = ("pipeline", "T", "own")


def plan_options(parser: Parser) -> None:
    """The options that say what to do."""
    about = f"stages, or a recipe such as recipes.snm(), or a TOML file with the key pipeline ({USUAL!r})"
    parser.add_argument("--pipeline", metavar="TEXT|FILE.toml", help=about)
    parser.add_argument("--T", type=whole(1), metavar="STEPS", help="steps that a recipe converts for")


def carried_out(thing: Any, given: Namespace, batches: Iterable[Any] | None) -> Any:
    """What the plan of a line makes of a model or a state.

    Raises:
        UsageError: the plan cannot be read, or lacks data, or a number of steps.
    """
    if given.pipeline is None and not isinstance(thing, nn.Module | ExportedProgram):
        raise UsageError(f"say --pipeline: what is to be done with {shown(thing)}")
    said = _said(given.pipeline or USUAL)
    text, T = said["pipeline"], given.T or said.get("T")
    plan = _plan(said, given, batches)
    if isinstance(plan, Recipe):
        return _by_recipe(plan, thing, batches, T)
    if T is not None:
        raise UsageError("--T is for recipes; a pipeline says it itself: correct_bias(T=8)")
    stages = plan if isinstance(plan, Pipeline) else pipeline(plan)
    made = stages(thing)
    if not isinstance(made, ConversionState | SpikingNetwork):
        raise UsageError(f"{text} gives {shown(made)}; a pipeline ends in a state or, by to_snn, in a network")
    return made


def planned(text: str, given: Namespace, batches: Iterable[Any] | None) -> Any:
    """The stages, or the recipe, of a text or a file.

    Raises:
        UsageError: it cannot be read, or lacks data.
    """
    return _plan(_said(text), given, batches)


def _plan(said: Mapping[str, Any], given: Namespace, batches: Iterable[Any] | None) -> Any:
    text, own = said["pipeline"], owned(dict(said.get("own", {})) | dict(given.own))
    if "example" not in own and re.search(r"\bexample\b\s*[^=\s]", text) and batches is not None:
        own = own | {"example": moved(_example(first_of(batches)), given)}
    return _read(text, own, batches)


def _said(text: str) -> Mapping[str, Any]:
    """The plan of a line: text, or the content of a TOML file."""
    if not text.endswith(".toml"):
        return {"pipeline": text}
    try:
        content = tomllib.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{text} cannot be read: {error}") from error
    for key in content:
        if key not in _KEYS:
            raise UsageError(f"{text}: there is no key {key}{nearest(key, _KEYS)}")
    stages, T, own = content.get("pipeline"), content.get("T"), content.get("own", {})
    if isinstance(stages, list) and all(isinstance(each, str) for each in stages):
        stages = " | ".join(stages)
    if not isinstance(stages, str):
        raise UsageError(f'{text}: pipeline must be a text or a list of texts, such as ["trace", "to_snn"]')
    if T is not None and (type(T) is not int or T < 1):
        raise UsageError(f"{text}: T must be a whole number of at least 1, got {T!r}")
    if not isinstance(own, dict) or not all(isinstance(place, str) for place in own.values()):
        raise UsageError(f'{text}: own must be a table, such as [own] with rule = "mymodule:rule"')
    return {"pipeline": stages, "T": T, "own": own}


def _read(text: str, own: Mapping[str, Any], batches: Iterable[Any] | None) -> Any:
    """The stages or the recipe of a text."""
    try:
        return parse(text, data=batches, own=own)
    except SnnpipeError as error:
        if batches is None and _is_read(text, own):
            raise UsageError(f"this pipeline reads data, say --data: {text}") from None
        raise UsageError(str(error)) from error


def _is_read(text: str, own: Mapping[str, Any]) -> bool:
    """Whether a text can be read once there are data."""
    try:
        parse(text, data=[None], own=own)
    except SnnpipeError:
        return False
    return True


def _by_recipe(recipe: Recipe, thing: Any, batches: Iterable[Any] | None, T: int | None) -> Converted:
    if T is None:
        raise UsageError(f"{recipe!r} converts for a number of steps, say --T")
    if batches is None:
        raise UsageError(f"{recipe!r} reads data, say --data")
    return recipe(thing, batches, T=T)


def _example(batch: Any) -> Any:
    """The inputs in a batch: without labels."""
    return batch[0] if isinstance(batch, tuple | list) else batch
