"""The sites that a selector selects, and what is wrong with one that selects none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from snnpipe.errors import StageError
from snnpipe.graph import Node
from snnpipe.rules.selecting import SIGNS, Selector, paths
from snnpipe.state import Site


def selected(selector: Selector, sites: Iterable[Site], where: str) -> frozenset[str]:
    """The nodes of the sites that are selected.

    Raises:
        StageError: a pattern or operator in it fits no site, or all of it selects none; says what is near.
    """
    sites = tuple(sites)
    for term in _leaves(selector):
        for text in term.terms:
            if not any(Selector(term.word, (text,))(site) for site in sites):
                raise StageError(f"{where}: {Selector(term.word, (text,))} selects no site; {_near(term, text, sites)}")
    found = frozenset(site.node for site in sites if selector(site))
    if not found:
        raise StageError(f"{where}: {selector} selects none of {len(sites)} sites; {_names(sites)}")
    return found


def as_site(node: Node) -> Site:
    """The site that a neuron stands at."""
    op, name = str(node.get("origin", "")).partition(" at ")[0], node.path or node.name
    cap = node.get("cap")
    cap = cap if isinstance(cap, float) else None
    return Site(node.name, node["input"].name, node["axis"], cap, name, bool(node.get("signed", False)), op)


def _leaves(selector: Selector) -> Iterator[Selector]:
    """The patterns and operators in a selector."""
    if selector.word in SIGNS:
        for term in selector.terms:
            yield from _leaves(term)
    elif selector.word != "such_that":
        yield selector


def _near(term: Selector, text: str, sites: tuple[Site, ...]) -> str:
    if term.word == "of_op":
        return f"they are of {', '.join(sorted({site.op for site in sites})) or 'no operator'}"
    known = list(dict.fromkeys(path for site in sites for path in paths(site.name)))
    near = difflib.get_close_matches(text, known, 3, 0.5)
    return f"the nearest are {', '.join(near)}" if near else _names(sites)


def _names(sites: tuple[Site, ...]) -> str:
    names = [site.name for site in sites]
    return f"the sites are {', '.join(names[:5])}{', ...' * (len(names) > 5)}" if names else "there are no sites"
