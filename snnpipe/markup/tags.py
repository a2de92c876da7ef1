"""Elements of a page.  Text is escaped, whatever is in it; what is made here is not escaped again."""

from __future__ import annotations

import html
import re
from typing import Any

#: Characters that no page may hold.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
#: Elements without an end.
_EMPTY = frozenset({"meta", "line", "rect", "polyline", "polygon", "circle", "path"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: Any) -> Markup:
    """A value as text of a page.

    >>> text("<a & 'b'>")
    '&lt;a &amp; &#x27;b&#x27;&gt;'
    """
    if isinstance(value, Markup):
        return value
    whole = str(value).encode("utf-8", "replace").decode("utf-8")
    return Markup(html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", whole)))


def tag(name: str, /, *inside: Any, **attributes: Any) -> Markup:
    """An element; an attribute ``class_`` is ``class``, ``aria_label`` is ``aria-label``; ``None`` is none.

    >>> tag("p", "x < ", tag("b", 1), class_="note", id=None)
    '<p class="note">x &lt; <b>1</b></p>'
    """
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items() if value is not None and value is not False
    )  # fmt: skip
    body = joined(*inside)
    return Markup(f"<{name}{said}/>" if name in _EMPTY and not body else f"<{name}{said}>{body}</{name}>")


def joined(*parts: Any) -> Markup:
    """Parts one after the other."""
    return Markup("".join(map(text, parts)))


def more(title: Any, *inside: Any, open_: bool = False) -> Markup:
    """What is shown when its title is chosen, by mouse or keyboard."""
    return tag("details", tag("summary", title), *inside, open=open_)
