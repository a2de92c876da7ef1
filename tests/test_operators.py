"""One function per row: it is traced right, exact in time, and right between two neurons."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from snnpipe import RATE, TD, TraceError, UnsupportedError, pipe, td_rewrite, to_module, to_snn, trace
from tests.helpers import assert_close, assert_converges, settled, spiking

pytestmark = [
    pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning"),
    pytest.mark.filterwarnings("ignore::snnpipe.SiteWarning"),
]

#: Functions of a (B, 4, 6) tensor with values >= 0, as people write them.
FUNCTIONS = {
    "x + 1": lambda x: x + 1,
    "1 - x": lambda x: 1 - x,
    "rsub alpha": lambda x: torch.rsub(x, 1, alpha=2),
    "add alpha": lambda x: torch.add(x, x[:, :1], alpha=0.5),
    "sub": lambda x: x.sub(0.5),
    "x * 2": lambda x: 2 * x,
    "x * x": lambda x: x * x,
    "x / 3": lambda x: x / 3,
    "1 / (1 + x)": lambda x: 1 / (1 + x),
    "x ** 2": lambda x: x**2,
    "2 ** x": lambda x: 2**x,
    "x // 1": lambda x: x // 1,
    "-x": lambda x: -x,
    "+x": lambda x: +x,
    "abs": lambda x: abs(x - 0.5),
    "sqrt": lambda x: (x + 1).sqrt(),
    "exp": torch.exp,
    "in place": lambda x: x.clone().mul_(2).add_(1).div_(3),
    "operators in place": lambda x: _in_place(x),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "matmul with itself": lambda x: x @ x.mT,
    "x.T of the last two": lambda x: x.transpose(1, 2),
    "bmm": lambda x: torch.bmm(x, x.transpose(1, 2)),
    "einsum": lambda x: torch.einsum("bcl,bdl->bcd", x, x),
    "sum": lambda x: x.sum(-1),
    "sum over two": lambda x: x.sum((1, 2), keepdim=True),
    "mean": lambda x: x.mean(dim=1),
    "mean of all": lambda x: x.mean((1, 2)),
    "var": lambda x: x.var(-1, unbiased=False),
    "norm": lambda x: (x + 1).norm(dim=-1),
    "cumsum": lambda x: x.cumsum(1),
    "prod": lambda x: x.prod(-1),
    "amax": lambda x: x.amax(1),
    "max with indices": lambda x: x.max(dim=1)[0],
    "sort": lambda x: x.sort(dim=-1).values,
    "topk": lambda x: torch.topk(x, 2, dim=-1)[0],
    "maximum of two": lambda x: torch.maximum(x, x.flip(-1)),
    "minimum": lambda x: torch.minimum(x, x * 0.5),
    "clamp": lambda x: x.clamp(0.2, 0.8),
    "clamp by a tensor": lambda x: torch.clamp(x, max=x.new_ones(6)),
    "leaky_relu": lambda x: F.leaky_relu(x - 0.5, 0.1),
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": lambda x: F.elu(x - 1),
    "softplus": F.softplus,
    "sigmoid": lambda x: x.sigmoid(),
    "tanh": torch.tanh,
    "softmax": lambda x: F.softmax(x, dim=-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "normalize": lambda x: F.normalize(x + 1, dim=-1),
    "cat with a constant": lambda x: torch.cat([x, torch.ones_like(x[:, :1])], 1),
    "cat with itself": lambda x: torch.cat((x, 2 * x), dim=-1),
    "stack": lambda x: torch.stack([x, x + 1], dim=2),
    "chunk": lambda x: x.chunk(2, dim=1)[1],
    "chunk unpacked": lambda x: _unpacked(x),
    "split": lambda x: torch.split(x, [1, 3], dim=1)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "pad with zeros": lambda x: F.pad(x, (1, 2)),
    "pad with ones": lambda x: F.pad(x, (1, 2), value=1.0),
    "pad by reflection": lambda x: F.pad(x, (1, 2), mode="reflect"),
    "roll": lambda x: x.roll(1, dims=-1),
    "roll flat": lambda x: torch.roll(x, 2),
    "flip": lambda x: x.flip((1, 2)),
    "slice": lambda x: x[:, ::2, 1:-1],
    "new axis": lambda x: x[..., None] + x[:, None].transpose(1, 3).transpose(1, 2)[..., :1],
    "ellipsis": lambda x: x[..., -1],
    "fancy index": lambda x: x[:, [0, 2, 1]],
    "index_select": lambda x: x.index_select(1, torch.tensor([3, 0])),
    "masked_fill": lambda x: x.masked_fill(torch.ones(4, 6).bool().tril(), 0.5),
    "where on data": lambda x: torch.where(x > 0.5, x, x * 0.1),
    "where on a constant": lambda x: torch.where(torch.arange(6) > 2, x, 1.0),
    "gather": lambda x: x.gather(-1, torch.zeros_like(x[..., :2], dtype=torch.long)),
    "view": lambda x: x.view(x.shape[0], -1),
    "view negative": lambda x: x.reshape(-1, 2, 12),
    "unflatten": lambda x: x.unflatten(-1, (2, 3)),
    "permute": lambda x: x.permute(0, 2, 1).contiguous(),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "movedim": lambda x: x.movedim(1, -1),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1),
    "repeat": lambda x: x.repeat(1, 2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "to double": lambda x: x.float().to(torch.float64),
    "type_as": lambda x: (x * 2).type_as(x),
    "detach": lambda x: x.detach() * 2,
    "item assignment": lambda x: _assigned(x),
    "zeros of its shape": lambda x: x + x.new_zeros(x.shape[0], 1, 1),
    "its own length": lambda x: x / x.shape[-1] + x.size(1),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "interpolate linear": lambda x: F.interpolate(x, size=9, mode="linear"),
    "avg_pool": lambda x: F.avg_pool1d(x, 2, ceil_mode=True),
    "avg_pool padded": lambda x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False),
    "max_pool": lambda x: F.max_pool1d(x, 2),
    "adaptive_max_pool": lambda x: F.adaptive_max_pool1d(x, 2),
    "lp_pool": lambda x: F.lp_pool1d(x + 1, 2, 2),
    "unfold": lambda x: x.unfold(-1, 3, 1),
    "unfold of four axes": lambda x: x[:, None].unfold(1, 1, 1),
    "conv with computed weight": lambda x: F.linear(x, x.new_ones(3, 6) / 6, x.new_ones(3)),
    "a branch on a constant": lambda x: x if x.__class__ is None else x * 1.5,
    "nested output": lambda x: {"a": [x, (x.sum(-1), x.amax(-1))], "b": x + 1},
    "no_grad": lambda x: _without_grad(x),
}  # fmt: skip


#: What torch's functions are given besides tensors.
SIZES_AND_TYPES = {
    "size": lambda x: F.avg_pool1d(x, x.shape[-1]),
    "type": lambda x: x * torch.ones(4, 6, dtype=x.dtype),
}


def _in_place(x):
    y = x * 1
    y += 1
    y *= 2
    y -= x
    y /= 4
    return y


def _unpacked(x):
    a, b = x.chunk(2, dim=1)
    c, d = torch.split(b, 1, 1)
    return a * torch.sigmoid(b) + c - d


def _assigned(x):
    y = x.clone()
    y[:, 0] = 1.0
    y[:, 1:3] = x[:, :2]
    return y


def _without_grad(x):
    with torch.no_grad():
        return x * 2


class Applied(nn.Module):
    """``fn`` on what comes in."""

    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x)


every_function = pytest.mark.parametrize("name", FUNCTIONS)


def inputs():
    return torch.rand(3, 4, 6, dtype=torch.float64)


@every_function
def test_it_is_traced_right_and_leaves_its_input_alone(name):
    model, x = Applied(FUNCTIONS[name]), inputs()
    module, before = pipe(model, trace, to_module), x.clone()
    assert_close(module(x), model(x))
    assert torch.equal(x, before)
    assert_close(module(x[:2]), model(x[:2]))


@every_function
@pytest.mark.parametrize("code", [TD, RATE], ids=str)
def test_it_is_exact_in_time(name, code):
    """Events of any sign decode to inputs in [0.5, 1.5] at every step."""
    model, shape = Applied(FUNCTIONS[name]), (5, 3, 4, 6)
    decoded = 0.5 + torch.rand(shape, dtype=torch.float64)
    t = torch.arange(1, 6, dtype=torch.float64).reshape(-1, 1, 1, 1)
    total = decoded * t if code is RATE else decoded
    events = torch.cat([total[:1], total[1:] - total[:-1]])
    net = pipe(model, trace, td_rewrite(code=code), to_snn)
    y = net.sequence(events)
    for k in range(1, 6):
        weight = 1 / k if code is RATE else 1.0
        got = torch.utils._pytree.tree_map(lambda leaf, k=k, w=weight: leaf[:k].sum(0) * w, y)
        assert_close(got, model(decoded[k - 1]), depth=64)


@every_function
def test_it_is_right_behind_a_neuron(name):
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.f = nn.Linear(6, 6), FUNCTIONS[name]
            nn.init.constant_(self.a.bias, 0.8)

        def forward(self, x):
            return self.f(F.relu(self.a(x)))

    if name in ("x // 1", "where on data"):
        pytest.skip("not continuous: no rate can converge to it")
    model, x = settled(Between()), inputs()
    snn = spiking(model, x)
    assert len(snn.neurons()) >= 1
    assert_converges(snn, (x,), model(x))


@pytest.mark.parametrize("name", SIZES_AND_TYPES)
def test_a_symbol_may_be_a_size_or_a_type(name):
    """Where torch takes it: before some later version than 2.6 an example is needed, as the refusal says."""
    model, x = Applied(SIZES_AND_TYPES[name]), inputs()
    try:
        fx.symbolic_trace(model)
    except TypeError:
        with pytest.raises(TraceError, match=r"give an example: trace\(example=x\)"):
            trace(model)
    else:
        assert_close(to_module(trace(model))(x), model(x))
    assert_close(to_module(trace(model, example=x))(x), model(x))


@pytest.mark.parametrize("name", ["rand_like", "bernoulli", "normal_", "multinomial"])
def test_random_functions_are_refused(name):
    def draw(x):
        if name == "multinomial":
            return torch.multinomial(x[:, 0], 2)
        return getattr(torch, name)(x) if hasattr(torch, name) else getattr(x * 1, name)()

    with pytest.raises(UnsupportedError, match="random"):
        trace(Applied(draw))
