"""Models of three sizes with random weights, made where they are to run: speed does not depend on weights."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

from genmask.benchmark.memory import available_memory
from genmask.denoiser import PAPER_CONFIG, GenMaskTransformer
from genmask.loading import read_json
from genmask.mask_head import LinearMaskHead
from genmask.model_folder import BUNDLED, MODEL_INDEX, load_processor
from genmask.pipeline import GenMaskPipeline
from genmask.processor import GenMaskProcessor
from genmask.training.small_vlm import small_vlm_config

Size = Literal["toy", "bundled", "paper"]
"""Two layers of everything; the bundled model's; Wan-2.1-T2V-1.3B, its VAE and Qwen2.5-VL-7B."""
TINY = BUNDLED / "tiny"
TOY_TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 32, "freq_dim": 32, "ffn_dim": 48,
    "num_layers": 2,
}  # fmt: skip
TOY_VLM = {
    "hidden_size": 32, "num_layers": 2, "num_heads": 2,
    "vision_hidden_size": 16, "vision_depth": 2, "vision_num_heads": 2,
}  # fmt: skip


def random_pipeline(size: Size, device: torch.device | str, dtype: torch.dtype) -> GenMaskPipeline:
    """A pipeline with random weights, a mask head among them; its masks mean nothing.

    Args:
        size: one of `Size`; the resolution, in pixels, is 64, the bundled model's, or 512.
        device: where its weights are made.
        dtype: of transformer, VLM and mask head, as in `GenMaskPipeline.from_pretrained`; the VAE is float32.

    Raises:
        ValueError: an unknown size, or more weights than the device has memory for.
    """
    if size not in get_args(Size):
        raise ValueError(f"Got size {size!r}, expected one of {', '.join(get_args(Size))}.")
    device = torch.device(device)
    needed = sum(x.nbytes for part in _networks(size, torch.device("meta"), dtype) for x in part.parameters())
    available = available_memory(device)
    if available is not None and needed > available:
        raise ValueError(
            f"Got size {size!r}, whose weights take {needed / 2**30:.1f} GiB, expected at most the "
            f"{available / 2**30:.1f} GiB that are free on {device}: take a smaller size, or bfloat16."
        )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        transformer, vae, vlm, mask_head = _networks(size, device, dtype)
    resolution = {"toy": 64, "bundled": read_json(TINY / MODEL_INDEX)["resolution"], "paper": 512}[size]
    return GenMaskPipeline(
        transformer=transformer,
        vae=vae,
        vlm=vlm,
        processor=_processor(size),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        mask_head=mask_head,
        resolution=resolution,
    )


def _networks(size: Size, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any, Any]:
    """Transformer, VAE, VLM, mask head."""
    shape, vae_shape = PAPER_CONFIG, {}
    if size == "toy":
        shape, vae_shape = TOY_TRANSFORMER, {"base_dim": 4, "num_res_blocks": 1}
        vlm_config = small_vlm_config(_processor(size), **TOY_VLM)
    elif size == "bundled":
        shape, vae_shape = (_config(TINY / part / "config.json") for part in ("transformer", "vae"))
        vlm_config = Qwen2_5_VLConfig.from_dict(read_json(TINY / "vlm" / "config.json"))
    else:
        vlm_config = _qwen(_processor(size))
    with device:
        parts: tuple[nn.Module, ...] = (
            # Not diffusers' own `to`, which warns of what ours sees to by itself: parts that stay float32.
            nn.Module.to(GenMaskTransformer(**shape), dtype),
            AutoencoderKLWan(**vae_shape),
            Qwen2_5_VLForConditionalGeneration._from_config(vlm_config, dtype=dtype),
            nn.Module.to(LinearMaskHead(), dtype),
        )
    transformer, vae, vlm, mask_head = (part.eval().requires_grad_(False) for part in parts)
    return transformer, vae, vlm, mask_head


def _processor(size: Size) -> GenMaskProcessor:
    """The bundled one; of the paper's size with Qwen's picture tokens of 28 x 28 pixels."""
    processor = load_processor(TINY / "processor")
    if size == "paper":
        return GenMaskProcessor(Qwen2VLImageProcessorPil(), processor.tokenizer)
    return processor


def _config(path: Any) -> dict[str, Any]:
    return {key: value for key, value in read_json(path).items() if not key.startswith("_")}


def _qwen(processor: GenMaskProcessor) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL-7B, with the picture token of another tokenizer."""
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        vision_config={"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
        image_token_id=processor.image_token_id,
    )  # fmt: skip
