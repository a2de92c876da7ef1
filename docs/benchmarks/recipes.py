r"""Published conversion methods side by side: a ResNet-20 on CIFAR-10 images.

    python docs/benchmarks/recipes.py FOLDER [--images 2000] [--recipes opi snm ...] [--T 1 2 4 8 16 32] [--write]

FOLDER is that of ``resnet20_cifar10.py``.  Each method converts the same trained network without labels, its thresholds
and corrections from the 1024 training images, and classifies the test images; those called advanced train each layer
alone on the ANN's activations, the others nothing.  The latency of a method that looks twice, or layer after layer, is
that of all its steps.

``--write`` keeps the table in ``recipes.md``, where rows of earlier runs stay unless they are run again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from resnet20_cifar10 import ResNet20, load

from snnpipe import pipe, recipes, sweep, trace
from snnpipe.analysis.judge import Outcome

PAGE = Path(__file__).with_suffix(".md")
HEAD = "| recipe | T | latency | accuracy % | as the ANN % | events per neuron | wires | unit | state floats | MACs |"
RULE = "|---|--:|--:|--:|--:|--:|--:|---|--:|--:|"


def line(name: str, o: Outcome) -> str:
    return (
        f"| {name} | {o.T} | {o.latency} | {o.accuracy:.2f} | {o.agreement:.2f} | {o.events:.2f} | {o.wires} "
        f"| {o.unit} | {o.state:.0f} | {o.macs / 1e6:.2f} M |"
    )


def kept() -> dict[tuple[str, int], str]:
    """The rows of the page by recipe and T."""
    rows = {}
    for text in PAGE.read_text().splitlines() if PAGE.exists() else ():
        cells = [cell.strip() for cell in text.strip("|").split("|")]
        if len(cells) == 10 and cells[1].isdigit():
            rows[cells[0], int(cells[1])] = text
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--recipes", nargs="+", choices=list(recipes.RECIPES), default=list(recipes.RECIPES))
    parser.add_argument("--T", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()

    model = ResNet20()
    weights = torch.load(args.folder / "cifar10_resnet20.pt", weights_only=True)
    model.load_state_dict(weights.get("state_dict", weights))
    images, labels = load(args.folder, "cifar10_test2000.npz")
    calibration, _ = load(args.folder, "cifar10_calib1024.npz")
    data = list(zip(images[: args.images].split(100), labels[: args.images].split(100), strict=True))
    state = pipe(model.eval(), trace)
    print(HEAD)
    for name in args.recipes:
        for T in args.T:
            start = time.perf_counter()
            found = sweep(state, [name], batches=calibration.split(128), data=data, T=[T])
            print(line(name, found.outcomes[0]), f"{time.perf_counter() - start:.0f} s", flush=True)
            if args.write:
                rows = kept() | {(name, T): line(name, found.outcomes[0])}
                order = list(recipes.RECIPES)
                lines = [rows[key] for key in sorted(rows, key=lambda key: (order.index(key[0]), key[1]))]
                title = "# Recipes on a ResNet-20\n\nWritten by `python docs/benchmarks/recipes.py FOLDER --write`,"
                title += f" torch {torch.__version__}; the ANN has {found.ann:.2f} % of {found.samples} right.\n\n"
                about = __doc__.split("\n\n")[2].replace("``", "`")
                PAGE.write_text("\n".join([title + about, "", HEAD, RULE, *lines]) + "\n")


if __name__ == "__main__":
    main()
