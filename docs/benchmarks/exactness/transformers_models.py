"""transformers: classes with small configurations and random weights."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from measuring import Built, called
from vision import Builders, without_fake_kernels

#: What makes a model small, by the names that configurations give it; each takes what it knows.
SMALL: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "image_size": 64, "patch_size": 16,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2,
    "num_decoder_layers": 2, "num_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "use_cache": False, "embedding_size": 32, "dim": 64, "hidden_dim": 128, "n_layers": 2,
    "n_heads": 4, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "num_mel_bins": 16, "max_length": 32,
    "max_source_positions": 20, "max_target_positions": 64, "depths": [1, 1], "hidden_sizes": [32, 64], "embed_dim": 32,
    "num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4, "n_routed_experts": 4,
    "moe_intermediate_size": 64, "conv_dim": (32, 32), "conv_kernel": (5, 3), "conv_stride": (4, 2),
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 2, "ffn_dim": 128,
    "projection_dim": 32, "sliding_window": 4, "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16, "state_size": 8, "expand": 2, "time_step_rank": 8, "num_encoder_layers": 2,
    "n_groups": 1,
}  # fmt: skip
#: What must be otherwise, by class.  Their words come as vectors where the class takes these, else as token ids.
TEXT = {
    "BertModel": {}, "BertForSequenceClassification": {}, "RobertaModel": {}, "XLMRobertaModel": {},
    "CamembertModel": {}, "DistilBertModel": {}, "AlbertModel": {}, "ElectraModel": {}, "DebertaModel": {},
    "DebertaV2Model": {}, "MPNetModel": {}, "LongformerModel": {"attention_window": [4, 4]},
    "BigBirdModel": {"attention_type": "original_full"},
    "FunnelModel": {"block_sizes": [1, 1], "d_head": 16, "d_inner": 128, "num_hidden_layers": ...},
    "MobileBertModel": {"intra_bottleneck_size": 32}, "ConvBertModel": {},
    "NystromformerModel": {"segment_means_seq_len": 12, "num_landmarks": 12}, "FNetModel": {},
    "SqueezeBertModel": {"embedding_size": 64}, "RoFormerModel": {}, "YosoModel": {},
    "XLNetModel": {"d_head": 16, "d_inner": 128, "max_position_embeddings": ...},
    "ModernBertModel": {"local_attention": 8}, "NomicBertModel": {}, "MegatronBertModel": {}, "ErnieModel": {},
    "Data2VecTextModel": {}, "LukeModel": {"entity_vocab_size": 10, "entity_emb_size": 16}, "TapasModel": {},
    "RemBertModel": {"input_embedding_size": 64}, "IBertModel": {}, "GPT2LMHeadModel": {}, "GPTNeoXForCausalLM": {},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]]}, "GPTJForCausalLM": {"rotary_dim": 8},
    "GPTBigCodeForCausalLM": {}, "CodeGenForCausalLM": {"rotary_dim": 8}, "OPTForCausalLM": {"word_embed_proj_dim": 64},
    "BloomForCausalLM": {}, "FalconForCausalLM": {"head_dim": ...}, "MptForCausalLM": {}, "LlamaForCausalLM": {},
    "Qwen2ForCausalLM": {}, "Qwen3ForCausalLM": {}, "GemmaForCausalLM": {}, "Gemma2ForCausalLM": {},
    "Gemma3ForCausalLM": {}, "PhiForCausalLM": {}, "Phi3ForCausalLM": {}, "MistralForCausalLM": {},
    "MixtralForCausalLM": {}, "OlmoForCausalLM": {}, "Olmo2ForCausalLM": {}, "OlmoeForCausalLM": {},
    "Qwen2MoeForCausalLM": {}, "Qwen3MoeForCausalLM": {},
    "DeepseekV3ForCausalLM": {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "head_dim": 8,
                              "num_key_value_heads": 4},
    "GptOssForCausalLM": {}, "SmolLM3ForCausalLM": {}, "StableLmForCausalLM": {}, "Starcoder2ForCausalLM": {},
    "CohereForCausalLM": {}, "GraniteForCausalLM": {}, "PersimmonForCausalLM": {}, "GlmForCausalLM": {},
    "HeliumForCausalLM": {}, "Ernie4_5ForCausalLM": {}, "BioGptForCausalLM": {}, "XGLMForCausalLM": {}, "CTRLModel": {},
    "MambaForCausalLM": {}, "Mamba2ForCausalLM": {"num_heads": 8}, "FalconMambaForCausalLM": {}, "RwkvModel": {},
    "RecurrentGemmaForCausalLM": {}, "JambaForCausalLM": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "T5EncoderModel": {}, "MT5EncoderModel": {}, "UMT5EncoderModel": {},
}  # fmt: skip
#: Classes that get token ids too.
TOKENS = ("BertModel", "GPT2LMHeadModel", "LlamaForCausalLM")
ENCODER_DECODERS = {
    "T5ForConditionalGeneration": {}, "MT5Model": {}, "LongT5Model": {}, "SwitchTransformersModel": {}, "BartModel": {},
    "BartForConditionalGeneration": {}, "MBartModel": {}, "MarianModel": {}, "PegasusModel": {}, "PegasusXModel": {},
    "BlenderbotModel": {}, "M2M100Model": {}, "LEDModel": {"attention_window": [4, 4]},
    "ProphetNetModel": {"num_hidden_layers": ...}, "MvpModel": {}, "NllbMoeModel": {}, "PLBartModel": {},
}  # fmt: skip
VISION = {
    "ViTModel": {}, "DeiTModel": {}, "BeitModel": {}, "Dinov2Model": {}, "Dinov2WithRegistersModel": {},
    "DINOv3ViTModel": {}, "SwinModel": {"num_heads": [2, 4], "window_size": 2, "patch_size": 4}, "ConvNextModel": {},
    "ConvNextV2Model": {}, "Swinv2Model": {"num_heads": [2, 4], "window_size": 2, "patch_size": 4},
    "ResNetModel": {"layer_type": "basic"},
    "SegformerForSemanticSegmentation": {
        "num_encoder_blocks": 2, "sr_ratios": [4, 1], "patch_sizes": [7, 3], "strides": [4, 2],
        "num_attention_heads": [2, 4], "mlp_ratios": [2, 2],
    },
    "PvtV2Model": {"depths": ..., "hidden_sizes": ..., "num_attention_heads": ...},
    "PoolFormerModel": {"hidden_sizes": ..., "depths": ...},
    "LevitModel": {"hidden_sizes": ..., "depths": ..., "num_attention_heads": ...},
    "MobileViTModel": {"hidden_sizes": ...}, "MobileNetV2Model": {}, "EfficientNetModel": {"hidden_dim": ...},
    "RegNetModel": {}, "ViTMAEModel": {"mask_ratio": 0.0}, "ViTMSNModel": {}, "CvtModel": {},
    "FocalNetModel": {"patch_size": 4},
    "DPTForDepthEstimation": {
        "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 32, 32],
        "fusion_hidden_size": 16, "is_hybrid": False,
    },
    "YolosModel": {}, "CLIPVisionModel": {}, "SiglipVisionModel": {}, "BitModel": {"num_groups": 8},
    "GLPNModel": {"depths": ..., "hidden_sizes": ..., "num_attention_heads": ...}, "DetrModel": {},
    "UperNetForSemanticSegmentation": {}, "IJepaModel": {}, "SwiftFormerModel": {},
    "DepthAnythingForDepthEstimation": {}, "ConditionalDetrModel": {}, "DeformableDetrModel": {},
    "Mask2FormerModel": {},
}  # fmt: skip
#: Classes that hear, with the shape of what they hear.
SOUND = {
    **dict.fromkeys(("Wav2Vec2Model", "HubertModel", "WavLMModel", "UniSpeechModel", "UniSpeechSatModel", "SEWModel",
                     "Wav2Vec2ConformerModel", "Data2VecAudioModel", "SEWDModel"), ((400,), {})),
    "Wav2Vec2BertModel": ((20, 32), {"feature_projection_input_dim": 32}), "ASTModel": ((32, 16), {}),
    "EncodecModel": ((1, 640), {}), "WhisperModel": ((16, 40), {}), "WhisperForConditionalGeneration": ((16, 40), {}),
    "MoonshineModel": ((1600,), {}), "ParakeetEncoder": ((64, 16), {}),
}  # fmt: skip
#: Classes of two kinds of inputs.
TOGETHER = ("CLIPModel", "SiglipModel", "AltCLIPModel", "ChineseCLIPModel", "BlipModel", "GroupViTModel")


def small(config: Any, own: dict[str, Any]) -> Any:
    """A small configuration of its class: of ``SMALL`` what it knows, with lists where it has lists, and what is its
    ``own``; ``...`` leaves the usual value."""
    usual = config()

    def fits(name: str, value: Any) -> bool:
        before = getattr(usual, name, ())
        alike = before is None or isinstance(before, list | tuple) == isinstance(value, list | tuple)
        return hasattr(usual, name) and alike

    options = {name: value for name, value in SMALL.items() if fits(name, value)} | own
    return config(**{name: value for name, value in options.items() if value is not ...})


def words(model: Any, *names: str) -> dict[str, torch.Tensor]:
    """Vectors of words, or token ids for a model that takes none."""
    accepted = inspect.signature(model.forward).parameters
    if names[0] not in accepted:
        return {"input_ids": torch.arange(24).view(2, 12) * 7 % 90 + 4}
    width = model.get_input_embeddings().weight.shape[1]
    return {name: torch.randn(2, 12 if i == 0 else 8, width) for i, name in enumerate(names)}


def transformers() -> Builders:
    with without_fake_kernels():
        import transformers as tr

    def made(name: str, own: dict[str, Any]) -> Any:
        cls = getattr(tr, name)
        return cls(small(cls.config_class, own)).eval()

    def text(name: str, own: dict[str, Any]) -> Built:
        model = made(name, own)
        return called(model, **words(model, "inputs_embeds"))

    def tokens(name: str) -> Built:
        model = made(name, {})
        return called(model, **words(model, ""))

    def both(name: str, own: dict[str, Any]) -> Built:
        model = made(name, own)
        return called(model, **words(model, "inputs_embeds", "decoder_inputs_embeds"))

    def eyes(name: str, own: dict[str, Any]) -> Built:
        return called(made(name, own), pixel_values=torch.randn(2, 3, 64, 64))

    def sound(name: str, shape: tuple[int, ...], own: dict[str, Any]) -> Built:
        model = made(name, own)
        first = next(iter(inspect.signature(model.forward).parameters))
        answer = words(model, "decoder_inputs_embeds") if model.config.is_encoder_decoder else {}
        return called(model, **{first: torch.randn(2, *shape)}, **answer)

    def together(name: str) -> Built:
        cls = getattr(tr, name)
        usual = cls.config_class()
        parts = {part: small(type(getattr(usual, part)), {}).to_dict() for part in ("text_config", "vision_config")}
        model = cls(cls.config_class(**parts, projection_dim=32)).eval()
        return called(model, "logits_per_image", pixel_values=torch.randn(2, 3, 64, 64), **words(model, ""))

    table = {name: partial(text, name, own) for name, own in TEXT.items()}
    table |= {f"{name}, input_ids": partial(tokens, name) for name in TOKENS}
    table |= {name: partial(both, name, own) for name, own in ENCODER_DECODERS.items()}
    table |= {name: partial(eyes, name, own) for name, own in VISION.items()}
    table |= {name: partial(sound, name, *rest) for name, rest in SOUND.items()}
    table |= {name: partial(together, name) for name in TOGETHER}
    return {name: build for name, build in table.items() if hasattr(tr, name.split(",")[0])}
