"""Toy-size instances of the real classes, with seeded random weights: what the tests run on."""

from __future__ import annotations

from functools import cache

import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from genmask.conditioning import InstructionEncoder
from genmask.denoiser import GenMaskTransformer
from genmask.processor import DESCRIBE_PROMPT, GenMaskProcessor
from genmask.training.small_vlm import small_vlm_config
from genmask.training.tokenizer import train_tokenizer

TOY_DESCRIPTIONS = {"what can I drink from?": '"The red mug."', "say nothing": ""}


def toy_vae(seed: int = 0) -> AutoencoderKLWan:
    """A Wan VAE of the genuine layout: 16 latent channels, 8x compression, base width 4."""
    torch.manual_seed(seed)
    return AutoencoderKLWan(base_dim=4, num_res_blocks=1).eval()


def toy_transformer(seed: int = 0, **overrides: object) -> GenMaskTransformer:
    """A Wan transformer of two blocks, width 24."""
    torch.manual_seed(seed)
    config = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16,
        "out_channels": 16, "text_dim": 32, "freq_dim": 32, "ffn_dim": 48, "num_layers": 2, "rope_max_seq_len": 32,
    }  # fmt: skip
    return GenMaskTransformer(**{**config, **overrides}).eval()


@cache
def toy_processor() -> GenMaskProcessor:
    """Pictures in tokens of 16 x 16 pixels, and a vocabulary of about 320 learned from three sentences."""
    texts = [
        "Please segment the red mug in the image.",
        "a green star on grass",
        "Which part of the image?",
    ] * 4
    return GenMaskProcessor(
        Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2),
        train_tokenizer(texts, vocab_size=320),
    )


def toy_vlm(seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL of two language and two vision layers, width 32 (the toy transformer's `text_dim`)."""
    torch.manual_seed(seed)
    config = small_vlm_config(
        toy_processor(), hidden_size=32, num_layers=2, num_heads=2,
        vision_hidden_size=16, vision_depth=2, vision_num_heads=2,
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    with torch.no_grad():  # transformers' initial weights are so small that every answer would look alike
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


@cache
def toy_describer() -> Qwen2_5_VLForConditionalGeneration:
    """One that has learnt by heart how to answer the keys of `TOY_DESCRIPTIONS`; not to be changed."""
    model, image = toy_vlm(seed=3), Image.new("RGB", (16, 16))
    encoder = InstructionEncoder(model, toy_processor(), differentiable=True)
    prompts = [DESCRIBE_PROMPT.format(instruction=instruction) for instruction in TOY_DESCRIPTIONS]
    batch = toy_processor().prepare(prompts, [image] * len(prompts), list(TOY_DESCRIPTIONS.values()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        encoder.encode_dialogues(batch)[1].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.requires_grad_(False)
