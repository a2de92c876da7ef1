"""A language model that writes: what it foresees, what it writes and what a token costs, spiking and not.

    python docs/benchmarks/writing.py [--write]

A small Llama (four layers, of ``transformers``) learns the characters of Python's own documentation
(``pydoc_data.topics``), and is converted.  *Perplexity* is that of text it was not trained on; *equal* the share of the
32 characters it writes behind each of 16 prompts, greedily, that are the ANN's, and *prefix* how many of them come
before the first that is not.  A token's cost is measured in texts that get longer, with the cache and reading the whole
text anew.  ``--write`` writes ``writing.md``.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from snnpipe import (
    TRANSFORMER_RULES,
    calibrate,
    cascade,
    generate,
    instrument,
    mmse,
    percentile,
    perplexity,
    pipe,
    prompt,
    replace,
    signed_memory,
    td_rewrite,
    to_module,
    to_snn,
    trace_decoder,
    wave,
)

HERE = Path(__file__).parent
NEURONS = {
    "ternary": (signed_memory(), percentile(99.9)),
    "four wires, `cascade(n=4)`": (cascade(n=4), percentile(99.9)),
    "four wires, thresholds `mmse(T=8)`": (cascade(n=4), mmse(T=8)),
}
LENGTH, WRITTEN = 96, 32


def texts() -> tuple[Tensor, Tensor]:
    """Characters to learn, and others: every tenth stretch."""
    data = torch.tensor(list("\n".join(topics[key] for key in sorted(topics)).encode("ascii", "ignore")))
    parts = data[: len(data) // 960 * 960].view(-1, 960)
    kept = torch.arange(len(parts)) % 10 == 9
    return parts[~kept].flatten(), parts[kept]


def trained(data: Tensor, steps: int) -> LlamaForCausalLM:
    """The model, after so many batches of 16 stretches."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=128, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024,
    ))  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, steps)
    for _ in range(steps):
        begins = torch.randint(0, len(data) - LENGTH - 1, (16,))
        batch = torch.stack([data[k : k + LENGTH + 1] for k in begins.tolist()])
        loss = model(input_ids=batch, labels=batch).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
    return model.eval()


def compared(state: Any, ids: Tensor, ann: Tensor, snn: Any, run: dict[str, Any]) -> tuple[float, float]:
    """The share of the characters written that are the ANN's, and how many come before the first that is not."""
    apart = generate(snn, ids, tokens=WRITTEN, **run)[:, ids.shape[1] :] != ann[:, ids.shape[1] :]
    first = torch.where(apart.any(1), apart.float().argmax(1), WRITTEN)
    return 1 - float(apart.float().mean()), float(first.float().mean())


def timed(work: Any) -> float:
    """The least of three runs, in seconds."""
    found = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def quality(state: Any, calibration: list[Tensor], others: list[Tensor]) -> list[str]:
    """The table of what is foreseen and written."""
    ids = torch.cat([part[:8, :LENGTH // 3] for part in others[:2]])
    own, ann = perplexity(state, others), generate(state, ids, tokens=WRITTEN)
    lines = [
        f"ANN: {own}.", "", "| network | T | schedule | perplexity | to the ANN's | equal % | prefix |",
        "|---|--:|---|--:|--:|--:|--:|",
    ]  # fmt: skip
    td = pipe(state, td_rewrite, to_snn)
    same, prefix = compared(state, ids, ann, td, {"T": 4})
    found = perplexity(td, others, T=4)
    lines.append(f"| TD, exact | 4 | step | {found.value:.4f} | {found.value / own.value:.4f} | "
                 f"{100 * same:.1f} | {prefix:.1f} |")  # fmt: skip
    batches = [prompt(state, x) for x in calibration]
    for name, (neuron, threshold) in NEURONS.items():
        sited = pipe(state, instrument(rules=TRANSFORMER_RULES, statistic=threshold), calibrate(batches))
        snn = pipe(sited, replace(neuron=neuron, threshold=threshold), to_snn)
        for T in (4, 8, 16):
            for schedule in ("step", wave(4), "layer"):
                run = {"T": T, "schedule": schedule}
                same, prefix = compared(state, ids, ann, snn, run)
                found = perplexity(snn, others, **run)
                lines.append(f"| {name} | {T} | {schedule} | {found.value:.4f} | {found.value / own.value:.4f} | "
                             f"{100 * same:.1f} | {prefix:.1f} |")  # fmt: skip
                print(lines[-1], flush=True)
    return lines


def read_anew(network: Any, state: Any, text: Tensor, run: dict[str, Any]) -> None:
    """Write 128 tokens without the cache."""
    for _ in range(128):
        with torch.no_grad():
            logits = network(**prompt(state, text), **run)["logits"]
        text = torch.cat([text, logits[:, -1].argmax(-1, keepdim=True)], 1)


def cost(state: Any, calibration: list[Tensor], others: list[Tensor]) -> list[str]:
    """The table of what writing costs."""
    sited = pipe(state, instrument(rules=TRANSFORMER_RULES), calibrate([prompt(state, calibration[0])]))
    networks = {
        "ANN": (state, {}),
        "TD, T = 8": (pipe(state, td_rewrite, to_snn), {"T": 8}),
        "`cascade(n=4)`, T = 8": (pipe(sited, replace(neuron=cascade(n=4)), to_snn), {"T": 8}),
        "`cascade(n=4)`, T = 8, layer": (
            pipe(sited, replace(neuron=cascade(n=4)), to_snn), {"T": 8, "schedule": "layer"}
        ),
    }  # fmt: skip
    lengths, ids = (32, 64, 128, 256), others[0][:1, :8]
    lines = [
        "| network | " + " | ".join(f"{n} tokens s" for n in lengths) + " | last doubling | 128 anew s |",
        "|---|" + "--:|" * (len(lengths) + 2),
    ]
    for name, (network, run) in networks.items():
        generate(network, ids, tokens=4, **run)
        found = [timed(lambda: generate(network, ids, tokens=n, **run)) for n in lengths]  # noqa: B023
        anew = timed(lambda: read_anew(network if run else to_module(network), state, ids, run))  # noqa: B023
        cells = " | ".join(f"{seconds:.2f}" for seconds in found)
        lines.append(f"| {name} | {cells} | {found[-1] / found[-2]:.2f} | {anew:.2f} |")
        print(lines[-1], flush=True)
    return lines


HEAD = """# A language model that writes

    python docs/benchmarks/writing.py --write

A Llama of four layers (128 wide, four heads, two of them with keys and values, 0.6 M parameters) that learned the
characters of Python's documentation in {steps} batches, converted with its cache ([how](../writing.md)).  *Perplexity*
is that of {held} characters it did not learn, in stretches of {length}.  *Equal* is the share of the 32 characters
written greedily behind each of 16 prompts that are the ANN's, and *prefix* how many of the 32 come before the first
that is not: one that differs changes all behind it.  Python {python}, torch {torch}, {threads} thread(s).

"""

COST = """## What a token costs

Seconds for so many tokens, one text, a prompt of 8; each token is a run of T steps on one token.  Linear is 2 for a
doubling.  *Anew* reads the whole text again for each of 128 tokens."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--write", action="store_true", help="write writing.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    data, held = texts()
    model = trained(data, options.steps)
    calibration = [data[k * 16 * LENGTH :][: 16 * LENGTH].view(16, LENGTH) for k in range(4)]
    others = list(held[:, :LENGTH][:96].split(24))
    state = trace_decoder(model, example=calibration[0][:, :8])
    head = HEAD.format(
        steps=options.steps, held=sum(x.numel() for x in others), length=LENGTH, python=platform.python_version(),
        torch=torch.__version__, threads=torch.get_num_threads(),
    )  # fmt: skip
    lines = [*quality(state, calibration, others), "", COST, "", *cost(state, calibration, others), ""]
    text = head + "\n".join(lines)
    print(text)
    if options.write:
        (HERE / "writing.md").write_text(text)


if __name__ == "__main__":
    main()
