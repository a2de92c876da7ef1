"""Operations that write: into fresh tensors, through views, by ``out=``, whatever they are called."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from snnpipe import RATE, UnsupportedError, pipe, td_rewrite, to_module, to_snn, trace
from tests.helpers import assert_close, vectors

EVENTS = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STREAM = EVENTS.cumsum(0)  # what is decoded under TD, step by step


class Written(nn.Module):
    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        return self.formula(x)


def fresh_item(x):
    b = torch.zeros(4, 5, dtype=torch.float64)
    b[:, 0] = x[:, 0]
    return x + b


def fresh_read_by_a_real_call(x):
    b = torch.zeros(4, 5, dtype=torch.float64)
    b[:, 0] = x[:, 0]
    return x + b.sum(0) + torch.cat([b, b]).mean()


def fresh_in_place(x):
    b = torch.ones(4, 5, dtype=torch.float64)
    b += x
    b.mul_(x)
    return b


def constant_between_reads(x):
    b = torch.ones(5, dtype=torch.float64)
    first = x + b
    b.add_(1.0)
    return first * b


def index_copy(x):
    b = torch.zeros(4, 5, dtype=torch.float64)
    b.index_copy_(0, torch.tensor([2, 0]), x[:2])
    return b


def out_of_a_fresh_tensor(x):
    b = torch.zeros(4, 5, dtype=torch.float64)
    torch.mul(x, 2, out=b)
    return x + b


def out_of_a_symbol(x):
    b = x * 1
    torch.add(x, 1, out=b)
    return b


def out_takes_the_type(x):
    b = torch.zeros(4, 5, dtype=torch.bool)
    torch.gt(x, 0, out=b)
    return b.to(torch.float64)


def several_outs(x):
    values, indices = x[0] * 0, torch.zeros(5, dtype=torch.int64)
    torch.max(x, 0, out=(values, indices))
    return values + indices


def foreach(x):
    a, b = x * 1, torch.zeros(4, 5, dtype=torch.float64)
    torch._foreach_add_([a, b], [x, x])
    return a * b


def through_views(x):
    y = x * 1
    y.t()[1].mul_(3.0)
    y[1:, ::2].add_(1.0)
    torch.positive(y).sub_(0.5)
    y.unsqueeze(0).squeeze(0).mul_(2.0)
    return y


def through_pieces(x):
    y = x * 1
    first, second = y.chunk(2)
    first.mul_(2.0)
    second[0] = first[1]
    return y.sum(0) + second.sum(0)


def view_read_after_its_base(x):
    y = x * 1
    part = y[1]
    y.add_(1.0)
    return part


def real_views(x):
    b = torch.zeros(4, 5, dtype=torch.float64)
    row = b[0]
    row[1:3] = x[0, 1:3]
    b.t()[2].add_(x[:, 0])
    _, lower = b.chunk(2)
    lower.mul_(x[0])
    return x + b + row.sum()


def filled_piece_by_piece(x):
    out = torch.empty(2, 4, dtype=torch.float64)
    out[0], out[1] = x[:, 0], x[:, 1]
    return out


def one_of_several_results(x):
    values, places = torch.topk(x, 3)  # a router of experts
    values /= values.sum(1, keepdim=True)
    return values * places + x.gather(1, places)


def list_of_outs(x):
    out = [torch.empty(5, dtype=torch.float64) for _ in range(4)]
    torch.unbind_copy(x, out=out)
    return torch.stack(out)


def keywords_of_python(x):
    return operator.and_(x > 0, x < 1).to(torch.float64) + operator.or_(x > 1, x < 0).to(torch.float64)


def hermitian(x):
    y = x * 1
    y.H.mul_(2.0)
    y.mT.add_(1.0)
    return y


def turned(x):
    y = x * 1
    z = y[:2]
    z.transpose_(0, 1)
    z.add_(1)
    y.unsqueeze_(0)
    return y


def initialised(x):
    y = x * 1
    nn.init.constant_(y[0], 2.0)
    nn.init.zeros_(y[1])
    return y


def table_kept_short(x):
    y = x * 1
    first = F.embedding(torch.tensor([0, 2]), y, max_norm=1.0)
    return first + y[:2] + F.embedding(torch.tensor([1, 1]), x, max_norm=0.5)


def expanded(x):
    y = x[:1] * 1
    torch.broadcast_to(y, (1, 5)).mul_(2.0)
    return y


def keeps_its_type(x):
    y = x * 1
    y.gt_(0)
    return y


def type_of_another(x):
    y, g = x * 1, torch.arange(5.0).type_as(x)
    y += 1
    return y * g


def fill_diagonal(x):
    y = x * 1
    y.fill_diagonal_(3.0)
    return y


def listed(x):
    y = x * 1
    y[[0, 2]] = x[[1, 3]]
    y[torch.tensor([True, False, False, True])] += 1
    return y


def sizes_are_no_tensors(x):
    n = x.shape[0]
    m = n
    m += 1
    return x.reshape(n, -1) * m


def data(x):
    y = x * 1
    y.data.mul_(2.0)
    return y


def function_with_underscore(x):
    y = x * 1
    F.relu_(y)
    F.relu(y, True)
    torch.neg_(y)
    return y


def bitwise(x):
    b = x > 0
    b &= x < 1
    b |= x < -1
    return b.to(torch.float64)


FORMULAS = [
    fresh_item, fresh_read_by_a_real_call, fresh_in_place, constant_between_reads, index_copy, out_of_a_fresh_tensor,
    out_of_a_symbol, out_takes_the_type, several_outs, foreach, through_views, through_pieces,
    view_read_after_its_base, expanded, keeps_its_type, type_of_another, fill_diagonal, listed, sizes_are_no_tensors,
    data, function_with_underscore, bitwise, real_views, filled_piece_by_piece, list_of_outs, keywords_of_python,
    hermitian, turned, initialised, table_kept_short, one_of_several_results,
]  # fmt: skip


def fronts():
    return {"symbolic": trace, "export": trace(example=STREAM[0])}


@pytest.mark.parametrize("front", ["symbolic", "export"])
@pytest.mark.parametrize("code", ["TD", RATE], ids=str)
@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: f.__name__)
def test_the_law_holds_for_what_is_written(formula, code, front):
    snn = pipe(Written(formula), fronts()[front], td_rewrite(code=code), to_snn)
    y = snn.sequence(EVENTS)
    steps = torch.arange(1, 4, dtype=torch.float64).reshape(-1, *[1] * (y.ndim - 1))
    decoded = y.cumsum(0) if code == "TD" else y.cumsum(0) / steps
    given = STREAM if code == "TD" else STREAM / steps.reshape(-1, 1, 1)
    want = torch.stack([formula(x.clone()) for x in given])
    assert decoded.shape == want.shape
    assert decoded.dtype == want.dtype
    torch.testing.assert_close(decoded, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda f: f.__name__)
def test_the_model_and_its_input_stay_as_they_are(formula):
    x, before = STREAM[0].clone(), STREAM[0].clone()
    module = pipe(Written(formula), trace, to_module)
    first = module(x)
    assert torch.equal(x, before)
    assert torch.equal(module(x), first)


def maybe_a_view(x):
    y = x * 1
    y.reshape(-1).mul_(2.0)
    return y


def test_what_may_be_a_view_is_refused_by_symbols_and_followed_with_an_example():
    with pytest.raises(UnsupportedError, match=r"trace\(example=x\)"):
        trace(Written(maybe_a_view))
    x = STREAM[0]
    torch.testing.assert_close(pipe(Written(maybe_a_view), trace(example=x), to_module)(x), maybe_a_view(x))


def resized(x):
    y = x * 1
    y.resize_(2, 5)
    return y


def test_what_changes_the_memory_of_a_tensor_is_refused():
    with pytest.raises(UnsupportedError, match=r"`resize_` changes the memory of a tensor"):
        trace(Written(resized))


@pytest.mark.parametrize("formula", [
    lambda x: torch.maximum(x, torch.zeros(3, 4, 5, dtype=torch.float64)),
    lambda x: x.clamp(min=torch.zeros(2, 1, 1, dtype=torch.float64)),
    lambda x: torch.where(x > 0, x, torch.zeros(2, 4, 5, dtype=torch.float64)),
    lambda x: torch.stack([x, -x]).max(0)[0],
    lambda x: torch.max(x, 0)[0],
    lambda x: x.float().maximum(torch.zeros(1, dtype=torch.float64)),
    lambda x: x.squeeze(()),
    lambda x: torch.squeeze(x[:1], ()),
])  # fmt: skip
@pytest.mark.parametrize("front", ["symbolic", "export"])
def test_a_zero_that_broadcasts_is_no_relu(formula, front):
    snn = pipe(Written(formula), fronts()[front], td_rewrite, to_snn)
    want = formula(STREAM[0])
    got = snn(STREAM[0], T=1)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want)


TARGET = torch.rand(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("loss", [
    F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy_with_logits, F.soft_margin_loss,
    F.poisson_nll_loss, lambda x, t: F.kl_div(x.log_softmax(1), t), lambda x, t: F.cross_entropy(x, t),
    lambda x, t: F.multilabel_soft_margin_loss(x, t), lambda x, t: F.mse_loss(x, t, reduction="sum"),
])  # fmt: skip
@pytest.mark.parametrize("front", ["symbolic", "export"])
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_losses_keep_their_defaults(loss, front):
    snn = pipe(Written(lambda x: loss(x, TARGET)), fronts()[front], td_rewrite, to_snn)
    torch.testing.assert_close(snn(STREAM[0], T=1), loss(STREAM[0], TARGET))


class Kept(nn.Module):
    """A buffer and a plain attribute that are overwritten whole at each run."""

    def __init__(self):
        super().__init__()
        self.register_buffer("k", torch.zeros(4, 5, dtype=torch.float64))
        self.plain = torch.zeros(4, 5, dtype=torch.float64)

    def forward(self, x):
        torch.exp(x, out=self.k)
        torch.mul(x, 2, out=self.plain)
        return self.k + self.plain


@pytest.mark.parametrize("front", ["symbolic", "export"])
def test_out_overwrites_what_the_model_keeps(front):
    model = Kept()
    snn = pipe(model, fronts()[front], td_rewrite, to_snn)
    torch.testing.assert_close(snn.sequence(EVENTS).cumsum(0), STREAM.exp() + 2 * STREAM)
    assert not model.k.any()


def test_every_in_place_operator_of_python_is_followed():
    for name in ("iadd", "isub", "imul", "itruediv", "ipow", "ifloordiv", "imod"):
        op = getattr(operator, name)

        def formula(x, op=op):
            y = x.abs() + 1
            return op(y, 2.0) + y

        torch.testing.assert_close(pipe(Written(formula), trace, to_module)(STREAM[0]), formula(STREAM[0]))


class IntoBuffers(nn.Module):
    """``out=`` overwrites what the model keeps; ``reads`` says whether what lay there counts."""

    def __init__(self, reads):
        super().__init__()
        self.reads = reads
        self.register_buffer("values", torch.zeros(4, 5, dtype=torch.float64))
        self.register_buffer("places", torch.zeros(4, 5, dtype=torch.int64))

    def forward(self, x):
        before = self.values * 1 if self.reads else 0.0
        torch.sort(x, 1, out=(self.values, self.places))
        return self.values + before, self.places * 1


@pytest.mark.parametrize("front", ["symbolic", "export"])
def test_a_buffer_that_is_overwritten_whole_is_not_remembered(front):
    x = STREAM[0]
    values, places = pipe(IntoBuffers(False), fronts()[front], to_module)(x)
    assert torch.equal(values, x.sort(1).values)
    assert torch.equal(places, x.sort(1).indices)
    with pytest.raises(UnsupportedError, match="own memory"):
        pipe(IntoBuffers(True), fronts()[front])


def _add_into(x, y):
    x += y
    return x


@fx.wrap
def kept_adding(x, y, scale=1):
    """Writes through a view of x, in a function of its own; and to memory of its own, which nobody sees."""
    mine = y.new_zeros(y.shape)
    mine[:, 0] = 1
    mine *= 2
    scale += 1
    view = x[:, 1:].view(-1, x.shape[1] - 1)
    _add_into(view, y[:, 1:])
    return mine


@fx.wrap
def kept_pure(x, y):
    """Writes to memory of its own alone."""
    out = torch.zeros_like(x)
    for k in range(2):
        out[:, k] = x[:, k] * (k + 1)
    out.add_(y)
    z = x + y
    z -= 1
    return out + z


@pytest.mark.parametrize("used", [True, False])
def test_a_function_that_is_kept_whole_and_writes_to_its_argument_is_refused(used):
    """Left out of the graph where nobody uses what it returns, or writing to what a network remembers: wrong."""

    class Net(nn.Module):
        def forward(self, x):
            y = F.relu(x * 2)
            made = kept_adding(y, x)
            return y + made if used else y

    model, x = Net().eval(), vectors(3, 4)
    with pytest.raises(UnsupportedError, match="`kept_adding` is kept as one call and writes to its argument x") as e:
        trace(model)
    assert "trace(example=x)" in str(e.value)
    state = trace(model, example=x)
    assert_close(to_module(state)(x), model(x))
    assert_close(pipe(state, td_rewrite, to_snn)(x, T=3), model(x))


def test_a_function_that_is_kept_whole_may_write_to_memory_of_its_own():
    class Net(nn.Module):
        def forward(self, x):
            return kept_pure(F.relu(x * 2), x)

    model, x = Net().eval(), vectors(3, 4)
    td = pipe(trace(model), td_rewrite, to_snn)
    assert_close(td(x, T=3), model(x))
    parts = torch.stack([vectors(3, 4) for _ in range(4)])
    assert_close(td.sequence(parts).sum(0), model(parts.sum(0)))
