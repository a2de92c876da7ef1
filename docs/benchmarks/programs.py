"""Networks as programs elsewhere: how far their outputs are from the network's own, and how long they take.

    pip install torch==2.13.0 ".[onnx]" onnxruntime==1.32.0
    python docs/benchmarks/programs.py [--T 8] [--repeats 5]

One thread, ratios of processor time to ``snn(x, T)``, medians of pairs; a plain CNN and the ResNet-20 with random
weights, B = 8.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from snnpipe import calibrate, fuse, pipe, to_exported, to_onnx, to_snn, trace

sys.path.insert(0, str(Path(__file__).parent))
from resnet20_cifar10 import ResNet20


def cnn() -> nn.Module:
    body = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def seconds(run: Any) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--T", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"T = {args.T}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}")
    print(f"{'network':12}{'program':>22}{'onnxruntime':>22}   (largest difference / largest output, time)")
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for name, model in (("CNN", cnn()), ("ResNet-20", ResNet20())):
            x = torch.rand(8, 3, 32, 32)
            snn = pipe(model.eval(), trace, fuse, calibrate([x]), to_snn)
            program = to_exported(snn, x, T=args.T)
            to_onnx(program, Path(folder) / "run.onnx")
            runtime, module = session(Path(folder) / "run.onnx"), program.module()
            (given,) = runtime.get_inputs()

            def elsewhere(x: Tensor, runtime: Any = runtime, name: str = given.name) -> Tensor:
                return torch.from_numpy(runtime.run(None, {name: x.numpy()})[0])

            cells = ""
            for run in (module, elsewhere):
                other = torch.rand(5, 3, 32, 32)

                def own(x: Tensor = x) -> Any:
                    return snn(x, T=args.T)  # noqa: B023

                far = max(float((run(z) - own(z)).abs().max() / own(z).abs().max()) for z in (x, other))
                pairs = [(seconds(own), seconds(lambda: run(x))) for _ in range(args.repeats)]  # noqa: B023
                cells += f"{f'{far:.1e}, {statistics.median(b / a for a, b in pairs):.2f}':>22}"
            print(f"{name:12}{cells}", flush=True)


if __name__ == "__main__":
    main()
