"""What whole numbers cost and gain: absorbed thresholds, rounded weights, and convolutions of them in int8.

    python docs/benchmarks/integers.py [--repeats 15]

First a ResNet-20 with random weights, its thresholds absorbed and its weights rounded, against the network as
converted.  Then one layer at a time: a convolution of spikes in int8, with sums in int32 (torch's x86 kernel), as a
ratio of CPU time on one thread to the same convolution in float32, the two measured in turn; its error and that of the
float convolution are against float64.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnpipe import (
    ThresholdWarning,
    absorb,
    calibrate,
    correct_bias,
    fuse,
    percentile,
    pipe,
    quantise_weights,
    replace,
    to_snn,
    trace,
    wires,
)
from snnpipe.kernels.grid import steps

sys.path.insert(0, str(Path(__file__).parent))
from resnet20_cifar10 import ResNet20

#: (batch, input channels, output channels, side), all of 3 x 3 kernels.
LAYERS = ((32, 16, 16, 32), (32, 32, 32, 16), (32, 64, 64, 8), (4, 64, 64, 56), (32, 128, 128, 16), (8, 256, 256, 14))


def networks() -> None:
    """How far a network's output moves, relative to its norm."""
    torch.manual_seed(0)
    model, images = ResNet20(), torch.rand(64, 3, 32, 32)
    with torch.no_grad():
        for _ in range(20):
            model(images)  # running statistics
    model.eval()
    warnings.simplefilter("ignore", ThresholdWarning)
    measured = pipe(model, trace, fuse, calibrate([images]))
    spiking, coarse = replace(measured), replace(threshold=percentile(99.9, per="layer"))(measured)
    absorbed = absorb(spiking)
    told = [event.detail for event in absorbed.history if event.stage == "absorb"]
    print(f"whole wires: {sum(wire.whole for wire in wires(absorbed))} of {len(told)},", end=" ")
    print(f"{sum('by a constant' in detail for detail in told)} with a constant on their current")
    inputs = torch.rand(64, 3, 32, 32)
    for T in (8, 32):
        variants = {
            "absorbed": absorbed,
            "8 bits per channel": quantise_weights(absorbed),
            "8 bits per layer": quantise_weights(per="layer")(absorbed),
            "thresholds per layer": coarse,
            "thresholds and 8 bits per layer": quantise_weights(per="layer")(absorb(coarse)),
        }
        for name in ("8 bits per channel", "thresholds and 8 bits per layer"):
            variants[f"{name}, corrected"] = correct_bias([images], T=T)(variants[name])
        with torch.no_grad():
            ann, plain = model(inputs), to_snn(spiking)(inputs, T=T)
            print(f"T = {T:2}: as converted {off(plain, ann)} from the ANN")
            for name, state in variants.items():
                found = to_snn(state)(inputs, T=T)
                print(f"  {name:43} {off(found, ann)} from the ANN, {off(found, plain)} from what was converted")


def off(a: Tensor, b: Tensor) -> str:
    return f"{100 * ((a - b).norm() / b.norm()).item():.2g} %"


def layer(B: int, C: int, O: int, side: int, repeats: int) -> None:  # noqa: E741
    """One convolution of spikes, of which a fifth are 1."""
    torch.manual_seed(0)
    conv = pipe(nn.Conv2d(C, O, 3, padding=1), trace, quantise_weights).params
    weight = conv["weight__rounded"].detach().contiguous(memory_format=torch.channels_last)
    bias = conv["bias"].detach()
    scale = steps(weight.flatten(1), 8, shared=False)
    whole = (weight.flatten(1) / scale).round().reshape(weight.shape).to(torch.int8)
    spikes = (torch.rand(B, C, side, side) < 0.2).float().contiguous(memory_format=torch.channels_last)
    bytes_ = spikes.to(torch.uint8)
    size, scales = [1, 1], scale.reshape(-1).float()
    packed = torch.ops.onednn.qconv_prepack(whole, scales, 1.0, 0, size, size, size, 1, list(spikes.shape))

    def in_int8(x: Tensor) -> Any:
        return torch.ops.onednn.qconv2d_pointwise(
            x, 1.0, 0, packed, scales, torch.zeros(O, dtype=torch.int64), bias, size, size, size, 1, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip

    in_float = partial(F.conv2d, spikes, weight, bias, padding=1)
    exact = F.conv2d(spikes.double(), whole.double(), padding=1) * scale.reshape(1, -1, 1, 1)
    exact += bias.double().reshape(1, -1, 1, 1)
    errors = [(found - exact).abs().max().item() for found in (in_int8(bytes_), in_float())]
    count = max(1, int(2e9 / (B * O * C * 9 * side * side)))
    ratios: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        reference = seconds(in_float, count)
        ratios[0].append(seconds(lambda: in_int8(bytes_), count) / reference)
        ratios[1].append(seconds(lambda: in_int8(spikes.to(torch.uint8)), count) / reference)
    plain, cast = map(statistics.median, ratios)
    print(f"  {B:3} x {C:3} -> {O:3}, {side} x {side}: {plain:.2f}, with the cast {cast:.2f}; "
          f"errors {errors[0]:.1e} and {errors[1]:.1e}")  # fmt: skip


def seconds(fn: Callable[[], Any], count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        fn()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks()
    print("int8 / float32, one convolution")
    with torch.no_grad():
        for sizes in LAYERS:
            layer(*sizes, options.repeats)


if __name__ == "__main__":
    main()
