"""Files that were tampered with: flipped bits, cut ends, and content that says what no file of ours says, sealed anew.

``python -m property_tests.mutants 10000`` loads so many: each gives a ``SnnpipeError``, or something that can be
shown, and nothing but the file is opened, no code is run and no memory is taken that the file does not fill.
"""

import contextlib
import hashlib
import io
import json
import pickle
import random
import resource
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import torch
from torch import nn

import snnpipe
from snnpipe import SnnpipeError, calibrate, cascade, load, load_statistics, pipe, recipes, replace, to_snn, trace


class Touch:
    """Runs code when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def originals(folder):
    """Files of each kind: a state, a network, what a recipe gave, statistics."""
    torch.manual_seed(0)
    x = torch.rand(8, 1, 6, 6)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.ReLU6())
    state = pipe(model, trace, snnpipe.fuse, calibrate([x]))
    kept = pipe(nn.Sequential(nn.LSTMCell(4, 3)), trace(leaves=(nn.LSTMCell,)), to_snn)
    things = [state, to_snn(state), pipe(state, replace(neuron=cascade(n=3)), to_snn), kept]
    things += [recipes.wave()(model, [x], T=4)]
    found = []
    for k, thing in enumerate(things):
        snnpipe.save(thing, folder / f"{k}")
        found.append(((folder / f"{k}").read_bytes(), load))
    snnpipe.save_statistics(state, folder / "statistics")
    again = lambda path: load_statistics(path)(trace(model))  # noqa: E731
    return [*found, ((folder / "statistics").read_bytes(), again)]


def sealed(header, data):
    """A file with this header, and the seal that belongs to it."""
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    start = raw.find(b'"seal":"') + 8
    raw = raw[:start] + b"0" * 64 + raw[start + 64 :]
    whole = len(raw).to_bytes(8, "little") + raw + data
    seal = hashlib.blake2b(whole, digest_size=32).hexdigest().encode()
    return whole[: 8 + start] + seal + whole[8 + start + 64 :]


def parts(whole):
    """The header of a file, parsed, and its tensors' bytes."""
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


#: What to put in place of anything.
JUNK = [
    None, True, -1, 0, 1, 2**40, 2**70, -(2**63), 1e308, "", "x", "../../etc/passwd", "/dev/zero", "__class__",
    "os.system", "torch.load", "builtins.eval", "torch.hub.load", "aten::from_file", "aten::add.nothing",
    "torch.Tensor.__reduce_ex__", "x; import os", "ο0", "lambda", [], {}, [[]], [None] * 3, {"own": "x"},
    {"function": "call_method"}, {"torch": "torch.add"}, {"torch": "torch.Tensor.numpy"}, {"torch": "builtins.eval"},
    {"ref": "nowhere"}, {"param": "nothing"}, {"tensor": "none"}, {"float": "nan"}, {"float": "x"},
    {"dtype": "float32"}, {"dtype": "save"}, {"device": "nowhere"}, {"class": "OrderedDict"},
    {"class": "subprocess.Popen"}, {"map": [[1, 2]]}, {"map": [[[1], 2], [[1], 3]]}, {"map": 3}, {"slice": [1]},
    {"range": [0, 2**62]}, {"partial": [{"torch": "torch.add"}, [], {}]}, {"call": ["cascade", {"n": 10**9}]},
    {"call": ["call_method", {}]}, {"module": ["LSTM", {}]},
    {"module": ["Linear", {"in_features": 2**40, "out_features": 2**40, "bias": True}]},
    {"packed": [{"own": "x"}, []]}, {"State": {}}, {"Network": {}}, {"Graph": {"nodes": [], "output": None}},
    {"Node": {"name": "x", "op": "call"}}, {"complex": ["x", "y"]}, {"size": [2**62, 2**62]}, {"nobody": 1},
    {"a": 1, "b": 2}, {"list": [[]] * 3}, {"member": [{"class": "OrderedDict"}, "x"]},
    {"opened": [{"class": "dict"}, ["x"], []]}, {"pytree": [{"class": "int"}, None]},
    {"own record": [{"class": "int"}, {}]}, {"Wave": {"K": 0}}, {"Levels": {}},
]  # fmt: skip


def edited(whole, change):
    """A file whose content ``change`` has changed in place, and the seal that belongs to it."""
    header, data = parts(whole)
    content = json.loads(header["__metadata__"]["snnpipe"])
    change(content)
    header["__metadata__"]["snnpipe"] = json.dumps(content)
    return sealed(header, data)


def places(tree, at=()):
    """The way to every part of a JSON tree."""
    yield at
    for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(item, (*at, key))


def changed(rng, tree):
    """A JSON tree with one part replaced, left out, doubled, or swapped for another part."""
    tree = json.loads(json.dumps(tree))
    ways = [way for way in places(tree) if way]
    if not ways:
        return rng.choice(JUNK)
    *above, last = rng.choice(ways)
    inside = tree
    for key in above:
        inside = inside[key]
    how = rng.choice(("junk", "junk", "junk", "drop", "other", "deep"))
    if how == "junk":
        inside[last] = rng.choice(JUNK)
    elif how == "drop":
        del inside[last]
    elif how == "deep":
        inside[last] = json.loads("[" * 60 + "]" * 60)
    else:
        *path, end = rng.choice(ways)
        found = tree
        for key in path:
            found = found[key]
        inside[last] = json.loads(json.dumps(found[end]))
    return tree


def of_bytes(rng, whole, mark):
    """Damage: bits, ends, pieces; and files of other kinds."""
    how = rng.choice(("bit", "bit", "cut", "more", "zeros", "length", "pickle", "zip"))
    at = rng.randrange(len(whole))
    if how == "bit":
        return whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :]
    if how == "cut":
        return whole[:at]
    if how == "more":
        return whole + rng.randbytes(rng.choice((1, 8, 1000)))
    if how == "zeros":
        return whole[:at] + bytes(min(64, len(whole) - at)) + whole[at + 64 :]
    if how == "length":
        return rng.choice((0, 1, 2**31, 2**63, 99_999_999, len(whole))).to_bytes(8, "little") + whole[8:]
    payload = pickle.dumps(Touch(mark))
    if how == "pickle":
        return rng.choice((payload, whole[:8] + payload, len(payload).to_bytes(8, "little") + payload))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    return file.getvalue()


def of_header(rng, whole, mark):
    """What the header says of tensors is another, and the seal is right."""
    header, data = parts(whole)
    metadata = header.pop("__metadata__")
    header = changed(rng, header) if header else {"x": rng.choice(JUNK)}
    header = header if isinstance(header, dict) else {}
    if not header or rng.random() < 0.2:
        header["x"] = {"dtype": "F32", "shape": [2**39], "data_offsets": [0, 2**41]}
    return sealed({"__metadata__": metadata} | header, data)


def of_content(rng, whole, mark):
    """What the text says is another, and the seal is right."""
    header, data = parts(whole)
    content = json.loads(header["__metadata__"]["snnpipe"])
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        content = changed(rng, content)
    text = json.dumps(content) if rng.random() < 0.97 else rng.choice(("", "nul", "[" * 10**5, '{"a":1,"a":2}', "NaN"))
    header["__metadata__"]["snnpipe"] = text
    return sealed(header, data)


KINDS = (of_bytes, of_header, of_content, of_content, of_content)
#: Events of Python's that no loading raises.
RUNS = (
    "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class", "os.remove", "os.rename",
    "socket.connect",
)  # fmt: skip
_WATCHED: list[str] = []


def _audit(event, given):
    if _WATCHED and (event in RUNS or (event == "open" and given[0] != _WATCHED[0])):
        _WATCHED.append(f"{event} {given}")


sys.addaudithook(_audit)


def used(thing):
    """Show and run what was loaded; whether it runs is torch's to say."""
    with contextlib.suppress(Exception):
        repr(thing)
        snnpipe.report(getattr(thing, "snn", thing))
        snn = getattr(thing, "snn", thing)
        snn = to_snn(snn) if isinstance(snn, snnpipe.ConversionState) else snn
        snn(torch.rand(2, 1, 6, 6), T=2)


def tried(read, path, mark):
    """Whether a file was refused; it is read, or refused by a ``SnnpipeError``, and does nothing else."""
    _WATCHED[:] = [str(path)]
    try:
        used(read(path))
        return False
    except SnnpipeError:
        return True
    finally:
        done, _WATCHED[:] = _WATCHED[1:], []
        assert not [event for event in done if not event.startswith("open") or ".py" not in event], done
        assert not mark.exists()


def run(count, seed, folder):
    """Load so many files; how many of each kind were refused."""
    originals_, mark, outcomes = originals(folder), folder / "mark", Counter()
    for k in range(count):
        rng = random.Random(f"{seed} {k}")
        whole, read = rng.choice(originals_)
        make = rng.choice(KINDS)
        mutant = make(rng, whole, mark)
        path = folder / "mutant"
        path.write_bytes(mutant)
        try:
            refused = tried(read, path, mark)
        except BaseException:
            print(f"seed {seed}, number {k}: {make.__name__}", file=sys.stderr)
            raise
        assert refused or make is not of_bytes or mutant == whole
        outcomes[make.__name__, "refused" if refused else "read"] += 1
    return outcomes


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        found = run(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "0", Path(folder))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for (kind, outcome), number in sorted(found.items()):
        print(f"{kind:12} {outcome:8} {number}")
    print(f"{time.process_time() - began:.0f} s, {(after - before) / 1024:.0f} MiB more at the most")
