"""``snnpipe bench``."""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from snnpipe.analysis.energy import account, latency
from snnpipe.commands.command import Answer, Command
from snnpipe.commands.data import data_options, example
from snnpipe.commands.devices import device_option
from snnpipe.commands.parser import Parser, whole
from snnpipe.commands.plain import plain
from snnpipe.commands.runs import run_of, run_options
from snnpipe.commands.subjects import network, spiking, subject_argument
from snnpipe.containers import tensors


def _arguments(parser: Parser) -> None:
    subject_argument(parser, "file")
    run_options(parser)
    parser.add_argument("--repeat", type=whole(1, 10_000), default=5, help="timed runs, after one that is not (5)")
    device_option(parser)
    data_options(parser, shape=True)


def _run(given: Namespace) -> Answer:
    thing = network(given.file, given)
    snn, run = spiking(thing), run_of(thing, given)
    x = example(given, snn.graph)
    count = next((leaf.shape[0] for leaf in tensors(x) if leaf.ndim), 1)
    wall, cpu = _timed(lambda: run.of(snn)(*x), given.repeat, given.progress)
    late = latency(snn, run.T, run.schedule)
    lines = [
        f"{run.T} steps, schedule {run.schedule}, on {count} samples, {torch.get_num_threads()} threads, "
        f"median of {given.repeat} runs:",
        f"  {1e3 * wall:.3g} ms, {1e3 * wall / count:.3g} ms per sample; {1e3 * cpu:.3g} ms of CPU time",
        f"  the answer comes after {late} steps",
    ]
    data: dict[str, Any] = {
        "T": run.T, "schedule": str(run.schedule), "samples": count, "seconds": wall, "cpu_seconds": cpu,
        "latency": late, "threads": torch.get_num_threads(), "repeat": given.repeat,
    }  # fmt: skip
    if given.shape:
        lines.append("  what it costs in events depends on the data: say --data to have it counted")
        return Answer("\n".join(lines), data)
    costs = account(snn, *x, T=run.T, schedule=run.schedule)
    prices = {"events_per_neuron": costs.per_neuron, "additions": costs.ac, "multiplications": costs.mac,
              "ann_multiplications": costs.ann, "state": costs.state}  # fmt: skip
    return Answer("\n".join([*lines, str(costs)]), data | {"costs": plain(prices)})


def _timed(run: Callable[[], Any], repeat: int, progress: bool) -> tuple[float, float]:
    """The medians of wall time and of CPU time, seconds."""
    found = []
    with torch.no_grad():
        run()
        for _ in tqdm(range(repeat), "bench", leave=False, disable=not progress):
            begun = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return statistics.median(wall for wall, _ in found), statistics.median(cpu for _, cpu in found)


BENCH = Command(
    "bench",
    "time a network, and count what a run of it costs",
    ("snnpipe bench snn.safetensors --T 16 --data test.npz", "snnpipe bench snn.safetensors --T 16 --shape 8,1,28,28"),
    _arguments,
    _run,
)
