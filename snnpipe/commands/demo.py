"""``snnpipe demo``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from snnpipe.analysis.plots import plot_accuracy, require_matplotlib
from snnpipe.commands.command import Answer, Command
from snnpipe.commands.parser import Parser, new_file, whole, word
from snnpipe.commands.written import written
from snnpipe.demo import NEURONS, render, run

MOST_STEPS = 2**16


def _arguments(parser: Parser) -> None:
    about = "largest T, the number of time steps (%(default)s)"
    parser.add_argument("--steps", type=whole(1, MOST_STEPS), default=64, help=about)
    about = "the figure: PNG, SVG or PDF (%(default)s)"
    parser.add_argument("--out", type=new_file(".png", ".svg", ".pdf"), default=Path("snnpipe-demo.png"), help=about)
    about = "of the data split and the training (%(default)s)"
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help=about)
    about = f"{' or '.join(NEURONS)}: integrate and fire, or signed neuron with memory (%(default)s)"
    parser.add_argument("--neuron", type=word(*NEURONS), default="if", help=about)


def _run(given: Namespace) -> Answer:
    require_matplotlib()
    result = run(steps=given.steps, seed=given.seed, neuron=given.neuron, progress=given.progress)
    title = f"Digits CNN with {given.neuron.upper()} neurons: accuracy against time steps"
    written(given.out, lambda path: plot_accuracy(result.rows, result.ann_accuracy, path, title=title))
    data = {"ann_accuracy": result.ann_accuracy, "rows": result.rows, "seconds": result.seconds, "figure": given.out}
    return Answer(f"{render(result)}\nfigure: {given.out}", data)


DEMO = Command(
    "demo",
    "train a small CNN on scikit-learn's digits, convert it, and show its accuracy for T = 1, 2, 4, ...",
    ("snnpipe demo", "snnpipe demo --steps 16 --neuron snm --out demo.svg"),
    _arguments,
    _run,
)
