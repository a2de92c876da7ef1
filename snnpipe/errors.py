"""Every error and warning snnpipe raises on purpose, and how a list of problems is put into words.

Knows nothing of graphs or tensors: callers hand over names, places and sentences.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable

import attrs


class SnnpipeError(ValueError):
    """Base of every error raised by snnpipe; the message names the place, the cause and the code to write."""


class TraceError(SnnpipeError):
    """The model could not be turned into a graph."""


class UnsupportedError(SnnpipeError):
    """The graph holds operations that cannot be converted; the message lists all of them."""


class StageError(SnnpipeError):
    """A stage was given something it cannot work on, most often because a stage before it is missing."""


class GraphError(SnnpipeError):
    """A graph breaks a validity rule (a bug in a custom stage or rule, never in the user's model)."""


class CalibrationError(SnnpipeError):
    """The calibration data or a statistic is unusable."""


class ThresholdError(SnnpipeError):
    """A threshold is missing, not positive or not finite."""


class InputError(SnnpipeError):
    """A converted network was called with unusable inputs."""


class ToleranceError(SnnpipeError):
    """A converted network is not within given tolerances; the message lists all that it breaks."""


class ThresholdWarning(UserWarning):
    """A threshold had to be replaced by the documented fallback, or rests on too little data."""


class CompileWarning(UserWarning):
    """What was to be compiled runs as it is."""


class SiteWarning(UserWarning):
    """A network that is not linear has no site for a neuron, so nothing in it is going to spike."""


#: Packages whose frames lie between a stage and the line that asked for it.
_BETWEEN = frozenset({"snnpipe", "toolz", "torch"})


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line outside the library that led here, however many stages and pipes lie between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


@attrs.frozen
class Problem:
    """One thing that is wrong at one node, in words.

    >>> print(Problem("relu", "layer1.0", "net.py:12", "is odd", "make it even"))
    relu  (layer1.0, net.py:12): is odd
        -> make it even
    """

    node: str
    module: str
    where: str
    reason: str
    fix: str = ""

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.module, self.where) if part)
        line = f"{self.node}  ({place}): {self.reason}" if place else f"{self.node}: {self.reason}"
        return f"{line}\n    -> {self.fix}" if self.fix else line


def listing(headline: str, problems: Iterable[Problem]) -> str:
    """Format ``headline`` followed by one entry per problem.

    >>> print(listing("1 problem", [Problem("x", "", "", "is odd")]))
    1 problem
      x: is odd
    """
    entries = [str(problem).replace("\n", "\n  ") for problem in problems]
    return "\n  ".join([headline, *entries])
