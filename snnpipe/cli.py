"""The command line: ``python -m snnpipe demo``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import snnpipe
from snnpipe.analysis.plots import plot_accuracy, require_matplotlib
from snnpipe.demo import NEURONS, render, run
from snnpipe.errors import SnnpipeError

#: The exit status after Ctrl-C, 128 and the number of the signal.
INTERRUPTED = 130
MOST_STEPS = 2**16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; without one, print the help.

    Args:
        arguments: of the command line, by default this process's.

    Returns:
        The exit status; after Ctrl-C, or where something is missing, ``SystemExit`` is raised with it.
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
    except KeyboardInterrupt:
        demo.exit(INTERRUPTED, "snnpipe demo: stopped\n")
    print(f"figure: {given.out}")
    return 0


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(prog="snnpipe", description=(snnpipe.__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"snnpipe {snnpipe.__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    about = "train a small CNN on scikit-learn's digits, convert it, and show its accuracy for T = 1, 2, 4, ..."
    demo = commands.add_parser("demo", help=about, description=about)
    demo.add_argument(
        "--steps", type=_whole(1, MOST_STEPS), default=64, help="largest T, the number of time steps (%(default)s)"
    )
    about = "the figure: PNG, SVG or PDF (%(default)s)"
    demo.add_argument("--out", type=_figure, default=Path("snnpipe-demo.png"), help=about)
    demo.add_argument(
        "--seed", type=_whole(0, 2**32 - 1), default=0, help="of the data split and the training (%(default)s)"
    )
    about = "if: integrate and fire; snm: signed neuron with memory (%(default)s)"
    demo.add_argument("--neuron", choices=list(NEURONS), default="if", help=about)
    demo.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bars")
    return parser, demo


def _whole(least: int, most: int) -> Callable[[str], int]:
    """What reads a whole number from ``least`` to ``most``."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, got {text!r}")
        return number

    return read


def _figure(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"must end in .png, .svg or .pdf, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{path} is there already and is not a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written: permission denied")
    return path
