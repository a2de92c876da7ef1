"""The commands there are."""

from __future__ import annotations

import snnpipe
from snnpipe.commands.bench import BENCH
from snnpipe.commands.check import CHECK
from snnpipe.commands.command import Command
from snnpipe.commands.convert import CONVERT
from snnpipe.commands.demo import DEMO
from snnpipe.commands.evaluate import EVALUATE
from snnpipe.commands.explain import EXPLAIN
from snnpipe.commands.export import EXPORT
from snnpipe.commands.info import INFO
from snnpipe.commands.report import REPORT
from snnpipe.commands.suggest import SUGGEST
from snnpipe.frozen import FrozenMap

_ALL = (DEMO, CHECK, CONVERT, EVALUATE, EXPLAIN, REPORT, SUGGEST, EXPORT, BENCH, INFO)


def commands() -> FrozenMap[str, Command]:
    """The commands by name, those alone whose function this package has."""
    return FrozenMap({command.name: command for command in _ALL if hasattr(snnpipe, command.needs)})
