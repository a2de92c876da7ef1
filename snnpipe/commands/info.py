"""``snnpipe info``."""

from __future__ import annotations

import os
from argparse import Namespace

from snnpipe.commands.command import Answer, Command
from snnpipe.commands.described import described
from snnpipe.commands.own import own_option, owned
from snnpipe.commands.parser import Parser
from snnpipe.commands.subjects import read


def _arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="a saved file: .safetensors, .pt2 or .nir")
    own_option(parser)


def _run(given: Namespace) -> Answer:
    answer = described(read(given.file, owned(dict(given.own))))
    size = os.path.getsize(given.file)
    return Answer(f"{given.file}: {answer.text}", {**answer.data, "file": given.file, "bytes": size})


INFO = Command("info", "say what a file holds", ("snnpipe info snn.safetensors",), _arguments, _run)
