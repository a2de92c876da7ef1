"""Networks as programs of torch alone: the same outputs, in a process that has no snnpipe."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    InputError,
    UnsupportedError,
    cascade,
    fixed,
    geometric,
    low_pass,
    pipe,
    replace,
    td_rewrite,
    to_exported,
    to_exported_step,
    to_onnx,
    to_snn,
    trace,
    wave,
)  # fmt: skip
from tests.helpers import assert_same, cnn, images


class Gated(nn.Module):
    """A static gate, a product of two values that move, an output of two tensors."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x, gate):
        h = torch.relu(self.a(x)) * gate
        return self.b(h * h.softmax(-1)), {"h": h}


def spiking(model, *stages):
    return pipe(model.eval(), trace, replace(threshold=fixed(0.5)), *stages, to_snn)


@pytest.mark.parametrize("schedule", ["step", wave(2)], ids=str)
def test_a_run_for_any_batch(schedule):
    torch.manual_seed(0)
    snn = spiking(cnn())
    program = to_exported(snn, images(), T=5, schedule=schedule)
    assert not [node for node in program.graph.nodes if "snnpipe" in str(node.target)]
    for batch in (1, 4, 7):
        x = images(batch)
        with torch.no_grad():
            assert_same(program.module()(x), snn(x, T=5, schedule=schedule))


def test_several_inputs_and_outputs_and_neurons_with_memory():
    torch.manual_seed(0)
    model = Gated().eval()
    snn = pipe(model, trace(static=("gate",)), replace(neuron=cascade(n=3), threshold=fixed(1.0)), to_snn)
    x, gate = torch.randn(3, 6), torch.rand(3, 6)
    program = to_exported(snn, {"x": x, "gate": gate}, T=20)
    with torch.no_grad():
        assert_same(program.module()(x=x, gate=gate), snn(x, gate, T=20))


@pytest.mark.parametrize("code", [RATE, TD, geometric(2.0), low_pass(4.0)], ids=str)
def test_one_step_after_the_other(code):
    torch.manual_seed(0)
    snn = spiking(cnn(), td_rewrite(code=code))
    x = torch.stack([images() for _ in range(4)])
    first, then = (program.module() for program in to_exported_step(snn, x[0]))
    with torch.no_grad():
        state = snn.init(x[0])
        y, cells = first(x[0])
        for t in range(1, 5):
            state, want = snn.step(state, x[t - 1])
            assert_same(y, want)
            if t < 4:
                clock = snn.code.clock(t + 1)
                alpha, a = (torch.tensor(number, dtype=x.dtype) for number in (clock.alpha, clock.a))
                y, cells = then(alpha, a, cells, x[t])


@pytest.mark.filterwarnings("ignore:No complete tensor")  # torch, of weights that share memory
def test_it_runs_where_snnpipe_is_not(tmp_path):
    torch.manual_seed(0)
    snn, x = spiking(cnn()), images()
    torch.export.save(to_exported(snn, x, T=3), tmp_path / "run.pt2")
    with torch.no_grad():
        torch.save((x, snn(x, T=3)), tmp_path / "pair.pt")
    code = (
        "import sys; sys.modules['snnpipe'] = None; import torch; x, y = torch.load('pair.pt');"
        "assert torch.equal(torch.export.load('run.pt2').module()(x), y)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_said_is_refused():
    torch.manual_seed(0)
    snn = spiking(cnn(), td_rewrite(code=DIFFERENTIAL))
    with pytest.raises(UnsupportedError, match=r"under DIFFERENTIAL.* export a whole run"):
        to_exported_step(snn, images())
    with pytest.raises(InputError, match="T is the number of time steps"):
        to_exported(snn, images(), T=0)
    with pytest.raises(InputError, match="NaN"):
        to_exported(snn, images() * torch.nan, T=2)
    with pytest.raises(InputError, match=r"inputs of shapes \(\)"):
        to_exported_step(spiking(nn.Sequential(nn.Linear(4, 3), nn.ReLU())), torch.tensor(1.0))


def test_onnx_gives_the_same(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    snn = spiking(cnn())
    to_onnx(to_exported(snn, images(), T=4), tmp_path / "run.onnx")
    session = runtime.InferenceSession(tmp_path / "run.onnx")
    for batch in (4, 7):
        x = images(batch)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), snn(x, T=4), rtol=1e-5, atol=1e-6)


def test_without_onnx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    with pytest.raises(UnsupportedError, match="pip install onnx onnxscript"):
        to_onnx(program, tmp_path / "x.onnx")
