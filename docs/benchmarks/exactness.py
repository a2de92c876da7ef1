"""Is the temporal network the ANN?  A table over torchvision, timm and transformers.

    python docs/benchmarks/exactness.py [--family torchvision] [--only REGEX] [--all] [--write]
    python docs/benchmarks/exactness.py --cost [--write]

Each model has random weights and is carried to TD, RATE and DIFFERENTIAL.  An input is split at random, unequally and
element by element, into T = 1, 2 and 5 events; after every step t the decoded output is compared with the ANN on the
decoded input: the largest ``|decoded y_t - ANN(decoded x_t)| / |ANN(decoded x_t)|`` is reported.  Decoding is done
here, in float64.  ``moves`` is the largest change of the ANN's output since the first step, relative to it: there was
something to follow.  Token ids are the same at every step.

With ``--write`` the rows go to exactness.md as they come, and those of other models stay.
"""

from __future__ import annotations

import argparse
import inspect
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnpipe import DIFFERENTIAL, RATE, TD, Code, SnnpipeError, pipe, td_rewrite, to_snn, trace
from snnpipe.frozen import leaves

sys.path.insert(0, str(Path(__file__).parent))
from cost import seconds, without_fake_kernels

LIMIT = {torch.float32: 1e-5, torch.float64: 1e-12}
COST, REMARKS = "Cost: T = 8, batch of 2, against the ANN on the same 16 inputs", "Exceptions and refusals"
PAGE = Path(__file__).with_suffix(".md")
HEAD = "| model | input | M params | front end | nodes | trace s | float32 | float64 | moves |\n|---" + "|--:" * 8 + "|"
Built = tuple[nn.Module, Tensor]  # a model and an input for it
TIMM = """
vit_tiny_patch16_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 beit_base_patch16_224 cait_xxs24_224
eva02_tiny_patch14_224 swin_tiny_patch4_window7_224 twins_svt_small pvt_v2_b0 xcit_tiny_12_p16_224 crossvit_tiny_240
pit_ti_224 levit_128s tnt_s_patch16_224 volo_d1_224 coatnet_nano_rw_224 maxvit_nano_rw_256 davit_tiny focalnet_tiny_srf
hiera_tiny_224 mobilevit_xxs mobilevitv2_050 edgenext_xx_small efficientformer_l1 poolformer_s12 caformer_s18 dpn68
mixer_s16_224 resmlp_12_224 gmlp_ti16_224 convmixer_768_32 convnext_atto convnext_tiny inception_next_tiny nfnet_f0
mambaout_femto fastvit_t8 repvit_m1 starnet_s1 efficientnet_b0 mobilenetv3_small_100 mobilenetv4_conv_small vovnet39a
mobilenetv4_hybrid_medium ghostnetv2_100 rexnet_100 resnet18 res2net50_14w_8s regnety_002 hrnet_w18_small sequencer2d_s
"""


def smallest(create: Callable[..., nn.Module], ways: list[tuple[dict[str, int], int]]) -> Built:
    """The model, made in the first of the ways (options, pixels) in which it takes an image."""
    for options, size in ways:
        try:
            model, x = create(**options).eval(), torch.randn(2, 3, size, size)
            model(x)
            break
        except Exception:
            if (options, size) == ways[-1]:
                raise
    return model, x


def torchvision_models() -> dict[str, Callable[[], Built]]:
    with without_fake_kernels():
        from torchvision import models

    def build(name: str) -> Built:
        small = 56 if "14" in name else 64  # a multiple of the patch
        options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        ways = [({"image_size": small}, small)] if name.startswith("vit") else [({}, 64), ({}, 96), ({}, 224)]
        return smallest(partial(models.get_model, name, **options), ways)

    return {name: partial(build, name) for name in models.list_models(module=models)}


def timm_models() -> dict[str, Callable[[], Built]]:
    with without_fake_kernels():
        import timm

    def build(name: str) -> Built:
        small, usual = 56 if "14" in name else 64, timm.get_pretrained_cfg(name).input_size[1]
        return smallest(partial(timm.create_model, name), [({"img_size": small}, small), ({}, 64), ({}, usual)])

    return {name: partial(build, name) for name in TIMM.split()}


class Call(nn.Module):
    """A transformers model with one tensor as its input, given as the argument ``name``."""

    def __init__(self, model: nn.Module, name: str, output: str) -> None:
        super().__init__()
        self.model, self.name, self.output = model, name, output

    def forward(self, x: Tensor) -> Tensor:
        return self.model(**{self.name: x})[self.output]


def transformers_models() -> dict[str, Callable[[], Built]]:
    with without_fake_kernels():
        import transformers as tr
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

    def build(cls: Any, config: Any, options: dict[str, Any], x: tuple[str, Tensor], output: str) -> Built:
        return Call(cls(config(**options)), x[0], output).eval(), x[1]

    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    own = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}
    text, eyes = own | size | {"max_position_embeddings": 40}, size | {"image_size": 64, "patch_size": 16}
    llama = text | {"num_key_value_heads": 2}
    distil = {"vocab_size": 100, "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4}
    gpt2 = own | {"n_positions": 40, "n_embd": 64, "n_layer": 2, "n_head": 4}
    t5 = {"vocab_size": 100, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    whisper = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
    whisper |= {"num_mel_bins": 20, "max_source_positions": 20}
    words, hidden = ("inputs_embeds", torch.randn(2, 12, 64)), "last_hidden_state"
    ids, pixels = ("input_ids", torch.arange(24).view(2, 12) * 7 % 100), ("pixel_values", torch.randn(2, 3, 64, 64))
    sound = ("input_features", torch.randn(2, 20, 40))
    table = {
        **{f"BERT, {x[0]}": (tr.BertModel, tr.BertConfig, text, x, hidden) for x in (words, ids)},
        "RoBERTa, inputs_embeds": (tr.RobertaModel, tr.RobertaConfig, text, words, hidden),
        "DistilBERT, inputs_embeds": (tr.DistilBertModel, tr.DistilBertConfig, distil, words, hidden),
        **{f"GPT-2, {x[0]}": (tr.GPT2LMHeadModel, tr.GPT2Config, gpt2, x, "logits") for x in (words, ids)},
        **{f"Llama, {x[0]}": (tr.LlamaForCausalLM, tr.LlamaConfig, llama, x, "logits") for x in (words, ids)},
        "Qwen2, inputs_embeds": (tr.Qwen2ForCausalLM, tr.Qwen2Config, llama, words, "logits"),
        "ViT": (tr.ViTModel, tr.ViTConfig, eyes, pixels, hidden),
        "CLIP vision": (tr.CLIPVisionModel, tr.CLIPVisionConfig, eyes, pixels, "pooler_output"),
        "CLIP text, input_ids": (tr.CLIPTextModel, tr.CLIPTextConfig, text, ids, hidden),
        "T5 encoder, inputs_embeds": (tr.T5EncoderModel, tr.T5Config, t5, words, hidden),
        "Whisper encoder": (WhisperEncoder, tr.WhisperConfig, whisper, sound, hidden),
    }
    return {name: partial(build, *rest) for name, rest in table.items()}


FAMILIES = {"torchvision": torchvision_models, "timm": timm_models, "transformers": transformers_models}


def settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Running statistics that bring the layer to size one half.  With the initial ones the signal dies in deep nets;
    with those of every channel deep random nets are chaotic: in float32 the ANN itself is far from float64."""
    size, like = inputs[0].square().mean(), torch.ones_like(norm.running_mean)
    norm.running_mean = 0.1 * size.sqrt() * torch.randn_like(like)
    norm.running_var = 4 * size * (0.8 + 0.4 * torch.rand_like(like))


def randomise(model: nn.Module, x: Tensor) -> None:
    """No parameter is constant (zero heads, layer scales, biases), and batch norms know the layer before."""
    for p in model.parameters():
        if p.numel() > 1 and bool((p == p.flatten()[0]).all()):
            scale = 0.1 if p.ndim == 1 else p.shape[-1] ** -0.5
            p.copy_(p * (1 + 0.1 * torch.randn_like(p)) if p.flatten()[0].abs() > 0.5 else scale * torch.randn_like(p))
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    if norms:
        model(2 * x)  # decoded inputs may be larger than x on the way
    for hook in hooks:
        hook.remove()


def traced(model: nn.Module, x: Tensor) -> tuple[Any, str, float]:
    """State, front end, seconds: symbolic tracing, or else torch.export."""
    start = time.perf_counter()
    try:
        return trace(model), "symbolic", time.perf_counter() - start
    except SnnpipeError:
        if "example" not in inspect.signature(trace).parameters:
            raise
    start = time.perf_counter()
    return pipe(model, trace(example=x)), "export", time.perf_counter() - start


def decoded(events: Tensor, code: Code) -> Iterator[Tensor]:
    value = torch.zeros((), dtype=torch.float64)
    for t, event in enumerate(events, 1):
        clock = code.clock(t)
        value = clock.alpha * value + clock.a * event.double()
        yield value


def split(x: Tensor, code: Code, T: int) -> Tensor:
    """Random unequal events that decode to x at step T."""
    share = torch.rand(T, *x.shape, dtype=torch.float64) ** 2 + 0.02
    events, worth = share / share.sum(0) * x, 1.0
    for t in range(T, 0, -1):  # an event of step t is worth a_t alpha_{t+1} ... alpha_T in the end
        events[t - 1] /= worth * code.clock(t).a
        worth *= code.clock(t).alpha
    return events.to(x.dtype)


def floats(tree: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def distance(got: list[Tensor], expected: list[Tensor]) -> float:
    """Largest relative error over the outputs; not a number counts as infinite."""
    pairs = zip(got, expected, strict=True)
    worst = [((a.double() - b.double()).norm() / b.double().norm()).item() for a, b in pairs]
    return max(float("inf") if value != value else value for value in worst)


def measured(model: nn.Module, state: Any, x: Tensor) -> tuple[float, float]:
    """Largest error, and largest move of the ANN's output."""
    errors, moves = [], []
    for code in (TD, RATE, DIFFERENTIAL):
        snn = pipe(state, td_rewrite(code=code), to_snn)
        for T in (1, 2, 5):
            steps = [(x, None)] if not x.is_floating_point() else []  # token ids do not change
            if x.is_floating_point():
                events = split(x, code, T)
                outputs = [decoded(y, code) for y in floats(snn.sequence(events))]
                steps = [(X.to(x.dtype), [next(y) for y in outputs]) for X in decoded(events, code)]
            expected = [floats(model(X)) for X, _ in steps]
            moves += [distance(y, expected[0]) for y in expected]
            errors += [distance(Y or floats(snn(x, T=T)), y) for (_, Y), y in zip(steps, expected, strict=True)]
        del snn  # before the next one is made
    return max(errors), max(moves)


def row(name: str, build: Callable[[], Built], args: argparse.Namespace) -> tuple[str, str]:
    """The model's line of the table, and what there is to say about it."""
    torch.manual_seed(0)
    model, x = build()
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if millions > args.limit_params and not args.all:
        return "", f"left out, {millions:.0f} M parameters"
    randomise(model, x)
    head, cells, said, moves = f"| {name} | {'x'.join(map(str, x.shape))} | {millions:.1f} |", ["", ""], "", 0.0
    for i, (dtype, limit) in enumerate(LIMIT.items()):
        if dtype is torch.float64 and millions > args.limit_double:
            break
        model, x = model.to(dtype), x.to(dtype) if x.is_floating_point() else x
        try:
            state, front, took = traced(model, x)
            head += f" {front} | {len(state.graph.nodes)} | {took:.2f} |" if i == 0 else ""
            error, moved = measured(model, state, x)
            moves, cells[i] = max(moves, moved), f"{error:.1e}" + " **!**" * (error > limit)
            said += f"{dtype} error {error:.1e}. " * (error > limit)
        except Exception as failure:
            cells[i] = "refused" if isinstance(failure, SnnpipeError) else type(failure).__name__
            said += f"{cells[i]}: " + re.sub(r"\S*-packages/", "", " ".join(str(failure).split()))[:300]
            head += " | | |" * (head.count("|") < 7)
            break
    return f"{head} {cells[0]} | {cells[1]} | {moves:.1e} |", said


class Block(nn.Module):
    """A plain transformer block, 192 wide, three heads."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(192), nn.LayerNorm(192)])
        self.qkv, self.out = nn.Linear(192, 576), nn.Linear(192, 192)
        self.mlp = nn.Sequential(nn.Linear(192, 768), nn.GELU(), nn.Linear(768, 192))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, 3, 64)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


def cost() -> list[str]:
    """TD on T = 8 steps of a batch of 2, against the ANN on the same 16 inputs in one batch."""
    with without_fake_kernels():
        from torchvision import models
    image = (3, 224, 224)
    cases = [(name, models.get_model(name), image) for name in ("resnet18", "vit_b_16", "swin_t")]
    cases += [("4 blocks, 192 wide, 64 tokens", nn.Sequential(*(Block() for _ in range(4))), (64, 192))]
    lines = ["| model | to network s | ANN ms | TD / ANN |", "|---|--:|--:|--:|"]
    for name, model, shape in cases:
        start = time.perf_counter()
        td, events = pipe(model.eval(), trace, td_rewrite, to_snn), torch.randn(8, 2, *shape)
        took = time.perf_counter() - start
        runs = partial(model, events.flatten(0, 1)), partial(td.sequence, events)
        pairs = [[seconds(run) for run in runs] for _ in range(8)][1:]
        ratio, plain = statistics.median(b / a for a, b in pairs), statistics.median(a for a, _ in pairs)
        lines.append(f"| {name} | {took:.2f} | {1e3 * plain:.0f} | {ratio:.2f} |")
        print(lines[-1], flush=True)
    return lines


def read() -> dict[str, dict[str, str]]:
    """The page by section: lines by what they begin with."""
    sections: dict[str, dict[str, str]] = {name: {} for name in (*FAMILIES, COST, REMARKS)}
    found: dict[str, str] = {}
    for line in PAGE.read_text().splitlines() if PAGE.exists() else ():
        if line.startswith("## "):
            found = sections[line[3:]]
        elif line.startswith(("| ", "|--", "- ")) and line not in HEAD.splitlines():
            found[re.split(r" \||: ", line)[0][2:]] = line
    return sections


def page(sections: dict[str, dict[str, str]]) -> str:
    """The sections as Markdown, each family with its tally."""
    intro = __doc__.split("\n\n")[2].replace("``", "`")
    text = [f"# Exactness of the temporal network\n\nWritten by `exactness.py`, torch {torch.__version__}.\n", intro]
    for name, lines in sections.items():
        good = [line for line in lines.values() if re.search(r"\| \d\S+ \| (\d\S+)? \| \S+ \|$", line)]
        tally = f"{len(good)} of {len(lines)} within 1e-5 in float32 and 1e-12 in float64 (if done).\n\n{HEAD}\n"
        text.append(f"\n## {name}\n\n{tally * (name in FAMILIES)}" + "\n".join(lines.values() or ["None."]))
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="torchvision")
    parser.add_argument("--only", default="", help="regular expression over model names")
    parser.add_argument("--limit-params", type=float, default=150, help="millions; larger models are left out")
    parser.add_argument("--limit-double", type=float, default=60, help="the same, for float64")
    parser.add_argument("--all", action="store_true", help="no model is too large")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    if args.cost:
        sections = read() | {COST: {line: line for line in cost()}}
        return PAGE.write_text(page(sections)) and None if args.write else None
    for name, build in FAMILIES[args.family]().items():
        if re.search(args.only, name):
            line, said = row(name, build, args)
            print(line or name, said, flush=True)
            if args.write:
                sections, remark = read(), f"{args.family} {name}"
                sections[REMARKS].pop(remark, None)
                sections[REMARKS] |= {remark: f"- {remark}: {said}"} if said else {}
                sections[args.family] |= {name: line} if line else {}
                PAGE.write_text(page(sections))


if __name__ == "__main__":
    main()
