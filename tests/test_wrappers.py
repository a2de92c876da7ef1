"""Wrappers, wherever they stand; torch's own modules as the outermost one; what is refused by its path."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import TraceError, calibrate, pipe, td_rewrite, to_module, to_snn, trace
from tests.helpers import assert_close, line_of

FRONT_ENDS = pytest.mark.parametrize("by_example", [False, True], ids=["fx", "export"])


def traced(model, x, by_example, **options):
    return trace(model, **options, **({"example": x} if by_example else {}))


def part():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU())


def rows():
    return torch.randn(4, 6)


def compiled(module):
    return torch.compile(module, backend="eager")


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


WRAPPERS = {
    "compile": compiled,
    "compile in place": compiled_in_place,
    "DataParallel": nn.DataParallel,
    "both": lambda module: nn.DataParallel(compiled(module)),
    "both, the other way": lambda module: compiled(nn.DataParallel(module)),
}


@FRONT_ENDS
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_part_is_the_part(name, by_example):
    wrapped = WRAPPERS[name](part())
    model, x = nn.Sequential(wrapped, nn.Linear(8, 3)), rows()
    with torch.no_grad():
        want = model.eval()(x)
    state = traced(model.train(), x, by_example)
    assert list(state.params) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    assert [node.path for node in state.graph][1:] == ["0.0", "0.1", "1"]
    assert_close(to_module(state)(x), want)
    assert len(pipe(state, calibrate([x]), to_snn).neurons()) == 1
    assert all(module.training for module in model.modules() if not isinstance(module, type(wrapped)))


@FRONT_ENDS
def test_distributed_parts(by_example):
    dist = torch.distributed
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, x = nn.Sequential(nn.parallel.DistributedDataParallel(part())), rows()
        state = traced(model, x, by_example)
        assert set(state.params) == {"0.0.weight", "0.0.bias"}
        assert_close(to_module(state)(x), model(x).detach())
    finally:
        dist.destroy_process_group()


@FRONT_ENDS
@pytest.mark.parametrize("name", ["compile", "DataParallel"])
def test_a_wrapper_may_be_looked_into(name, by_example):
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = WRAPPERS[name](part())

        def forward(self, x):
            inner = self.net._orig_mod if name == "compile" else self.net.module
            return inner[1](inner[0](x))

    model, x = Looking().eval(), rows()
    assert_close(to_module(traced(model, x, by_example))(x), model(x))


@FRONT_ENDS
def test_attributes_of_a_compiled_part(by_example):
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = compiled(nn.Linear(6, 8))

        def forward(self, x):
            return F.linear(x, self.net.weight) + self.net.bias

    model, x = Reading().eval(), rows()
    state = traced(model, x, by_example)
    assert_close(to_module(state)(x), model(x))
    assert set(state.params) == {"net.weight", "net.bias"}


@FRONT_ENDS
def test_a_wrapper_is_known_by_its_type(by_example):
    class Delegates(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = compiled(part())

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("net"), name)

        def forward(self, x):
            return self.net(2 * x - 1)

    class Scaled(nn.DataParallel):
        def forward(self, x):
            return 2 * self.module(x)

    for model in (Delegates().eval(), nn.Sequential(Delegates()).eval(), Scaled(part()).eval()):
        x = rows()
        assert_close(to_module(traced(model, x, by_example))(x), model(x))


def positive(x):
    return F.relu(x)


@FRONT_ENDS
def test_compiled_functions_are_followed_as_they_were_written(by_example):
    class Compiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 8)
            self.act, self.impl = torch.compile(positive, backend="eager"), torch.compile(self.inner, backend="eager")

        def inner(self, x):
            return self.act(self.a(x)) * (3.0 if self.training else 1.0)

        @torch.compile(backend="eager")
        def forward(self, x):
            return self.impl(x)

    model, x = Compiled().eval(), rows()
    want = F.relu(model.a(x))
    state = traced(model.train(), x, by_example)
    assert_close(to_module(state)(x), want)
    assert [node.op for node in state.graph][1:] == ["linear", "relu", "mul"]


@FRONT_ENDS
def test_averaged_models(by_example):
    model, x = torch.optim.swa_utils.AveragedModel(part()), rows()
    state = traced(nn.Sequential(model), x, by_example)
    assert set(state.params) == {"0.module.0.weight", "0.module.0.bias"}
    assert_close(to_module(state)(x), model(x))


@pytest.mark.parametrize("wrap", [compiled, nn.DataParallel])
def test_what_a_wrapper_would_lose_is_refused(wrap):
    model = nn.Sequential(wrap(part()))
    handle = model[0].register_forward_hook(lambda module, args, out: 2 * out)
    with pytest.raises(TraceError, match=r"0 \(\w+\) has hooks"):
        trace(model)
    handle.remove()
    trace(model)
    if wrap is nn.DataParallel:
        model[0].forward = lambda x: x
        with pytest.raises(TraceError, match="has a forward of its own"):
            trace(model)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, rows())], ids=["script", "trace"])
def test_scripted_parts_are_refused_by_path(make):
    with pytest.raises(TraceError, match=r"body\.0 .*TorchScript"):
        trace(nn.Sequential(nn.ModuleDict({"body": nn.Sequential(make(part()))}))[0])
    hidden = nn.ReLU()
    hidden.others = {"x": [make(part())]}
    with pytest.raises(TraceError, match=r"others\['x'\]\[0\] .*TorchScript"):
        trace(nn.Sequential(hidden), example=rows())


def test_shards_are_refused_by_path(monkeypatch):
    class FullyShardedDataParallel(nn.Module):
        pass

    fake = types.SimpleNamespace(FullyShardedDataParallel=FullyShardedDataParallel)
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", fake)
    with pytest.raises(TraceError, match=r"0 \(FullyShardedDataParallel\) holds shards"):
        trace(nn.Sequential(FullyShardedDataParallel()))


# autocast


class Casting(nn.Module):
    def __init__(self, enabled=True):
        super().__init__()
        self.a, self.enabled = nn.Linear(6, 8), enabled

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled):
            return self.a(x)


class Decorated(Casting):
    @torch.autocast("cpu", dtype=torch.bfloat16)
    def forward(self, x):
        return self.a(x)


@FRONT_ENDS
@pytest.mark.parametrize("build", [Casting, Decorated])
def test_autocast_in_forward_is_refused(build, by_example):
    with pytest.raises(TraceError, match="autocast"):
        traced(build(), rows(), by_example)
    with pytest.raises(TraceError, match="autocast"):
        traced(nn.Sequential(build()), rows(), by_example)
    assert not torch.is_autocast_enabled("cpu")


def test_a_leaf_may_cast():
    model, x = Casting(), rows()
    got = pipe(model, trace(leaves=(Casting,)), td_rewrite, to_snn)(x, T=1)
    assert got.dtype == torch.bfloat16
    assert_close(got, model(x))


@FRONT_ENDS
@pytest.mark.parametrize("region", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_regions_that_change_no_value(region, by_example):
    class Within(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 8)

        def forward(self, x):
            with region():
                return self.a(x).relu()

    for model in (Within(), Casting(enabled=False)):
        x = rows()
        assert_close(to_module(traced(model, x, by_example))(x), model(x).detach().clone())


@FRONT_ENDS
def test_autocast_around_a_conversion_stays_outside(by_example):
    model, x = part().eval(), rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = traced(model, x, by_example)
        assert torch.is_autocast_enabled("cpu")
    assert_close(to_module(state)(x), model(x))


@FRONT_ENDS
def test_a_conversion_under_inference_mode(by_example):
    model, x = part().eval(), rows()
    with torch.inference_mode():
        state = traced(model, x, by_example)
    assert not any(tensor.is_inference() for tensor in state.params.values())


# torch's own modules as the outermost one


def z(*shape):
    return torch.randn(*shape)


OUTERMOST = {
    "LSTM": (lambda: nn.LSTM(4, 5, 2, bidirectional=True), z(5, 2, 4)),
    "LSTM projected": (lambda: nn.LSTM(4, 5, proj_size=3), z(5, 2, 4)),
    "GRU": (lambda: nn.GRU(4, 5, batch_first=True), z(5, 2, 4)),
    "RNN": (lambda: nn.RNN(4, 5), z(5, 2, 4)),
    "LSTMCell": (lambda: nn.LSTMCell(4, 5), z(2, 4)),
    "GRUCell": (lambda: nn.GRUCell(4, 5), z(2, 4)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(3, affine=True), z(2, 3, 8)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3), z(2, 3, 8, 8)),
    "InstanceNorm running": (lambda: nn.InstanceNorm2d(3, track_running_stats=True), z(2, 3, 8, 8)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), z(2, 3, 8, 8)),
    "GroupNorm": (lambda: nn.GroupNorm(3, 6), z(2, 6, 8)),
    "LayerNorm": (lambda: nn.LayerNorm(4), z(2, 3, 4)),
    "RMSNorm": (lambda: nn.RMSNorm(4), z(2, 3, 4)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(2), z(2, 4, 5, 5)),
    "Softmax2d": (nn.Softmax2d, z(2, 3, 4, 4)),
    "Softmax": (lambda: nn.Softmax(1), z(2, 3)),
    "CircularPad1d": (lambda: nn.CircularPad1d(1), z(2, 3, 4)),
    "CircularPad2d": (lambda: nn.CircularPad2d(1), z(2, 3, 4, 4)),
    "ReflectionPad2d": (lambda: nn.ReflectionPad2d(1), z(2, 3, 4, 4)),
    "Conv2d circular": (lambda: nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular"), z(2, 3, 5, 5)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2), z(2, 3, 4, 4)),
    "Linear": (lambda: nn.Linear(4, 3), z(2, 4)),
    "Embedding": (lambda: nn.Embedding(9, 4), torch.randint(9, (2, 5))),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(9, 4), torch.randint(9, (2, 5))),
    "ReLU": (nn.ReLU, z(2, 4)),
    "PReLU": (lambda: nn.PReLU(3), z(2, 3, 4)),
    "GLU": (nn.GLU, z(2, 4)),
    "Softmin": (lambda: nn.Softmin(1), z(2, 4)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), z(2, 3, 4, 4)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), z(2, 3, 4, 4)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), z(2, 3, 4, 4)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), z(2, 4, 3, 3)),
    "Unfold": (lambda: nn.Unfold(2), z(2, 3, 4, 4)),
    "Fold": (lambda: nn.Fold((4, 4), 2), z(2, 12, 9)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), z(2, 4, 3, 3)),
    "Flatten": (nn.Flatten, z(2, 3, 4)),
    "Dropout": (nn.Dropout, z(2, 3)),
    "Identity": (nn.Identity, z(2, 3)),
    "Sequential": (part, z(2, 6)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8), z(5, 2, 4)),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("name", OUTERMOST)
def test_torchs_own_module_outermost(name):
    build, x = OUTERMOST[name]
    model = build()
    with torch.no_grad():
        want = model.eval()(x)
    state = trace(model.train())
    assert set(state.params) <= set(model.state_dict())
    assert_close(to_module(state)(x), want)
    got = pipe(state, td_rewrite, to_snn)(x, T=2)
    assert_close(got, want, depth=16)


def test_two_inputs_of_a_transformer():
    model = nn.Transformer(4, 2, 1, 1, 8, batch_first=True)
    source, target = z(2, 5, 4), z(2, 3, 4)
    state = trace(model)
    assert_close(to_module(state)(source, target), model.eval()(source, target).detach())
    assert set(state.params) <= set(model.state_dict())


def test_the_model_itself_as_a_leaf():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 3)

        def forward(self, x):
            return self.a(x) if x.sum() > -1e9 else x

    model, x = Branches(), rows()
    with pytest.raises(TraceError, match=r"leaves=\(Branches,\)"):
        trace(model)
    state = trace(model, leaves=(Branches,))
    assert set(state.params) == {"a.weight", "a.bias"}
    assert_close(pipe(state, td_rewrite, to_snn)(x, T=1), model(x).detach())


# modules of libraries


def test_modules_made_by_onnx2torch_are_followed_like_torchs(monkeypatch):
    library = types.ModuleType("onnx2torch.node_converters.made_up")
    code = """
from torch import nn

class OnnxFollowed(nn.Module):
    def forward(self, x):
        return x.relu()

class OnnxResize(nn.Module):
    def forward(self, x):
        return x if x.sum() > 1e9 else 2 * x
"""
    exec(compile(code, "made_up.py", "exec"), vars(library))
    for kind in (library.OnnxFollowed, library.OnnxResize):
        monkeypatch.setattr(kind, "__module__", library.__name__)
    model, x = nn.Sequential(nn.Linear(6, 8), library.OnnxFollowed(), library.OnnxResize()).eval(), rows()
    state = trace(model)
    assert [node.op for node in state.graph][1:] == ["linear", "relu", "call"]
    assert_close(to_module(state)(x), model(x))


# weights that are no plain tensors


class Halved(torch.Tensor):
    """A weight that is kept as whole numbers of 1/16."""

    @staticmethod
    def __new__(cls, whole):
        return torch.Tensor._make_wrapper_subclass(cls, whole.shape, dtype=torch.float32, requires_grad=False)

    def __init__(self, whole):
        self.whole = whole

    def __tensor_flatten__(self):
        return ["whole"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, meta, size, stride):
        return cls(inner["whole"])

    def __repr__(self):
        return "Halved"

    @classmethod
    def __torch_dispatch__(cls, func, kinds, args=(), kwargs=None):
        aten = torch.ops.aten
        if func in (aten.detach.default, aten.clone.default):
            return cls(func(args[0].whole))
        if func is aten.alias.default:
            return cls(args[0].whole)
        plain = [a.whole.float() / 16 if isinstance(a, cls) else a for a in args]
        return func(*plain, **(kwargs or {}))


class Computing(Halved):
    """One that says itself how ``linear`` is computed, as those of ``torchao`` do."""

    @classmethod
    def __torch_function__(cls, func, kinds, args=(), kwargs=None):
        if func is F.linear:
            x, weight, bias = args
            return torch.mm(x, weight.whole.t().float() / 16).reshape(x.shape[0], -1).add_(bias)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def exports(model, x):
    """Whether this torch exports such weights: 2.6 does not."""
    try:
        torch.export.export(model, (x,), strict=False)
    except AssertionError:
        return False
    return True


@FRONT_ENDS
@pytest.mark.parametrize("kind", [Halved, Computing])
def test_weights_of_a_class_of_their_own(kind, by_example):
    model, x = part().eval(), rows()
    whole = (model[0].weight * 16).round().to(torch.int8)
    model[0].weight = nn.Parameter(kind(whole), requires_grad=False)
    want = F.relu(F.linear(x, whole.float() / 16, model[0].bias)).detach()
    if by_example and not exports(model, x):
        with pytest.raises(TraceError, match=f"exports no weight of a class of its own.*{kind.__name__}"):
            traced(model, x, by_example)
        return
    state = traced(model, x, by_example)
    assert_close(to_module(state)(x), want)
    assert_close(pipe(state, td_rewrite, to_snn)(x, T=1), want)
    assert "0.bias" in state.params
    whole.zero_()
    assert_close(to_module(state)(x), want)


@FRONT_ENDS
def test_a_wrapped_part_may_fail(by_example):
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(TraceError, match=line_of(Branches, "x.sum() > 0")):
        traced(nn.Sequential(compiled(Branches())), rows(), by_example)
