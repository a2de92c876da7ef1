"""The commands there are."""

from __future__ import annotations

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
from snnpipe.commands.sweep import SWEEP
from snnpipe.frozen import FrozenMap

_ALL = (DEMO, CHECK, CONVERT, EVALUATE, EXPLAIN, REPORT, SWEEP, SUGGEST, EXPORT, BENCH, INFO)

#: The commands by name.
COMMANDS: FrozenMap[str, Command] = FrozenMap({command.name: command for command in _ALL})
