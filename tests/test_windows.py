"""A sequence is its steps: indices of every kind, values without axes, dtypes that are no floats."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from property_tests.strategies import decode, with_wires
from snnpipe import RATE, TD, pipe, td_rewrite, to_snn, trace
from snnpipe.frozen import FrozenMap

MASK = torch.tensor([True, False, True])
STEPS = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0)).double() * 2


class Function(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = (f,)

    def forward(self, x):
        return self.f[0](x)


def _column_of(b, x):
    b[:, 0] = x[:, 0] * 3
    return b * 1.5


def _copy_into(b, x):
    b.copy_(x * 3)
    return b * 1.5


INDICES = {
    "list": lambda x: x[[0, 1]], "lists": lambda x: x[[0, 1], [1, 2]], "negative": lambda x: x[:, [-1, 0]],
    "booleans": lambda x: x[[True, False, True]], "mask": lambda x: x[MASK],
    "apart": lambda x: x.unsqueeze(1)[[0, 1], :, [1, 2]], "tensor": lambda x: x[torch.tensor([0, 2])],
    "True": lambda x: x[True, [0, 1]],
}  # fmt: skip
WITHOUT_AXES = {
    "softmax": lambda x: x.sum().softmax(-1), "cumsum": lambda x: x.sum().cumsum(-1), "sum": lambda x: x.sum().sum(),
    "mean": lambda x: x.sum().mean(0), "flatten": lambda x: x.mean().flatten(), "flip": lambda x: x.sum().flip(0),
    "roll": lambda x: x.sum().roll(1), "amax": lambda x: x.sum().amax(-1), "unsqueeze": lambda x: x.sum().unsqueeze(-1),
    "view": lambda x: x.sum().view(1, 1), "expand": lambda x: x.sum().expand(2, 3), "add": lambda x: x + x.sum(),
    "stack": lambda x: torch.stack([x.sum(), x.mean()], -1), "max": lambda x: x.sum().max(-1)[0],
    "index": lambda x: x.sum()[None], "logsumexp": lambda x: x.sum().logsumexp(0), "relu": lambda x: F.relu(x.sum()),
    "clamp": lambda x: x.clamp(min=x.mean()), "clamp, number": lambda x: x.clamp(x.mean(), 0.5),
    "power": lambda x: 2.0 ** x.mean(), "argmax": lambda x: x.argmax() * 1.0,
}  # fmt: skip
DTYPES = {
    "float by double": lambda x: x.float() * x.sum(), "numbers": lambda x: x.float().sum() * x.sum(),
    "number, constant": lambda x: x.float().sum() + torch.tensor(0.5, dtype=torch.float64),
    "to a float": lambda x: x.sum(-1, dtype=torch.float32), "cumsum": lambda x: x.cumsum(0, dtype=torch.float32),
    "float and number": lambda x: x.float().sum() + 0.1,
}  # fmt: skip
NO_FLOATS = {
    "sum": lambda x: x.sum(dtype=torch.int64), "sum over": lambda x: x.sum(-1, dtype=torch.int32) * 1.5,
    "cumsum": lambda x: x.cumsum(0, dtype=torch.int64), "to": lambda x: (x * 3).to(torch.int32) + 0.5,
    "long": lambda x: (x * 3).long(), "bool": lambda x: x.bool(), "view": lambda x: x.view(torch.int64) % 97,
    "item": lambda x: _column_of(x.new_zeros(3, 3, dtype=torch.int64), x),
    "item of floats": lambda x: _column_of(x.new_zeros(3, 3), x), "copy to a mask": lambda x: _copy_into(x > 0, x),
    "copy": lambda x: _copy_into(torch.zeros_like(x, dtype=torch.int32), x),
}  # fmt: skip
NUMBERS = {
    "True": lambda x: x + True, "before": lambda x: True + x, "False": lambda x: x + False, "times": lambda x: x * True,
    "where": lambda x: torch.where(MASK, x, True), "masked_fill": lambda x: x.masked_fill(MASK, True),
}  # fmt: skip
SIZES = {
    "squeeze, none": lambda x: x[:, :1].squeeze(()), "sum, none": lambda x: x.sum(dim=()),
    "sum, list": lambda x: x.sum([0, -1]),
}  # fmt: skip
MEMORY = {
    "as_strided": lambda x: torch.as_strided(x, (2, 2), (1, 1), 2), "method": lambda x: x.as_strided((2,), (1,)),
    "scatter": lambda x: torch.as_strided_scatter(x, x[0, :2], (2,), (1,), 1),
    "copy": lambda x: torch.as_strided_copy(x, (2,), (2,), 1),
}  # fmt: skip
CASES = {f"{kind}: {name}": f for kind, cases in {
    "indices": INDICES, "without axes": WITHOUT_AXES, "dtypes": DTYPES, "no floats": NO_FLOATS, "numbers": NUMBERS,
    "sizes": SIZES, "memory": MEMORY,
}.items() for name, f in cases.items()}  # fmt: skip


def followed(state):
    """The state with an encoder behind its output, so that what is linear stays with events."""
    graph, params = with_wires(state.graph, state.params, None)
    return state.evolve(graph=graph, params=FrozenMap(params))


@pytest.mark.parametrize("code", [TD, RATE], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_steps_and_sequences_decode_to_the_function_of_what_was_decoded(name, code):
    f = CASES[name]
    events = STEPS if code is RATE else torch.diff(STEPS, dim=0, prepend=torch.zeros_like(STEPS[:1]))
    want = torch.stack([f(x.clone()) for x in decode(events, code)])
    state = trace(Function(f))
    for snn in (to_snn(td_rewrite(code=code)(graph)) for graph in (state, followed(state))):
        before, steps = snn.init(), []
        for x in events:
            before, y = snn.step(before, x)
            steps.append(y)
        for found in (snn.sequence(events), torch.stack(steps)):
            assert found.shape == want.shape
            decoded = decode(found.double(), code) if found.is_floating_point() and code else found
            if not want.is_floating_point() and snn.neurons():  # whole numbers as events are floats
                found = found.to(want.dtype)
            assert found.dtype == want.dtype
            eps = torch.finfo(torch.float32 if "dtypes" in name or want.dtype != torch.float64 else want.dtype).eps
            scale = 1 + want.double().abs().max().item()
            assert (decoded.double() - want.double()).abs().max() <= 64 * len(events) * eps * scale


@pytest.mark.parametrize("name", ["indices: list", "without axes: softmax", "no floats: sum", "numbers: True",
                                  "sizes: squeeze, none", "memory: scatter"])  # fmt: skip
def test_so_do_exported_models(name):
    f = CASES[name]
    want = torch.stack([f(x.clone()) for x in STEPS.cumsum(0)])
    found = pipe(Function(f), trace(example=STEPS[0]), td_rewrite, to_snn).sequence(STEPS)
    found = found.cumsum(0) if found.is_floating_point() else found
    assert found.dtype == want.dtype
    assert torch.allclose(found, want, rtol=0, atol=1e-12)
