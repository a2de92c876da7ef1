"""A conversion in a file: the same in a new process, bit for bit; what is not snnpipe's is given by name."""

import copy
import json
import os
import subprocess
import sys
from collections import namedtuple
from enum import Enum
from pathlib import Path

import attrs
import pytest
import torch
from torch import nn

import snnpipe
from snnpipe import (
    DIFFERENTIAL,
    TD,
    Code,
    Codebook,
    Neuron,
    SnnpipeError,
    Threshold,
    account,
    balance,
    calibrate,
    cascade,
    correct_bias,
    encoder,
    fixed,
    fuse,
    geometric,
    graded,
    instrument,
    leaky_integrate_and_fire,
    load,
    low_pass,
    one_of_n,
    percentile,
    pipe,
    recipes,
    repaired,
    replace,
    restarted,
    save,
    signed_memory,
    st_bif,
    state_equal,
    td_rewrite,
    threshold_iteration,
    to_snn,
    trace,
    wave,
)  # fmt: skip
from snnpipe.exchange import files
from snnpipe.exchange.values import Writer
from snnpipe.exchange.values_read import Reader
from snnpipe.frozen import map_leaves
from snnpipe.kernels.codebook import BINARY
from snnpipe.kernels.levels import whole
from snnpipe.recipe import Recipe, always
from tests.catalogue import CASES
from tests.helpers import assert_same, cnn, images, mlp, spiking, vectors

ROOT = Path(snnpipe.__file__).parent.parent
OLD = Path(__file__).parent / "data" / "conversion_version_1.safetensors"
pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning", "ignore::snnpipe.SiteWarning")

#: What runs in the new process: it knows torch and snnpipe, and no model.
CHILD = """
import sys, torch, snnpipe
from collections import namedtuple
torch.set_num_threads(1)
own = {"Result": namedtuple("Result", "y z")}
given, found = torch.load(sys.argv[1], weights_only=False), []
for path, runs in given:
    snn = snnpipe.load(path, own=own)
    snn = snn if isinstance(snn, snnpipe.SpikingNetwork) else snnpipe.to_snn(snn)
    found.append([])
    for name, args, options in runs:
        priced = lambda *x, **o: str(snnpipe.account(snn, *x, **o))
        made = {"snn": snn, "sequence": snn.sequence, "account": priced}[name](*args, **options)
        found[-1].append(tuple(made) if type(made).__name__ == "Result" else made)
assert "tests" not in sys.modules
torch.save(found, sys.argv[2])
"""


def stored(thing, tmp_path, **options):
    """What comes out of a file of it."""
    save(thing, tmp_path / "it.safetensors")
    return load(tmp_path / "it.safetensors", **options)


def sequences(args):
    """Three steps of each float among the inputs; whole numbers stay."""

    def moving(x):
        return torch.stack([x, 0.5 * x, -x]) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

    return map_leaves(moving, args)


def networks():
    """The networks, with their inputs."""
    for case in CASES:
        model, args = case.ready()
        state = pipe(model, trace(**case.options), fuse)
        measured = calibrate([args], forward=lambda run, given: run(*given))(state)
        yield case.name, measured, to_snn(measured), args
    x = vectors()
    for neuron, code in (
        (leaky_integrate_and_fire(tau=4.0), snnpipe.RATE), (signed_memory(), snnpipe.RATE), (cascade(n=3), TD),
        (one_of_n(n=3), DIFFERENTIAL), (st_bif(levels=7), TD), (graded(levels=7), geometric(2.0)),
        (signed_memory(), low_pass(4.0)), (repaired(signed_memory()), restarted(2)),
    ):  # fmt: skip
        state = pipe(mlp(), trace, calibrate([x]), replace(neuron=neuron))
        yield str(neuron), state, pipe(state, td_rewrite(code=code), to_snn), (x,)
    kept = nn.Sequential(nn.GRUCell(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    state = pipe(kept, trace(leaves=(nn.GRUCell,)), calibrate([x]))
    yield "a module kept whole", state, to_snn(state), (x,)
    state = pipe(cnn(), trace(example=images()), calibrate([images()]))
    yield "an exported program", state, to_snn(state), (images(),)


def test_the_same_in_a_new_process(tmp_path):
    given, wanted, names = [], [], []
    for k, (name, state, snn, args) in enumerate(networks()):
        runs = [("snn", args, {"T": 4}), ("snn", args, {"T": 4, "schedule": wave(2)}),
                ("account", args, {"T": 2}), ("sequence", sequences(args), {})]  # fmt: skip
        runs = runs if any(x.is_floating_point() for x in torch.utils._pytree.tree_leaves(args)) else runs[:3]
        call = {"snn": snn, "sequence": snn.sequence, "account": lambda *x, snn=snn, **o: str(account(snn, *x, **o))}
        path = f"{tmp_path}/{k}.safetensors"
        save(snn, path)
        given.append((path, runs))
        wanted.append([call[way](*inputs, **options) for way, inputs, options in runs])
        names.append(name)
        if k % 3 == 0 and snn.code.name == "RATE":
            save(state, f"{tmp_path}/{k}_state.safetensors")
            given.append((f"{tmp_path}/{k}_state.safetensors", runs[:1]))
            wanted.append(wanted[-1][:1])
            names.append(f"{name}, its state")
    torch.save(given, tmp_path / "given")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", CHILD, tmp_path / "given", tmp_path / "found"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found", weights_only=False)
    for name, got, want in zip(names, found, wanted, strict=True):
        for way, one, other in zip(("snn", "wave", "account", "sequence"), got, want, strict=False):
            other = tuple(other) if type(other).__name__ == "Result" else other
            assert one == other if isinstance(one, str) else assert_same(one, other) is None, f"{name}: {way}"


STAGES = (
    fuse,
    instrument(statistic=threshold_iteration(4)),
    calibrate([images(16)]),
    replace(neuron=cascade(n=3)),
    correct_bias([images(16)], T=4),
    td_rewrite(code=TD),
)


@pytest.mark.parametrize("cut", range(len(STAGES) + 1))
def test_a_pipeline_goes_on_from_a_file(tmp_path, cut):
    traced = trace(cnn())
    state = pipe(traced, *STAGES[:cut])
    loaded = stored(state, tmp_path)
    assert state_equal(loaded, state)
    assert loaded.history == state.history
    assert loaded.threshold == state.threshold
    assert repr(loaded) == repr(state)
    x = images()
    assert_same(pipe(loaded, *STAGES[cut:], to_snn)(x, T=4), pipe(state, *STAGES[cut:], to_snn)(x, T=4))


def test_statistics_are_merged_after_loading(tmp_path):
    base, a, b = trace(mlp()), vectors(), vectors()
    loaded = stored(calibrate([a])(base), tmp_path)
    assert state_equal(calibrate([b])(loaded), calibrate([a, b])(base))
    balanced = balance([a], T=4)(replace(loaded))
    assert state_equal(stored(balanced, tmp_path), balanced)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_are_values(name):
    made = recipes.RECIPES[name]()
    writer = Writer()
    said = json.loads(json.dumps(writer(made, "")))
    assert not writer.own
    again = Reader({}, {})(said)
    assert again == made
    assert (repr(again), hash(again)) == (repr(made), hash(made))


def test_what_a_recipe_gave(tmp_path):
    x = vectors()
    made = recipes.wave(K=2, share=0.5)(mlp(), [x], T=8)
    loaded = stored(made, tmp_path)
    assert (loaded.recipe, loaded.T, loaded.delay, loaded.latency) == (made.recipe, 8, made.delay, made.latency)
    assert_same(loaded(x), made(x))
    assert snnpipe.report(loaded.snn) == snnpipe.report(made.snn)
    assert repr(loaded.snn) == repr(made.snn)


def test_tied_weights_layout_and_flags_are_kept(tmp_path):
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).double()
    model[4].weight = model[2].weight
    snn = pipe(model, trace, replace(threshold=fixed(1.0)), to_snn).requires_grad_()
    snn.budget = 4096
    again = stored(snn, tmp_path)
    assert again.get_parameter("2.weight") is again.get_parameter("4.weight")
    assert [p.requires_grad for p in again.parameters()] == [True] * 5
    assert {*again.state_dict()} == {*snn.state_dict()}
    assert (again.budget, again.training) == (4096, False)
    conv = spiking(cnn(), images())
    weights = zip(stored(conv, tmp_path).parameters(), conv.parameters(), strict=True)
    assert all(a.stride() == b.stride() and a.dtype == b.dtype for a, b in weights)
    assert_same(copy.deepcopy(stored(conv, tmp_path)).state_dict(), conv.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64, torch.float64])
def test_numbers_of_any_type(tmp_path, dtype):
    if dtype.is_complex:
        state = trace(mlp())
        state = attrs.evolve(state, params=state.params | {"4.bias": torch.randn(4, dtype=dtype)})
    else:
        state = trace(mlp().to(dtype))
    assert state_equal(stored(state, tmp_path), state)


def test_safetensors_reads_it(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    snn = spiking(cnn(), images())
    save(snn, tmp_path / "snn.safetensors")
    found, wanted = safetensors.load_file(tmp_path / "snn.safetensors"), snn.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


# ---- what is the user's own


def half(theta, *, gain=1.0):
    return 0.5 * gain * theta


def fire(v, z, theta, clock, *, gain=1.0):
    s = (v + z >= theta) * theta
    return v + z - s, s


def largest(summary):
    return summary.max


def one(t):
    return 1.0


def clipped(x):
    return x.clamp(max=2.0)


@attrs.frozen
class Step:
    scale: float

    def __call__(self, v, z, theta, clock):
        return fire(v, self.scale * z, theta, clock)


MINE = Neuron("mine", half, fire, options={"gain": 1.0})
Output = namedtuple("Output", "y")


class Mode(Enum):
    FAST = 1


def with_neuron(neuron):
    return pipe(mlp(), trace, replace(neuron=neuron, threshold=fixed(1.0)), to_snn)


def test_a_neuron_of_ones_own_is_given_by_name(tmp_path):
    snn, x = with_neuron(MINE), vectors()
    with pytest.raises(SnnpipeError) as caught:
        stored(snn, tmp_path)
    said = "it needs half, fire, which are not snnpipe's; write load(path, own={\"half\": ..., \"fire\": ...}), or give"
    assert said in str(caught.value)
    assert '"mine" whole' in str(caught.value)
    for own in ({"half": half, "fire": fire}, {"mine": MINE}):
        again = stored(snn, tmp_path, own=own)
        assert_same(again(x, T=4), snn(x, T=4))
        assert {neuron.neuron for neuron in again.neurons().values()} == {MINE}
    other = attrs.evolve(MINE, options={"gain": 2.0})
    with pytest.raises(SnnpipeError, match=r"own\['mine'\] is not the Neuron that was saved: it differs in options"):
        stored(snn, tmp_path, own={"mine": other})
    scaled = with_neuron(Neuron("scaled", half, Step(0.5)))
    assert_same(stored(scaled, tmp_path, own={"half": half, "Step": Step})(x, T=4), scaled(x, T=4))
    with pytest.raises(SnnpipeError, match=r"own\['Step'\] must be a class, got 3"):
        stored(scaled, tmp_path, own={"half": half, "Step": 3})


def test_codebooks_codes_and_rules_of_ones_own(tmp_path):
    book = Codebook("three", whole, "multi-level", 0, 3)
    snn, x = with_neuron(encoder(book)), vectors()
    assert_same(stored(snn, tmp_path)(x, T=4), snn(x, T=4))
    code = Code("mine", one, one)
    td = pipe(mlp(), trace, td_rewrite(code=code), to_snn)
    for own in ({"one": one}, {"mine": code}):
        assert_same(stored(td, tmp_path, own=own)(x, T=3), td(x, T=3))
    rule = Threshold("mine", percentile(99.0).statistic, largest)
    state = pipe(mlp(), trace, instrument(statistic=rule), calibrate([x]))
    assert state_equal(stored(state, tmp_path, own={"largest": largest}), state)
    made = Recipe("mine", always(rule), encoder(BINARY))(mlp(), [x], T=2)
    assert_same(stored(made, tmp_path, own={"largest": largest})(x), made(x))


class Odd(nn.Module):
    """What cannot be followed, and is kept whole."""

    def __init__(self, width, power=2.0):
        super().__init__()
        self.weight, self.power = nn.Parameter(torch.randn(width)), power

    def forward(self, x):
        return x * self.weight if x.sum() > 0 else x.abs() ** self.power


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.odd, self.b = nn.Linear(6, 8), Odd(8), nn.Linear(8, 2)

    def forward(self, x):
        return Output(self.b(torch.relu(self.odd(clipped(self.a(x))))))


def test_modules_and_containers_of_ones_own(tmp_path):
    model, x = Mixed().double(), vectors()
    snn = pipe(model, trace(leaves=(Odd,)), calibrate([x]), to_snn)
    with pytest.raises(SnnpipeError, match=r'it needs Odd, Output, which are not snnpipe\'s; write load\(path, own='):
        stored(snn, tmp_path)
    again = stored(snn, tmp_path, own={"Odd": Odd(8), "Output": Output})
    assert_same(again(x, T=4), snn(x, T=4))
    for wrong in (Odd(7), Odd(8, power=3.0), nn.Linear(8, 8)):
        with pytest.raises(SnnpipeError, match=r"own\['Odd'\] is not the module that was saved: it differs in itself"):
            stored(snn, tmp_path, own={"Odd": wrong, "Output": Output})
    with pytest.raises(SnnpipeError, match=r"own\['Odd'\] must be a module"):
        stored(snn, tmp_path, own={"Odd": Odd, "Output": Output})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda theta: theta, "at it is the function <lambda>, which a file cannot say; give it a name"),
        (object(), "which a file cannot say; keep it a number"),
        (torch.ones(2).to_sparse(), "a file holds tensors of numbers that are in memory"),
        (torch.ones(2, device="meta"), "a file holds tensors of numbers that are in memory"),
        ([10**5000], "at it.0 is"),
        (nn.Linear(1, 1), "is a Linear, which a file cannot say"),
        ((half, type("half", (), {})), "there are two things called half; call one of them otherwise"),
    ],
)
def test_what_a_file_cannot_say_is_refused_by_place(value, words):
    with pytest.raises(SnnpipeError) as caught:
        Writer()(value, "it")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1, -(2**70), 1.5, float("inf"), "x", (1, (2.0, "y")), [1, [2]], slice(1, None), range(3), 1 + 2j,
        ..., torch.float32, torch.strided, torch.channels_last, torch.device("cuda:0"), torch.Size([1, 2]), torch.relu,
        {"a": 1, 2: (3,)}, snnpipe.RATE, wave(3), wave(3).K, Mode.FAST, torch.nn.functional.gelu,
    ],
)  # fmt: skip
def test_values_of_every_kind(value):
    again = Reader({}, {"Mode": Mode})(json.loads(json.dumps(Writer()(value, "it"))))
    assert again == value
    assert type(again) is type(value)


# ---- versions, and what is no conversion


def older():
    """The network of the file of version 1: weights of eighths, so that it computes the same anywhere."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    for tensor in model.state_dict().values():
        tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape).remainder(5) / 8 - 0.25)
    x = torch.arange(32, dtype=torch.float64).reshape(2, 1, 4, 4).remainder(7) / 8
    return model, x


def test_a_file_of_version_1_loads_for_ever():
    model, x = older()
    loaded, made = load(OLD), recipes.snm()(model, [x], T=4)
    assert_same(loaded(x), made(x))
    assert loaded.recipe == made.recipe
    assert loaded(x).any()


def test_versions(tmp_path, monkeypatch):
    snn, x = spiking(mlp(), vectors()), vectors()
    path = tmp_path / "snn.safetensors"
    save(snn, path)
    monkeypatch.setattr(files, "VERSION", 2)
    monkeypatch.setitem(files.MIGRATIONS, 1, lambda content: content | {"thing": content["thing"], "version": 2})
    assert_same(load(path)(x, T=3), snn(x, T=3))
    save(snn, path)
    monkeypatch.setattr(files, "VERSION", 1)
    with pytest.raises(SnnpipeError, match="it is of version 2, this snnpipe reads 1 and older; upgrade snnpipe"):
        load(path)


def test_files_of_something_else(tmp_path):
    state = calibrate([vectors()])(trace(mlp()))
    snnpipe.save_statistics(state, tmp_path / "statistics")
    with pytest.raises(SnnpipeError, match=r"it holds something else; expected a file that snnpipe\.save has"):
        load(tmp_path / "statistics")
    save(state, tmp_path / "state")
    with pytest.raises(snnpipe.CalibrationError, match=r"holds a conversion; write snnpipe\.load"):
        snnpipe.load_statistics(tmp_path / "state")(trace(mlp()))
    for path, words in ((tmp_path, "is not a file"), (tmp_path / "none", "there is no file")):
        with pytest.raises(SnnpipeError, match=words):
            load(path)
    with pytest.raises(SnnpipeError, match="cannot be written"):
        save(state, tmp_path / "none" / "file")


KILLED = """
import os, random, signal, sys, time, torch, snnpipe
from torch import nn
torch.set_num_threads(1)
path = sys.argv[1]
model = nn.Sequential(nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 2))
spiking = lambda t: snnpipe.pipe(model, snnpipe.trace, snnpipe.replace(threshold=snnpipe.fixed(t)), snnpipe.to_snn)
snns = [spiking(1.), spiking(2.)]
snnpipe.save(snns[0], path)
began = time.perf_counter(); snnpipe.save(snns[1], path); takes = time.perf_counter() - began
for k in range(12):
    child = os.fork()
    if child == 0:
        while True:
            snnpipe.save(snns[0], path); snnpipe.save(snns[1], path)
    time.sleep(takes * (0.5 + 2.7 * k / 12))
    os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
    loaded = snnpipe.load(path)
    assert next(iter(loaded.neurons().values())).threshold.item() in (1., 2.)
left = [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".tmp")]
print("killed", len(left))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, tmp_path / "snn.safetensors"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("killed"), done.stderr
