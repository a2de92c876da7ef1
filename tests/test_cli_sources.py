"""What a line names: models, files, data and plans, and every way in which they are not what they should be."""

import sys

import numpy as np
import pytest
import torch

import snnpipe
from snnpipe.commands.archives import archive
from snnpipe.commands.folders import folder as images_of
from snnpipe.commands.samples import Reading
from tests.lines import Line, folder

CONVERT = "convert mymodel:net --no-progress --out snn.safetensors"
PLAIN = Reading(128, None, "", "", (), ())


@pytest.fixture
def here(tmp_path, monkeypatch):
    with folder(tmp_path, monkeypatch) as path:
        yield path


@pytest.fixture
def line(here, capsys):
    return Line(capsys)


def refused(line, text, words, *more):
    assert line(text, *more) == 2
    assert words in line.err
    assert "Traceback" not in line.err


# models and files

MODELS = {
    "mymodle:net": "there is no module mymodle here or installed; did you mean mymodel?",
    "mymodel:nte": "mymodel has no nte; did you mean net?",
    "mymodel:net.width": "mymodel has no width",
    "mymodel.py:net": "write module:name, such as mymodel:net",
    "mymodel:": "write module:name",
    "mymodel:Wide": "takes width, a factory takes nothing; write one: def make(): return Wide(width=...)",
    "mymodel:number": "gives 3, no torch.nn.Module",
    "mymodel": "(a model of your own is module:factory)",
    "stops:net": "the module stops ends the program when it is imported",
    "weights.pt": "nothing reads files that end in .pt, but .safetensors, .pt2, .nir; of weights (.pt, .pth) write",
    "zzz": "there is no file zzz; there are empty.safetensors, junk.nir, junk.pt2",
    "emtpy.safetensors": "did you mean empty.safetensors?",
    "empty.safetensors": "empty.safetensors is damaged",
    "junk.pt2": "junk.pt2 cannot be read: ",
}


@pytest.fixture
def files(here):
    for name in ("weights.pt", "empty.safetensors"):
        (here / name).write_bytes(b"")
    for name in ("junk.pt2", "junk.nir"):
        (here / name).write_bytes(b"junk")
    (here / "stops.py").write_text("import sys\nsys.exit(3)\n")
    (here / "imports.py").write_text("import no_such_module_anywhere\n")


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_is_none(model, files, line):
    refused(line, f"check {model}", MODELS[model])


def test_a_graph_file_that_is_none(files, line):
    pytest.importorskip("nir")
    refused(line, "info junk.nir", "junk.nir cannot be read: ")


def test_what_a_module_imports_and_is_not_there_is_the_users_own(files, line):
    assert line("check imports:net") == 2
    assert "ModuleNotFoundError: No module named 'no_such_module_anywhere'" in line.err


def test_a_module_may_be_given_itself(line):
    assert line("check mymodel:an_instance") == 0


NOT_CONVERTED = ("bench mymodel:net --T 2", "export mymodel:net --T 2 --out snn.pt2")


@pytest.mark.parametrize("text", NOT_CONVERTED)
def test_a_network_is_asked_for(text, line):
    refused(line, text, "is a Sequential, not converted; first: snnpipe convert mymodel:net")


def test_commands_refuse_what_is_past_them(line):
    assert line(f"{CONVERT} --data mymodel:batches") == 0
    refused(line, "convert snn.safetensors --out a.safetensors", "is converted already")
    refused(line, "report mymodel:net", "is not converted; write snnpipe check mymodel:net")
    refused(line, "check snn.safetensors --shape 2,1,8,8", "what is traced already needs none")


def test_what_is_the_users_own(here, line):
    (here / "mine.py").write_text(
        "import snnpipe\n"
        "def start(theta):\n    return 0.5 * theta\n"
        "def fire(v, z, theta, clock):\n    s = (v + z >= theta) * theta\n    return v + z - s, s\n"
        'mine = snnpipe.Neuron("mine", start, fire)\n'
    )
    plan = "trace | calibrate | replace(neuron=mine) | to_snn"
    refused(line, f"{CONVERT} --data mymodel:batches --pipeline", "nothing here is called mine", plan)
    assert line(f"{CONVERT} --data mymodel:batches --own mine=mine:mine --pipeline", plan) == 0
    refused(line, "info snn.safetensors", "it needs")
    refused(line, "info snn.safetensors --own mine=mine:mien", "mine has no mien; did you mean mine?")
    assert line("info snn.safetensors --own mine=mine:mine") == 0


# how a network is run


@pytest.fixture
def saved(line):
    assert line(f"{CONVERT} --data mymodel:batches") == 0


RUNS = {
    "--shape 2,1,8,8": "say --T, the number of steps",
    "--T 2": "an example of the input is needed: say --data, or --shape",
    "--T 2 --shape 2,1,8,8 --data mymodel:batches": "say --data or --shape, not both",
    "--T 2 --shape 2,1,8,8 --schedule stpe": "none called stpe; did you mean step?",
    "--T 2 --shape 2,1,8,8 --schedule wave(0)": "wave",
    "--T 2 --data mymodel:nothing": "there is no batch in it",
}


@pytest.mark.parametrize("options", RUNS)
def test_a_run_that_is_none(options, saved, line):
    refused(line, f"bench snn.safetensors {options}", RUNS[options])


def test_a_graph_has_no_number_of_steps(saved, line):
    refused(line, "export snn.safetensors --T 2 --shape 2,1,8,8 --out snn.nir", "leave out --T and --schedule")


def test_an_example_that_does_not_fit_is_a_no(saved, line):
    assert line("bench snn.safetensors --T 2 --shape 2,3,8,8") == 1
    assert "Traceback" not in line.err


def test_a_recipe_decides_how_it_is_run(line):
    plan = "--data mymodel:batches --pipeline recipes.snm() --T 4"
    assert line(f"{CONVERT} {plan}") == 0
    refused(line, "bench snn.safetensors --T 8 --shape 2,1,8,8", "recipes.snm() decides T (4) and schedule; leave out")


# loaders

LOADERS = {
    "mymodel:one_tensor": "gives one tensor; give a list of batches",
    "mymodel:number": "gives 3, and should give a loader",
    "mymodel:bathces": "mymodel has no bathces; did you mean batches?",
    "mymodel:batches --batch-size 4 --std 2": "--batch-size, --std: for files and folders",
    "nowhere": "--data: nowhere is not there; there are train.npz (data are",
    "trian.npz": "--data: trian.npz is not there; did you mean train.npz? (data are",
    "mymodel.py": "--data: mymodel.py is neither a folder nor an .npz file",
    "mymodel:batches --std 0,1": "nothing can be divided by 0",
}


@pytest.mark.parametrize("data", LOADERS)
def test_a_loader_that_is_none(data, here, line):
    (here / "train.npz").write_bytes(b"")
    refused(line, f"{CONVERT} --data {data}", LOADERS[data])


def test_an_empty_loader_is_a_no(line):
    assert line(f"{CONVERT} --data mymodel:nothing") == 1
    assert "there was no batch" in line.err


def test_a_generator_is_called_for_each_pass(line):
    plan = "trace | calibrate | replace | correct_bias(T=4) | to_snn"
    assert line(f"{CONVERT} --data mymodel:generated --pipeline", plan) == 0
    made = snnpipe.load("snn.safetensors")
    assert line(f"{CONVERT} --data mymodel:batches --pipeline", plan) == 0
    x = sys.modules["mymodel"].images()
    assert torch.equal(made(x, T=4), snnpipe.load("snn.safetensors")(x, T=4))


# .npz

X = np.random.default_rng(0).random((12, 1, 8, 8), dtype=np.float32)
BYTES = np.arange(12 * 8 * 8 * 3, dtype=np.uint64).astype(np.uint8).reshape(12, 8, 8, 3)


def batches(path, **arrays):
    np.savez(path / "x.npz", **arrays)
    return str(path / "x.npz")


def test_an_archive(tmp_path):
    y = np.arange(12) % 3
    path = batches(tmp_path, images=X, labels=y)
    found = list(archive(path, Reading(5, None, "", "", (), ())))
    assert [len(x) for x, _ in found] == [5, 5, 2]
    assert torch.equal(torch.cat([x for x, _ in found]), torch.as_tensor(X))
    assert torch.equal(torch.cat([labels for _, labels in found]), torch.as_tensor(y))


def test_an_archive_without_labels(tmp_path):
    (x,) = archive(batches(tmp_path, x=X.astype(np.float64)), PLAIN)
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.as_tensor(X))


def test_some_samples_are_spread_evenly(tmp_path):
    found = archive(batches(tmp_path, x=X, y=np.arange(12)), Reading(128, 4, "", "", (), ()))
    assert [y.tolist() for _, y in found] == [[0, 3, 6, 9]]
    assert len(archive(batches(tmp_path, x=X), Reading(5, 100, "", "", (), ()))) == 3


@pytest.mark.parametrize("layout", ["", "nhwc"])
def test_bytes_with_channels_last(tmp_path, layout):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    (x,) = archive(batches(tmp_path, images=BYTES), Reading(128, None, layout, "unit", mean, std))
    wanted = (BYTES.astype(np.float64) / 255 - mean) / std
    rounding = 4 * 2.0**-24 * np.abs(wanted).max()  # a division, a difference and a division, and their operands
    assert np.abs(x.permute(0, 2, 3, 1).double().numpy() - wanted).max() <= rounding


def test_bytes_as_they_are(tmp_path):
    (x,) = archive(batches(tmp_path, images=BYTES), Reading(128, None, "", "raw", (), ()))
    assert x.dtype == torch.uint8


def test_the_layout_that_is_said_is_taken(tmp_path):
    square = np.zeros((2, 3, 5, 3), np.float32)
    assert next(iter(archive(batches(tmp_path, x=square), reading(layout="nchw")))).shape == (2, 3, 5, 3)
    assert next(iter(archive(batches(tmp_path, x=square), reading(layout="nhwc")))).shape == (2, 3, 3, 5)


def reading(**changes):
    options = {"batch": 128, "samples": None, "layout": "", "pixels": "", "mean": (), "std": ()}
    return Reading(**options | changes)


ARCHIVES = {
    "no images": ({"image": X}, "", "no array images or x, it has image; write np.savez("),
    "two of a kind": ({"images": X, "x": X}, "", "has both images and x"),
    "ambiguous layout": ({"x": np.zeros((2, 3, 8, 3), np.float32)}, "", "may be NCHW or NHWC; say --layout"),
    "many channels": ({"x": np.zeros((2, 16, 8, 8), np.float32)}, "", "may be NCHW or NHWC; say --layout"),
    "layout of vectors": ({"x": np.zeros((2, 4), np.float32)}, "--layout nchw", "--layout is for four axes"),
    "bytes": ({"x": BYTES}, "", "holds bytes; say --pixels unit"),
    "floats": ({"x": X}, "--pixels unit", "holds float32, no bytes; leave out --pixels"),
    "raw bytes scaled": ({"x": BYTES}, "--pixels raw --mean 0.5", "holds uint8, which --mean and --std cannot scale"),
    "means": ({"x": X}, "--mean 1,2", "--mean has 2 numbers, the data 1 channels"),
    "objects": ({"x": np.array([{}])}, "", "is no .npz file of plain arrays"),
    "texts": ({"x": np.array(["a"])}, "", "which is no tensor's"),
    "empty": ({"x": X[:0]}, "", "is empty: of shape (0, 1, 8, 8)"),
    "few labels": ({"x": X, "y": np.arange(3)}, "", "must be 12 whole numbers, is int64 of shape (3,)"),
    "float labels": ({"x": X, "labels": np.zeros(12)}, "", "must be 12 whole numbers, is float64"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_that_cannot_be_used(what, here, line):
    arrays, options, words = ARCHIVES[what]
    batches(here, **arrays)
    refused(line, f"{CONVERT} --data x.npz {options}", words)


def test_a_file_that_is_no_archive(here, line):
    (here / "x.npz").write_bytes(b"no zip")
    refused(line, f"{CONVERT} --data x.npz", "x.npz is no .npz file of plain arrays")


def test_archives_need_numpy(here, line, monkeypatch):
    batches(here, x=X)
    monkeypatch.setitem(sys.modules, "numpy", None)
    refused(line, f"{CONVERT} --data x.npz", ".npz files need numpy: pip install numpy")


def test_an_archive_converts_as_its_tensors_do(here, line):
    batches(here, x=X, y=np.arange(12) % 3)
    assert line(f"{CONVERT} --data x.npz --batch-size 4") == 0
    state = snnpipe.pipe(sys.modules["mymodel"].net(), snnpipe.trace, snnpipe.calibrate([torch.as_tensor(X)]))
    x = torch.as_tensor(X)
    assert torch.equal(snnpipe.load("snn.safetensors")(x, T=4), snnpipe.to_snn(state)(x, T=4))


# folders of images


def write_images(path, *, sizes=((8, 6),) * 4, modes=("L",) * 4):
    image = pytest.importorskip("PIL.Image")
    wanted = []
    for number, (size, mode) in enumerate(zip(sizes, modes, strict=True)):
        folder = path / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        made = image.linear_gradient("L").rotate(90 * number).resize(size).convert(mode)
        made.save(folder / f"{number}.png")
        wanted.append(np.array(made))
    return wanted


def test_a_folder(tmp_path):
    wanted = write_images(tmp_path / "images")
    (tmp_path / "images" / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "images" / ".hidden").mkdir()
    ((x, y),) = images_of(str(tmp_path / "images"), PLAIN)
    assert y.tolist() == [0, 0, 1, 1]
    order = [wanted[0], wanted[2], wanted[1], wanted[3]]
    assert torch.equal(x, torch.as_tensor(np.stack(order)).unsqueeze(1).float() / 255)


def test_a_folder_of_colours(tmp_path):
    wanted = write_images(tmp_path / "images", modes=("RGB",) * 4)
    ((x, _),) = images_of(str(tmp_path / "images"), reading(pixels="raw", samples=1))
    assert torch.equal(x[0], torch.as_tensor(wanted[0]).permute(2, 0, 1))


FOLDERS = {
    "other sizes": ({"sizes": ((8, 8), (8, 8), (6, 8), (8, 8))}, "", "2.png is 1 x 8 x 6"),
    "other modes": ({"modes": ("L", "L", "RGB", "L")}, "", "2.png is 3 x 6 x 8"),
    "transparent": ({"modes": ("RGBA",) * 4}, "", "is of mode RGBA, known are grey (L) and RGB"),
    "layout": ({}, "--layout nchw", "--layout is for .npz files"),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_folder_that_cannot_be_used(what, here, line):
    given, options, words = FOLDERS[what]
    write_images(here / "images", **given)
    refused(line, f"{CONVERT} --data images {options}", words)


def test_a_folder_without_images(here, line):
    (here / "images").mkdir()
    pytest.importorskip("PIL")
    refused(line, f"{CONVERT} --data images", "images has no images; it should hold a folder for each class")
    (here / "images" / "cat").mkdir()
    refused(line, f"{CONVERT} --data images", "cat has no images")
    (here / "images" / "cat" / "inner").mkdir()
    refused(line, f"{CONVERT} --data images", "cat holds folders and no images; should it be --data images/cat?")
    (here / "images" / "cat" / "1.png").write_bytes(b"no image")
    refused(line, f"{CONVERT} --data images", "1.png cannot be read")


def test_folders_need_pillow(here, line, monkeypatch):
    (here / "images").mkdir()
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused(line, f"{CONVERT} --data images", "folders of images need Pillow: pip install pillow")


# plans

PLANS = {
    "trace | calibrate | to_snn": ("", "this pipeline reads data, say --data"),
    "trace | calibrte": ("--data mymodel:batches", "nothing here is called calibrte; did you mean calibrate?"),
    "trace |": ("", "is no text of stages or values"),
    "recipes.snm()": ("--data mymodel:batches", "recipes.snm() converts for a number of steps, say --T"),
    "recipes.hmt()": ("--T 4", "reads data, say --data"),
    "trace | replace(threshold=fixed(1.0)) | to_snn": ("--T 4", "--T is for recipes"),
    "trace | to_module": ("", "a pipeline ends in a state or, by to_snn, in a network"),
    "none.toml": ("", "none.toml cannot be read"),
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_that_is_none(plan, line):
    options, words = PLANS[plan]
    refused(line, f"{CONVERT} {options} --pipeline", words, plan)


def test_a_state_needs_a_plan(line):
    assert line(f"{CONVERT} --data mymodel:batches --pipeline", "trace | calibrate") == 0
    refused(line, "convert snn.safetensors --out a.safetensors", "say --pipeline: what is to be done with")


FILES = {
    'pipeline = ["trace", "calibrate"]\nown = 3': "own must be a table",
    "pipeline = 3": "pipeline must be a text or a list of texts",
    'pipline = "trace"': "there is no key pipline; did you mean pipeline?",
    'pipeline = "recipes.snm()"\nT = 0': "T must be a whole number of at least 1, got 0",
    "pipeline = ": "plan.toml cannot be read",
}


@pytest.mark.parametrize("text", FILES)
def test_a_file_that_is_no_plan(text, here, line):
    (here / "plan.toml").write_text(text)
    refused(line, f"{CONVERT} --data mymodel:batches --pipeline plan.toml", FILES[text])


def test_a_plan_in_a_file(here, line):
    (here / "plan.toml").write_text(
        'pipeline = [\n  "trace",\n  "calibrate(99.9%)",\n  "replace(neuron=cascade(n=3))",  # wires\n  "to_snn",\n]'
    )
    assert line(f"{CONVERT} --data mymodel:batches --pipeline plan.toml") == 0
    assert "cascade(n=3)" in line.out
    (here / "plan.toml").write_text('pipeline = "recipes.snm()"\nT = 4\n')
    assert line(f"{CONVERT} --data mymodel:batches --pipeline plan.toml") == 0
    assert "for T = 4" in line.out
    (here / "plan.toml").write_text('pipeline = "trace | mine"\n[own]\nmine = "mymodel:rule"\n')
    assert line(f"{CONVERT} --pipeline plan.toml") == 0


def test_a_plan_may_read_an_example(line):
    assert line("convert mymodel:Sized --no-progress --data mymodel:labelled --out a.safetensors --pipeline",
                "trace(example=example)") == 0  # fmt: skip
    assert "a state" in line.out
    refused(line, "convert mymodel:Sized --out a.safetensors --pipeline", "example", "trace(example=example)")
