"""What a simulation costs: T steps of a converted network against the ANN itself.

    python docs/benchmarks/schedules.py [--T 32] [--repeats 7] [--threads 1] [--memory]

Ratios, medians of pairs measured in turn.  The reference is the ANN with BatchNorm folded, in channels_last, without
gradients: for the step schedule on T x B inputs, for ``wave(K)`` on T / K x B, for the layer schedule on B.  With
torchvision installed the networks are its resnet18, vgg11_bn and mobilenet_v2 at 64 pixels, B = 4; the ResNet-20 at 32
pixels, B = 32, is always measured.  Weights are random, which costs the same.

``--compiled`` gives instead what neurons compiled by torch (``compiled(integrate_and_fire())``) bring, for the step
schedule.  ``--memory`` gives instead what a run adds to the peak memory of a process of its own, in MiB
(on Linux).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from snnpipe import calibrate, compiled, fuse, integrate_and_fire, pipe, replace, to_module, to_snn, trace, wave
from snnpipe.runtime.presented import BUDGET

sys.path.insert(0, str(Path(__file__).parent))
from cost import seconds, torchvision_models
from resnet20_cifar10 import ResNet20

IF = integrate_and_fire()


def networks() -> list[tuple[str, nn.Module, torch.Tensor]]:
    found: list[tuple[str, nn.Module, torch.Tensor]] = [("ResNet-20, B=32", ResNet20(), torch.rand(32, 3, 32, 32))]
    models = torchvision_models()
    for name in ("resnet18", "vgg11_bn", "mobilenet_v2") if models is not None else ():
        found.append((f"{name}, B=4", getattr(models, name)(), torch.rand(4, 3, 64, 64)))
    return [(name, model.eval(), x) for name, model, x in found]


def ratio(reference: Any, run: Any, repeats: int) -> tuple[float, float]:
    """Median of (run / reference), and the median reference in seconds."""
    reference(), run()
    pairs = [(seconds(reference), seconds(run)) for _ in range(repeats)]
    return statistics.median(b / a for a, b in pairs), statistics.median(a for a, _ in pairs)


def held(what: str) -> float:
    """A line of Linux' account of this process, in MiB: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def added(name: str, T: int) -> float:
    """What a run of T steps, of the ANN for T = 0, adds to the peak memory of this process, in MiB."""
    torch.set_num_threads(1)
    (model, x) = next((model, x) for found, model, x in networks() if found == name)
    state = pipe(model, trace, fuse, calibrate([x[:2]]))
    run: Any = to_snn(state) if T else pipe(model, trace, fuse, to_module)
    with torch.no_grad():
        run(x[:1], **({"T": 1} if T else {}))
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = held("VmRSS")
        run(x, **({"T": T} if T else {}))
    return held("VmHWM") - before


def memory() -> None:
    print(f"{'network':18}{'ANN':>8}{'T=32':>8}{'T=256':>8}   (MiB; the budget is {BUDGET / 2**20:.0f})")
    for name, _, _ in networks():
        cells = []
        for T in (0, 32, 256):
            code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import schedules as s, warnings; "
            code += f"warnings.simplefilter('ignore'); print(s.added({name!r}, {T}))"
            cells.append(float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout))
        print(f"{name:18}" + "".join(f"{cell:>8.0f}" for cell in cells), flush=True)


def compare_compiled(args: argparse.Namespace) -> None:
    print(f"T = {args.T}, {torch.get_num_threads()} threads; a run with compiled neurons / one without")
    with torch.no_grad():
        for name, model, x in networks():
            if args.only in name:
                state = pipe(model, trace, fuse, calibrate([x]))
                plain, fast = (pipe(state, replace(neuron=n), to_snn) for n in (IF, compiled(IF)))
                found, _ = ratio(lambda: plain(x, T=args.T), lambda: fast(x, T=args.T), args.repeats)  # noqa: B023
                print(f"{name:18}{found:>8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--T", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", default="", help="networks whose name holds this")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.memory:
        memory()
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    T = args.T
    if args.compiled:
        compare_compiled(args)
        return
    print(f"T = {T}, {torch.get_num_threads()} threads; a run of the network / one of the ANN on as many inputs")
    print(f"{'network':18}{'ANN on B, ms':>13}{'step':>8}{'wave(2)':>9}{'wave(4)':>9}{'layer':>8}")
    with torch.no_grad():
        for name, model, x in networks():
            if args.only not in name:
                continue
            snn = pipe(model, trace, fuse, calibrate([x]), to_snn)
            ann = pipe(model, trace, fuse, to_module).to(memory_format=torch.channels_last)

            def inputs(steps: int, x: torch.Tensor = x) -> torch.Tensor:
                return x.repeat(steps, 1, 1, 1).contiguous(memory_format=torch.channels_last)

            found = []
            for K in (1, 2, 4, T):
                given = inputs(T // K)
                found.append(ratio(lambda: ann(given), lambda: snn(x, T=T, schedule=wave(K)), args.repeats))  # noqa: B023
            cells = [f"{value:>{width}.2f}" for (value, _), width in zip(found, (8, 9, 9, 8), strict=True)]
            print(f"{name:18}{1000 * found[-1][1]:>13.1f}{''.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
