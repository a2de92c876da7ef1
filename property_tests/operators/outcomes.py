"""What a trial can give, and the kinds of refusals, told by their words."""

from typing import Any

import attrs

from snnpipe import SnnpipeError

WORDS = ("exact", "refused", "wrong", "other", "not applicable")

#: Words of a refusal, or of the cause it names -> what it is for; the first that fits.
REFUSALS = (
    ("own fault", ("a fault of snnpipe",)),
    ("random", ("is random", "drawn at random", "draws", "draw them", "generator")),
    ("write", ("wrote to", "writes to", "`out=`", "is mutated", "changes the memory")),
    ("transform", ("transform of torch.func", "computes gradients")),
    ("sparse", ("no strides", "to_sparse", "sparse csr")),
    ("control flow", ("control flow", "cannot be iterated", "branch or loop", "'len' is not supported")),
    (
        "data-dependent",
        ("data-dependent", "unbacked", "argument must be a string", "depends on the input", "a value that depends"),
    ),
    ("autograd", ("autograd", "requires_grad", "require grad", "forward ad")),
    ("run", ("the network cannot run",)),
    ("not traced", ("cannot follow the model",)),
)


@attrs.frozen
class Outcome:
    """One of ``WORDS``, of which kind, in words."""

    word: str
    kind: str = ""
    text: str = ""

    @property
    def exact(self) -> bool:
        return self.word == "exact"


def of_error(error: BaseException, when: str) -> Outcome:
    """A refusal by name, or an exception that nobody meant."""
    text = str(error)
    if isinstance(error, SnnpipeError):
        return Outcome("refused", _kind(text), f"{when}: {text[:600]}")
    return Outcome("other", type(error).__name__, f"{when}: {text[:300]}{_place(error)}")


def _kind(text: str) -> str:
    told, _, cause = text.partition("cause: ")
    lines = (cause.partition("\n")[0].lower(), told.lower())
    found = (kind for line in lines for kind, words in REFUSALS if any(word in line for word in words))
    return next(found, "other")


def _place(error: BaseException) -> str:
    """The last line of ours that ran."""
    found: Any = ""
    step = error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if "snnpipe" in name:
            found = f" [{name.rpartition('snnpipe/')[2]}:{step.tb_lineno}]"
        step = step.tb_next
    return str(found)
