"""diffusers' networks by small configurations, and networks on graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import Built, called
from torch import Tensor, nn
from vision import Builders, without_fake_kernels


def diffusers() -> Builders:
    with without_fake_kernels():
        import diffusers as df
    noise, time = {"sample": torch.randn(2, 4, 16, 16)}, {"timestep": torch.tensor([7, 7])}
    picture = {"sample": torch.randn(2, 3, 32, 32)}
    latent, prompt = {"hidden_states": torch.randn(2, 4, 16, 16)}, {"encoder_hidden_states": torch.randn(2, 5, 32)}
    size = {"block_out_channels": (32, 64), "layers_per_block": 1, "sample_size": 16, "norm_num_groups": 8}
    size |= {"in_channels": 4, "out_channels": 4}
    down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    cross = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 32, "attention_head_dim": 8}
    cross |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    vae = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 4}
    vae |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    heads = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "sample_size": 16, "patch_size": 2}
    labels = {"class_labels": torch.tensor([1, 2])}
    sd3 = {"in_channels": 4, "out_channels": 4, "joint_attention_dim": 32, "caption_projection_dim": 32}
    flux = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    flux |= {"joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)}
    places = {"txt_ids": torch.zeros(5, 3), "img_ids": torch.randint(0, 8, (12, 3)).float()}
    pooled = {"pooled_projections": torch.randn(2, 32)}
    table: dict[str, tuple[str, dict[str, Any], dict[str, Tensor], dict[str, Any]]] = {
        "UNet2DModel": ("UNet2DModel", size | {"down_block_types": down, "up_block_types": up}, noise | time, {}),
        "UNet2DConditionModel": ("UNet2DConditionModel", size | cross, noise | time | prompt, {}),
        "AutoencoderKL": ("AutoencoderKL", vae, picture, {}),
        "AutoencoderTiny": ("AutoencoderTiny", {"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16),
                            "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}, picture, {}),
        "VQModel": ("VQModel", {"block_out_channels": (32,), "norm_num_groups": 8, "latent_channels": 3}, picture, {}),
        "DiTTransformer2DModel": ("DiTTransformer2DModel", heads | {"num_embeds_ada_norm": 10}, latent | time, labels),
        "PixArtTransformer2DModel": ("PixArtTransformer2DModel", heads | {"cross_attention_dim": 32, "caption_channels": 32},
                                     latent | prompt, time | {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}),
        "Transformer2DModel": ("Transformer2DModel", {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4,
                               "norm_num_groups": 2, "cross_attention_dim": 32}, latent | prompt, {}),
        "SD3Transformer2DModel": ("SD3Transformer2DModel", heads | sd3 | {"pooled_projection_dim": 32}, latent | prompt | pooled,
                                  time),
        "FluxTransformer2DModel": ("FluxTransformer2DModel", flux,
                                   {"hidden_states": torch.randn(2, 12, 16)} | prompt | pooled, places | {"timestep": torch.tensor([0.5, 0.5])}),
        "UNet1DModel": ("UNet1DModel", {"block_out_channels": (32, 32, 64), "in_channels": 2, "out_channels": 2, "extra_in_channels": 16},
                        {"sample": torch.randn(2, 2, 64)} | time, {}),
        "ControlNetModel": ("ControlNetModel", {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
                            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 32, "attention_head_dim": 8,
                            "conditioning_embedding_out_channels": (16, 16)},
                            noise | prompt, time | {"controlnet_cond": torch.rand(2, 3, 32, 32)}),
        "PriorTransformer": ("PriorTransformer", {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "embedding_dim": 32,
                             "num_embeddings": 5, "additional_embeddings": 4},
                             {"hidden_states": torch.randn(2, 32), "proj_embedding": torch.randn(2, 32)} | prompt, time),
    }  # fmt: skip

    def build(cls: str, options: dict[str, Any], inputs: dict[str, Tensor], given: dict[str, Any]) -> Built:
        return called(getattr(df, cls)(**options).eval(), 0, given | {"return_dict": False}, **inputs)

    return {name: partial(build, *rest) for name, rest in table.items() if hasattr(df, rest[0])}


class Sums(nn.Module):
    """Messages added up by ``index_add``, divided by how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(16, 32), nn.Linear(32, 8)

    def mean(self, x: Tensor, edges: Tensor) -> Tensor:
        total = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        count = torch.zeros(len(x), 1, dtype=x.dtype).index_add(0, edges[1], torch.ones(edges.shape[1], 1, dtype=x.dtype))
        return total / count.clamp(min=1)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.other(self.mean(self.one(x).relu(), edges))


class Scattered(Sums):
    """The same by ``scatter_add_`` and ``scatter_reduce``."""

    def mean(self, x: Tensor, edges: Tensor) -> Tensor:
        where, sent = edges[1][:, None].expand(-1, x.shape[1]), x[edges[0]]
        most = torch.zeros_like(x).scatter_reduce(0, where, sent, "amax", include_self=False)
        return torch.zeros_like(x).scatter_add_(0, where, sent) + most


def graphs() -> Builders:
    try:
        with without_fake_kernels():
            import torch_geometric.nn as gnn
    except ImportError:
        gnn = None
    edges = torch.stack([torch.arange(40) % 12, (torch.arange(40) * 5 + torch.arange(40) // 12) % 12])
    points = torch.randn(12, 16)

    def build(make: Callable[[], nn.Module]) -> Built:
        return Built(make().eval(), (points, edges))

    table: dict[str, Callable[[], nn.Module]] = {"index_add": Sums, "scatter": Scattered}
    names = ("GCNConv", "GATConv", "GATv2Conv", "SAGEConv", "GraphConv", "TransformerConv", "TAGConv", "ChebConv", "SGConv")
    for name in names if gnn is not None else ():
        options = {"K": 2} if name == "ChebConv" else {}
        table[name] = partial(getattr(gnn, name), 16, 8, **options)
    if gnn is not None:
        table["GINConv"] = lambda: gnn.GINConv(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8)))
        table |= {name: partial(getattr(gnn, name), 16, 32, num_layers=3, out_channels=8)
                  for name in ("GCN", "GraphSAGE", "GIN", "GAT")}  # fmt: skip
    return {name: partial(build, make) for name, make in table.items()}
