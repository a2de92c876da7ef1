"""The law over PyTorch's own operator table, in every spelling: nightly, not part of a plain test run.

    python -m property_tests.nightly_operators [--only NAME] [--spelling WORD] [--front symbolic] [--json FILE]

Each operator of ``torch.testing._internal.common_methods_invocations.op_db`` (needs ``expecttest``) is called on a few
of its own samples, as a function, a method, an operator, in place, with ``out=``, and through views; ``extras`` adds
what the table has not.  Each is traced by both front ends and carried to TD and RATE, plain and behind neurons, and
held to the law at every step (``operators/law.py``).  What falls short goes to ``--json``; ``--resume FILE`` keeps all
results, one operator a line, and goes on where it was left.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from property_tests.operators import extras, table
from property_tests.operators.calls import KEPT
from property_tests.operators.law import FRONTS, judged
from property_tests.operators.outcomes import WORDS, Outcome
from property_tests.operators.subject import Eager, Subject

PER_TRIAL, PER_OPERATOR = 60, 600  # seconds


def trials(name: str, op: Any, options: argparse.Namespace) -> Iterator[tuple[str, int, Subject]]:
    """``(spelling, sample, subject)`` for everything that is to be tried of an operator."""
    if op is None:
        formula, inputs, constants = extras.written(name)
        for k, kept in enumerate(KEPT[:2] if constants else KEPT[:1]):
            yield name.partition(":")[0], k, Subject(formula, inputs, constants, kept, name.startswith("kept"))
        return
    for number, made in enumerate(table.calls(op, options.samples)):
        for spelt in table.spellings(op, made, writing=number == 0 or not made.floats()):
            kept = KEPT[(number + zlib.crc32(f"{name} {spelt.spelling}".encode())) % (2 if spelt.kept else 3)]
            yield spelt.spelling, number, Subject(
                spelt.call.formula(spelt.apply), spelt.call.inputs, spelt.call.constants() | dict(spelt.kept), kept,
                bool(spelt.kept), op.name.startswith(table.UNINITIALISED),
            )  # fmt: skip


class _TooLong(Exception):
    """A trial took more than its time."""


def _alarm(*_: Any) -> None:
    raise _TooLong(f"longer than {PER_TRIAL} s")


def tried(name: str, op: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every trial of one operator."""
    found = []
    signal.signal(signal.SIGALRM, _alarm)
    for spelling, number, subject in trials(name, op, options):
        if options.spelling not in spelling:
            continue
        eager = None
        for front in options.front:
            signal.alarm(PER_TRIAL)
            try:
                eager = eager or Eager.of(subject)
                results = judged(subject, eager, front)
            except Exception as error:
                results = {("plain", code): Outcome("other", f"harness {type(error).__name__}", str(error)[:300])
                           for code in ("TD", "RATE")}  # fmt: skip
            finally:
                signal.alarm(0)
            for (place, code), outcome in results.items():
                found.append({
                    "op": name, "sample": number, "spelling": spelling, "front": front, "place": place, "code": code,
                    "kept": subject.kept, "outcome": outcome.word, "kind": outcome.kind, "text": outcome.text,
                })  # fmt: skip
    return found


def _work(ours: Any, rows: dict[str, Any], options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # torch.export prints whole programs
    while True:
        name = ours.recv()
        if name is None:
            return
        try:
            ours.send(tried(name, rows[name], options))
        except Exception as error:
            ours.send([_lost(name, f"{type(error).__name__}: {error}")])


def _lost(name: str, why: str) -> dict[str, Any]:
    return {
        "op": name, "sample": -1, "spelling": "-", "front": "-", "place": "-", "code": "-", "kept": "-",
        "outcome": "other", "kind": "lost", "text": why,
    }  # fmt: skip


def run(rows: dict[str, Any], names: list[str], options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Try the operators in processes; one that hangs or dies is lost and its process is replaced."""
    context = multiprocessing.get_context("fork")
    waiting, busy = list(reversed(names)), {}

    def start() -> tuple[Any, Any]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, rows, options), daemon=True)
        process.start()
        theirs.close()
        return ours, process

    idle = [start() for _ in range(min(options.workers, len(names)))]
    while waiting or busy:
        while idle and waiting:
            pipe, process = idle.pop()
            name = waiting.pop()
            pipe.send(name)
            busy[pipe] = (name, process, time.monotonic())
        for pipe in wait(list(busy), timeout=1.0):
            name, process, _ = busy.pop(pipe)
            try:
                found = pipe.recv()
            except EOFError:
                found = None
            if found is None:  # here, since an exception being handled would be the context of all in a new process
                process.join()
                found = [_lost(name, f"the process died: {process.exitcode}")]
                pipe, process = start()
            yield name, found
            idle.append((pipe, process))
        for pipe, (name, process, begun) in list(busy.items()):
            if time.monotonic() - begun > PER_OPERATOR:
                process.kill()
                del busy[pipe]
                yield name, [_lost(name, f"longer than {PER_OPERATOR} s")]
                idle.append(start())
    for pipe, _ in idle:
        pipe.send(None)


def table_of(results: list[dict[str, Any]]) -> str:
    """Outcomes by spelling and front end."""
    counts = Counter((r["spelling"], r["front"], r["outcome"]) for r in results)
    rows = sorted({(r["spelling"], r["front"]) for r in results})
    lines = [f"{'spelling':18} {'front':9}" + "".join(f"{word:>15}" for word in WORDS)]
    lines += [f"{s:18} {f:9}" + "".join(f"{counts[s, f, word]:15}" for word in WORDS) for s, f in rows]
    totals = Counter(r["outcome"] for r in results)
    return "\n".join([*lines, f"{'all':18} {'':9}" + "".join(f"{totals[word]:15}" for word in WORDS)])


def main() -> int:
    """Run the table; the exit code is 1 where anything is wrong or an exception nobody meant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="operators whose name holds this")
    parser.add_argument("--spelling", default="", help="spellings that hold this")
    parser.add_argument("--front", choices=FRONTS, action="append")
    parser.add_argument("--samples", type=int, default=3, help="of each operator, at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write what is not exact")
    parser.add_argument("--resume", type=Path, help="read and append results")
    options = parser.parse_args()
    options.front = options.front or list(FRONTS)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = {table.label(op): op for op in table.operators()} | dict.fromkeys(extras.names())
    done: dict[str, Any] = {}
    if options.resume is not None and options.resume.exists():
        done = dict(json.loads(line) for line in options.resume.read_text().splitlines())
    names = [name for name in rows if options.only in name and name not in done]
    names.sort(key=lambda name: zlib.crc32(name.encode()))  # what is done first is a sample of the whole
    begun = time.monotonic()
    for k, (name, results) in enumerate(run(rows, names, options), 1):
        done[name] = results
        if options.resume is not None:
            with options.resume.open("a") as file:
                file.write(json.dumps([name, results]) + "\n")
        short = Counter(r["outcome"] for r in results)
        print(f"\r{k}/{len(names)} {time.monotonic() - begun:.0f} s {name} {dict(short)}"[:118].ljust(118), end="",
              flush=True)  # fmt: skip
    results = [r for name in done if options.only in name for r in done[name]]
    print("\n" + table_of(results))
    if options.json is not None:
        options.json.write_text(json.dumps([r for r in results if r["outcome"] not in ("exact",)], indent=1))
    return int(any(r["outcome"] in ("wrong", "other") for r in results))


if __name__ == "__main__":
    sys.exit(main())
