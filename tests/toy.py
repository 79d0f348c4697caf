"""Toy-size instances of the real classes, with seeded random weights: what the tests run on."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan

from genmask.denoiser import GenMaskTransformer


def toy_vae(seed: int = 0) -> AutoencoderKLWan:
    """A Wan VAE of the genuine layout: 16 latent channels, 8x compression, base width 4."""
    torch.manual_seed(seed)
    return AutoencoderKLWan(base_dim=4, num_res_blocks=1).eval()


def toy_transformer(seed: int = 0, **overrides: object) -> GenMaskTransformer:
    """A Wan transformer of two blocks, width 24."""
    torch.manual_seed(seed)
    config: dict = dict(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=32, freq_dim=32, ffn_dim=48, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    return GenMaskTransformer(**{**config, **overrides}).eval()
