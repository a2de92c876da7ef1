"""``snnpipe info``."""

from __future__ import annotations

import os
from argparse import Namespace

from snnpipe.commands.command import Answer, Command
from snnpipe.commands.described import described
from snnpipe.commands.own import own_option, owned
from snnpipe.commands.parser import Parser
from snnpipe.commands.subjects import read
from snnpipe.errors import SnnpipeError
from snnpipe.exchange.sealed import read_sealed


def _arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="a saved file: .safetensors, .pt2 or .nir")
    own_option(parser)


def _run(given: Namespace) -> Answer:
    answer = _statistics(given.file) or described(read(given.file, owned(dict(given.own))))
    size = os.path.getsize(given.file)
    return Answer(f"{given.file}: {answer.text}", {**answer.data, "file": given.file, "bytes": size})


def _statistics(path: str) -> Answer | None:
    """What ``save_statistics`` wrote, ``None`` for every other file."""
    if not path.endswith(".safetensors"):
        return None
    try:
        content, _ = read_sealed(path)
    except SnnpipeError:
        return None
    if not isinstance(content, dict) or content.get("format") != "snnpipe statistics":
        return None
    sites = [str(site["name"]) for site in content["sites"].values()]
    lines = [f"statistics of {len(sites)} sites: {content['measured']}", *(f"  {name}" for name in sites)]
    return Answer("\n".join(lines), {"kind": "statistics", "measured": content["measured"], "sites": sites})


INFO = Command("info", "say what a file holds", ("snnpipe info snn.safetensors",), _arguments, _run)
