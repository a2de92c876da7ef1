"""What a file of statistics says: what was measured, and for each site what it was and the summary.

Knows the content of such files, of this version and the one before; stages are ``exchange.statistics``' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from snnpipe.errors import CalibrationError, Problem, listing
from snnpipe.exchange.fit import identity, measured, missing, unfit
from snnpipe.exchange.summaries import as_plain, from_plain
from snnpipe.state import ConversionState, Levels

_FORMAT = "snnpipe statistics"
_VERSION = 3  # 2 was the same as a sealed archive, 1 a summary for each node and nothing else, without a seal
_FOREIGN = "holds no statistics; expected a file that save_statistics has written"
_UNFIT = "does not fit this network"


def content_of(state: ConversionState) -> dict[str, Any]:
    """A state's statistics as dictionaries of tensors, numbers and texts.

    Raises:
        CalibrationError: a summary is of a kind of one's own, or holds what its kind cannot.
    """
    plain = _each(as_plain, state.statistics, state, "these statistics cannot be written")
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "measured": measured(state.threshold),
        "threshold": str(state.threshold),
        "sites": {node: identity(state.sites[node]) | {"summary": summary} for node, summary in plain.items()},
    }


def statistics_in(content: Any, sealed: bool, state: ConversionState) -> dict[str, Any]:
    """The summaries of a file by node, each sound and of the same site in ``state``.

    Args:
        content: of the file.
        sealed: whether the file's seal is there, and right.
        state: with sites.

    Raises:
        CalibrationError: the content is no such statistics, or another network's, or another statistic's.
    """
    versioned = isinstance(content, Mapping) and _is(content.get("format"), _FORMAT)
    entries = _entries(content, sealed, state) if versioned else content
    plain = {node: entry["summary"] for node, entry in entries.items()} if versioned else entries
    if not isinstance(plain, Mapping) or not plain or not all(_is_summary(value) for value in plain.values()):
        raise CalibrationError(_FOREIGN)
    if lacking := missing(plain, state):
        raise CalibrationError(f"has no statistic for {', '.join(lacking)}; was it the same network?")
    strange = [node for node in plain if node not in state.sites or isinstance(state.sites[node].cap, Levels)]
    if strange:
        names = ", ".join(str(entries[node]["name"]) if versioned else str(node) for node in strange)
        raise CalibrationError(f"has statistics for {names}, which are no sites here; was it the same network?")
    if versioned:
        _check_identity(entries, state)
    found = _each(from_plain, plain, state, _UNFIT)
    problems = tuple(unfit(found, state))
    if problems:
        raise CalibrationError(listing(_UNFIT, problems))
    return found


def _entries(content: Mapping[str, Any], sealed: bool, state: ConversionState) -> Mapping[str, Any]:
    """What a file of this version says of each site, after the rest of it was held against the state."""
    version = content.get("version")
    if not any(_is(version, known) for known in (2, _VERSION)):
        raise CalibrationError(f"is of format {version!r}, this snnpipe reads {_VERSION} and older; upgrade snnpipe")
    if not sealed:
        raise CalibrationError("is damaged: its checksum is missing at its end")
    entries = content.get("sites")
    if not isinstance(entries, Mapping) or not all(_is_entry(entry) for entry in entries.values()):
        raise CalibrationError(_FOREIGN)
    here = measured(state.threshold)
    if not _is(content.get("measured"), here):
        raise CalibrationError(
            f"holds {content.get('measured')}, measured for {content.get('threshold')}; this state needs {here}, for "
            f"{state.threshold}. Say what it was measured for: "
            "pipe(model, trace, instrument(statistic=...), load_statistics(path))"
        )
    return entries


def _check_identity(entries: Mapping[str, Any], state: ConversionState) -> None:
    sites = ((state.sites[node], entry) for node, entry in entries.items())
    other = [
        Problem(site.name, "", "", f"in the file it is {_said(entry)}, here {_said(identity(site))}")
        for site, entry in sites
        if not all(_is(entry[key], value) for key, value in identity(site).items())
    ]
    if other:
        raise CalibrationError(listing(_UNFIT, other))


def _said(entry: Mapping[str, Any]) -> str:
    signs = ", both signs" if entry["signed"] is True else ""
    return f"{entry['name']}, channel axis {entry['axis']}{signs}"


def _is(found: Any, wanted: Any) -> bool:
    """Whether they are equal, and of one type; a file may hold a tensor anywhere."""
    return type(found) is type(wanted) and bool(found == wanted)


def _is_entry(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"name", "axis", "signed", "summary"}


def _is_summary(value: Any) -> bool:
    return isinstance(value, Mapping) and "kind" in value


def _each(fn: Callable[[Any], Any], values: Mapping[str, Any], state: ConversionState, headline: str) -> dict[str, Any]:
    """``fn`` of each value; all that it complains of at once."""
    found, problems = {}, []
    for node, value in values.items():
        try:
            found[node] = fn(value)
        except CalibrationError as error:
            problems.append(Problem(state.sites[node].name, "", "", str(error)))
    if problems:
        raise CalibrationError(listing(headline, problems))
    return found
