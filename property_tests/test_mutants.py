"""Files that were tampered with are refused by a ``SnnpipeError``; nothing of them is run, little memory is taken."""

import resource

import pytest
from hypothesis import settings

from property_tests.mutants import KINDS, edited, originals, run
from snnpipe import SnnpipeError, load

pytestmark = pytest.mark.filterwarnings("ignore")


def test_tampered_files_are_refused(tmp_path):
    count = 12 * settings().max_examples
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = run(count, "tests", tmp_path)
    assert sum(outcomes.values()) == count
    assert all(outcomes[kind.__name__, "refused"] > outcomes[kind.__name__, "read"] for kind in KINDS)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 300  # MiB


def node(**changes):
    """Change the second node of a network, and see to it that the first operand is the input."""

    def change(content):
        inside = content["thing"]["Network"]["graph"]["Graph"]["nodes"][1]["Node"]
        name = content["thing"]["Network"]["graph"]["Graph"]["nodes"][0]["Node"]["name"]
        operands = [[key, {"ref": name} if value == "INPUT" else value] for key, value in changes.pop("operands", [])]
        inside |= changes | ({"operands": {"map": operands}} if operands else {})

    return change


def called(target, args=(), kwargs=()):
    return node(op="call", operands=[["target", target], ["args", list(args)], ["kwargs", {"map": list(kwargs)}]])


def neuron(**fields):
    """Change the fields of a network's first neuron."""

    def change(content):
        nodes = [entry["Node"] for entry in content["thing"]["Network"]["graph"]["Graph"]["nodes"]]
        inside = next(dict(one["operands"]["map"]) for one in nodes if one["op"] == "encode")
        inside["neuron"]["Neuron"] |= fields

    return change


def first_input(content):
    first = content["thing"]["Network"]["graph"]["Graph"]["nodes"][0]["Node"]
    first["operands"]["map"][0][1] = "x=print(1)"


METHOD = {"function": "call_method"}
INPUT = {"ref": "input"}
CRAFTED = {
    "an unknown op": (node(op="conv9d"), "op 'conv9d' is not in the operator table"),
    "an op without its operands": (node(op="relu", operands=[["x", 1]]), "`relu` has no operand 'x'"),
    "a function of no list": (called({"torch": "torch.load"}), "it names the function 'torch.load'"),
    "a function of no list, of ours": (called({"function": "load"}), "it names the function 'load'"),
    "a function of ours that no node calls": (called({"function": "cascade"}), "it calls <function cascade"),
    "eval": (called({"torch": "builtins.eval"}), "it names the function 'builtins.eval'"),
    "a file by ATEN": (called({"torch": "aten::from_file"}), "it names the function 'aten::from_file'"),
    "a method of no list": (called(METHOD, [INPUT, "tofile", "/x"]), "it calls the method 'tofile'"),
    "a method that is a value": (called(METHOD, [INPUT, INPUT]), "it calls the method Ref"),
    "Python's own methods": (called(METHOD, [INPUT, "__reduce__"]), "it calls the method '__reduce__'"),
    "an attribute": (node(op="attribute", operands=[["input", INPUT], ["name", "__class__"]]), "'__class__'"),
    "a field": (node(op="field", operands=[["input", INPUT], ["name", "__globals__"]]), "it reads the field"),
    "a method as a field": (node(op="field", operands=[["input", INPUT], ["name", "register_hook"]]), "it reads the"),
    "getattr": (called({"torch": "builtins.getattr"}, [INPUT, "__class__"]), "it reads the attribute '__class__'"),
    "a function as a key": (
        called({"torch": "builtins.max"}, [[INPUT]], [["key", {"torch": "torch.relu"}]]), "it is given the function"
    ),
    "a method as a key": (
        called({"torch": "builtins.max"}, [[INPUT]], [["key", {"partial": [METHOD, [], {"name": "x"}]}]]),
        "it fixes arguments of a function",
    ),
    "text in a program": (first_input, "an input cannot be called 'x=print(1)'"),
    "text in a node's name": (node(name="x; print(1)"), "a node's name is of letters, digits and _"),
    "a neuron that calls": (neuron(init=METHOD), "a Neuron holds a function that only nodes of a graph may call"),
    "a neuron of something else": (neuron(unit="bananas"), "unit"),
    "a neuron of the user's": (neuron(step={"own": "mine"}), "it needs mine, which are not snnpipe's"),
    "a class of no list": (node(path={"class": "subprocess.Popen"}), "it names the class 'subprocess.Popen'"),
    "a later record": (node(path={"Later": {}}), "it holds a 'Later', which this snnpipe does not know"),
    "a module of no list": (called({"module": ["Sequential", {}]}), "it names the module 'Sequential'"),
    "a module that is too large": (
        called({"module": ["Linear", {"in_features": 2**40, "out_features": 2**10, "bias": False}]}, [{"map": []}]),
        "its weights are not those of Linear",
    ),
    "a parameter that is none": (node(operands=[["input", INPUT], ["weight", {"param": "w"}]]), "reads parameter 'w'"),
}  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_what_no_stage_has_written_is_refused_by_name(tmp_path, name):
    whole, change, words = originals(tmp_path)[1][0], *CRAFTED[name]
    (tmp_path / "crafted").write_bytes(edited(whole, change))
    with pytest.raises(SnnpipeError) as caught:
        load(tmp_path / "crafted")
    assert words in str(caught.value)
