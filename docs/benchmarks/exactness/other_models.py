"""diffusers' networks by small configurations, and networks on graphs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measuring import Built, called
from torch import Tensor, nn
from vision import Builders, without_fake_kernels


def rows() -> dict[str, tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]]:
    """Options, inputs and other arguments of diffusers' classes."""
    noise, time = {"sample": torch.randn(2, 4, 16, 16)}, {"timestep": torch.tensor([7, 7])}
    picture = {"sample": torch.randn(2, 3, 32, 32)}
    latent, prompt = {"hidden_states": torch.randn(2, 4, 16, 16)}, {"encoder_hidden_states": torch.randn(2, 5, 32)}
    blocks = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
    unet = blocks | {"sample_size": 16, "in_channels": 4, "out_channels": 4}
    plain = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    down = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    cross = down | {"cross_attention_dim": 32, "attention_head_dim": 8}
    up = {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    pieces = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    tiny = {"encoder_block_out_channels": (16, 16), "num_encoder_blocks": (1, 1)}
    tiny |= {"decoder_block_out_channels": (16, 16), "num_decoder_blocks": (1, 1)}
    heads = {"num_attention_heads": 2, "attention_head_dim": 16}
    layers = heads | {"num_layers": 2, "sample_size": 16, "patch_size": 2}
    joint, pooled = {"joint_attention_dim": 32, "pooled_projection_dim": 32}, {"pooled_projections": torch.randn(2, 32)}
    sd3 = layers | joint | {"in_channels": 4, "out_channels": 4, "caption_projection_dim": 32}
    flux = heads | joint | {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "axes_dims_rope": (4, 4, 8)}
    places = {"txt_ids": torch.zeros(5, 3), "img_ids": torch.randint(0, 8, (12, 3)).float()}
    tokens, half = {"hidden_states": torch.randn(2, 12, 16)}, {"timestep": torch.tensor([0.5, 0.5])}
    prior = heads | {"num_layers": 2, "embedding_dim": 32, "num_embeddings": 5, "additional_embeddings": 4}
    thought = {"hidden_states": torch.randn(2, 32), "proj_embedding": torch.randn(2, 32)}
    sizes = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    shown = {"controlnet_cond": torch.rand(2, 3, 32, 32)}
    pixart = layers | {"cross_attention_dim": 32, "caption_channels": 32}
    return {
        "UNet2DModel": (unet | plain, noise | time, {}),
        "UNet2DConditionModel": (unet | cross | up, noise | time | prompt, {}),
        "ControlNetModel": (blocks | cross | {"conditioning_embedding_out_channels": (16, 16)}, noise | prompt,
                            time | shown),
        "AutoencoderKL": (blocks | pieces | {"latent_channels": 4}, picture, {}),
        "AutoencoderTiny": (tiny, picture, {}),
        "VQModel": ({"block_out_channels": (32,), "norm_num_groups": 8, "latent_channels": 3}, picture, {}),
        "DiTTransformer2DModel": (layers | {"num_embeds_ada_norm": 10}, latent | time,
                                  {"class_labels": torch.tensor([1, 2])}),
        "PixArtTransformer2DModel": (pixart, latent | prompt, time | sizes),
        "Transformer2DModel": (heads | {"in_channels": 4, "norm_num_groups": 2, "cross_attention_dim": 32},
                               latent | prompt, {}),
        "SD3Transformer2DModel": (sd3, latent | prompt | pooled, time),
        "FluxTransformer2DModel": (flux, tokens | prompt | pooled, places | half),
        "PriorTransformer": (prior, thought | prompt, time),
    }  # fmt: skip


def diffusers() -> Builders:
    with without_fake_kernels():
        import diffusers as df

    def build(name: str, options: dict[str, Any], inputs: dict[str, Tensor], given: dict[str, Any]) -> Built:
        return called(getattr(df, name)(**options).eval(), 0, given | {"return_dict": False}, **inputs)

    return {name: partial(build, name, *rest) for name, rest in rows().items() if hasattr(df, name)}


class Sums(nn.Module):
    """Messages added up by ``index_add``, divided by how many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(16, 32), nn.Linear(32, 8)

    def mean(self, x: Tensor, edges: Tensor) -> Tensor:
        total = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
        ones = torch.ones(edges.shape[1], 1, dtype=x.dtype)
        count = torch.zeros(len(x), 1, dtype=x.dtype).index_add(0, edges[1], ones)
        return total / count.clamp(min=1)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.other(self.mean(self.one(x).relu(), edges))


class Scattered(Sums):
    """The same by ``scatter_add_`` and ``scatter_reduce``."""

    def mean(self, x: Tensor, edges: Tensor) -> Tensor:
        where, sent = edges[1][:, None].expand(-1, x.shape[1]), x[edges[0]]
        most = torch.zeros_like(x).scatter_reduce(0, where, sent, "amax", include_self=False)
        return torch.zeros_like(x).scatter_add_(0, where, sent) + most


CONVOLUTIONS = (
    "GCNConv", "GATConv", "GATv2Conv", "SAGEConv", "GraphConv", "TransformerConv", "TAGConv", "ChebConv", "SGConv",
)  # fmt: skip


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
    if gnn is not None:
        for name in CONVOLUTIONS:
            table[name] = partial(getattr(gnn, name), 16, 8, **({"K": 2} if name == "ChebConv" else {}))
        table["GINConv"] = lambda: gnn.GINConv(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8)))
        table |= {name: partial(getattr(gnn, name), 16, 32, num_layers=3, out_channels=8)
                  for name in ("GCN", "GraphSAGE", "GIN", "GAT")}  # fmt: skip
    return {name: partial(build, make) for name, make in table.items()}
