"""The law, held to one formula: at every step the network decodes to the model of the decoded input.

A formula stands once on the inputs (``y``) and once behind neurons (``z``): ``h`` is the inputs in events of theta, and
neurons after ``z`` ask for events of it.  A network returns its decoded inputs too, so what is compared is a function
of the very same numbers, and rounding counts only where the network itself computes in events.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from property_tests import tolerances
from property_tests.operators.calls import at_step, leaves
from property_tests.operators.compare import (
    Coarsest,
    alike,
    both,
    difference,
    is_complex,
    is_float,
    largest,
    same,
    still_finite,
    where,
)
from property_tests.operators.outcomes import Outcome, of_error
from property_tests.operators.subject import CODES, STEPS, Eager, Subject, behind, encoded, network, plain, run, twice
from snnpipe import Code, SnnpipeError, trace

PLAIN, BEHIND, BOTH = "plain", "behind", "both"
FRONTS = ("symbolic", "export")


def judged(subject: Subject, eager: "Eager | Outcome", front: str) -> dict[tuple[str, str], Outcome]:
    """The outcome for each place (plain, behind neurons) and code.

    A model with both places is tried first; where it falls short, each is judged alone, but what cannot be traced
    without neurons either is refused for both.
    """
    if isinstance(eager, Outcome):
        return {(PLAIN, code): eager for code in CODES}
    places = (PLAIN, BEHIND) if subject.moves and not eager.random and eager.behind else (PLAIN,)
    if len(places) == 2 and not subject.writes:
        found = _judged_at(subject, eager, front, BOTH)
        if all(outcome.exact for outcome in found.values()):
            return {(place, code): found[code] for place in places for code in CODES}
    alone = {PLAIN: _judged_at(subject, eager, front, PLAIN)}
    if len(places) == 2:
        untraced = all(o.word == "refused" and o.text.startswith("trace") for o in alone[PLAIN].values())
        alone[BEHIND] = alone[PLAIN] if untraced else _judged_at(subject, eager, front, BEHIND)
    return {(place, code): outcome for place in places for code, outcome in alone[place].items()}


def _judged_at(subject: Subject, eager: Eager, front: str, place: str) -> dict[str, Outcome]:
    how = {
        PLAIN: lambda f: [plain(f)],
        BEHIND: lambda f: [behind(f, eager.follows)],
        BOTH: lambda f: [twice(f, eager.follows)],
    }[place]
    (formula,) = how(subject.formula)
    model = subject.model(formula)
    before = {key: value.clone() for key, value in _held(model).items()}
    try:
        state = trace(model, example=tuple(x.clone() for x in subject.inputs)) if front == "export" else trace(model)
        found = {}
        for name, code in CODES.items():
            try:
                found[name] = _held_to(subject, eager, network(state, code, place != PLAIN), code, place)
            except Exception as error:
                found[name] = of_error(error, "run")
    except Exception as error:
        found = dict.fromkeys(CODES, of_error(error, "trace"))
    changed = [key for key, value in before.items() if not same(value, _held(model)[key])]
    if changed and any(outcome.exact for outcome in found.values()):
        return dict.fromkeys(CODES, Outcome("wrong", "purity", f"the model's own {changed[0]} was written to"))
    return found


def _held(model: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in vars(model).items() if isinstance(value, Tensor)} | dict(model.named_buffers())


def _held_to(subject: Subject, eager: Eager, net: Any, code: Code, place: str) -> Outcome:
    """The network step by step and as a sequence, held to the formula."""
    if eager.random:
        net(*subject.inputs, T=1)
        return Outcome("wrong", "random", "drawn at random and not refused")
    if not subject.moves:
        outputs = list(net.iterate(*[x.clone() for x in subject.inputs], T=STEPS))
        return _compared(subject, [_parts(out, place) for out in outputs], code, "") or Outcome("exact")
    sequences = encoded(eager.course, code)
    given = [x.clone() for x in sequences]
    outputs = list(run(net, given))
    steps = [_parts(out, place) for out in outputs]
    found = _compared(subject, steps, code, "")
    if found is None and place != BEHIND:
        found = _inputs_decoded(eager, steps, code)
    if found is None:
        found = _compared(subject, _decoded(net.sequence(*given), outputs, place, code), code, "sequence: ", steps)
    if found is None and not all(map(same, given, sequences)):
        found = Outcome("wrong", "purity", "the caller's input was written to")
    if found is None and place != BEHIND:
        found = _another_batch(subject, net, place)
    return found or Outcome("exact")


Parts = list[dict[str, list[Any]]]


def _parts(output: Any, place: str) -> Parts:
    """``x`` and ``y`` of each place, as leaves."""
    parts = output if place == BOTH else [output]
    return [{"x": leaves(part["x"]), "y": leaves(part["y"])} for part in parts]


def _decoded(stacked: Any, outputs: list[Any], place: str, code: Code) -> list[Parts]:
    """An event sequence of outputs, decoded here."""
    decoded: list[Parts] = []
    for t, like in enumerate(outputs):
        clock, now = code.clock(t + 1), _parts(at_step(stacked, like, t), place)
        for k, part in enumerate(now):
            for name, values in part.items():
                before = decoded[-1][k][name] if t else [None] * len(values)
                part[name] = [_decode(b, e, clock) for b, e in zip(before, values, strict=True)]
        decoded.append(now)
    return decoded


def _decode(before: Any, now: Any, clock: Any) -> Any:
    if not is_float(now):
        return now
    return clock.a * now if before is None else clock.alpha * before + clock.a * now


def _compared(subject: Subject, steps: list[Parts], code: Code, how: str, exact: Any = None) -> Outcome | None:
    """``None`` if every step is the formula of what the network decoded at it, of ``exact`` where that is given."""
    finite: list[Any] = [None] * len(steps[0])
    for t, parts in enumerate(steps):
        for k, part in enumerate(parts):
            xs = (exact[t][k] if exact is not None else part)["x"]
            got, want = part["y"], subject.eager(xs)
            if exact is not None:  # a sum cannot come back from an infinity
                finite[k] = still_finite(want, finite[k])
                got, want = where(finite[k], got), where(finite[k], want)
            found = _unlike(subject, got, want, xs, code)
            if found is not None:
                kind, text = found
                return Outcome("wrong", kind, f"{how}{'behind ' * (len(parts) > 1 and k == 0)}step {t + 1}: {text}")
    return None


def _unlike(subject: Subject, got: list[Any], want: list[Any], xs: Sequence[Tensor], code: Code) -> Any:
    """How a result differs by more than rounding, where the formula is continuous."""
    limit = partial(_limit, subject, xs, want, code)
    found = difference(got, want, None if subject.only_shape else limit)
    if found is None or not subject.moves or subject.only_shape:
        return found
    steady = _continuous(subject, xs, want)
    return difference(where(steady, got), where(steady, want), limit)


def _limit(subject: Subject, xs: Sequence[Tensor], want: list[Any], code: Code) -> float:
    """How far rounding may move the result: ``tolerances.temporal`` at this step, in the least precise dtype of it."""

    def run(*inputs: Tensor) -> list[Any]:
        return [torch.view_as_real(leaf.resolve_conj()) if is_complex(leaf) else leaf for leaf in subject.eager(inputs)]

    with Coarsest() as dtypes:
        run(*xs)
    moved = tolerances.rounding(run, *xs, eps=dtypes.eps) if subject.moves else 0.0
    units = [torch.finfo(leaf.dtype).eps * largest(leaf) for leaf in want if is_float(leaf)]
    return 5 * STEPS * tolerances.REDUCTION * tolerances.growth(code, STEPS) * max([moved, *units])


def _continuous(subject: Subject, xs: Sequence[Tensor], want: list[Any]) -> list[Any]:
    """By leaf: where a change of the inputs by rounding moves the result by no more than a million times as much."""
    generator = torch.Generator().manual_seed(0)
    steady: list[Any] = [None] * len(want)
    for _ in range(8):
        moved = []
        for x in xs:
            signs = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
            moved.append(x + 8 * torch.finfo(x.dtype).eps * largest(x) * signs.to(x.dtype))
        try:
            there = subject.eager(moved)
        except Exception:
            return [False] * len(want)
        if len(there) != len(want):
            return [False] * len(want)
        unit = 1e6 * torch.finfo(xs[0].dtype).eps
        steady = [both(s, alike(a, b, unit)) for s, a, b in zip(steady, there, want, strict=True)]
    return steady


def _inputs_decoded(eager: Eager, steps: list[Parts], code: Code) -> Outcome | None:
    """Whether the network read its inputs at all: ``x`` decodes to the course."""
    for t, parts in enumerate(steps):
        for got, want in zip(parts[-1]["x"], eager.course[t], strict=True):
            limit = 8 * STEPS * tolerances.growth(code, STEPS) * torch.finfo(want.dtype).eps * largest(want)
            found = difference([got], [want], limit)
            if found is not None:
                return Outcome("wrong", found[0], f"the input at step {t + 1}: {found[1]}")
    return None


def _another_batch(subject: Subject, net: Any, place: str) -> Outcome | None:
    """A batch larger by one gives what the model gives for it, or is refused."""
    if subject.writes or any(x.ndim == 0 or x.shape[0] == 0 for x in subject.inputs):
        return None
    larger = [torch.cat([x, x[:1]]) for x in subject.inputs]
    try:
        want = subject.eager(larger)
    except Exception:
        return None
    try:
        (part,) = _parts(next(run(net, encoded((larger,), net.code))), place)[-1:]
    except SnnpipeError:
        return None
    found = _unlike(subject, part["y"], want, larger, net.code)
    return found and Outcome("wrong", found[0], f"a batch larger by one: {found[1]}")
