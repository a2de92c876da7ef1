"""Reading back what ``repr`` and ``str`` write: values as the calls that make them, stages joined by ``|``.

The text is Python's, as its own parser takes it apart, but nothing is evaluated: what it may hold is literals, names of
a fixed list, and calls of some of these.  Knows the vocabulary; a name of the user's own is given.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from snnpipe.checks import takes
from snnpipe.errors import SnnpipeError
from snnpipe.exchange.vocabulary import CALLED, NAMED, READ_DATA
from snnpipe.frozen import EMPTY
from snnpipe.options import MAPPING, TEXT, optional
from snnpipe.rules.selecting import Selector
from snnpipe.stage import pipeline
from snnpipe.stages.batches import BATCHES
from snnpipe.stages.instrument import instrument
from snnpipe.text import shown

_LONGEST = 100_000  # characters of a text


@takes(text=TEXT, data=optional(BATCHES), own=MAPPING)
def parse(text: str, *, data: Iterable[Any] | None = None, own: Mapping[str, Any] = EMPTY) -> Any:
    """The stage, pipeline, neuron, threshold, code or recipe that a text says; nothing in the text is run.

    It is what ``str`` of a pipeline and ``repr`` of a value write.  Data are no part of it: stages that read data get
    ``data``, and what else has no expression is a name, given by ``own``.  ``99.9%`` is ``percentile(99.9)``, and
    ``calibrate(99.9%)`` says in one what ``instrument(statistic=percentile(99.9)) | calibrate`` says in two.

    Args:
        text: stages joined by ``|``, or one value.
        data: batches for ``calibrate``, ``balance`` and corrections, readable as often as there are such stages.
        own: what is named in the text and not this package's, by name.

    Raises:
        SnnpipeError: it is no such text, a name is unknown (the nearest that is known is said), or an option is wrong.

    >>> text = "trace | fuse | calibrate(99.9%) | replace(neuron=cascade(n=4)) | td_rewrite(code=DIFFERENTIAL)"
    >>> print(parse(text, data=[[1.0]]))
    trace | fuse | instrument(statistic=percentile(99.9)) | calibrate | replace(neuron=cascade()) | ...
    >>> parse("cascade(n=3)"), parse("recipes.hmt(n=3)")
    (cascade(n=3), recipes.hmt(n=3))
    """
    found = [stage for part in _parts(_tree(text)) for stage in _Reading(text, data, own).stages(part)]
    if all(isinstance(part, Selector) for part in found):
        return functools.reduce(operator.or_, found)
    return found[0] if len(found) == 1 else pipeline(*found)


def _tree(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise SnnpipeError(f"parse: a text has at most {_LONGEST} characters, got {len(text)}")
    percents = re.compile(r"""('[^']*'|"[^"]*")|\b(\d+(?:\.\d+)?)%""")
    plain = percents.sub(lambda found: found[1] or f"percentile({found[2]})", text)
    try:
        return ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SnnpipeError(f"parse: {shown(text)} is no text of stages or values ({error}); {_WRITE}") from None


_WRITE = 'write for example "trace | fuse | calibrate | replace(neuron=cascade(n=4)) | td_rewrite(code=TD)"'


def _parts(tree: ast.expr) -> list[ast.expr]:
    """What stands between the bars."""
    found = []
    while isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        found.append(tree.right)
        tree = tree.left
    return [tree, *reversed(found)]


class _Reading:
    """Takes one text apart."""

    def __init__(self, text: str, data: Iterable[Any] | None, own: Mapping[str, Any]) -> None:
        self.text, self.data, self.own = text, data, own

    def stages(self, tree: ast.expr) -> list[Any]:
        """The stages, nearly always one, that stand between two bars."""
        called = tree.func if isinstance(tree, ast.Call) else tree
        name = _name(called)
        if name not in READ_DATA or name in self.own:
            return [self.value(tree)]
        args, options = self.arguments(tree) if isinstance(tree, ast.Call) else ([], {})
        if self.data is None:
            raise SnnpipeError(f"parse: {name} reads data, which no text holds; write parse(text, data=batches)")
        before: list[Any] = []
        if name == "calibrate" and len(args) == 1:
            before = [instrument(statistic=args.pop())]
        return [*before, self.made(name, READ_DATA[name], [self.data, *args], options)]

    def value(self, tree: ast.expr) -> Any:
        """The value of an expression."""
        if isinstance(tree, ast.Constant) and tree.value is not ... and not isinstance(tree.value, bytes | complex):
            return tree.value
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub | ast.UAdd):
            number = self.value(tree.operand)
            if type(number) in (int, float):
                return -number if isinstance(tree.op, ast.USub) else number
        if isinstance(tree, ast.Tuple | ast.List):
            made = map(self.value, tree.elts)
            return tuple(made) if isinstance(tree, ast.Tuple) else list(made)
        if isinstance(tree, ast.Dict) and None not in tree.keys:
            keys = (self.value(key) for key in tree.keys if key is not None)
            return dict(zip(keys, map(self.value, tree.values), strict=True))
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Invert):
            return ~self.selector(tree.operand)
        if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr | ast.BitAnd):
            join = operator.or_ if isinstance(tree.op, ast.BitOr) else operator.and_
            return join(self.selector(tree.left), self.selector(tree.right))
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Attribute) and tree.func.attr == "use":
            args, options = self.arguments(tree)
            return self.made("use", self.selector(tree.func.value).use, args, options)
        if isinstance(tree, ast.Call):
            return self.made(_name(tree.func), self.named(tree.func, CALLED), *self.arguments(tree))
        if _name(tree):
            return self.named(tree, NAMED)
        raise SnnpipeError(f"parse: {ast.unparse(tree)} is neither a literal, a name nor a call; {_WRITE}")

    def selector(self, tree: ast.expr) -> Selector:
        """What is joined by ``|``, ``&`` and ``~`` within a stage, and has rules by ``use``."""
        found = self.value(tree)
        if not isinstance(found, Selector):
            raise SnnpipeError(f"parse: {ast.unparse(tree)} selects no sites; write at('layer1.*') or of_op('clamp')")
        return found

    def arguments(self, tree: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call."""
        if any(isinstance(arg, ast.Starred) for arg in tree.args) or any(k.arg is None for k in tree.keywords):
            raise SnnpipeError(f"parse: {ast.unparse(tree)} unpacks its arguments; write them one by one")
        return [self.value(arg) for arg in tree.args], {str(k.arg): self.value(k.value) for k in tree.keywords}

    def named(self, tree: ast.expr, vocabulary: Mapping[str, Any]) -> Any:
        """What has a name."""
        name = _name(tree)
        if name in self.own:
            return self.own[name]
        if name in vocabulary:
            return vocabulary[name]
        if not name:
            raise SnnpipeError(f"parse: {ast.unparse(tree)} is neither a literal, a name nor a call; {_WRITE}")
        if name in NAMED:
            raise SnnpipeError(f"parse: {name} cannot be called in a text; write its name alone")
        near = difflib.get_close_matches(name, {*vocabulary, *self.own}, 1)
        meant = f"did you mean {near[0]}? Or" if near else "If it is your own,"
        raise SnnpipeError(f'parse: nothing here is called {name}; {meant} write parse(text, own={{"{name}": ...}})')

    def made(self, name: str, fn: Callable[..., Any], args: list[Any], options: dict[str, Any]) -> Any:
        """What a call makes."""
        try:
            return fn(*args, **options)
        except SnnpipeError as error:
            raise SnnpipeError(f"parse: {error}") from error
        except TypeError as error:
            ours = fn.func if isinstance(fn, functools.partial) else fn
            raise SnnpipeError(f"parse: {name}{inspect.signature(ours)} is called otherwise: {error}") from error


def _name(tree: ast.expr) -> str:
    """A name, or ``recipes.name``; "" for anything else."""
    if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name) and tree.value.id == "recipes":
        return f"recipes.{tree.attr}"
    return tree.id if isinstance(tree, ast.Name) else ""
