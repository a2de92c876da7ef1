"""Keeping torch quiet while it exports: it prints the whole program when that fails."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def silenced() -> Iterator[None]:
    """Let torch's loggers, its warnings and what is written to stderr go nowhere; all is as it was afterwards."""
    known = logging.root.manager.loggerDict.items()
    own = [logger for name, logger in known if name.split(".")[0] == "torch" and isinstance(logger, logging.Logger)]
    handlers = [(logger, logger.handlers) for logger in own]
    try:
        for logger in own:
            logger.handlers = [logging.NullHandler()]
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, before in handlers:
            logger.handlers = before
