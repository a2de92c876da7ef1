r"""Races: which of two is right more often on all samples, told from the first few of a random order.

Knows answers and which of them are right; nothing of networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import attrs
import torch
from torch import Tensor

#: The fewest samples that a comparison is made on.
FEWEST = 64


def surely_fewer(ours: Tensor, theirs: Tensor, risk: float) -> bool:
    r"""Whether one is right less often than another on all samples, told from those in the shorter of two records.

    Of the m samples that only one of the two is right on, k are ours.  Were we right on as many of all samples as they
    are, or more, k would be hypergeometric with a mean of at least m / 2, for any order that is drawn at random, and

    .. math:: P(K \le k) \le \exp(-m D), \qquad D = q \ln 2 q + (1 - q) \ln 2 (1 - q), \; q = k / m,

    so that "yes" is wrong with a probability of at most ``risk``.

    References: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika; Hoeffding 1963, "Probability inequalities for sums of bounded random variables", JASA
    (theorem 1, and section 6 for draws without replacement).

    >>> ours, theirs = torch.zeros(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)
    >>> surely_fewer(ours, theirs, 1e-6), surely_fewer(ours, theirs, 1e-7), surely_fewer(ours, ours, 0.5)
    (True, False, False)
    """
    n = min(len(ours), len(theirs))
    k, lost = (int((a[:n] & ~b[:n]).sum()) for a, b in ((ours, theirs), (theirs, ours)))
    m = k + lost
    return k < lost and sum(x * math.log(2 * x / m) for x in (k, lost) if x) >= -math.log(risk)


def looks(samples: int) -> tuple[int, ...]:
    """After how many samples a race is looked at: all of them, a half, a quarter, ..., in ascending order.

    >>> looks(2000), looks(100)
    ((125, 250, 500, 1000, 2000), (100,))
    """
    halves = max(0, int(math.log2(max(samples, 1) / FEWEST)))
    return tuple(samples >> k for k in range(halves, -1, -1))


def shuffled(samples: int, size: int, seed: int) -> tuple[tuple[Tensor, ...], ...]:
    """The numbers of all samples in a random order: for each look pieces of at most ``size``, each of them sorted."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    ends = (0, *looks(samples))
    return tuple(tuple(piece.sort().values for piece in order[a:b].split(size)) for a, b in pairwise(ends))


@attrs.frozen(eq=False)
class Course:
    """What is raced on.

    Attributes:
        looks: the numbers of the samples from one look to the next, in pieces that are answered at once.
        truth: the right answers, in the order of the samples' numbers.
        risk: the chance that a comparison at a look is wrong.
    """

    looks: tuple[tuple[Tensor, ...], ...]
    truth: Tensor
    risk: float

    @property
    def order(self) -> Tensor:
        """The numbers of the samples as they are answered."""
        return torch.cat([piece for pieces in self.looks for piece in pieces])


@attrs.frozen(eq=False)
class Run:
    """What a candidate has answered, and how its race ended: all was answered, a rival was better, or time was up.

    Attributes:
        answers: in the order of the course.
        right: which of them are.
        beaten: the name of the rival that is surely right more often, "" for none.
    """

    answers: Tensor
    right: Tensor
    beaten: str = ""


def race(
    course: Course, answer: Callable[[Tensor], Tensor], rivals: Mapping[str, Tensor], late: Callable[[], bool]
) -> Run:
    """Let a candidate answer until a rival is surely better, nothing is left to answer, or it is late.

    Args:
        course: the samples.
        answer: ``answer(numbers of samples)``.
        rivals: by name which answers of a rival are right, in the order of the course.
        late: whether time is up; asked before every piece.
    """
    answers, truth = course.truth[:0], course.truth[course.order]
    for pieces in course.looks:
        for piece in pieces:
            if late():
                return Run(answers, answers == truth[: len(answers)])
            answers = torch.cat((answers, answer(piece)))
        right = answers == truth[: len(answers)]
        beaten = next(_better(right, rivals, course.risk), "") if len(right) < len(truth) else ""
        if beaten:
            return Run(answers, right, beaten)
    return Run(answers, answers == truth)


def _better(right: Tensor, rivals: Mapping[str, Tensor], risk: float) -> Iterator[str]:
    return (name for name, theirs in rivals.items() if surely_fewer(right, theirs, risk))
