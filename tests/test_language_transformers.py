"""Language models of ``transformers``, where it is installed: what they write with a cache is what they say without."""

import pytest
import torch

from snnpipe import SnnpipeError, generate, pipe, td_rewrite, to_snn, trace, trace_decoder

tf = pytest.importorskip("transformers")
pytestmark = [pytest.mark.filterwarnings("ignore::Warning")]

IDS = torch.randint(3, 96, (2, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[1, :3] = 0
SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
BOTH = {
    "vocab_size": 96, "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}


def made(config, kind, sizes):
    torch.manual_seed(0)
    return getattr(tf, kind)(getattr(tf, config)(**sizes)).eval()


@pytest.mark.parametrize(
    ("config", "kind", "sizes"),
    [
        ("LlamaConfig", "LlamaForCausalLM", SIZES),
        ("Qwen3Config", "Qwen3ForCausalLM", SIZES | {"head_dim": 8}),
        ("GPT2Config", "GPT2LMHeadModel", GPT2),
        ("Gemma2Config", "Gemma2ForCausalLM", SIZES | {"head_dim": 8, "sliding_window": 6}),
        ("MixtralConfig", "MixtralForCausalLM", SIZES | EXPERTS),
    ],
)
def test_a_causal_model_writes_what_its_own_generate_does(config, kind, sizes):
    model = made(config, kind, sizes)
    td = pipe(model, trace_decoder(example=IDS), td_rewrite, to_snn)
    own = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    want = model.generate(IDS, attention_mask=MASK, **own)
    assert torch.equal(generate(td, IDS, attention_mask=MASK, tokens=8, T=2), want)


@pytest.mark.parametrize(
    ("config", "kind", "sizes"),
    [("T5Config", "T5ForConditionalGeneration", T5), ("BartConfig", "BartForConditionalGeneration", BOTH)],
)
def test_an_encoder_and_a_decoder(config, kind, sizes):
    model = made(config, kind, sizes)
    encoder, example = model.get_encoder(), {"input_ids": IDS, "attention_mask": MASK.flip(1)}
    read = pipe(
        encoder, trace(example=example, dynamic_axes={"input_ids": (1,), "attention_mask": (1,)}), td_rewrite, to_snn
    )
    memory = read(**example, T=2).last_hidden_state
    own = {"memory": memory, "memory_mask": MASK.flip(1)}
    td = pipe(model, trace_decoder(example=IDS, **own), td_rewrite, to_snn)
    text = torch.ones(2, 1, dtype=torch.long)
    found = generate(td, text, tokens=6, T=2, **own)
    for _ in range(6):
        with torch.no_grad():
            said = model(input_ids=IDS, attention_mask=MASK.flip(1), decoder_input_ids=text)
        text = torch.cat([text, said.logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(found, text)


def test_a_recurrent_model_is_refused_by_name():
    sizes = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 1}
    with pytest.raises(SnnpipeError, match="recurrent"):
        trace_decoder(made("MambaConfig", "MambaForCausalLM", sizes), example=IDS)
