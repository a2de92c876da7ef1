"""Which sites: by path, by operator, by a test of one's own, and by what of these holds together.

Knows sites; what is done with those that are selected is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import attrs

from snnpipe.checks import Check, RefusalError, takes
from snnpipe.errors import StageError
from snnpipe.frozen import FrozenMap
from snnpipe.options import function, instance, several
from snnpipe.rules.choices import CHOICE
from snnpipe.state import SITE, Site
from snnpipe.text import shown, written


@attrs.frozen(repr=False)
class Selector:
    """Some of a network's sites; ``at``, ``of_op`` and ``such_that`` make them, ``|``, ``&`` and ``~`` join them.

    It is a function of a ``Site``, and its ``repr`` is what ``parse`` reads.

    Attributes:
        word: how it was made: a function's name, or a sign.
        terms: patterns, operators, a function; or the selectors that are joined.

    >>> from snnpipe import at, of_op
    >>> at("head.*") | of_op("clamp") & ~at("stem")
    at('head.*') | of_op('clamp') & ~at('stem')
    """

    word: str = attrs.field()
    terms: tuple[Any, ...] = attrs.field()

    @word.validator
    def _known(self, _: Any, value: Any) -> None:
        if not isinstance(value, str) or value not in _HOLDS:
            raise StageError(f"Selector: word is one of {', '.join(_HOLDS)}, got {shown(value)}; write at('layer1.*')")

    @terms.validator
    def _sound(self, _: Any, value: Any) -> None:
        _TERMS[self.word].hold(value, "terms", "Selector", StageError)

    def __call__(self, site: Site) -> bool:
        """Whether the site is one of these."""
        return _HOLDS[self.word](self.terms, SITE.hold(site, "site", "Selector", StageError))

    def __or__(self, other: Any) -> Selector:
        return Selector("|", (self, other)) if isinstance(other, Selector) else NotImplemented

    def __and__(self, other: Any) -> Selector:
        return Selector("&", (self, other)) if isinstance(other, Selector) else NotImplemented

    def __invert__(self) -> Selector:
        return Selector("~", (self,))

    def use(self, choice: Any) -> Use:
        """A rule for ``replace(rules=...)``: these sites get that neuron, or that threshold.

        >>> from snnpipe import at, cascade
        >>> at("layer1.*").use(cascade(n=4))
        at('layer1.*').use(cascade())
        """
        return Use(self, choice)

    def __repr__(self) -> str:
        if self.word not in SIGNS:
            return f"{self.word}({', '.join(map(written, self.terms))})"
        parts = [_within(term, self.word, first=not k) for k, term in enumerate(self.terms)]
        return f"~{parts[0]}" if self.word == "~" else f" {self.word} ".join(parts)


#: From loose to tight.
SIGNS = ("|", "&", "~")


def _within(term: Selector, sign: str, first: bool) -> str:
    """A selector in a larger one, in brackets where it would be read otherwise."""
    outer = SIGNS.index(sign)
    inner = SIGNS.index(term.word) if term.word in SIGNS else len(SIGNS)
    return repr(term) if inner > outer or (inner == outer and (first or sign == "~")) else f"({term!r})"


def _held(choice: Any) -> Any:
    return CHOICE.hold(choice, "choice", "use", StageError)


@attrs.frozen(repr=False)
class Use:
    """What some sites get: a rule ``(site, neuron)``, which has nothing to say of the others.

    Attributes:
        selector: which sites.
        choice: a neuron, or a threshold: a rule, what other tools write for one, or a function ``(site, summary)``.
    """

    selector: Selector
    choice: Any = attrs.field(converter=_held)

    def __call__(self, site: Site, neuron: Any) -> Any:
        return self.choice if self.selector(site) else None

    def __repr__(self) -> str:
        whole = repr(self.selector)
        return f"{f'({whole})' if self.selector.word in SIGNS else whole}.use({written(self.choice)})"


def _at(patterns: tuple[Any, ...], site: Site) -> bool:
    return any(fnmatchcase(path, pattern) for path in paths(site.name) for pattern in patterns)


def _of_op(ops: tuple[Any, ...], site: Site) -> bool:
    return site.op in ops


def _such_that(terms: tuple[Any, ...], site: Site) -> bool:
    said = terms[0](site)
    if not isinstance(said, bool):
        raise StageError(f"such_that: {written(terms[0])} said {shown(said)} of site {site.name}; say True or False")
    return said


def _any(terms: tuple[Any, ...], site: Site) -> bool:
    return any(term(site) for term in terms)


def _all(terms: tuple[Any, ...], site: Site) -> bool:
    return all(term(site) for term in terms)


def _not(terms: tuple[Any, ...], site: Site) -> bool:
    return not terms[0](site)


_HOLDS: FrozenMap[str, Callable[[tuple[Any, ...], Site], bool]] = FrozenMap({
    "at": _at, "of_op": _of_op, "such_that": _such_that, "|": _any, "&": _all, "~": _not,
})  # fmt: skip


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


_SELECTORS = several(instance(Selector, "must be a Selector"), "selectors")
_TEXTS = several(Check("must be a string that is not empty", _word), "strings that are not empty")
_TERMS: FrozenMap[str, Check] = FrozenMap({
    "at": _TEXTS, "of_op": _TEXTS, "such_that": several(function("site"), "one function (site)"),
    "|": _SELECTORS, "&": _SELECTORS, "~": _SELECTORS,
})  # fmt: skip


def at(*patterns: str) -> Selector:
    """The sites in some modules: of each whose path fits one of the patterns, and of all that is in it.

    In a pattern ``*`` stands for any characters, dots too, ``?`` for one and ``[ab]`` for one of these (``fnmatch``).
    A site has a path as modules do: ``layer1.0.relu`` for what ``layer1.0`` calls.

    >>> import snnpipe
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    >>> state = snnpipe.pipe(model, snnpipe.trace, snnpipe.instrument)
    >>> [site.name for site in state.sites.values() if at("2")(site)]
    ['2.1']

    Raises:
        StageError: a pattern is no string, or empty.
    """
    return Selector("at", _some(patterns, "at", "the path of a module"))


def of_op(*ops: str) -> Selector:
    """The sites at values of some operators: ``of_op("clamp")`` for ReLU6 and the like.

    Raises:
        StageError: an operator is no string, or empty.
    """
    return Selector("of_op", _some(ops, "of_op", "the name of an operator"))


@takes(StageError, predicate=function("site"))
def such_that(predicate: Callable[[Site], bool]) -> Selector:
    """The sites of which a function of one's own says ``True``.

    >>> such_that(lambda site: site.cap is None)(Site("a", "b", 1, 6.0, "act"))
    False
    """
    return Selector("such_that", (predicate,))


def _some(texts: tuple[Any, ...], where: str, what: str) -> tuple[str, ...]:
    if not texts:
        raise StageError(f"{where}: takes {what}, or several; got none")
    held: tuple[str, ...] = _TEXTS.hold(texts, "what it takes", where, StageError)
    return held


def _selector(value: Any) -> Selector:
    if isinstance(value, str):
        return at(value)
    if not isinstance(value, Selector):
        raise RefusalError(f"write such_that({written(value)})") if callable(value) else TypeError
    return value


#: For arguments that say which sites; a string is a path.
SELECTOR = Check('must be a selector, such as at("layer1.*")', _selector, 'write at("layer1.*") or of_op("clamp")')


def paths(name: str) -> list[str]:
    """A path, and those of the modules around it.

    >>> paths("layer1.0.relu")
    ['layer1', 'layer1.0', 'layer1.0.relu']
    """
    parts = name.split(".")
    return [".".join(parts[: k + 1]) for k in range(len(parts))]
