"""What may be chosen for a site: a neuron, or a threshold.

Knows values and what they must be; which sites they are for is ``rules.selecting``'s business.
"""

from __future__ import annotations

from typing import Any

from snnpipe.checks import Check
from snnpipe.kernels.neuron import Neuron
from snnpipe.kernels.threshold import Threshold, as_threshold
from snnpipe.options import function

_OWN = function("site", "summary")


def _rule_or_function(value: Any) -> Any:
    """A rule, what other tools write for one, or a function of one's own."""
    return _OWN.accept(value) if callable(value) and not isinstance(value, Threshold) else as_threshold(value)


def _choice(value: Any) -> Any:
    return value if isinstance(value, Neuron) else _rule_or_function(value)


#: For arguments that are thresholds: rules or functions.
THRESHOLD_RULE = Check(
    "must be a threshold rule or a function (site, summary)", _rule_or_function, "write maximum() or percentile(99.9)"
)
#: For arguments that say what some sites get.
CHOICE = Check(
    "must be a neuron, a threshold rule or a function (site, summary)", _choice, "write cascade(n=4) or maximum()"
)
