"""Races and the search over planted candidates: the best are kept, worse ones are dropped early, time is kept."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies import few
from snnpipe.analysis.racing import Course, looks, race, shuffled, surely_fewer
from snnpipe.analysis.search import Candidate, Job, Search, no_more
from snnpipe.errors import StageError

N, PIECE = 512, 50
TRUTH = torch.ones(N, dtype=torch.long)


def planted(count, seed):
    """Answers of which so many are right, drawn apart from any order of a course."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1000 + seed))
    answers = torch.zeros(N, dtype=torch.long)
    answers[order[:count]] = 1
    return answers


def course(seed, risk):
    return Course(shuffled(N, PIECE, seed), TRUTH, risk)


def test_the_order_holds_every_sample_once_and_pieces_are_small():
    for samples in (1, 63, 64, 127, 128, 1000):
        pieces = [piece for some in shuffled(samples, 30, 3) for piece in some]
        assert torch.equal(torch.cat(pieces).sort().values, torch.arange(samples))
        assert max(map(len, pieces)) <= 30
        assert sorted(looks(samples)) == list(looks(samples))
        assert looks(samples)[-1] == samples


def dropped(ours, theirs, risk, orders):
    """In which part of the races ours is beaten."""
    beaten = 0
    for seed in range(orders):
        run = course(seed, risk)
        right = (theirs == TRUTH)[run.order]
        beaten += bool(race(run, lambda rows: ours[rows], {"other": right}, lambda: False).beaten)
    return beaten / orders


def above(risk, orders):
    """What a share of that expectation does not exceed but once in 30 000 times."""
    return risk + 4 * (risk * (1 - risk) / orders) ** 0.5


def test_one_as_good_as_its_rival_is_beaten_no_more_often_than_said():
    """Right on as many samples, on others: the worst case.  At the last look nothing is told by chance."""
    orders, risk = 600, 0.05
    for differing in (6, 40, 200):
        ours, theirs = TRUTH.clone(), TRUTH.clone()
        ours[:differing], theirs[differing : 2 * differing] = 0, 0
        assert dropped(ours, theirs, risk, orders) <= above(risk * (len(looks(N)) - 1), orders)


def test_that_test_can_fail(monkeypatch):
    ours, theirs = TRUTH.clone(), TRUTH.clone()
    ours[:100], theirs[100:200] = 0, 0
    careless = lambda ours, theirs, risk: int(ours.sum()) < int(theirs[: len(ours)].sum())  # noqa: E731
    monkeypatch.setattr("snnpipe.analysis.racing.surely_fewer", careless)
    assert dropped(ours, theirs, 0.05, 200) > above(0.05 * (len(looks(N)) - 1), 200)


def test_one_that_is_much_worse_is_beaten_soon():
    ours, theirs = planted(300, 1), planted(460, 2)
    for seed in range(20):
        run = course(seed, 1e-4)
        found = race(run, lambda rows: ours[rows], {"other": (theirs == TRUTH)[run.order]}, lambda: False)
        assert found.beaten == "other"
        assert len(found.right) <= N // 2


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.lists(st.booleans(), min_size=60, max_size=60))
def test_the_rival_is_surely_better_only_if_it_is_better(ours, theirs):
    ours, theirs = torch.tensor(ours), torch.tensor(theirs)
    if surely_fewer(ours, theirs, 0.1):
        assert ours.sum() < theirs[: len(ours)].sum()
        assert not surely_fewer(theirs, ours, 0.1)
        assert surely_fewer(ours, theirs, 0.2)


class Clock:
    """Time that passes only when something is done."""

    now = 0.0

    def __call__(self):
        return self.now


@st.composite
def entries(draw):
    """Candidates: for each kind prices and events that grow with the steps, and how many answers are right."""
    found = {}
    for kind in range(draw(st.integers(1, 6))):
        wires, events = draw(st.sampled_from([1, 2, 4])), 0.0
        graded = draw(st.booleans())
        for steps in (1, 2, 4):
            events += draw(st.sampled_from([0.5, 1.0, 2.0]))
            count = draw(st.one_of(st.integers(440, 480), st.integers(50, 500)))
            found[Job(kind, steps, steps, wires, f"{kind} at {steps}", graded)] = (events, count)
    return found


def searching(planted_ones, *, seconds=1e9, needed=450, ann=470, risk=1e-7, made=1.0, piece=0.1, refuses=None):
    """A search over planted candidates, and the clock it goes by."""
    clock, run = Clock(), course(5, risk)

    def make(job):
        clock.now += made * job.steps
        if job.kind == refuses:
            raise StageError("none for it")
        events, count = planted_ones[job]
        answers = planted(count, list(planted_ones).index(job))

        def answer(rows):
            clock.now += piece * job.steps
            return answers[rows]

        return Candidate(events, answer)

    search = Search(run, make, (planted(ann, 99) == 1)[run.order], needed, seconds, clock, clock())
    search.through(sorted(planted_ones, key=lambda job: job.latency))
    return search, clock


def best(planted_ones, needed, ann):
    """The front by looking at everything: price and accuracy, up to the ANN's, of what keeps the accuracy."""
    all_of = {(job.price(e), min(n, ann)) for job, (e, n) in planted_ones.items() if n >= needed}

    def beats(a, b):
        return a != b and no_more(a[0], b[0]) and a[1] >= b[1]

    return {one for one in all_of if not any(beats(other, one) for other in all_of)}


@few(1.0)
@given(entries())
def test_the_front_is_that_of_all_candidates_on_all_samples(planted_ones):
    search, _ = searching(planted_ones)
    front = [one for one in search.front()[0] if one.count >= 450]
    assert {(one.price, min(one.count, 470)) for one in front} == best(planted_ones, 450, 470)
    assert all(len(one.run.right) == N and one.count == planted_ones[one.job][1] for one in search.found)
    assert not search.left
    assert search.front()[0]
    again, _ = searching(planted_ones)
    assert [one.job for one in again.found] == [one.job for one in search.found]
    assert again.dropped == search.dropped


@few(1.0)
@given(entries(), st.floats(0.5, 60.0), st.sampled_from([None, 0]))
def test_every_candidate_is_accounted_for_within_the_time(planted_ones, seconds, refuses):
    search, clock = searching(planted_ones, seconds=seconds, refuses=refuses)
    assert clock.now <= seconds + 4.0  # the longest conversion
    front, others = search.front()
    names = [one.job.name for one in front] + [*others, *search.dropped, *search.left, *search.refused]
    assert sorted(names) == sorted(job.name for job in planted_ones)


def test_what_costs_more_than_one_with_the_accuracy_of_the_ann_is_not_made():
    good, dear = Job("a", 1, 1, 1, "a"), Job("a", 2, 2, 1, "a at 2")
    search, clock = searching({good: (1.0, 480), dear: (2.0, 500)})
    assert [one.job for one in search.found] == [good]
    assert clock.now < 3.0
    assert "a has the ANN's accuracy" in search.dropped["a at 2"]


def test_where_nothing_keeps_the_accuracy_the_best_there_is_comes_after_all():
    jobs = {Job("a", 1, 1, 1, "a"): (1.0, 100), Job("b", 1, 1, 1, "b"): (1.0, 380), Job("c", 2, 2, 1, "c"): (2.0, 200)}
    search, _ = searching(jobs)
    front, others = search.front()
    assert [one.job.name for one in front] == ["b"]
    assert "worse than b" in search.dropped["c"]
    assert search.dropped["a"].startswith("worse than b")
    assert not others
    late, _ = searching(jobs, seconds=9.0)
    assert late.front()[0], "time is kept for them"
