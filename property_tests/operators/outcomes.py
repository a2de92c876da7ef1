"""What a trial can give, and the kinds of refusals, told by their words."""

from typing import Any

import attrs

from snnpipe import SnnpipeError

WORDS = ("exact", "refused", "wrong", "other", "not applicable")

#: Words of a message -> what it refuses for; the first that fits.
REFUSALS = (
    ("random", ("is random", "drawn at random")),
    ("write", ("wrote to the same memory", "writes to", "`out=`", "mutat")),
    (
        "control flow",
        ("inputs to control flow", "cannot be iterated", "branch or loop", "proxy object"),
    ),
    ("data-dependent", ("data-dependent", "values of the input are not known", "unbacked", "depends on")),
    ("autograd", ("autograd", "requires_grad", "grad")),
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
    lower = text.lower()
    return next((kind for kind, words in REFUSALS if any(word in lower for word in words)), "other")


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
