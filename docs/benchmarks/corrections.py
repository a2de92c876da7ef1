"""What a correction costs where layers are large: memory, and runs of the network over its data.

    python docs/benchmarks/corrections.py [--write] [--samples 16 64] [--budget BYTES]

Two networks with random weights at 224 pixels: inverted residuals in the shape of an EfficientNet-Lite0 (depthwise
convolutions, ReLU6, linear bottlenecks), and a small U-Net, whose skips wait for the way back.  Each measurement has a
process of its own.  *Memory* is how far the peak of its resident memory rises while the stage runs; *runs* is the CPU
time of the stage over that of the network, T steps, on the same images, 4 at a time.  ``--write`` writes
``corrections.md``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnpipe import (
    balance,
    calibrate,
    cascade,
    correct_bias,
    correct_potential,
    correct_threshold,
    fuse,
    instrument,
    integrate_and_fire,
    maximum,
    pipe,
    replace,
    signed_memory,
    to_snn,
    trace,
)

HEAD = """# What a correction costs where layers are large

    python docs/benchmarks/corrections.py --write

Networks with random weights at 224 pixels, float32, one thread, batches of 16 images.  *Memory* is how far the peak of
a process's resident memory rises while the stage runs, of which 512 MiB are the default budget for what waits; what
does not fit there waits on disk.  *Runs* is the CPU time of the stage in runs of the network, T steps, on the same
images.  Every image passes each layer once in the ANN, which is 1 / T of a run, and once in the spiking network; the
rest are the neurons, which run anew on their currents for each estimate, and what is summed up.

"""

STAGES = {
    "ternary, `correct_bias`, T = 4": (signed_memory(), correct_bias, 4),
    "four wires, `correct_threshold`, T = 2": (cascade(n=4), correct_threshold, 2),
    "binary, `correct_potential`, T = 4": (integrate_and_fire(), correct_potential, 4),
    "binary, `balance`, T = 4": (integrate_and_fire(), balance, 4),
}


class InvertedResidual(nn.Module):
    """Widen, a depthwise convolution, a linear bottleneck."""

    def __init__(self, channels: int, out: int, *, widen: int, kernel: int, stride: int) -> None:
        super().__init__()
        inner = widen * channels
        wide = conv(channels, inner, 1) if widen > 1 else nn.Identity()
        deep = conv(inner, inner, kernel, stride=stride, groups=inner)
        self.way = nn.Sequential(wide, deep, nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))
        self.skips = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.way(x) if self.skips else self.way(x)


def conv(channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU6())


#: Of the stages: how much a block widens, channels, blocks, stride, kernel (Tan & Le 2019, without the gates).
LITE0 = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
         (6, 320, 1, 1, 3))  # fmt: skip


def lite0() -> nn.Module:
    layers, channels = [conv(3, 32, 3, stride=2)], 32
    for widen, out, blocks, stride, kernel in LITE0:
        for k in range(blocks):
            layers.append(InvertedResidual(channels, out, widen=widen, kernel=kernel, stride=stride if k == 0 else 1))
            channels = out
    return nn.Sequential(*layers, conv(320, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 100))


class UNet(nn.Module):
    """Three levels down and up again; what is made on the way down is read beside what comes up."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        sizes = [width * 2**k for k in range(4)]
        self.down = nn.ModuleList(twice(a, b) for a, b in zip([3, *sizes], sizes, strict=False))
        self.rise = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, 2) for c in sizes[-2::-1])
        self.up = nn.ModuleList(twice(2 * c, c) for c in sizes[-2::-1])
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for k, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if k else x)
            skips.append(x)
        for rise, up, skip in zip(self.rise, self.up, skips[-2::-1], strict=True):
            x = up(torch.cat([rise(x), skip], 1))
        return self.head(x)


def twice(channels: int, out: int) -> nn.Sequential:
    layers = [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


NETWORKS = {"inverted residuals": lite0, "U-Net": UNet}


def made(network: str, images: Tensor) -> nn.Module:
    """The network, its batch norms settled on some images."""
    model = NETWORKS[network]()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of what it has seen
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def peak() -> int:
    """The most resident memory of this process so far, bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def cpu(function: Any) -> tuple[Any, float]:
    start = time.process_time()
    found = function()
    return found, time.process_time() - start


def measure(network: str, stage: str, samples: int, batch: int, budget: int | None) -> dict[str, float]:
    """One measurement, in this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images = torch.randn(samples, 3, 224, 224)
    neuron, correct, T = STAGES[stage]
    marked = pipe(made(network, images[:2]), trace, fuse, instrument(statistic=maximum()))
    state = pipe(marked, calibrate([images[:2]]), replace(neuron=neuron))
    options = {} if budget is None else {"budget": budget}
    bound = correct(images.split(batch), T=T, **options)
    before = peak()
    corrected, spent = cpu(lambda: bound(state))
    risen = peak() - before
    snn = to_snn(corrected)
    snn(images[:4], T=T)
    _, once = cpu(lambda: [snn(x, T=T) for x in images[:16].split(4)])
    return {"memory": risen, "seconds": spent, "runs": spent / once * min(samples, 16) / samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--batch", type=int, default=16, help="images of a batch")
    parser.add_argument("--budget", type=int, help="bytes; by default the stages' own")
    parser.add_argument("--write", action="store_true", help="write corrections.md")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "STAGE"), help="one measurement, as JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.samples[0], args.batch, args.budget)))
        return
    lines = ["| network | stage | images | memory | runs |", "|---|---|---|---|---|"]
    for network in NETWORKS:
        for stage in STAGES:
            for samples in args.samples:
                command = [sys.executable, __file__, "--one", network, stage, "--samples", str(samples)]
                command += ["--batch", str(args.batch)] + (["--budget", str(args.budget)] if args.budget else [])
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                memory = f"{found['memory'] / 2**20:.0f} MiB"
                lines.append(f"| {network} | {stage} | {samples} | {memory} | {found['runs']:.2f} |")
                print(lines[-1], flush=True)
    if args.write:
        Path(__file__).with_suffix(".md").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
