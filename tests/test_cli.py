"""The command line: every command, its answers for people and for programs, and how it ends."""

import importlib
import importlib.util
import json
import os
import re
import shlex
import sys
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import snnpipe
from snnpipe import cli
from snnpipe.commands import table
from snnpipe.commands import written as into
from snnpipe.commands.devices import moved
from snnpipe.commands.own import importable_here
from snnpipe.commands.plain import plain
from tests.lines import Line, folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    with folder(tmp_path, monkeypatch) as path:
        yield path


@pytest.fixture
def line(here, capsys):
    return Line(capsys)


@pytest.fixture
def saved(here, line):
    """A network in ``snn.safetensors``."""
    assert line("convert mymodel:net --data mymodel:batches --out snn.safetensors --no-progress") == 0
    return "snn.safetensors"


def written(here):
    return {each for each in os.listdir(here) if each not in ("mymodel.py", "__pycache__")}


# commands


def test_check_says_yes(line):
    assert line("check mymodel:net") == 0
    assert line.out.startswith("can be converted (followed by torch.fx)\n")
    assert line.err == "said by the user's module\n"


def test_check_says_no_where_the_model_cannot_be_followed(line):
    assert line("check mymodel:Branches --json") == 1
    answer = json.loads(line.out)
    assert answer["ok"] is answer["convertible"] is False
    assert "mymodel.py" in answer["refusal"]


def test_check_shows_an_example(line):
    assert line("check mymodel:Sized --data mymodel:batches --json") == 0
    assert json.loads(line.out)["front_end"] == "torch.export"


def test_check_of_a_chip(line):
    assert line("check mymodel:net --target SPECK_2E --shape 2,1,8,8") == 0
    assert "fits Speck 2e" in line.out
    assert line("check mymodel:sigmoids --target SPECK_2E --json") == 1
    answer = json.loads(line.out)
    assert (answer["ok"], answer["convertible"], answer["fits"]) == (False, True, False)
    assert answer["limits"]


def test_check_fully_spiking(line):
    assert line("check mymodel:sigmoids") == 0
    assert line("check mymodel:sigmoids --fully-spiking") == 1
    assert "not fully spiking" in line.out


def test_convert_saves_what_the_functions_make(here, line, saved):
    x = sys.modules["mymodel"].images()
    model = sys.modules["mymodel"].net()
    wanted = snnpipe.pipe(model, snnpipe.trace, snnpipe.fuse, snnpipe.calibrate(x.split(8)), snnpipe.to_snn)
    snn = snnpipe.load(saved)
    assert torch.equal(snn(x, T=8), wanted(x, T=8))
    assert line.out.startswith("snn.safetensors: a network under RATE:")
    assert f"pipeline: {' | '.join(wanted.made)}" in line.out


def test_convert_in_two_lines_by_way_of_a_state(line):
    plans = "trace | calibrate", "replace(neuron=signed_memory()) | to_snn"
    assert line("convert mymodel:net --data mymodel:generated --out state.safetensors --pipeline", plans[0]) == 0
    assert "sites measured: 1 of 1" in line.out
    assert line("convert state.safetensors --out snn.safetensors --pipeline", plans[1]) == 0
    assert line("info snn.safetensors --json") == 0
    answer = json.loads(line.out)
    assert answer["pipeline"] == " | ".join(plans)
    assert answer["fully_spiking"]


def test_a_recipe(line):
    options = "--data mymodel:batches --out snn.safetensors --json --pipeline recipes.snm()"
    assert line(f"convert mymodel:net {options} --T 4") == 0
    answer = json.loads(line.out)
    assert (answer["kind"], answer["recipe"], answer["T"]) == ("recipe's answer", "recipes.snm()", 4)
    assert line("bench snn.safetensors --shape 2,1,8,8 --repeat 1 --json") == 0
    assert json.loads(line.out)["T"] == answer["steps"]
    assert line("report snn.safetensors") == 0


def test_report_is_the_functions_text(line, saved):
    assert line(f"report {saved}") == 0
    assert line.out == f"{snnpipe.report(snnpipe.load(saved))}\n"
    assert line(f"report {saved} --json") == 0
    assert next(each["stage"] for each in json.loads(line.out)["history"]) == "trace"


def test_export_for_torch(line, saved):
    assert line(f"export {saved} --T 4 --schedule wave(2) --data mymodel:labelled --out run.pt2") == 0
    x = sys.modules["mymodel"].images()
    snn = snnpipe.load(saved)
    program = torch.export.load("run.pt2")
    assert torch.equal(program.module()(x), snn(x, T=4, schedule=snnpipe.wave(2)))
    assert line("info run.pt2 --json") == 0
    assert json.loads(line.out)["kind"] == "program"


def test_export_for_onnx(line, saved, monkeypatch):
    if importlib.util.find_spec("onnxscript"):
        assert line(f"export {saved} --T 2 --shape 2,1,8,8 --out run.onnx") == 0
        assert os.path.getsize("run.onnx") > 0
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert line(f"export {saved} --T 2 --shape 2,1,8,8 --out other.onnx") == 1
    assert "pip install onnx onnxscript" in line.err
    assert not os.path.exists("other.onnx")


def test_export_of_a_program_without_its_delay_is_a_no(line):
    plan = "Recipe('late', always(percentile(99.9)), integrate_and_fire(), delay=part(0.5))"
    assert line("convert mymodel:net --data mymodel:batches --T 4 --out late.safetensors --pipeline", plan) == 0
    assert line("export late.safetensors --shape 2,1,8,8 --out late.pt2") == 1
    assert "its readout leaves out 2 first steps" in line.err
    assert line("bench late.safetensors --shape 2,1,8,8 --repeat 1") == 0


def test_a_program_is_converted_like_its_model(line, saved):
    x = sys.modules["mymodel"].images()
    torch.export.save(torch.export.export(sys.modules["mymodel"].net(), (x,)), "net.pt2")
    assert line("check net.pt2") == 0
    assert line("convert net.pt2 --data mymodel:batches --batch-size 32 --out a.safetensors") == 2
    assert "for files and folders" in line.err
    assert line("convert net.pt2 --data mymodel:whole --out a.safetensors") == 0
    assert torch.allclose(snnpipe.load("a.safetensors")(x, T=4), snnpipe.load(saved)(x, T=4), atol=1e-5)


def test_export_of_a_graph(line, saved):
    pytest.importorskip("nir")
    assert line(f"export {saved} --shape 2,1,8,8 --out snn.nir") == 0
    assert line("convert snn.nir --pipeline to_snn --out again.safetensors") == 0
    x = sys.modules["mymodel"].images()
    assert torch.allclose(snnpipe.load("again.safetensors")(x, T=8), snnpipe.load(saved)(x, T=8), atol=1e-5)


def test_export_of_what_cannot_be_said_is_a_no(line):
    pytest.importorskip("nir")
    plan = "trace | calibrate | replace(neuron=st_bif()) | td_rewrite(code=TD) | to_snn"
    assert line("convert mymodel:net --data mymodel:batches --out td.safetensors --pipeline", plan) == 0
    assert line("export td.safetensors --shape 2,1,8,8 --out td.nir") == 1
    assert "NIR cannot say this network" in line.err
    assert not os.path.exists("td.nir")


def test_bench_counts_what_the_functions_count(line, saved):
    assert line(f"bench {saved} --T 4 --data mymodel:batches --repeat 2 --json") == 0
    answer = json.loads(line.out)
    costs = snnpipe.account(snnpipe.load(saved), sys.modules["mymodel"].images()[:8], T=4)
    assert answer["costs"]["additions"] == costs.ac
    assert answer["costs"]["ann_multiplications"] == costs.ann
    assert answer["seconds"] > 0
    assert line(f"bench {saved} --T 4 --schedule layer --data mymodel:batches --repeat 1") == 0
    costs = snnpipe.account(snnpipe.load(saved), sys.modules["mymodel"].images()[:8], T=4, schedule="layer")
    assert line.out.endswith(f"{costs}\n")


def test_info_of_a_model_is_of_files_alone(line, saved):
    assert line(f"info {saved}") == 0
    assert "1__if0: if(" in line.out
    assert line("info mymodel:net") == 2
    assert "no file mymodel:net" in line.err


def test_info_of_statistics(line):
    model = cli_model()
    state = snnpipe.pipe(model.net(), snnpipe.trace, snnpipe.calibrate(model.batches()))
    snnpipe.save_statistics(state, "measured.safetensors")
    assert line("info measured.safetensors") == 0
    assert "measured.safetensors: statistics of 1 sites: histogram() per channel\n  1\n" in line.out
    assert line("report measured.safetensors") == 2
    assert "something else" in line.err


def cli_model():
    with importable_here():
        return importlib.import_module("mymodel")


def test_every_command_is_in_its_page():
    page = (Path(cli.__file__).parents[1] / "docs" / "cli.md").read_text()
    assert not [name for name in table.COMMANDS if f"| `{name}" not in page]


LINES = {
    "evaluate": "evaluate {} --data mymodel:labelled --T 2",
    "explain": "explain mymodel:net --data mymodel:labelled --T 2",
    "sweep": "sweep mymodel:net --data mymodel:labelled --pipeline recipes.opi() --T 1,2",
    "suggest": "suggest mymodel:net --data mymodel:labelled --latency 8 --wires 1 --seconds 1 --accuracy 0.01",
}


@pytest.mark.parametrize("name", LINES)
def test_a_command_answers_in_json(name, line, saved):
    assert line(f"{LINES[name].format(saved)} --json") == 0
    assert json.loads(line.out)["ok"]


def test_evaluate_below_what_was_asked_is_a_no(line, saved):
    found = snnpipe.evaluate(snnpipe.load(saved), cli_model().labelled(), T=2).readouts[-1].accuracy.mean / 100
    for least, status in ((found, 0), (found + 1e-3, 1)):
        assert line(f"{LINES['evaluate'].format(saved)} --ann mymodel:net --at-least {least}") == status
    assert line(f"evaluate {saved} --data mymodel:batches --T 2 --ann mymodel:net --at-least 0.5") == 2
    assert "the data have no labels" in line.err


@pytest.mark.parametrize("name", ["sweep", "suggest"])
def test_data_without_labels_are_said(name, line):
    assert line(f"{name} mymodel:net --data mymodel:batches") == 2
    assert "these data have no labels" in line.err


def test_random_spikes_are_those_of_the_seed(line, saved):
    for command in ("evaluate", "explain"):
        said = []
        for seed in (0, 0, 1):
            assert line(f"{LINES[command].format(saved)} --encoding poisson --seed {seed} --json") == 0
            answer = json.loads(line.out)
            answer.pop("seconds", None)
            assert answer["encoding"] == "poisson"
            said.append(answer)
        assert said[0] == said[1] != said[2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = torch.Generator().manual_seed(0)
        wanted = snnpipe.explain(
            cli_model().net(), batches=cli_model().labelled(), T=2, encoding=snnpipe.poisson(source)
        )
    line.capsys.readouterr()
    assert line(f"{LINES['explain']} --encoding poisson") == 0
    assert line.out == f"{wanted}\n"


def test_explain_of_a_network_and_of_a_recipes_answer(line, saved):
    assert line(f"{LINES['explain']} --snn {saved}") == 0
    wanted = snnpipe.explain(cli_model().net(), snnpipe.load(saved), batches=cli_model().labelled(), T=2)
    assert line.out == f"{wanted}\n"
    plan = "--data mymodel:batches --pipeline recipes.snm() --T 4 --out snm.safetensors"
    assert line(f"convert mymodel:net {plan}") == 0
    assert line("explain mymodel:net --snn snm.safetensors --data mymodel:labelled") == 0
    assert line("explain mymodel:net --data mymodel:labelled") == 2
    assert "say --T" in line.err


def test_sweep_compares_recipes_and_pipelines(line):
    stages = "trace | fuse | calibrate | replace(neuron=cascade(n=2)) | to_snn"
    head = "sweep mymodel:net --data mymodel:labelled --T 1,2 --pipeline recipes.opi() --pipeline"
    assert line(head, stages) == 0
    model, data = cli_model().net(), [tuple(batch) for batch in cli_model().labelled()]
    made = snnpipe.parse(stages, data=data)(model)
    wanted = snnpipe.sweep(model, ["opi"], batches=data, data=data, T=(1, 2), networks={stages: made})
    assert line.out == f"{wanted}\n"
    accuracy = {outcome.T: outcome.accuracy for outcome in wanted.outcomes if outcome.recipe == stages}
    evaluated = snnpipe.evaluate(made, data, T=2)
    assert accuracy == pytest.approx({r.t: r.accuracy.mean for r in evaluated.readouts})
    line.capsys.readouterr()
    assert line(head, stages, "--test", "mymodel:others", "--json") == 0
    other = snnpipe.sweep(model, ["opi"], batches=data, data=cli_model().others(), T=(1, 2), networks={stages: made})
    assert [one["accuracy"] for one in json.loads(line.out)["outcomes"]] == [one.accuracy for one in other.outcomes]
    assert line("sweep mymodel:net --data mymodel:labelled --pipeline", "trace | calibrate") == 2
    assert "ends in a state; write trace | calibrate | to_snn" in line.err
    assert line("sweep mymodel:net --data mymodel:batches --pipeline recipes.opi()") == 2
    assert "labels" in line.err


def test_sweep_draws_a_figure(line):
    pytest.importorskip("matplotlib")
    assert line("sweep mymodel:net --data mymodel:labelled --pipeline recipes.opi() --T 1,2 --plot sweep.svg") == 0
    assert "<svg" in Path("sweep.svg").read_text()


@pytest.mark.parametrize("name", ["convert", "evaluate", "explain", "suggest", "sweep", "bench"])
def test_a_device_that_is_not_there_is_a_wrong_line(name, line, saved):
    for device, said in (("cuda:99", "cuda:99 cannot be used"), ("gpu", "gpu cannot be used"), ("meta", "no numbers")):
        assert line(f"{name} {saved} --device {device}") == 2
        assert said in line.err
        assert "there is cpu" in line.err


def test_a_device_takes_what_is_worked_on(line, saved):
    """To one that holds no numbers, which no line can name."""
    given = Namespace(device=torch.device("meta"))
    model, snn = cli_model().net(), snnpipe.load(saved)
    recipe = snnpipe.recipes.opi()(model, cli_model().batches(), T=2)
    state, example = snnpipe.trace(model), (torch.zeros(2), {"x": torch.zeros(3), "n": 3})
    program = torch.export.export(cli_model().net(), (torch.zeros(2, 1, 8, 8),))
    tensors = [
        *moved(model, given).parameters(), *moved(snn, given).state_dict().values(), moved(example, given)[1]["x"],
        *moved(recipe, given).snn.state_dict().values(), *moved(state, given).params.values(),
        *moved(program, given).state_dict.values(),
    ]  # fmt: skip
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved(state, Namespace()) is state
    assert line("evaluate snn.safetensors --data mymodel:labelled --T 2 --device cpu") == 0


def test_report_as_a_page(line, saved):
    assert line(f"report {saved} --html page.html") == 0
    assert "<html" in Path("page.html").read_text()


# how it ends


@pytest.mark.parametrize("name", table.COMMANDS)
def test_help_shows_examples(name, line):
    assert line(f"{name} --help") == 0
    assert "examples:" in line.out
    assert "exit status: 0" in line.out
    assert f"  snnpipe {name} " in line.out or f"  snnpipe {name}\n" in line.out


@pytest.mark.parametrize("name", table.COMMANDS)
def test_examples_are_lines_that_are_understood(name):
    joined = "\n".join(table.COMMANDS[name].examples).replace("\\\n", "")
    for example in joined.splitlines():
        words = shlex.split(example)
        assert words[:2] == ["snnpipe", name]
        assert cli._read([word.replace("images/", ".") for word in words[1:]]) is not None


WRONG = {
    "chekc mymodel:net": "no command chekc; did you mean check?",
    "zzz": "no command zzz; there are demo, check",
    "--verion": "no option --verion; did you mean --version?",
    "check mymodel:net --trget SPECK_2E": "no option --trget; did you mean --target?",
    "check mymodel:net --target SPECK2E": "cannot be 'SPECK2E'; did you mean SPECK_2E?",
    "check mymodel:net --target": "--target",
    "check": "MODEL",
    "check mymodel:net more": "unrecognized arguments: more",
    "check mymodel:net --shape 2,x": "--shape",
    "check mymodel:net --shape 0,1": "from 1 to",
    "convert mymodel:net": "--out",
    "convert mymodel:net --out snn.pt": "must end in .safetensors, got 'snn.pt'",
    "convert mymodel:net --out none/snn.safetensors": "no folder none",
    "convert mymodel:net --own rule --out snn.safetensors": "must be name=module:name, got 'rule'",
    "convert mymodel:net --mean 1,b --out snn.safetensors": "must be numbers with commas between them, got '1,b'",
    "evaluate snn.safetensors --data x.npz --encoding events": "cannot be 'events'",
    "bench snn.safetensors --T 0": "a whole number from 1 to",
    "export snn.safetensors --out snn.txt": "must end in .pt2, .onnx or .nir, got 'snn.txt'",
}


@pytest.mark.parametrize("given", WRONG)
def test_a_wrong_line_is_refused_with_what_is_right(given, line):
    assert line(given) == 2
    assert WRONG[given] in line.err
    assert line.out == ""
    assert "Traceback" not in line.err


def test_ctrl_c_leaves_what_was_there(here, line, saved):
    before = (here / saved).read_bytes()
    assert line(f"convert mymodel:net --data mymodel:interrupted --out {saved}") == 130
    assert line.err.splitlines()[-1] == "snnpipe convert: stopped"
    assert (here / saved).read_bytes() == before
    assert line("convert mymodel:net --data mymodel:interrupted --out new.safetensors") == 130
    assert written(here) == {saved}


def test_an_error_of_the_users_own_shows_its_place_and_its_cause(line):
    assert line("check mymodel:broken") == 2
    assert "KeyError: 'weights'" in line.err
    assert "RuntimeError: the weights are gone" in line.err
    assert "snnpipe/commands" not in line.err
    assert line("check mymodel:saved") == 2
    assert "FileNotFoundError: weights.pt" in line.err
    assert line("convert mymodel:net --data mymodel:failing --out snn.safetensors") == 2
    assert "KeyError: 'no such file of mine'" in line.err


def test_a_factory_that_ends_the_program_is_no_answer(line):
    assert line("check mymodel:ends") == 2
    assert "your own code ended the program (status 0)" in line.err


def test_an_error_of_snnpipe_shows_no_traceback(line):
    assert line("convert mymodel:Branches --pipeline trace --out state.safetensors --json") == 1
    assert "Traceback" not in line.err
    assert line.err.startswith("snnpipe convert: ")
    assert json.loads(line.out)["ok"] is False


def test_a_warning_is_a_line(line):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert line("convert mymodel:sigmoids --data mymodel:vectors --out snn.safetensors --no-progress") == 0
    said = [each for each in line.err.splitlines() if "warning" in each]
    assert said
    assert all(each.startswith("snnpipe convert: warning: ") for each in said)


def test_progress_is_on_stderr(line):
    assert line("convert mymodel:net --data mymodel:batches --out snn.safetensors --json") == 0
    assert "data:" in line.err
    json.loads(line.out)
    assert line("convert mymodel:net --data mymodel:batches --out snn.safetensors --json --no-progress") == 0
    assert "data:" not in line.err


def test_a_pipe_that_is_closed_is_no_error(here, saved, capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main(["info", saved]) == 0
        assert cli.main(["check", "mymodel:Branches"]) == 1
    assert "BrokenPipe" not in capsys.readouterr().err


def test_the_path_of_modules_is_as_before(line):
    before = list(sys.path)
    line("check mymodel:net")
    line("check mymodel:broken")
    assert sys.path == before


def test_plain_values():
    value = {"a": (1, float("inf")), "b": snnpipe.RATE, "c": torch.tensor([1, 2]), "d": {1: True}}
    assert plain(value) | {"b": None} == {"a": [1, None], "b": None, "c": [1, 2], "d": {"1": True}}
    json.dumps(plain(value), allow_nan=False)


def test_a_file_that_is_written_by_others_is_there_whole_or_as_it_was(here, monkeypatch):
    path = here / "run.pt2"
    assert into.written(path, lambda there: Path(there).write_bytes(b"old")) == 3

    def half(source, target):
        target.write(source.read(1))
        raise KeyboardInterrupt

    monkeypatch.setattr(into.shutil, "copyfileobj", half)
    with pytest.raises(KeyboardInterrupt):
        into.written(path, lambda there: Path(there).write_bytes(b"new"))
    assert path.read_bytes() == b"old"
    assert written(here) == {"run.pt2"}


def test_several_files_are_not_one(here):
    def two(there):
        for ending in ("", ".data"):
            Path(there + ending).write_bytes(b"")

    with pytest.raises(snnpipe.SnnpipeError, match=re.escape("would be several files: a.onnx, a.onnx.data")):
        into.written(here / "a.onnx", two)
