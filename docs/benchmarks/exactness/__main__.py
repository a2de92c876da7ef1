"""Is the temporal network the ANN?  Models of other libraries, a part at a time, against what was found before.

    python docs/benchmarks/exactness [--family timm ...] [--only REGEX] [--part 3/7] [--write]
    python docs/benchmarks/exactness --cost [--write]

Each model has random weights and is carried to TD and RATE.  Inputs are split at random, unequally and element by
element, into T = 2 events; after every step t the decoded output is compared with the ANN on the decoded input: the
largest ``|decoded y_t - ANN(decoded x_t)| / |ANN(decoded x_t)|`` is reported.  Decoding is done here, in float64.
``moves`` is the largest change of the ANN's output since the first step, relative to it: there was something to follow.
All is done on both forms: as `td_rewrite` does it, on decoded values where no neuron follows, and with a neuron behind
the output that passes its events on, so that whatever may work on events does; rows on values alone are of an earlier
run, or of inputs that do not move.  Token ids, time steps and edges of graphs are the same at every step.  Of a
detector each part that is a network is measured on what the detector hands it; in float64 the detector then runs with
the spiking part in its place, and its boxes, scores and masks are compared too.

A model is *exact* (1e-5 in float32, and 1e-12 in float64, if done), *refused* by name (`SnnpipeError`),
*wrong*, or ends in another *error*; or it comes to a *limit*: 150 M parameters, 120 s of processor time, 4 GiB.  Wrong
and error are faults of snnpipe.  Each model runs in a process of its own, on one thread.

``--part 3/7`` is every seventh model from the third: a part a night.  What is new against ``record.jsonl`` is said at
the end; a model that was exact and is not, or is newly wrong or in error, makes the exit status 1.  With ``--write``
the record and exactness.md are written, after each model.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import re
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from costs import cost
from measuring import Built, outcome
from other_models import diffusers, graphs
from timm_models import timm
from transformers_models import transformers
from vision import Builders, classification, detection, segmentation, video

FAMILIES: dict[str, Callable[[], Builders]] = {
    "torchvision, classification": classification, "torchvision, segmentation": segmentation,
    "torchvision, video": video, "torchvision, parts of detectors": detection, "timm": timm,
    "transformers": transformers, "diffusers": diffusers, "graphs": graphs,
}  # fmt: skip
BAD = ("wrong", "error")
RECORD, PAGE = Path(__file__).with_name("record.jsonl"), Path(__file__).parent.with_suffix(".md")
COSTS = Path(__file__).with_name("costs.txt")
SECONDS, GIB = 120, 4
Record = dict[tuple[str, str], dict[str, Any]]
COLUMNS = {"name": "model", "input": "input", "params": "M params", "front": "front end", "nodes": "nodes",
           "seconds": "trace s", "on": "on", "float32": "float32", "float64": "float64", "moves": "moves"}  # fmt: skip


def resident(pid: int) -> float:
    """GiB of memory that a process holds."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def alone(build: Callable[[], Built], seconds: int, gib: float, single: bool) -> dict[str, Any]:
    """What is found of a model in a process of its own, within limits of processor time and memory."""
    context = multiprocessing.get_context("fork")  # the libraries are imported already
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        outcome(build, theirs.send, single=single)

    process = context.Process(target=work)
    process.start()
    theirs.close()
    found: dict[str, Any] = {}
    ended = ""
    while not ended:
        try:
            if ours.poll(0.2):
                found |= ours.recv()
        except EOFError:
            break
        if resident(process.pid or 0) > gib:
            ended = f"more than {gib:g} GiB"
            process.kill()
    process.join()
    ended = ended or {0: "", -24: f"more than {seconds} s"}.get(process.exitcode, f"exit {process.exitcode}")
    if not ended:
        return found
    if found.get("outcome") == "exact":  # float64 was what took too long
        return found | {"says": f"float64: {ended}"}
    kind = "limit" if ended.startswith("more") else "error"
    return found | {"outcome": kind, "says": ended}


def read() -> Record:
    lines = RECORD.read_text().splitlines() if RECORD.exists() else []
    return {(row["family"], row["name"]): row for row in map(json.loads, lines)}


def news(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """What is new about a model, if anything."""
    if before is None:
        return f"new name, {now['outcome']}"
    if before["outcome"] != now["outcome"]:
        return f"newly {now['outcome']}, was {before['outcome']}"
    if before.get("says", "").split(":")[0] != now.get("says", "").split(":")[0]:
        return f"still {now['outcome']}, by another error"
    return ""


def cell(row: dict[str, Any], key: str) -> str:
    value = row.get(key, "both" if key == "on" else "")
    if isinstance(value, float) and key in ("float32", "float64", "moves"):
        return f"{value:.1e}"
    return f"{value:.2f}" if key == "seconds" and value != "" else str(value)


def page(record: Record) -> str:
    """The record as Markdown: a tally, families with what is exact, and the rest with what was said."""
    intro = "\n\n".join(__doc__.split("\n\n")[2:4]).replace("``", "`")
    text = [f"# Exactness of the temporal network\n\nWritten by `exactness`, torch {torch.__version__}.\n\n{intro}\n"]
    families = {family: [row for row in record.values() if row["family"] == family] for family in FAMILIES}
    kinds = [k for k in ("exact", "refused", "limit", *BAD) if any(row["outcome"] == k for row in record.values())]
    text.append(f"| family | models | {' | '.join(kinds)} |\n|---|--:|" + "--:|" * len(kinds))
    for family, rows in families.items():
        counts = Counter(row["outcome"] for row in rows)
        text.append(f"| {family} | {len(rows)} | " + " | ".join(str(counts[k]) for k in kinds) + " |")
    rest = [row for row in record.values() if row["outcome"] != "exact" or row.get("says")]
    text.append("\n## Refusals and remarks\n")
    text += [f"- {row['family']}, {row['name']}: {row['outcome']}. {row.get('says', '')}" for row in rest]
    for family, rows in families.items():
        text.append(f"\n## {family}\n\n| {' | '.join(COLUMNS.values())} |\n|---|" + "--:|" * (len(COLUMNS) - 1))
        good = [row for row in rows if row["outcome"] == "exact"]
        text += [f"| {' | '.join(cell(row, key) for key in COLUMNS)} |" for row in good]
    if COSTS.exists():
        text.append(f"\n## Cost: T = 8, batch of 2, against the ANN on the same 16 inputs\n\n{COSTS.read_text()}")
    return "\n".join(text).rstrip() + "\n"


def write(new: Record) -> None:
    """Put what is new into the record, which other runs may be writing to, and write the page."""
    order = list(FAMILIES)
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = dict(sorted((read() | new).items(), key=lambda item: (order.index(item[0][0]), item[0][1].lower())))
        RECORD.write_text("".join(json.dumps(row) + "\n" for row in record.values()))
        PAGE.write_text(page(record))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, nargs="+", default=list(FAMILIES))
    parser.add_argument("--only", default="", help="regular expression over model names")
    parser.add_argument("--part", default="1/1", help="i/n: every n-th model from the i-th")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="processor time for a model")
    parser.add_argument("--gib", type=float, default=GIB, help="memory for a model")
    parser.add_argument("--single", action="store_true", help="float32 only, where time is short")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--page", action="store_true", help="write the page again from the record")
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if args.cost:
        lines = cost()
        if args.write:
            COSTS.write_text("\n".join(lines) + "\n")
            write({})
        return 0
    if args.page:
        write({})
        return 0
    torch.manual_seed(0)
    models = [(family, name, build) for family in args.family for name, build in FAMILIES[family]().items()]
    first, apart = map(int, args.part.split("/"))
    said, worse = list[str](), False
    for family, name, build in models[first - 1 :: apart]:
        if not re.search(args.only, name):
            continue
        start = time.perf_counter()
        row = {"family": family, "name": name} | alone(build, args.seconds, args.gib, args.single)
        before = read().get((family, name))
        new = news(before, row)
        worse |= bool(new) and (row["outcome"] in BAD or (before is not None and before["outcome"] == "exact"))
        said += [f"{family}, {name}: {new}"] * bool(new)
        figures = " ".join(cell(row, key) for key in ("float32", "float64", "moves"))
        took = time.perf_counter() - start
        print(f"{family}, {name}: {row['outcome']} {figures} {took:.0f} s {row.get('says', '')}", flush=True)
        if args.write and row["outcome"] != "unavailable":
            write({(family, name): row})
    print("\nNew against the record:", *(said or ["nothing"]), sep="\n  ")
    return int(worse)


if __name__ == "__main__":
    raise SystemExit(main())
