"""Pages of any text and any numbers: what goes in is what a reader sees."""

import html
import math
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from property_tests.strategies import few, inputs, relu_nets
from snnpipe import account, evaluate, fixed, pipe, replace, report, td_rewrite, to_snn, trace
from snnpipe.analysis.joint import GRID, JointCounts
from snnpipe.analysis.page.clipped import spread
from snnpipe.analysis.page.scatter import merged, scatters
from snnpipe.kernels.histogram import summarise_histogram
from snnpipe.markup.bars import waterfall
from snnpipe.markup.density import density
from snnpipe.markup.lines import Line, lines, ticks
from snnpipe.markup.tables import table
from snnpipe.markup.tags import Markup, tag, text
from tests.test_page import held

ANY = st.text(st.characters(exclude_categories=("Cs", "Cc")))
NUMBERS = st.floats(-1e6, 1e6)


def seen(page):
    """The text and the attributes a browser's parser finds."""
    words, attributes = [], []
    reader = HTMLParser()
    reader.handle_data = words.append
    reader.handle_starttag = lambda name, given: attributes.extend(given)
    reader.feed(page)
    reader.close()
    return "".join(words), attributes


@given(ANY, ANY)
def test_text_comes_out_as_it_went_in(inside, attribute):
    assert html.unescape(text(inside)) == inside
    words, attributes = seen(tag("p", inside, title=attribute))
    assert words == inside
    assert attributes == [("title", attribute)]
    assert text(text(inside)) == text(inside)  # not escaped twice


@given(st.text())
def test_no_text_makes_an_element_or_breaks_the_file(anything):
    made = text(anything)
    assert not set("<>\"'") & set(made)
    assert made.encode("utf-8").decode("utf-8") == made
    assert isinstance(made, Markup)


@given(st.lists(st.tuples(ANY, ANY, ANY), min_size=1, max_size=4))
def test_a_table_holds_its_cells(rows):
    words, _ = seen(table(rows, label="x", words=1, strong=(0,)))
    assert words == "".join(cell for row in rows for cell in row)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_each_bar_of_a_waterfall_begins_where_the_last_one_ended(changes):
    page = waterfall([(str(k), change, "") for k, change in enumerate(changes)], ("all", ""), label="x")
    found = [tuple(map(float, pair)) for pair in re.findall(r"margin-left:([\d.]+)%;width:([\d.]+)%", page)]
    ends = [0.0]
    for change in changes:
        ends.append(ends[-1] + change)
    size = (max(ends) - min(ends)) or 1.0
    for (start, length), a, b in zip(found, [*ends[:-1], 0.0], [*ends[1:], ends[-1]], strict=True):
        assert math.isclose(start, 100 * (min(a, b) - min(ends)) / size, abs_tol=0.006)
        assert math.isclose(length, 100 * abs(b - a) / size, abs_tol=0.006)


@given(NUMBERS, st.floats(1e-6, 1e6))
def test_ticks_are_few_and_between_the_bounds(low, size):
    high = low + size
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return
    found = ticks(low, high)
    slack = 1e-6 * max(size, 1e-3 * abs(low))
    assert 1 <= len(found) <= 7
    assert all(low - slack <= tick <= high + slack for tick in found)


@given(st.lists(st.tuples(st.integers(1, 500), NUMBERS), min_size=1, unique_by=lambda pair: pair[0]), NUMBERS)
def test_a_chart_stays_inside_its_frame(points, level):
    line = Line("a", tuple((float(t), y - 1, y, y + 1) for t, y in sorted(points)), "a")
    page = lines([line], label="x", across="t", up="y", level=("ANN", level))
    for pair in re.findall(r'points="([^"]*)"', page):
        for point in pair.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 480
            assert 0 <= y <= 270


@given(st.integers(0, 2**16), st.floats(0.05, 20.0), st.integers(1, 3))
def test_what_lies_above_theta_is_counted_within_a_bin(seed, size, channels):
    x = size * torch.randn(200, channels, generator=torch.Generator().manual_seed(seed)).relu()
    theta = x.amax(0).clamp(min=0.1) * torch.linspace(0.2, 1.1, channels)
    shares, above = spread(summarise_histogram(x, 1), theta)
    seen = x > 0
    if not seen.any():
        return
    ratio = (x / theta)[seen]
    near = ((ratio - 1).abs() < 1 / 16).double().mean().item()  # a bin is 1/32 of its value wide
    tiny = (x[seen] < 2.0**-14 * x.max()).double().mean().item()  # and these are in bin 0
    assert abs(above - (ratio > 1).double().mean().item()) <= near + tiny + 1e-9
    assert math.isclose(sum(shares), 1.0, abs_tol=1e-9)
    assert math.isclose(sum(shares[12:]), above, abs_tol=near + 1e-9)


PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20)


@given(st.lists(PAIRS, min_size=1, max_size=4), st.randoms())
def test_pairs_are_counted_where_they_lie_in_any_order(batches, random):
    """A cell is at most 1/32 of the largest value, and every pair lies in its own or at its upper end."""
    found, shuffled = JointCounts(), JointCounts()
    for counts, order in (found, batches), (shuffled, random.sample(batches, len(batches))):
        for batch in order:
            x, y = torch.tensor(batch, dtype=torch.float64).unbind(1)
            counts.add(x, y)
    assert found.joint == shuffled.joint
    cell, cells = found.joint.cell, found.joint.cells
    pairs = [pair for batch in batches for pair in batch]
    most = max(max(map(abs, pair)) for pair in pairs)
    assert cell <= max(2 * 2 * most, 2.0**-39) / GRID
    assert sum(count for *_, count in cells) == len(pairs)
    rounded = 2.0**-52 * max(most, cell)  # that of the quotient by which a cell is found
    for x, y in pairs:
        assert any(
            all(k * cell - rounded <= z <= (k + 1) * cell + rounded for k, z in ((i, x), (j, y))) for i, j, _ in cells
        )
    assert sum(count for *_, count in merged(cells)) == len(pairs)


CELLS = st.dictionaries(st.tuples(st.integers(-32, 31), st.integers(-32, 31)), st.integers(1, 10**6), max_size=200)


@given(CELLS, st.floats(1e-6, 1e6), ANY)
def test_every_cell_is_drawn_once_and_inside(cells, cell, words):
    page = density([(*at, count) for at, count in cells.items()], cell, label=words, told=words, across="x", up="y")
    read = held(page)
    assert read.seen[:3] == ["svg", "title", "desc"]
    assert read.text.startswith(2 * html.unescape(text(words)))
    runs = [tuple(map(int, run)) for run in re.findall(r"M(\d+) (\d+)h(\d+)", page)]
    drawn = [(column + k, row) for column, row, length in runs for k in range(length)]
    low = min((min(at) for at in cells), default=0)
    high = max((max(at) + 1 for at in cells), default=1)
    assert sorted(drawn) == sorted((i - low, high - 1 - j) for i, j in cells)
    assert all(0 <= column < high - low and 0 <= row < high - low for column, row in drawn)


@few(0.1)
@given(st.sampled_from([1, 10, 60, 150]), st.integers(0, 99))
def test_charts_of_many_sites_stay_small(count, seed):
    source = torch.Generator().manual_seed(seed)
    counts = JointCounts()
    counts.add(*torch.randn(2, 20_000, generator=source).unbind())
    sites = [SimpleNamespace(site=f"layer{k}__if0", correlation=0.5, joint=counts.joint) for k in range(count)]
    page = str(tag("div", *scatters(sites)))
    assert len(page) < 200_000
    assert page.count("<figure>") == min(count, 60)
    held(page)


@few(0.3)
@given(relu_nets(), st.integers(0, 2**16))
def test_a_report_of_any_network_is_a_page(net, seed):
    net, x = net.eval(), inputs(net, seed)
    state = pipe(net, trace, replace(threshold=fixed(0.5)))
    snn = to_snn(state)
    extras = {"evaluation": evaluate(snn, [x], T=2, ann=net), "account": account(snn, x, T=2)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.html")
        for subject, given_ in ((snn, extras), (state, {}), (pipe(net, trace, td_rewrite), {})):
            said = report(subject, html=path, **given_)
            read = held(path.read_text(encoding="utf-8"))
            assert said.splitlines()[-1] in read.text or given_
            held(subject._repr_html_())
