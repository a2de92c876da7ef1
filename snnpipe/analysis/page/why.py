"""Why the output is off: causes, sites and findings of an explanation, as parts of a page.

Reads an explanation by its fields: ``causes`` (``name``, ``error``), ``sites`` (``site``, ``op``, ``isolated``,
``accumulated``, ``correlation``, ``dead``, ``saturated``, ``rate``, ``joint``), ``graded`` (``path``, ``op``,
``isolated``, ``accumulated``), ``findings``, ``error``, ``T``, ``schedule``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from snnpipe.analysis.page.scatter import scatters
from snnpipe.markup.bars import bars, waterfall
from snnpipe.markup.tables import table
from snnpipe.markup.tags import Markup, more, tag

#: What is to be known of graded operators.
GRADED = "graded operators send floats and compute what the ANN does: alone they are 0, or rounding"

_COLUMNS = (
    ("alone %", "isolated"), ("accumulated %", "accumulated"), ("dead %", "dead"), ("saturated %", "saturated"),
)  # fmt: skip


def why(explanation: Any) -> list[Markup]:
    """Causes as a waterfall, what each site adds, what was found and what mends it."""
    causes, sites = list(explanation.causes), list(explanation.sites)
    parts = [tag("p", f"Of a run of {explanation.T} steps, schedule {explanation.schedule}. Errors are shares of the "
                 "ANN's output; what a cause adds stands beside it, and they come to the whole.")]  # fmt: skip
    rows = [(cause.name, float(cause.error), _points(cause)) for cause in causes]
    total = ("the whole", f"{100 * float(explanation.error):.3g} %")
    parts.append(waterfall(rows, total, label="causes of the error of the output"))
    parts += [_finding(found) for found in getattr(explanation, "findings", ())]
    if sites:
        parts.append(tag("h3", "Error of each site, alone and with those before it"))
        parts.append(_sites(sites))
    graded = list(getattr(explanation, "graded", ()))
    if graded:
        parts += [tag("h3", "Graded operators"), _graded(graded), tag("p", GRADED, class_="note")]
    seen = [site for site in sites if getattr(site, "joint", None) is not None]
    if seen:
        parts += [tag("h3", "What each site decodes to, beside the ANN's activation"), *scatters(seen)]
    return parts


def errors(explanation: Any) -> dict[str, float]:
    """What each site adds alone, by name of the site."""
    return {str(site.site): float(site.isolated) for site in explanation.sites}


def _points(cause: Any) -> str:
    words = f"{100 * float(cause.error):+.3g} %"
    accuracy = getattr(cause, "accuracy", None)
    return words if accuracy is None else f"{words}, accuracy {float(accuracy):+.2f}"


def _sites(sites: Sequence[Any]) -> Markup:
    drawn = bars(
        [(str(site.site), float(site.isolated), f"{100 * float(site.isolated):.3g} %") for site in sites],
        label="error of the output with one site alone spiking", colour="b",
    )  # fmt: skip
    rows = [("site", "for", *(title for title, _ in _COLUMNS), "correlation", "rate")]
    rows += [
        (str(site.site), str(site.op), *(f"{100 * float(getattr(site, name)):.3g}" for _, name in _COLUMNS),
         f"{float(site.correlation):.3f}", f"{float(site.rate):.3g}")
        for site in sites
    ]  # fmt: skip
    return tag("div", drawn, more("as a table", table(rows, label="errors of the sites", left=2)))


def _graded(operators: Sequence[Any]) -> Markup:
    rows = [("operator", "for", "alone %", "accumulated %")]
    rows += [
        (str(one.path), str(one.op), f"{100 * float(one.isolated):.3g}", f"{100 * float(one.accumulated):.3g}")
        for one in operators
    ]  # fmt: skip
    return table(rows, label="errors of graded operators", left=2)


def _finding(found: Any) -> Markup:
    fields = [getattr(found, name, "") for name in ("cause", "site", "what")]
    words = ", ".join(str(field) for field in fields if field) or str(found)
    advice = getattr(found, "advice", "")
    return tag("div", tag("p", tag("b", "Found: "), words), *[tag("pre", str(advice))] * bool(advice))
