"""The time of a simulation, SpikingJelly's and ours: the same network, the same run.

    python -m venv peer && peer/bin/pip install torch==2.13.0 spikingjelly==2.0.0 -e .
    peer/bin/python docs/benchmarks/peer_cost.py [--T 32] [--repeats 5] [--threads 1]

Runs of the ANN on T x B inputs (BatchNorm folded, channels_last), medians of runs measured in turn: the peer's
multi-step mode, which takes all T steps of a layer at once, its single-step loop, and ours by schedule.  The networks
are made of modules, as the peer wants them: the ResNet-20 of ``peer.py`` at 32 pixels, B = 32, and with torchvision
installed its resnet18 at 64 pixels, B = 4.  Weights are random, which costs the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from cost import seconds, torchvision_models
from peer import Converter, RateCodingRecipe, ResNet20, functional

from snnpipe import calibrate, fuse, pipe, to_module, to_snn, trace, wave


def networks() -> Iterator[tuple[str, nn.Module, torch.Tensor]]:
    yield "ResNet-20, B=32", ResNet20().eval(), torch.rand(32, 3, 32, 32)
    models = torchvision_models()
    if models is not None:
        yield "resnet18, B=4", models.resnet18().eval(), torch.rand(4, 3, 64, 64)


def theirs(model: nn.Module, x: torch.Tensor, T: int) -> dict[str, Callable[[], Any]]:
    """The peer's two ways to run T steps."""
    made = {mode: Converter(recipe=RateCodingRecipe([x]), device="cpu").convert(model).eval() for mode in "ms"}
    for mode, snn in made.items():
        functional.set_step_mode(snn, mode)

    def at_once() -> Any:
        functional.reset_net(made["m"])
        return made["m"](x.expand(T, *x.shape)).mean(0)

    def one_by_one() -> Any:
        functional.reset_net(made["s"])
        total = made["s"](x)
        for _ in range(T - 1):
            total = total + made["s"](x)
        return total / T

    return {"peer, multi-step": at_once, "peer, single steps": one_by_one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--T", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    T = args.T
    print(f"T = {T}, {torch.get_num_threads()} threads; runs of the ANN on T x B inputs")
    with torch.no_grad():
        for name, model, x in networks():
            snn = pipe(model, trace, fuse, calibrate([x]), to_snn)
            ann = pipe(model, trace, fuse, to_module).to(memory_format=torch.channels_last)
            given = x.repeat(T, 1, 1, 1).contiguous(memory_format=torch.channels_last)
            runs: dict[str, Callable[[], Any]] = {"ANN": lambda: ann(given), **theirs(model, x, T)}  # noqa: B023
            for schedule in ("step", wave(4), "layer"):
                runs[f"ours, {schedule}"] = lambda s=schedule: snn(x, T=T, schedule=s)  # noqa: B023
            for run in runs.values():
                run()
            times: dict[str, list[float]] = {key: [] for key in runs}
            for _ in range(args.repeats):
                for key, run in runs.items():
                    times[key].append(seconds(run))
            ratios = {
                key: statistics.median(b / a for a, b in zip(times["ANN"], found, strict=True))
                for key, found in times.items()
            }
            print(f"{name}: " + "; ".join(f"{key} {ratio:.3g}" for key, ratio in ratios.items() if key != "ANN"))


if __name__ == "__main__":
    main()
