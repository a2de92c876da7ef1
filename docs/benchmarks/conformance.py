r"""Do other simulators send the same spikes?  A table: networks x simulators, compared spike by spike.

    python docs/benchmarks/conformance.py --python spikingjelly=SJ/bin/python --python norse=NORSE/bin/python \
        [--resnet FOLDER] [--write]

Networks are converted, written by ``to_nir`` to a file, and run there from the file on the same inputs.
Each simulator is installed apart, in the versions of ``PINNED`` (this script says so if it is another); one that is not
named by ``--python`` is looked for in the environment of the script:

    pip install torch==2.13.0 nir==1.0.8 && pip install --no-deps nirtorch==2.6 snntorch==1.0.0
    pip install torch==2.13.0 nir==1.0.8 tqdm && pip install --no-deps nirtorch==2.6 spikingjelly==2.0.0
    pip install torch==2.13.0 nir==1.0.8 && pip install --no-deps nirtorch==2.6 norse==1.1.0

On the *grid*, weights, thresholds and inputs are multiples of powers of two, so that float32 adds without rounding in
any order: there must be no difference.  The same networks as they are drawn round, each simulator in an order of its
own: a potential may meet its threshold or miss it by the last bit, and what differs is counted, in a long run in
float32 and a short one in float64.  The control is written with ``v > theta`` where ``v >= theta`` is meant: on the
grid it must differ.

With ``--write`` the table goes to conformance.md.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import math
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAGE = Path(__file__).with_suffix(".md")
#: The arithmetic of a network: how many steps, and how many inputs.
KINDS = {"grid": (32, 8), "float32": (256, 64), "float64": (32, 8)}
CONTROL = "control"
#: What each simulator needs, and the profile it takes.
PINNED = {
    "nirtorch": ({"nir": "1.0.8", "nirtorch": "2.6"}, "exact"),
    "snntorch": ({"nir": "1.0.8", "snntorch": "1.0.0"}, "exact"),
    "spikingjelly": ({"nir": "1.0.8", "nirtorch": "2.6", "spikingjelly": "2.0.0"}, "hardware"),
    "norse": ({"nir": "1.0.8", "nirtorch": "2.6", "norse": "1.1.0"}, "hardware"),
}


# what runs in every environment: the simulators, from files


def integers(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in (values.tolist() if getattr(values, "ndim", 0) else [values]))


class Module(nn.Module):
    """A function of one tensor as a module."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


class Integrate(nn.Module):
    """``I`` with a step of 1."""

    def __init__(self, node: nir.I) -> None:
        super().__init__()
        self.register_buffer("r", torch.from_numpy(node.r))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        v = self.r * x if state is None else state + self.r * x
        return v, v


class Fires(nn.Module):
    """``Threshold``; remembers what it sent."""

    def __init__(self, node: nir.Threshold) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.from_numpy(node.threshold))
        self.sent: list[Tensor] = []

    def forward(self, v: Tensor) -> Tensor:
        spikes = (v > self.threshold).to(v.dtype)
        self.sent.append(spikes.bool())
        return spikes


def weighted(node: Any, call: Callable[..., Tensor], dtype: torch.dtype, **options: Any) -> Callable[[Tensor], Tensor]:
    weight, bias = (torch.from_numpy(array).to(dtype) for array in (node.weight, node.bias))
    return lambda x: call(x, weight, bias, **options)


def convolved(node: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    options = {name: integers(getattr(node, name)) for name in ("stride", "padding", "dilation")}
    return weighted(node, F.conv1d if node.weight.ndim == 3 else F.conv2d, dtype, **options)


def flattened(node: nir.Flatten) -> Callable[[Tensor], Tensor]:
    start, end = (axis + 1 if axis >= 0 else axis for axis in (int(node.start_dim), int(node.end_dim)))
    return lambda x: x.flatten(start, end)


def averaged(node: nir.AvgPool2d) -> Callable[[Tensor], Tensor]:
    names = ("kernel_size", "stride", "padding")
    return partial(F.avg_pool2d, **{name: integers(getattr(node, name)) for name in names})


def scaled(node: nir.Scale, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    scale = torch.from_numpy(node.scale).to(dtype)
    return lambda x: scale * x


def functions(dtype: torch.dtype) -> dict[type, Callable[[Any], Callable[[Tensor], Tensor]]]:
    """The nodes without state as functions of batches."""
    return {
        nir.Affine: lambda node: weighted(node, F.linear, dtype), nir.Conv1d: lambda node: convolved(node, dtype),
        nir.Conv2d: lambda node: convolved(node, dtype), nir.Flatten: flattened, nir.AvgPool2d: averaged,
        nir.Scale: lambda node: scaled(node, dtype),
    }  # fmt: skip


def nirtorch_run(path: Path, x: Tensor, T: int) -> tuple[dict[str, Tensor], Tensor]:
    """NIRTorch's interpreter; its own map drops the bias of ``Affine`` and flattens the batch, so all is mapped."""
    import nirtorch

    # made in its order: a lambda for each kind, bound to its function
    maps = {kind: (lambda node, make=make: Module(make(node))) for kind, make in functions(x.dtype).items()}
    net = nirtorch.nir_to_torch(nir.read(path), {**maps, nir.I: Integrate, nir.Threshold: Fires}, dtype=x.dtype)
    state, outputs = None, []
    for _ in range(T):
        y, state = net(x, state)
        outputs.append(y)
    sent = {name: torch.stack(module.sent) for name, module in net.named_modules() if isinstance(module, Fires)}
    return sent, torch.stack(outputs).mean(0)


def snntorch_run(path: Path, x: Tensor, T: int) -> tuple[dict[str, Tensor], Tensor]:
    """snnTorch's ``Leaky`` in place of each integrator, in float64.

    The graph fires where ``v' > t`` and takes theta; ``Leaky`` fires where ``mem > theta`` and takes theta: the same
    with ``mem = v' + (theta - t)``, which is where it starts.
    """
    import snntorch

    x = x.double()
    graph = nir.read(path)
    maps, nodes = functions(x.dtype), graph.nodes
    sources = {name: [a for a, b in graph.edges if b == name] for name in nodes}
    targets = {name: [b for a, b in graph.edges if a == name] for name in nodes}
    thresholds = {name: spike for name, node in nodes.items() if isinstance(node, nir.I) for spike in targets[name]}
    if len(set(thresholds.values())) < sum(isinstance(node, nir.Threshold) for node in nodes.values()):
        raise NotImplementedError("Leaky has one threshold, these neurons have several")
    resets = {name: next(s for s in sources[name] if s in targets[thresholds[name]]) for name in thresholds}
    cells, mem = {}, {}
    for name, spike in thresholds.items():
        theta = -torch.from_numpy(nodes[resets[name]].scale).double()
        cells[spike] = snntorch.Leaky(beta=1.0, threshold=theta, reset_mechanism="subtract").double()
        mem[spike] = (theta - torch.from_numpy(nodes[spike].threshold).double()).expand(len(x), *theta.shape)
    made = {name: maps[type(node)](node) for name, node in nodes.items() if type(node) in maps}
    forward = {name: [s for s in sources[name] if s not in resets.values()] for name in nodes}
    order = list(TopologicalSorter(forward).static_order())
    sent: dict[str, list[Tensor]] = {spike: [] for spike in cells}
    total: Tensor | float = 0.0
    for _ in range(T):
        values: dict[str, Tensor] = {}
        for name in order:
            now = sum(values[s] for s in forward[name]) if forward[name] else x
            if name in cells:
                spikes, mem[name] = cells[name](now, mem[name])
                sent[name].append(spikes.bool())
                now = spikes.double()
            values[name] = made[name](now) if name in made else now
        total = total + values["output"]
    return {name: torch.stack(each) for name, each in sent.items()}, total / T


def recorded(net: nn.Module, kinds: str) -> dict[str, list[Tensor]]:
    """What the modules of some classes send, from now on."""
    sent: dict[str, list[Tensor]] = {}
    for name, module in net.named_modules():
        if type(module).__name__ == kinds:
            sent[name] = []
            module.register_forward_hook(lambda module, given, made, name=name: sent[name].append(made[0].bool()))
    return sent


def spikingjelly_run(path: Path, x: Tensor, T: int) -> tuple[dict[str, Tensor], Tensor]:
    """SpikingJelly's importer as it is."""
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    net = import_from_nir(nir.read(path), dt=1.0, dtype=x.dtype)
    sent, state, outputs = recorded(net, "_NIRStatefulModule"), None, []
    for _ in range(T):
        y, state = net(x, state)
        outputs.append(y)
    return {name: torch.stack(each) for name, each in sent.items()}, torch.stack(outputs).mean(0)


def norse_run(path: Path, x: Tensor, T: int) -> tuple[dict[str, Tensor], Tensor]:
    """Norse's importer as it is; it flattens what it is given, so samples go one by one."""
    import norse.torch

    if x.dtype != torch.float32:
        raise NotImplementedError("its importer makes everything float32")
    trains, outputs = [], []
    for sample in x:
        net = norse.torch.from_nir(nir.read(path), dt=1.0)
        sent, state, made = recorded(net, "IAFCell"), None, []
        for _ in range(T):
            y, state = net(sample, state)
            made.append(y)
        trains.append({name: torch.stack(each) for name, each in sent.items()})
        outputs.append(torch.stack(made).mean(0))
    return {name: torch.stack([train[name] for train in trains], 1) for name in trains[0]}, torch.stack(outputs)


RUNS = {"nirtorch": nirtorch_run, "snntorch": snntorch_run, "spikingjelly": spikingjelly_run, "norse": norse_run}


def compared(simulator: str, path: Path) -> dict[str, Any]:
    """One network in one simulator: how many spikes are there, how many differ, and the first step where one does."""
    want = torch.load(path.with_suffix(".pt"), weights_only=True)
    try:
        with torch.no_grad():
            sent, output = RUNS[simulator](path, want["x"], want["T"])
    except Exception as error:  # what a simulator cannot do is a row of the table
        return {"why": f"{type(error).__name__}: {error}".splitlines()[0][:160]}
    missing = want["spikes"].keys() - sent.keys()
    if missing:
        return {"why": f"it has no neurons {', '.join(sorted(missing))}"}
    if output.shape != want["output"].shape:
        return {"why": "its executor runs nodes depth first, a sum before its last term; the output is another node's"}
    differ = {name: want["spikes"][name] != sent[name] for name in want["spikes"]}
    return {
        "spikes": sum(int(train.sum()) for train in sent.values()),
        "differences": sum(int(each.sum()) for each in differ.values()),
        "compared": sum(each.numel() for each in differ.values()),
        "output": (output - want["output"]).abs().max().item(),
        "scale": want["output"].abs().max().item(),
    }


def child(simulator: str, folder: Path) -> None:
    """Run all files of the simulator's profile, and print what was found."""
    packages, profile = PINNED[simulator]
    found = {name: importlib.metadata.version(name) for name in packages}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = {path.stem: compared(simulator, path) for path in sorted(folder.glob(f"{profile}-*.nir"))}
    print(json.dumps({"versions": found, "rows": rows}))


# what runs beside snnpipe: the networks, and what they send


class Residual(nn.Module):
    """Two blocks, with an identity and with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(2, 6, 3, padding=1), block(6, 6), block(6, 8, 2)
        self.short, self.head = nn.Conv2d(6, 8, 1, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.a(x) + x)
        x = F.relu(self.b(x) + self.short(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Sliced(nn.Module):
    """A block whose shortcut takes every other place and pads channels, as in ResNets for CIFAR-10."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.head = nn.Conv2d(2, 4, 3, padding=1), block(4, 8, 2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.a(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Layers that read all before them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 4, 1)
        self.head = nn.Linear(4 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.relu(self.a(x))], 1)
        x = torch.cat([x, F.relu(self.b(x))], 1)
        return self.head(F.avg_pool2d(F.relu(self.c(x)), 2).flatten(1))


def block(i: int, o: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, o, 3, padding=1)
    )


def plain(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), activation(), nn.Conv2d(6, 8, 3, 2), activation(),
        nn.Flatten(), nn.Linear(8 * 9, 12), activation(), nn.Linear(12, 5),
    )  # fmt: skip


def pooled(*behind: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
        nn.AvgPool2d(2), *behind, nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, 1, 1), nn.ReLU6(), nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 8, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, 2, 1, groups=4), nn.ReLU6(), nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )  # fmt: skip


def one_axis() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 6, 5, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(6, 8, 3, 2), nn.ReLU(),
        nn.Conv1d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 5),
    )  # fmt: skip


def behind_stem() -> nn.Module:
    """What follows ``conv, max-pool``; the pool stands before the first neuron, so its input is constant."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))


def stem(x: Tensor) -> Tensor:
    return F.max_pool2d(nn.Conv2d(2, 6, 3, padding=1)(x), 2)


def networks(folder: Path | None) -> Iterator[tuple[str, str, nn.Module, Tensor, Any, Any]]:
    """Profile, name, ANN, inputs, neuron and threshold; with the folder of ``resnet20_cifar10.py`` its network too."""
    from snnpipe import burst, integrate_and_fire, percentile

    most = max(batch for _, batch in KINDS.values())
    x, wave = torch.rand(most, 2, 8, 8), torch.rand(most, 2, 28)
    soft, layer, channel = integrate_and_fire(), percentile(99.0, per="layer"), percentile(99.0, shared=True)
    quarter, each = integrate_and_fire(v_init=0.25), percentile(99.0, per="neuron")
    hard = integrate_and_fire(v_reset=0.5)
    yield "exact", "plain", plain(), x, soft, layer
    yield "exact", "theta per channel", plain(), x, soft, channel
    yield "exact", "v0 = 0", plain(), x, integrate_and_fire(v_init=0.0), layer
    yield "exact", "v0 = theta/4, theta per neuron", plain(), x, quarter, each
    yield "exact", "average pools", pooled(), x, soft, channel
    yield "exact", "residual", Residual(), x, soft, channel
    yield "exact", "residual, sliced and padded shortcut", Sliced(), x, soft, channel
    yield "exact", "depthwise and grouped, ReLU6", depthwise(), x, soft, channel
    yield "exact", "ReLU6", plain(nn.ReLU6), x, soft, layer
    yield "exact", "max-pool before the first neuron", behind_stem(), stem(x).detach(), soft, channel
    yield "exact", "concatenations", Dense(), x, soft, channel
    yield "exact", "1-d", one_axis(), wave, soft, channel
    yield "exact", "burst neurons, 3 levels", plain(), x, burst(cap=3), channel
    yield "exact", CONTROL, plain(), x, soft, layer
    yield "hardware", "plain", plain(), x, hard, layer
    yield "hardware", "v0 = 0", plain(), x, integrate_and_fire(v_init=0.0, v_reset=0.0), layer
    yield "hardware", "average pools", pooled(), x, hard, layer
    yield "hardware", "ReLU6", plain(nn.ReLU6), x, hard, layer
    yield "hardware", "depthwise and grouped, ReLU6", depthwise(), x, hard, layer
    yield "hardware", "concatenations", Dense(), x, hard, layer
    yield "hardware", "residual", Residual(), x, hard, layer
    if folder is not None:
        from resnet20_cifar10 import ResNet20, load

        trained, (images, _) = ResNet20(), load(folder, "cifar10_test2000.npz")
        weights = torch.load(folder / "cifar10_resnet20.pt", weights_only=True)
        trained.load_state_dict(weights.get("state_dict", weights))
        for profile, neuron, threshold in (("exact", soft, channel), ("hardware", hard, layer)):
            yield profile, "trained ResNet-20, 4 images", copy.deepcopy(trained), images[:4], neuron, threshold


def on_grid(snn: Any, x: Tensor) -> Tensor:
    """Round weights to 1/64 and thresholds to 1/8, in place; the inputs rounded to 1/16."""
    with torch.no_grad():
        for name, tensor in snn.state_dict().items():
            step, least = (8, 1.0) if name.endswith("threshold") else (64, -math.inf)
            tensor.copy_((tensor * step).round().clamp(min=least) / step)
    return (16 * x).round() / 16


def trains(snn: Any, x: Tensor, T: int) -> tuple[dict[str, Tensor], Tensor]:
    """The spikes (T, B, ...) of each neuron, by the node of the NIR graph that sends them, and the decoded output."""
    from snnpipe.emit import neuron_path

    modules, sent = snn.neurons(), dict[str, list[Tensor]]()
    for node in snn.graph:
        if node.op != "encode":
            continue
        module = modules[neuron_path(node)]
        high = int(module.neuron.options["codebook"].high)
        sent |= {f"{node.name}_spike{'' if k == 1 else k}": [] for k in range(1, high + 1)}

        def step(state: Any, z: Tensor, theta: Tensor, clock: Any, *, step: Any = module.neuron.step,
                 name: str = node.name, high: int = high, sent: Any = sent, **options: Any) -> Any:  # fmt: skip
            state, events = step(state, z, theta, clock, **options)
            for k in range(1, high + 1):
                sent[f"{name}_spike{'' if k == 1 else k}"].append((events / theta).round() >= k)
            return state, events

        module.neuron = module.neuron.stepping(step)
    output = snn(x, T=T)
    return {name: torch.stack(each) for name, each in sent.items()}, output


def write_cases(folder: Path, resnet: Path | None) -> dict[str, list[str]]:
    """Convert, write and run all networks in three kinds of arithmetic; their names by profile."""
    from snnpipe import RATE, calibrate, fuse, instrument, pipe, replace, td_rewrite, to_nir, to_snn, trace

    names: dict[str, list[str]] = {}
    torch.manual_seed(0)
    for profile, name, model, x, neuron, threshold in networks(resnet):
        k = len(names.setdefault(profile, []))
        names[profile].append(name)
        for kind, (T, batch) in KINDS.items():
            ann, given = (model.double(), x.double()) if kind == "float64" else (model.float(), x)
            given = given[:batch]
            measured = pipe(ann.eval(), trace, fuse, instrument(statistic=threshold), calibrate([given]))
            snn = pipe(measured, replace(neuron=neuron), td_rewrite(code=RATE), to_snn)
            given = on_grid(snn, given) if kind == "grid" else given
            path = folder / f"{profile}-{k:02}-{kind}.nir"
            graph = to_nir(snn, given, profile=profile)
            if name == CONTROL:
                for node in graph.nodes.values():
                    if isinstance(node, nir.Threshold):
                        node.threshold = np.nextafter(node.threshold, np.float32(np.inf), dtype=node.threshold.dtype)
            nir.write(path, graph)
            with torch.no_grad():
                spikes, output = trains(snn, given, T)
            assert spikes.keys() <= nir.read(path).nodes.keys()
            torch.save({"x": given, "T": T, "spikes": spikes, "output": output}, path.with_suffix(".pt"))
    return names


def table(profile: str, names: list[str], found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A row for each network: spikes, and differences in each simulator and arithmetic; then what could not be run."""
    columns = [(s, kind) for s in found if PINNED[s][1] == profile for kind in KINDS]
    yield "| network | spikes | compared | " + " | ".join(f"{s}, {kind}" for s, kind in columns) + " |"
    yield "|---" + "|--:" * (2 + len(columns)) + "|"
    whys: dict[str, list[str]] = {}
    errors: dict[str, list[tuple[float, str]]] = {}
    for k, name in enumerate(names):
        rows = {(s, kind): found[s]["rows"][f"{profile}-{k:02}-{kind}"] for s, kind in columns}
        told = next((row for (_, kind), row in rows.items() if "spikes" in row and kind == "float32"), {})
        cells = [told.get("spikes", ""), told.get("compared", ""), *(r.get("differences", "-") for r in rows.values())]
        yield f"| {name} | " + " | ".join(map(str, cells)) + " |"
        for (s, kind), row in rows.items():
            if "why" not in row and name != CONTROL:
                errors.setdefault(f"{s}, {kind}", []).append((row["output"] / row["scale"], name))
            elif "why" in row:
                whys.setdefault(f"{s}: {row['why']}", []).append(f"{name}, {kind}")
    yield "\nThe decoded outputs differ, relative to the largest, by at most\n"
    for column, found_there in errors.items():
        yield f"- {column}: {max(found_there)[0]:.0e} ({max(found_there)[1]})"
    yield "\nNot compared:\n"
    for why, where in whys.items():
        kinds = {each.rpartition(", ")[2] for each in where}
        short = list(dict.fromkeys(each.rpartition(", ")[0] for each in where))
        yield f"- {why} ({'; '.join(short) if len(short) < len(names) else 'all networks'}; {', '.join(sorted(kinds))})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="a simulator's interpreter")
    parser.add_argument("--resnet", type=Path, metavar="FOLDER", help="what resnet20_cifar10.py takes: its network too")
    parser.add_argument("--only", nargs="+", choices=list(PINNED), default=list(PINNED), help="simulators")
    parser.add_argument("--write", action="store_true", help="write conformance.md")
    parser.add_argument("--run", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        return child(given.run[0], Path(given.run[1]))
    pythons = dict(pair.split("=", 1) for pair in given.python)
    with tempfile.TemporaryDirectory() as folder:
        names = write_cases(Path(folder), given.resnet)
        found = {}
        for simulator in given.only:
            command = [pythons.get(simulator, sys.executable), __file__, "--run", simulator, folder]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{simulator}: {done.stderr.strip().splitlines()[-1]}")
            found[simulator] = json.loads(done.stdout.splitlines()[-1])
            if found[simulator]["versions"] != PINNED[simulator][0]:
                sys.exit(f"{simulator}: needs {PINNED[simulator][0]}, found {found[simulator]['versions']}")
    lines = []
    for profile in names:
        lines += [f"\n## The {profile} profile\n", *table(profile, names[profile], found)]
    print("\n".join(lines))
    if given.write:
        head = PAGE.read_text().split("\n## The exact profile")[0] if PAGE.exists() else f"# {PAGE.stem}\n"
        PAGE.write_text(head + "\n".join(lines) + "\n")
    wrong = [
        (s, profile, name) for s, each in found.items() for profile in names for k, name in enumerate(names[profile])
        if (row := each["rows"].get(f"{profile}-{k:02}-grid")) and "why" not in row
        and bool(row["differences"]) != (name == CONTROL)
    ]  # fmt: skip
    sys.exit(f"differences on the grid, or none in the control: {wrong}" if wrong else 0)


if __name__ == "__main__":
    main()
