"""The command line: ``python -m snnpipe demo``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import snnpipe
from snnpipe.analysis.plots import plot_accuracy, require_matplotlib
from snnpipe.demo import NEURONS, render, run
from snnpipe.errors import SnnpipeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; without one, print the help.

    Args:
        arguments: of the command line, by default this process's.

    Returns:
        The exit status.
    """
    parser, demo = _parsers()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return 0
    try:
        require_matplotlib()
        result = run(steps=given.steps, seed=given.seed, neuron=given.neuron, progress=given.progress)
        print(render(result), flush=True)
        title = f"Digits CNN with {given.neuron.upper()} neurons: accuracy against time steps"
        plot_accuracy(result.rows, result.ann_accuracy, given.out, title=title)
    except (SnnpipeError, OSError) as error:
        demo.exit(1, f"snnpipe demo: {error}\n")
    print(f"figure: {given.out}")
    return 0


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="snnpipe", description=(snnpipe.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"snnpipe {snnpipe.__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    about = "train a small CNN on scikit-learn's digits, convert it, and show its accuracy for T = 1, 2, 4, ..."
    demo = commands.add_parser("demo", help=about, description=about)
    demo.add_argument("--steps", type=_positive, default=64, help="largest T, the number of time steps (%(default)s)")
    about = "the figure: PNG, SVG or PDF (%(default)s)"
    demo.add_argument("--out", type=_figure, default=Path("snnpipe-demo.png"), help=about)
    demo.add_argument("--seed", type=int, default=0, help="of the data split and the training (%(default)s)")
    about = "if: integrate and fire; snm: signed neuron with memory (%(default)s)"
    demo.add_argument("--neuron", choices=list(NEURONS), default="if", help=about)
    demo.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bars")
    return parser, demo


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _figure(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"must end in .png, .svg or .pdf, got {text}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path
