"""A file that does not hold the statistics of this network is an error that names the file and what was expected."""

import os
import pickle
import random
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
import torch
from torch import nn

from snnpipe import (
    CalibrationError,
    SnnpipeError,
    StageError,
    Threshold,
    calibrate,
    ema,
    fuse,
    instrument,
    load_statistics,
    maximum,
    mmse,
    percentile,
    pipe,
    replace,
    save_statistics,
    scaled,
    state_equal,
    threshold_iteration,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.exchange.sealed import read_sealed, write_sealed
from snnpipe.kernels.statistic import Statistic
from tests.helpers import assert_close, mlp, vectors

DATA = Path(__file__).parent / "data"
OLD, SEALED = DATA / "statistics_version_1.pt", DATA / "statistics_version_2.pt"


def measured(rule, model=None, x=None):
    model = mlp() if model is None else model
    return pipe(model, trace, instrument(statistic=rule), calibrate([vectors() if x is None else x]))


def marked(rule, model=None):
    return pipe(mlp() if model is None else model, trace, instrument(statistic=rule))


def content(path):
    return read_sealed(path)[0]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "statistics.pt")


def refused(path, *words, state=None):
    """The error of loading ``path``: it names the stage, the file and ``words``."""
    with pytest.raises(CalibrationError) as caught:
        load_statistics(path)(marked(maximum()) if state is None else state)
    text = str(caught.value)
    assert all(word in text for word in ("load_statistics", path, *words)), text
    return text


# ---- damaged and foreign files

FOREIGN = {
    "empty": b"",
    "text": b"hello",
    "zeros": bytes(5000),
    "an archive that ends": b"PK\x03\x04",
    "an archive of nothing": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_bytes(path, name):
    Path(path).write_bytes(FOREIGN[name])
    refused(path)


@pytest.mark.parametrize("value", [None, 3, "text", [1], {}, {"a": 1}, torch.ones(3), {"_1": torch.ones(3)}], ids=str)
def test_files_of_something_else(path, value):
    torch.save(value, path)
    refused(path, "expected a file that save_statistics has written")


def test_weights_are_no_statistics(path):
    torch.save(mlp().state_dict(), path)
    refused(path, "expected a file that save_statistics has written")


class Code:
    """Runs code when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: Path(path).write_bytes(pickle.dumps(value))])
def test_no_code_of_a_file_is_run(path, tmp_path, monkeypatch, save):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    mark = tmp_path / "ran"
    save({"_1": Code(mark)}, path)
    refused(path)
    assert not mark.exists()


def test_what_is_no_file(tmp_path):
    refused(str(tmp_path), "is not a file")
    refused(str(tmp_path / "none.pt"), "there is no file")
    refused("with\0nothing", "there is no file")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(str(tmp_path / "pipe"), "is not a file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(path):
    save_statistics(measured(maximum()), path)
    Path(path).chmod(0)
    refused(path, "cannot be read")


def test_a_large_foreign_file_is_not_read(path):
    with open(path, "wb") as file:
        file.truncate(2**40)  # a hole: no bytes on the disk
    refused(path)


@pytest.mark.parametrize("rule", [maximum(), percentile(99.0)], ids=str)
def test_every_changed_or_missing_byte_is_noticed(path, rule):
    state = measured(rule)
    save_statistics(state, path)
    good, generator = Path(path).read_bytes(), random.Random(0)
    for number in range(1000):
        bad = bytearray(good)
        if number % 4:
            at = generator.randrange(8 * len(bad))
            bad[at // 8] ^= 1 << at % 8
        else:
            bad = bad[: generator.randrange(len(bad))]
        Path(path).write_bytes(bad)
        with pytest.raises(CalibrationError):
            load_statistics(path)(state)
    Path(path).write_bytes(good)
    assert state_equal(load_statistics(path)(state), state)


# ---- the format before


@pytest.mark.parametrize("old", [OLD, SEALED], ids=["1", "2"])
def test_files_of_the_formats_before_are_read(old):
    torch.manual_seed(0)
    want = measured(maximum())
    got = load_statistics(old)(marked(maximum()))
    for node, summary in got.statistics.items():
        assert_close(summary.max, want.statistics[node].max)
    assert pipe(got, replace, to_snn)(vectors(), T=2).shape == (16, 4)


@pytest.mark.parametrize(
    "rule", [maximum(per="neuron"), percentile(99.0), mmse(4), threshold_iteration(4), ema(0.2)], ids=str
)
def test_all_kinds_in_the_format_before(path, rule):
    state = measured(rule)
    torch.save(plain(state), path)
    assert state_equal(load_statistics(path)(state), state)


@pytest.mark.parametrize("old", [OLD, SEALED], ids=["1", "2"])
def test_a_damaged_file_of_a_format_before_is_never_taken_for_another(path, old):
    state = load_statistics(old)(marked(maximum()))
    good, generator = old.read_bytes(), random.Random(0)
    for _ in range(400):
        bad, at = bytearray(good), generator.randrange(8 * len(good))
        bad[at // 8] ^= 1 << at % 8
        Path(path).write_bytes(bad)
        with suppress(SnnpipeError):
            assert state_equal(load_statistics(path)(state), state)  # the byte says nothing


def plain(state):
    return {
        node: {"kind": type(summary).__name__, **attrs.asdict(summary, recurse=False)}
        for node, summary in state.statistics.items()
    }


# ---- contents that no measurement has

NAN, INF = float("nan"), float("inf")


def first(tensor, value):
    changed = tensor.clone()
    changed.view(-1)[0] = value
    return changed


WRONG = [
    (maximum(), {"count": lambda s: -1}, "count is -1, expected a positive whole number"),
    (maximum(), {"count": lambda s: 0}, "count is 0"),
    (maximum(), {"count": lambda s: True}, "count is True"),
    (maximum(), {"count": lambda s: 10**400}, "count is"),
    (maximum(), {"count": lambda s: s.max}, "count is a float64 tensor"),
    (maximum(), {"max": lambda s: first(s.max, NAN)}, "of shape (12,), nan..nan, expected finite"),
    (maximum(), {"max": lambda s: first(s.max, INF)}, "..inf, expected finite"),
    (maximum(), {"max": lambda s: first(s.max, -1.0)}, "go down to -1, where none can be negative"),
    (maximum(), {"max": lambda s: s.max.half()}, "max is a float16 tensor"),
    (maximum(), {"max": lambda s: s.max.long()}, "max is a int64 tensor"),
    (maximum(), {"max": lambda s: s.max[None]}, "of shape (1, 12)"),
    (maximum(), {"max": lambda s: s.max[:0]}, "of shape (0,)"),
    (maximum(), {"max": lambda s: s.max[:7]}, "of 7 channels, this site has 12"),
    (maximum(), {"max": lambda s: s.max[:1]}, "of 1 channels, this site has 12"),
    (maximum(), {"max": lambda s: s.max[:1].expand(12)}, "max is"),
    (maximum(), {"max": lambda s: s.max.to_sparse()}, "max is"),
    (maximum(), {"max": lambda s: nn.Parameter(s.max)}, "max is"),
    (maximum(), {"max": lambda s: 1.0}, "max is 1.0"),
    (maximum(), {"max": lambda s: [1.0] * 12}, "max is"),
    (maximum(), {"kind": lambda s: "Maxima"}, "is a 'Maxima', expected one of Extrema"),
    (maximum(), {"kind": lambda s: 3}, "is no statistic"),
    (maximum(), {"kind": lambda s: "Histogram"}, "holds count, max, expected the count, max, top, counts of Histogram"),
    (maximum(), {"more": lambda s: 3}, "expected the count, max of Extrema"),
    (ema(0.1), {"value": lambda s: first(s.value, NAN)}, "value is"),
    (percentile(99.0), {"counts": lambda s: first(s.counts.short(), -1)}, "counts is a int16 tensor"),
    (percentile(99.0), {"counts": lambda s: first(s.counts, 200)}, "do not add up to 16"),
    (percentile(99.0), {"counts": lambda s: s.counts.double()}, "counts is a float64 tensor"),
    (percentile(99.0), {"counts": lambda s: s.counts[:, :7]}, "counts is"),
    (percentile(99.0), {"counts": lambda s: s.counts[:7].clone()}, "different numbers of channels: max 12, counts 7"),
    (percentile(99.0), {"top": lambda s: s.top + 1}, "does not fit its largest value"),
    (percentile(99.0), {"top": lambda s: 300}, "top is 300"),
    (percentile(99.0), {"top": lambda s: 128.0}, "top is 128.0"),
    (percentile(99.0), {"max": lambda s: s.counts, "counts": lambda s: s.max}, "max is a uint8 tensor"),
    (threshold_iteration(4), {"m2": lambda s: first(s.m2, -1.0)}, "m2 is"),
    (threshold_iteration(4), {"mean": lambda s: first(s.mean, -INF)}, "mean is"),
    (threshold_iteration(4), {"mean": lambda s: s.mean.float()}, "mean is a float32 tensor"),
]  # fmt: skip


#: What archives of earlier versions can hold beside.
LAID_OUT = [change for _, change, words in WRONG if words == "max is" and "max" in change][:2]


@pytest.mark.parametrize("sealed", [True, False], ids=["now", "before"])
@pytest.mark.parametrize(("rule", "change", "words"), WRONG, ids=[row[2] for row in WRONG])
def test_contents_that_no_measurement_has(path, rule, change, words, sealed):
    if sealed and change in LAID_OUT:
        pytest.skip("a file has the numbers one after the other")
    state = measured(rule)
    save_statistics(state, path)
    summary = state.statistics["_1"]
    changed = {name: fn(summary) for name, fn in change.items()}
    if sealed:
        written = content(path)
        written["sites"]["_1"]["summary"] |= changed
        write_sealed(written, path)
    else:
        torch.save({**plain(state), "_1": {**plain(state)["_1"], **changed}}, path)
    refused(path, words, "1: ", state=state)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("version", 4, "is of format 4, this snnpipe reads 3 and older"),
        ("version", None, "is of format None"),
        ("sites", None, "holds no statistics"),
        ("sites", {}, "holds no statistics"),
        ("sites", {"_1": 3}, "holds no statistics"),
        ("sites", {"_1": {"summary": 3}}, "holds no statistics"),
        ("measured", 3, "holds 3"),
        ("format", "other", "holds no statistics"),
    ],
)
def test_what_is_said_about_them(path, key, value, words):
    save_statistics(measured(maximum()), path)
    write_sealed(content(path) | {key: value}, path)
    refused(path, words)


def test_a_file_without_its_checksum(path):
    save_statistics(measured(maximum()), path)
    torch.save(content(path), path)
    refused(path, "its checksum is missing")


# ---- statistics of something else


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, channels, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return torch.relu(self.a(x) + self.b(x))


class Transposed(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a = nn.ConvTranspose2d(2, channels, 2, groups=2)

    def forward(self, x):
        return nn.functional.max_pool2d(torch.relu(self.a(x)), 2)


def conv(channels):
    return nn.Sequential(nn.Conv2d(2, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.AvgPool2d(2))


def dense(*widths):
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))


class Called(nn.Module):
    """The same nodes as ``dense(6, 12)``, with other names for people."""

    def __init__(self):
        super().__init__()
        self._0, self._1 = nn.Linear(6, 12), nn.ReLU()

    def forward(self, x):
        return self._1(self._0(x))


IMAGES, VECTORS = torch.randn(3, 2, 6, 6), torch.randn(16, 6)
OTHERS = {
    "wider": (dense(6, 12), dense(6, 13), VECTORS, maximum(), "of 12 channels, this site has 13"),
    "narrower": (dense(6, 12), dense(6, 5), VECTORS, percentile(99.0), "of 12 channels, this site has 5"),
    "wider convolution": (conv(4), conv(8), IMAGES, maximum(), "of 4 channels, this site has 8"),
    "wider residual": (Residual(4), Residual(8), IMAGES, maximum(), "of 4 channels, this site has 8"),
    "wider transposed": (Transposed(4), Transposed(6), IMAGES, maximum(), "of 4 channels, this site has 6"),
    "other neurons": (conv(4), conv(3), IMAGES, maximum(per="neuron"), "of 64 neurons, this site has 3 channels"),
    "deeper": (dense(6, 12), dense(6, 12, 12), VECTORS, maximum(), "has no statistic for 3; was it the same network?"),
    "shallower": (dense(6, 12, 12), dense(6, 12), VECTORS, maximum(), "has statistics for 3, which are no sites here"),
    "other layer": (conv(6), Residual(6), IMAGES, maximum(), "was it the same network?"),
    "other axis": (
        nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU()), nn.Sequential(nn.Linear(6, 6), nn.ReLU()), IMAGES, maximum(),
        "1: in the file it is 1, channel axis -3, here 1, channel axis -1",
    ),
    "other names": (dense(6, 12), Called(), VECTORS, maximum(), "in the file it is 1, channel axis -1, here _1,"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_statistics_of_another_network(path, name):
    theirs, ours, x, rule, words = OTHERS[name]
    save_statistics(measured(rule, theirs, x), path)
    refused(path, words, state=marked(rule, ours))


@pytest.mark.parametrize("name", ["wider", "wider convolution", "wider residual", "deeper", "shallower"])
def test_statistics_of_another_network_in_the_format_before(path, name):
    theirs, ours, x, rule, _ = OTHERS[name]
    torch.save(plain(measured(rule, theirs, x)), path)
    refused(path, state=marked(rule, ours))


def test_statistics_for_another_threshold(path):
    neurons = [maximum(per="neuron"), percentile(99.0, per="neuron")]
    states = [
        measured(rule) for rule in (maximum(), percentile(99.0), *neurons, threshold_iteration(4), ema(0.1), ema(0.2))
    ]
    for ours in states:
        for theirs in states:
            if ours is not theirs:
                save_statistics(theirs, path)
                refused(path, str(theirs.threshold), str(ours.threshold), "instrument(statistic=...)", state=ours)


@pytest.mark.parametrize(("theirs", "ours"), [(percentile(99.9), mmse(4)), (maximum(), scaled(0.8))], ids=str)
def test_statistics_serve_every_rule_they_are_enough_for(path, theirs, ours):
    torch.manual_seed(0)
    model, x = mlp(), vectors()
    save_statistics(measured(theirs, model, x), path)
    assert state_equal(load_statistics(path)(marked(ours, model)), measured(ours, model, x))


def test_statistics_do_not_depend_on_fusing(path):
    """What was measured before batch norms were folded fits the folded network, where the sites are the same."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    save_statistics(measured(maximum(), model, IMAGES), path)
    assert load_statistics(path)(pipe(model, trace, fuse, instrument(statistic=maximum()))).statistics


# ---- what is not written


def test_statistics_of_ones_own_are_not_written(path):
    @attrs.frozen(eq=False)
    class Largest:
        max: torch.Tensor

    own = Statistic("own", lambda x, axis: Largest(x.amax(0)), lambda a, b: Largest(torch.maximum(a.max, b.max)))
    state = measured(Threshold("own", own, lambda summary: summary.max))
    with pytest.raises(CalibrationError, match="is a Largest; files hold Extrema, MovingAverage, Moments, Histogram"):
        save_statistics(state, path)
    assert not os.path.exists(path)


def test_a_state_without_statistics_is_not_written(path):
    for state, words in ((trace(mlp()), "nothing was measured"), (marked(maximum()), "nothing was measured")):
        with pytest.raises(CalibrationError, match=words):
            save_statistics(state, path)
    with pytest.raises(StageError, match="before replace"):
        save_statistics(replace(measured(maximum())), path)
    with pytest.raises(StageError, match="trace it first"):
        save_statistics(mlp(), path)
    with pytest.raises(StageError, match="load_statistics"):
        load_statistics(path)(mlp())
    with pytest.raises(StageError, match="before replace"):
        load_statistics(path)(replace(measured(maximum())))
    assert not os.path.exists(path)


@pytest.mark.parametrize("bad", [None, 3, "", [], b"", mlp()], ids=repr)
def test_paths(bad):
    with pytest.raises(CalibrationError, match=r"save_statistics\(state, path\): expected the path of a file, got"):
        save_statistics(measured(maximum()), bad)
    with pytest.raises(CalibrationError, match=r"load_statistics\(path\): expected the path of a file, got"):
        load_statistics(bad)


def test_places_that_cannot_be_written_to(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "x.pt", "/dev/null", "with\0nothing", tmp_path / ("x" * 300)):
        with pytest.raises(CalibrationError, match=r"save_statistics: .* cannot be written"):
            save_statistics(measured(maximum()), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_any_path_will_do(path, kind):
    state = measured(maximum())
    save_statistics(state, kind(path))
    assert state_equal(load_statistics(kind(path))(state), state)
    assert [
        event.subject for event in load_statistics(kind(path))(state).history if event.stage == "load_statistics"
    ] == [path]
