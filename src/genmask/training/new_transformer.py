"""A transformer that starts from nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from genmask.denoiser import GenMaskBlock, GenMaskTransformer


@dataclass(frozen=True, kw_only=True)
class TransformerShape:
    """A transformer that starts from nothing."""

    num_layers: int = 8
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    ffn_dim: int = 768
    freq_dim: int = 256


def build_transformer(shape: TransformerShape, text_dim: int, seed: int = 0) -> GenMaskTransformer:
    """Seeded random weights; gates and output start at zero (AdaLN-zero, as DiT), cross-attention at full size."""
    torch.manual_seed(seed)
    transformer = GenMaskTransformer(
        num_attention_heads=shape.num_attention_heads,
        attention_head_dim=shape.attention_head_dim,
        text_dim=text_dim,
        freq_dim=shape.freq_dim,
        ffn_dim=shape.ffn_dim,
        num_layers=shape.num_layers,
        cross_attn_norm=True,
    )
    with torch.no_grad():
        for module in transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # The text must enter at the size of everything else: cross-attention has no norm on its values, and a
        # signal that starts small is learned late or never.
        nn.init.xavier_uniform_(transformer.condition_embedder.text_embedder.linear_2.weight, gain=2.0)
        nn.init.zeros_(transformer.condition_embedder.time_proj.weight)
        nn.init.zeros_(transformer.proj_out.weight)
        for block in transformer.blocks:
            assert isinstance(block, GenMaskBlock)
            nn.init.zeros_(block.scale_shift_table)
    return transformer
