"""A history, and how something was made, as parts of a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from snnpipe.markup.tables import table
from snnpipe.markup.tags import Markup, more, tag


def pipeline(made: Sequence[str]) -> list[Markup]:
    """The text of a pipeline, a stage in a line."""
    return [tag("pre", "\n| ".join(made))] * bool(made)


def history(events: Iterable[Any]) -> list[Markup]:
    """What each stage did: events with ``stage``, ``subject``, ``action`` and ``detail``, open where there are few."""
    parts = []
    for stage, group in groupby(events, lambda event: event.stage):
        rows = [(event.subject, event.action, event.detail) for event in group]
        title = f"{stage}: {len(rows)} event{'s' * (len(rows) != 1)}"
        made = table([("what", "what was done", "in detail"), *rows], label=stage, left=3, words=1)
        parts.append(more(title, made, open_=len(rows) <= 3))
    return parts
