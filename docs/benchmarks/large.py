"""Memory of converting a decoder of 1 B parameters in bfloat16, and the check of one of 70 B without its weights.

python docs/benchmarks/large.py [--layers 20] [--out docs/benchmarks/large.md]

Each row is a process of its own: it imports, converts a decoder of two narrow layers, so that everything is loaded that
a conversion loads, and resets the kernel's mark of the peak.  What the peak is above from there on is set against the
bytes of the weights.  Weights are random; needs transformers, Linux and 6 GiB.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import snnpipe
from snnpipe import (
    TRANSFORMER_RULES,
    calibrate,
    cascade,
    check,
    correct_bias,
    fixed,
    instrument,
    maximum,
    percentile,
    pipe,
    replace,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.runtime import stretches

WIDTH, TOKENS, MIB = 2048, 8, 2**20
ONE_B = {"hidden_size": WIDTH, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 4,
         "vocab_size": 32000}  # fmt: skip
SEVENTY_B = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8,
             "vocab_size": 128256, "num_hidden_layers": 80}  # fmt: skip
TINY = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2,
        "vocab_size": 64, "num_hidden_layers": 2}  # fmt: skip


class Decoder(nn.Module):
    """Logits of vectors; tokens are whole numbers, which do not move, so a network of them would have no events."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        config = LlamaConfig(**sizes, use_cache=False, attn_implementation="eager")
        self.model = LlamaForCausalLM(config).to(torch.bfloat16).eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs_embeds=x, use_cache=False).logits
        return logits


def on_meta(**sizes: int) -> Decoder:
    """A decoder without weights."""
    with torch.device("meta"):
        return Decoder(**sizes).eval()


def with_buffers(decoder: Decoder) -> Decoder:
    """What is computed from the configuration is not in a file of weights."""
    rotary = decoder.model.model.rotary_emb
    decoder.model.model.rotary_emb = type(rotary)(decoder.model.config)
    return decoder.eval()


def drawn(**sizes: int) -> Decoder:
    """A decoder with random weights, drawn in place: it is never there in float32."""
    decoder = with_buffers(on_meta(**sizes).to_empty(device="cpu"))
    with torch.no_grad():
        for p in decoder.parameters():
            p.fill_(1.0) if p.ndim == 1 else p.normal_(0.0, 0.02)
    return decoder


def vectors(width: int, batch: int = 1, device: str = "cpu") -> Tensor:
    """Something to run a decoder on."""
    return torch.randn(batch, TOKENS, width, device=device).to(torch.bfloat16)


# what is measured


def memory(*names: str) -> int:
    """Bytes that the kernel says this process takes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.split(":")[0] in names)


@contextmanager
def watched(found: dict[str, float]) -> Iterator[None]:
    """Note the peak of all memory, that of memory without a file behind it, and the time."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    begin, anonymous, start = memory("VmRSS"), memory("RssAnon"), time.perf_counter()
    most, done = [anonymous], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], memory("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    yield
    done.set()
    watching.join()
    found |= {"peak": memory("VmHWM") - begin, "anonymous": most[0] - anonymous, "seconds": time.perf_counter() - start}


class There:
    """Plays another device by copies, and counts the bytes of those that are there at once."""

    def __init__(self) -> None:
        self.bytes = self.most = 0

    def brought(self, value: Any, device: torch.device | None) -> Any:
        """A copy."""
        if not isinstance(value, Tensor):
            return value
        copy = value.clone()
        self._count(copy.nbytes)
        weakref.finalize(copy, self._count, -copy.nbytes)
        return copy

    def _count(self, added: int) -> None:
        self.bytes += added
        self.most = max(self.most, self.bytes)


def rate(share: bool, statistic: Any, x: Tensor) -> Callable[[nn.Module], Any]:
    """A decoder with neurons before every product, calibrated on a few vectors."""

    def convert(model: nn.Module) -> Any:
        return pipe(
            model, trace(example=x, unsafe_share=share), instrument(rules=TRANSFORMER_RULES, statistic=statistic),
            calibrate([x]), replace(neuron=cascade(n=4)), to_snn(unsafe_share=share),
        )  # fmt: skip

    return convert


def temporal(share: bool, x: Tensor) -> Callable[[nn.Module], Any]:
    """The exact temporal-difference network."""
    return lambda model: pipe(model, trace(example=x, unsafe_share=share), td_rewrite, to_snn(unsafe_share=share))


def corrected(x: Tensor, T: int = 2) -> Callable[[nn.Module], Any]:
    """With corrected biases."""
    return lambda model: pipe(
        model, trace(example=x, unsafe_share=True), instrument(rules=TRANSFORMER_RULES, statistic=maximum()),
        calibrate([x]), replace(neuron=cascade(n=4)), correct_bias([x], T=T, device="cpu"), to_snn(unsafe_share=True),
    )  # fmt: skip


CASES: dict[str, tuple[str, Callable[[Tensor], Callable[[nn.Module], Any]]]] = {
    "TD": ("TD", lambda x: temporal(True, x)),
    "TD copies": ("TD, with copies (the default)", lambda x: temporal(False, x)),
    "rate": ("RATE, `maximum()`", lambda x: rate(True, maximum(), x)),
    "rate percentile": ("RATE, `percentile(99.9)`", lambda x: rate(True, percentile(99.9), x)),
    "rate copies": ("RATE, `maximum()`, with copies (the default)", lambda x: rate(False, maximum(), x)),
    "mapped": ("RATE, `correct_bias(T=2)`, weights in a mapped file", corrected),
    "lent": ("the same, each layer copied while it is at work", corrected),
}


def measure(case: str, layers: int) -> dict[str, float]:
    """One row, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {**ONE_B, "num_hidden_layers": layers}
    CASES[case][1](vectors(64))(drawn(**TINY))
    found: dict[str, float] = {"loaded": memory("VmRSS")}
    with tempfile.TemporaryDirectory() as folder:
        model = drawn(**sizes)
        if case in ("mapped", "lent"):
            torch.save(model.state_dict(), f"{folder}/weights.pt")
            model = with_buffers(on_meta(**sizes))
            gc.collect()
            model.load_state_dict(torch.load(f"{folder}/weights.pt", mmap=True), assign=True)
        if case == "lent":  # as on another device: a copy of each tensor that is brought there
            there = There()
            stretches.brought = there.brought
        found["weights"] = sum(p.numel() * p.element_size() for p in model.parameters())
        x = vectors(WIDTH)
        with torch.no_grad(), watched(found):
            snn = CASES[case][1](x)(model)
        if case == "lent":
            found["at_once"] = there.most
        own = {p.data_ptr() for p in model.parameters()}
        found["copied"] = sum(p.numel() * p.element_size() for p in snn.parameters() if p.data_ptr() not in own)
        with torch.no_grad():
            want, y = model(x), snn(x, T=4)
        found["error"] = float((y.float() - want.float()).norm() / want.float().norm())
    return found


def checked() -> dict[str, float]:
    """The check of 70 B parameters, without and with neurons."""
    torch.set_num_threads(1)
    temporal(True, vectors(64))(drawn(**TINY))
    found: dict[str, float] = {"loaded": memory("VmRSS")}
    with watched(found):
        model = on_meta(**SEVENTY_B)
        put = (instrument(rules=TRANSFORMER_RULES), replace(neuron=cascade(n=4), threshold=fixed(1.0)))
        verdict = check(pipe(model, trace(example=vectors(8192, 2, "meta")), *put))
    found |= {"weights": 2.0 * sum(p.numel() for p in model.parameters()), "operators": len(verdict.nodes)}
    small = {**TINY, "num_hidden_layers": 4}
    x = vectors(64, 2)
    real, empty = (check(pipe(m, trace(example=x), *put)) for m in (drawn(**small), on_meta(**small)))
    same = (real.nodes, real.ann) == (empty.nodes, empty.ann)
    return found | {"same": float(same), "ok": float(verdict.ok), "ann": float(verdict.ann or 0)}


def table(rows: dict[str, dict[str, float]], verdict: dict[str, float]) -> str:
    """The page."""
    weights, loaded = (next(iter(rows.values()))[key] for key in ("weights", "loaded"))
    lines = [
        "# Large models", "",
        f"`python docs/benchmarks/large.py`; torch {torch.__version__}, snnpipe {snnpipe.__version__}, one thread of a",
        f"CPU. A decoder of {weights / 2e9:.2f} B parameters in bfloat16, {weights / MIB:.0f} MiB, is converted on one",
        f"sequence of {TOKENS} vectors. Weights are shared, `trace(unsafe_share=True)`, `to_snn(unsafe_share=True)`,",
        "unless the row says otherwise. Columns are parts of the weights, above what was there with the model before",
        "the conversion began: the peak of all memory, that of memory without a file behind it, and the weights that",
        "the network has of its own.",
        f"The process takes {loaded / MIB:.0f} MiB without the model, with all that it loads.", "",
        "| conversion | peak | without a file | own weights | s | off at T = 4 |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for case, found in rows.items():
        parts = " | ".join(f"{found[key] / found['weights']:.3f}" for key in ("peak", "anonymous", "copied"))
        lines.append(f"| {CASES[case][0]} | {parts} | {found['seconds']:.0f} | {100 * found['error']:.1f} % |")
    lent, took, mib = rows["lent"]["at_once"], verdict["seconds"], verdict["peak"] / MIB
    lines += [
        "", "The last row plays another device by copies, as `correct_bias(device=)` would bring them there: at most",
        f"{lent / MIB:.0f} MiB of weights and inputs are there at once, {lent / weights:.3f} of the weights.",
        "", f"The check of {verdict['weights'] / 2e9:.1f} B parameters on the meta device, with neurons before every",
        f"product, takes {took:.0f} s and {mib:.0f} MiB for {verdict['operators']:.0f} operators, and counts",
        f"{verdict['ann']:.3g} multiplications of the ANN on {TOKENS} vectors. On a decoder of 4 narrow layers the",
        f"verdict is {'the same' if verdict['same'] else 'NOT the same'} with weights.",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Measure each row in a process of its own, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--case", help="measure one row, here, and print it as JSON")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(checked() if given.case == "check" else measure(given.case, given.layers)))
        return
    rows = {}
    for case in (*CASES, "check"):
        line = [sys.executable, "-W", "ignore", __file__, "--case", case, "--layers", str(given.layers)]
        answer = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows[case] = json.loads(answer.splitlines()[-1])
        print(case, rows[case], file=sys.stderr, flush=True)
    verdict = rows.pop("check")
    page = table(rows, verdict)
    if given.out:
        given.out.write_text(page + "\n")
    print(page)


if __name__ == "__main__":
    main()
