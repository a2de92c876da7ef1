"""What cannot be converted is refused before any data is run, with the user's line and the way out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import SnnpipeError, TraceError, UnsupportedError, calibrate, check, fuse, pipe, to_module, to_snn, trace
from tests.helpers import assert_close, assert_converges, assert_untouched, line_of, settled, snapshot, spiking, vectors
from tests.models import Model

# small nets may have dead units; that they are handled is test_replace's business
pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")


class BranchOnShape(Model):
    def forward(self, x, return_feat=False):
        if x.shape[-1] > 4:  # here
            x = x * 2
        y = self.r(self.a(x))
        return (y, y) if return_feat else y


class LoopOverShape(Model):
    def forward(self, x):
        _, c = x.shape
        return sum(nn.ReLU()(self.a(x)) * (i + 1) for i in range(c // 8))  # here


class BranchOnData(Model):
    def forward(self, x):
        return self.r(self.a(x)) if x.sum() > 0 else self.r(-self.a(x))  # here


class IntoPython(Model):
    def forward(self, x):
        return self.a(x) * float(x.max())  # here


class Length(Model):
    def forward(self, x):
        return self.a(x) / len(x)  # here


class Numpy(Model):
    def forward(self, x):
        return self.a(torch.from_numpy(x.numpy()))  # here


UNTRACEABLE = (BranchOnShape, LoopOverShape, BranchOnData, IntoPython, Length, Numpy)


@pytest.mark.parametrize("kind", UNTRACEABLE, ids=lambda kind: kind.__name__)
def test_an_untraceable_model_names_the_line_and_the_fix(kind):
    model = kind(a=nn.Linear(6, 6), r=nn.ReLU())
    before = snapshot(model)
    with pytest.raises(TraceError) as caught:
        pipe(model, trace, to_module)
    text = str(caught.value)
    assert line_of(kind.forward, "# here") in text
    assert "trace(leaves=(" in text
    assert_untouched(before, model)


def test_a_model_that_cannot_be_followed_may_have_a_part_that_can():
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.ReLU()), BranchOnData(a=nn.Linear(6, 6)))
    with pytest.raises(TraceError, match=r"leave the rest as it is: trace\(part='1'\)"):
        trace(model)


def test_layers_behind_the_last_neuron_are_noted():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 2), nn.Softmax(1))
    note = "layers behind the last neuron run as the ANN's, from 3 (silu) on"
    assert check(model).notes == (note,)
    assert note in str(check(spiking(model, torch.randn(8, 4))))
    assert check(model[:3]).notes == check(nn.Sequential(*model[:3], nn.Softmax(1))).notes == ()


def test_an_untraceable_line_inside_a_block_is_found():
    with pytest.raises(TraceError) as caught:
        trace(nn.Sequential(nn.Linear(6, 6), BranchOnData(a=nn.Linear(6, 6), r=nn.ReLU())))
    assert line_of(BranchOnData.forward, "# here") in str(caught.value)


def bigger():
    inner = BranchOnData(a=nn.Linear(6, 6), r=nn.ReLU())
    return settled(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), inner, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)))


def test_a_leaf_in_a_bigger_model_is_converted_as_a_whole():
    model, x = bigger(), vectors()
    options = {"leaves": (BranchOnData,)}
    assert_close(pipe(model, trace(**options), fuse, to_module)(x), model(x))
    snn = spiking(model, x, **options)
    assert len(snn.neurons()) == 2
    assert {"2.a.weight", "2.a.bias"} <= snn.state_dict().keys()
    assert_converges(snn, (x,), model(x))


def test_a_leaf_is_reported_as_graded():
    snn = spiking(bigger(), vectors(), leaves=(BranchOnData,))
    assert "graded" in repr(snn)
    assert "2" in repr(snn).split("graded")[1]


def test_a_flag_is_fixed_by_constants():
    class Flagged(Model):
        def forward(self, x, feat=False):
            y = F.relu(self.a(x))
            return (y, y) if feat else y

    model, x = settled(Flagged(a=nn.Linear(6, 3))), vectors()
    assert_close(pipe(model, trace(constants={"feat": True}), to_module)(x), model(x, feat=True))
    with pytest.raises(TraceError, match=r"'flag'.*\['x', 'feat'\]"):
        trace(model, constants={"flag": True})
    with pytest.raises(TraceError, match="'z'"):
        trace(model, inputs=("z",))


class TwoWrites(Model):
    def forward(self, x):
        h = self.a(x)
        first = h.reshape(-1, 2, 3)
        first.mul_(2)
        g = h + 1  # first read
        k = self.b(x)
        k[:, :2] = 0.0
        k[:, 2:].contiguous().add_(1.0)
        return g + k  # second read


def test_writes_through_what_may_be_a_view_are_all_listed():
    """``reshape`` and ``contiguous`` copy or do not, as the layout is; an example shows which."""
    model = settled(nn.Sequential(nn.Identity(), TwoWrites(a=nn.Linear(6, 6), b=nn.Linear(6, 6))))
    with pytest.raises(UnsupportedError) as caught:
        trace(model)
    text = str(caught.value)
    for marker in ("# first read", "# second read"):
        assert line_of(TwoWrites.forward, marker) in text
    for written in ("first.mul_(2)", "k[:, 2:].contiguous().add_(1.0)"):
        assert line_of(TwoWrites.forward, written) in text
    assert "(1" in text  # the module's path
    assert "trace(example=x)" in text
    assert "clone" in text
    x = vectors()
    assert_close(pipe(model, trace(example=x), to_module)(x), model(x))


class ViewReadFirst(Model):
    """A view that is not read again may be written to; so may a base whose views are dead."""

    def forward(self, x):
        h = self.a(x)
        flat = h.view(-1)
        total = flat.sum()
        h += 1.0
        h[:, 0] = total
        return self.b(h)


def test_harmless_writes_are_converted():
    model, x = settled(ViewReadFirst(a=nn.Linear(6, 6), b=nn.Linear(6, 3))), vectors()
    assert_close(pipe(model, trace, to_module)(x), model(x))


class Indexed(Model):
    """Item assignment in its usual forms."""

    def forward(self, x):
        h = self.a(x)
        h[:, 0] = 0.0
        h[..., 1:3] = h[..., 3:5]
        h[:, -1] += 1.0
        return h


def test_item_assignment():
    model, x = settled(Indexed(a=nn.Linear(6, 6))), vectors()
    try:
        module = pipe(model, trace, to_module)
    except UnsupportedError:
        return  # refusing is allowed, a wrong answer is not
    assert_close(module(x), model(x))


class Noisy(Model):
    def forward(self, x):
        h = F.dropout(self.a(x))  # dropout
        return h + torch.rand_like(h)  # noise


def test_random_operations_are_all_listed():
    with pytest.raises(UnsupportedError) as caught:
        trace(Noisy(a=nn.Linear(6, 6)))
    text = str(caught.value)
    for marker in ("# dropout", "# noise"):
        assert line_of(Noisy.forward, marker) in text
    assert "training=self.training" in text


def test_dropout_that_knows_its_mode_is_dropped():
    class Careful(Model):
        def forward(self, x):
            return self.d(F.dropout(self.a(x), 0.5, self.training))

    model, x = settled(Careful(a=nn.Linear(6, 6), d=nn.Dropout(0.3, inplace=True))).train(), vectors()
    state = trace(model)
    assert {node.op for node in state.graph} <= {"input", "linear", "identity"}
    assert_close(to_module(state)(x), model.a(x))


def scripted():
    return torch.jit.script(nn.Linear(2, 2))


def hooked():
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda module, args, output: output * 2)
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("build", "text"),
    [
        (scripted, "TorchScript.*Trace the module it was compiled from"),
        (lambda: nn.Sequential(nn.LazyLinear(3), nn.ReLU()), r"lazy.*0\.weight.*model\(example\)"),
    ],
    ids=["script", "lazy"],
)
def test_models_that_need_a_hand(build, text):
    with pytest.raises(TraceError, match=text):
        trace(build())


@pytest.mark.parametrize("inside", [False, True])
def test_a_hook_counts(inside):
    model, x = settled(nn.Sequential(hooked(), nn.ReLU()) if inside else hooked()), vectors(width=2)
    assert_close(pipe(model, trace, to_module)(x), model(x))


def test_every_error_is_one_family_and_a_value_error():
    assert issubclass(TraceError, SnnpipeError)
    assert issubclass(SnnpipeError, ValueError)
    with pytest.raises(SnnpipeError, match="pipe"):
        pipe(nn.Linear(2, 2), calibrate([torch.zeros(1, 2)]), to_snn)
