"""Tensors that come to look at another memory, or at their own in another way, while ``forward`` runs."""

import pytest
import torch
from torch.utils import _pytree as pytree

from snnpipe import RATE, TD, SnnpipeError, pipe, td_rewrite, to_snn, trace
from tests.test_writes import Written

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
ANN = {"symbolic": trace, "export": trace(example=X)}


def data_of_a_symbol(x):
    y = x * 1
    y.data = x + 1
    y.data = 2 * y
    return y, x


def data_of_a_fresh_tensor(x):
    b = torch.zeros(4, 6)
    view = b[0]
    b.data = x
    b.mul_(3)
    return view + 1, b, x


def data_by_setattr(x):
    b = torch.zeros(4, 6)
    setattr(b, "data", x)  # noqa: B010
    return b * 2


def data_of_what_was_written(x):
    b = torch.zeros(4, 6)
    b[0] = x[0]
    b.data = 2 * x
    return b


def views_stay_behind(x):
    y = x.clone()
    row = y[0]
    y.data = 2 * x
    row.add_(1)
    return y, row


def the_source_is_written(x):
    y, z = x.clone(), x * 2
    kept = y
    y.set_(z)
    z.add_(1)
    return kept, z


def the_result_of_a_write_is_the_tensor(x):
    y = x.clone()
    z = y.add_(1)
    z.data = x * 3
    return y + z


def rows_of_attributes(x):
    y = x.clone()
    y.T[0] = 1.0
    y.data[1] = 2.0
    return y


def parts_of_complex_numbers(x):
    y = torch.view_as_complex(x.reshape(4, 3, 2).clone())
    y.real = x[:, :3]
    y.imag = 2 * x[:, 3:]
    return torch.view_as_real(y)


def strides(x):
    y = x.clone()
    y.as_strided_((2, 3), (6, 1))
    y.mul_(3)
    return y


def strides_of_a_view(x):
    y = x.clone()
    turned = y.T
    turned.as_strided_((3, 2), (1, 6))
    turned.mul_(2)
    return y, turned


def a_slice_of_everything_is_turned(x):
    y = x.clone()
    v, w = y[:], y[...]
    v.t_()
    w.unsqueeze_(0)
    v.add_(1)
    return y, v, w


def pieces(x):
    y = x.clone()
    torch.hsplit(y, 2)[0].mul_(2)
    y.tensor_split(2, 0)[1].add_(1)
    y[x > 0.5] *= 3
    return y


FORMULAS = (
    a_slice_of_everything_is_turned, pieces,
    data_of_a_symbol, data_of_a_fresh_tensor, data_by_setattr, data_of_what_was_written, views_stay_behind,
    the_source_is_written, the_result_of_a_write_is_the_tensor, rows_of_attributes, parts_of_complex_numbers, strides,
    strides_of_a_view,
)  # fmt: skip


@pytest.mark.parametrize("code", [TD, RATE], ids=str)
@pytest.mark.parametrize("front", ANN)
@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: f.__name__)
def test_it_is_followed_step_by_step_and_as_a_sequence(formula, front, code):
    snn = pipe(Written(formula), ANN[front], td_rewrite(code=code), to_snn)
    want = pytree.tree_leaves(formula(X.clone()))
    at_once = snn.sequence(X.expand(2, 4, 6) if code is RATE else torch.stack([X, 0 * X]))
    events = [leaf.mean(0) if code is RATE else leaf.sum(0) for leaf in pytree.tree_leaves(at_once)]
    for got in (pytree.tree_leaves(snn(X, T=2)), events):
        assert [leaf.shape for leaf in got] == [leaf.shape for leaf in want]
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)


def a_view_of_what_is_written_later(x):
    b = torch.zeros(4, 6)
    view = b.view(-1)
    b[0] = x[0]
    b.data = 2 * x
    view.add_(1)
    return b, view


def test_a_real_view_made_before_the_write_follows_its_memory():
    snn = pipe(Written(a_view_of_what_is_written_later), trace, to_snn)
    for got, want in zip(snn(X, T=1), a_view_of_what_is_written_later(X), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("front", ANN)
@pytest.mark.parametrize("view", [lambda y: y.unfold(0, 2, 1), lambda y: y.as_strided((3, 2), (1, 1))])
def test_a_write_to_a_view_that_shows_a_place_twice_is_refused(view, front):
    def twice(x):
        y = x.clone()
        view(y).mul_(2)
        return y

    with pytest.raises(SnnpipeError, match="write to a copy"):
        pipe(Written(twice), ANN[front])


@pytest.mark.parametrize("front", ANN)
def test_windows_that_do_not_overlap_are_views(front):
    def windows(x):
        y = x.clone()
        y.unfold(0, 2, 2).mul_(2)
        return y

    torch.testing.assert_close(pipe(Written(windows), ANN[front], to_snn)(X, T=1), windows(X))


def test_with_an_example_the_advice_is_not_to_give_one():
    def diagonal(x):
        y = x.clone()
        torch.einsum("ij", y).mul_(2)
        return y

    with pytest.raises(SnnpipeError, match="what may be the same memory") as told:
        trace(Written(diagonal), example=X)
    assert "trace(example" not in str(told.value)


def test_what_torch_does_not_check_is_run_on_the_example_alone():
    """``lu_unpack`` on pivots of another batch destroys memory."""
    lu, pivots = torch.linalg.lu_factor(torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)))
    state = trace(Written(lambda x: torch.lu_unpack(x, pivots)), example=lu)
    assert "the batch size is fixed" in str(state.history[0])
