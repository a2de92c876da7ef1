"""Frames of event cameras, and networks that run along: how a stream is cut changes nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests.test_runs import network
from snnpipe import RATE, TD, InputError, frames, integrate_and_fire, signed_memory, stream

EVENT = st.tuples(st.integers(0, 40), st.integers(0, 4), st.integers(0, 2), st.integers(0, 1))
KIND = np.dtype([("t", np.int64), ("x", np.uint16), ("y", np.int16), ("p", bool)])


def counted(events, window, polarities):
    """Frame by frame, event by event."""
    first = events[0][0]
    found = torch.zeros(int((events[-1][0] - first) // window) + 1, polarities, 3, 5)
    for t, x, y, p in events:
        found[int((t - first) // window), p if polarities == 2 else 0, y, x] += 1
    return found


@given(
    events=st.lists(EVENT, min_size=1, max_size=30).map(sorted), window=st.sampled_from([1, 3, 2.5, 64]),
    polarities=st.sampled_from([1, 2]), cuts=st.lists(st.integers(0, 30), max_size=4),
)  # fmt: skip
def test_frames_count_events_however_they_come(events, window, polarities, cuts):
    want = counted(events, window, polarities)
    array = np.array(events, dtype=KIND)
    parts = np.split(array, sorted(min(cut, len(array)) for cut in cuts))
    columns = [tuple(part[name] for name in ("t", "x", "y", "p")) for part in parts]
    for given_ in (events, array, parts, iter(parts), columns):
        found = list(frames(given_, window=window, height=3, width=5, polarities=polarities))
        assert torch.equal(torch.cat(found), want)


@pytest.mark.parametrize("code", [RATE, TD], ids=str)
@given(seed=st.integers(0, 99), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_a_stream_may_be_cut_anywhere(code, seed, cuts):
    snn, x = network(signed_memory() if code is TD else integrate_and_fire(), code, seed)
    steps = [x * k for k in (1.0, -0.5, 2.0, 0.0, 1.0, 3.0)]
    with torch.no_grad():
        whole = [output for _, output in stream(snn, steps)]
        state, found = None, []
        for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), 6], strict=True):
            for state, output in stream(snn, steps[first:last], state=state):  # noqa: B007, B020
                found.append(output)
    for one, other in zip(whole, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([(5, 0, 0, 0), (3, 0, 0, 0)], "times go on, but 3 comes after 5"),
        ([(float("nan"), 0, 0, 0)], "times go on"),
        ([(0, 5, 0, 0)], "x of an event is a whole number from 0 to 4, got 5"),
        ([(0, 0, 0.5, 0)], "y of an event is a whole number from 0 to 2, got 0.5"),
        ([(0, 0, 0, -1)], "p of an event is a whole number from 0 to 1, got -1"),
        ([(0, 0, 0)], r"an event is \(t, x, y, p\)"),
        (["x"], r"an event is \(t, x, y, p\)"),
        ([("a", 0, 0, 0)], "are numbers"),
        ([([1, 2], [1], [1], [1])], "as many"),
        (np.zeros(2, dtype=[("t", int), ("x", int)]), "these have t, x"),
    ],
)
def test_what_is_no_event_is_said(events, said):
    with pytest.raises(InputError, match=said):
        list(frames(events, window=1.0, height=3, width=5))


def test_nothing_gives_no_frames():
    assert list(frames([], window=1.0, height=3, width=5)) == []
