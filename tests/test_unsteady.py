"""Values that do not keep their shape while a network runs, and transforms of functions: refused by name."""

import pytest
import torch
from torch import nn

from snnpipe import RATE, TraceError, UnsupportedError, pipe, td_rewrite, to_module, to_snn, trace

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning")

X = torch.tensor([[[-1.0, 1.0, -1.0]], [[4.0, 1.0, 1.0]]])  # one positive number at the first step, then two


class Formula(nn.Module):
    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        return self.formula(x)


SHAPED = {
    "nonzero": lambda x: (x > 0).nonzero() * 1.0,
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "bincount": lambda x: torch.bincount(x.argmax(1)) * 1.0,
    "x\\[index\\]": lambda x: x[x > 0],
    "where": lambda x: torch.where(x > 0)[1] * 1.0,
}


@pytest.mark.parametrize("front", [trace, trace(example=X[1])], ids=["symbolic", "export"])
@pytest.mark.parametrize("name", SHAPED)
def test_a_shape_that_hangs_on_values_is_refused_where_it_changes(name, front):
    running = f"depends on the input's values.*`{name}`.*test_unsteady.py"
    tracing = rf"test_unsteady.py(?s:.*)aten\.{name}\.default gives .* depends on the input's values"  # torch 2.6
    with pytest.raises((UnsupportedError, TraceError), match=f"{running}|{tracing}"):
        pipe(Formula(SHAPED[name]), front, td_rewrite(code=RATE), to_snn).sequence(X)


@pytest.mark.parametrize("reads", [lambda m: torch.relu(m), lambda m: m * 1.0])
def test_one_number_is_not_broadcast_to_several(reads):
    """The first step has one number, which torch would subtract from each of the two of the second."""
    snn = pipe(Formula(lambda x: reads(x[x > 0])), trace, td_rewrite(code="TD"), to_snn)
    with pytest.raises(UnsupportedError, match="Keep its shape"):
        snn.sequence(X)


def test_a_python_value_that_changes_is_refused():
    snn = pipe(Formula(lambda x: (x, torch.allclose(x, x.abs()))), trace, td_rewrite(code="TD"), to_snn)
    with pytest.raises(UnsupportedError, match="no tensor changes from step to step"):
        snn.sequence(torch.stack([X[0], 2 - 2 * X[0]]))


TRANSFORMS = {
    "vmap": lambda x: torch.vmap(lambda r: r * r.sum())(x),
    "grad": lambda x: torch.func.grad(lambda r: (r * r).sum())(x),
    "jvp": lambda x: torch.func.jvp(torch.sin, (x,), (x,))[1],
    "jacrev": lambda x: torch.func.jacrev(torch.sin)(x).sum((2, 3)),
}


@pytest.mark.parametrize("front", [trace, trace(example=X[1])], ids=["symbolic", "export"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_of_a_function_is_refused_by_name(name, front):
    with pytest.raises(TraceError, match=r"transform of torch\.func"):
        pipe(Formula(TRANSFORMS[name]), front)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_program_with_a_transform_is_refused_by_name(name):
    with torch.no_grad():
        program = torch.export.export(Formula(TRANSFORMS[name]), (X[1],), strict=False)
    with pytest.raises(TraceError, match=r"transform of torch\.func"):
        trace(program)


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_advice_holds(name):
    model = Around(Formula(TRANSFORMS[name]))
    torch.testing.assert_close(pipe(model, trace(leaves=(Formula,)), to_module)(X[1]), model(X[1]))


def test_an_unbound_method_says_how_to_write_it():
    with pytest.raises(TraceError, match=r"write x\.add\(1\)"):
        trace(Formula(lambda x: torch.Tensor.add(x, 1)))


def test_a_comparison_that_gives_a_python_value_says_so():
    with pytest.raises(TraceError, match=r"allclose.* gives a Python value that depends on the input"):
        trace(Formula(lambda x: x * torch.allclose(x, 0 * x)), example=X[1])
