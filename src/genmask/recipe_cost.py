"""What a run needs, before it is started."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from genmask.denoiser import PAPER_CONFIG, GenMaskTransformer
from genmask.loading import count_parameters, read_json
from genmask.model_folder import resolve_model
from genmask.recipe_tasks import Parts
from genmask.recipes import Recipe
from genmask.training.adapters import add_lora
from genmask.training.estimate import Workload, estimate, segmentation_prompt_tokens
from genmask.training.mask_config import MaskConfig
from genmask.training.parallel import Share
from genmask.training.scaling import DGX_H100, predict

QWEN_PARAMETERS = 8_292_166_656
"""Of Qwen2.5-VL-7B, the vision tower included."""
QWEN_TOKEN_SIDE = 28
"""Pixels of its image tokens, along each side."""
CAPTION_TOKENS = 60
"""Of a caption in its chat template, about."""


def cost(recipe: Recipe, parts: Parts, processes: int = 1) -> list[tuple[str, str]]:
    """What a run is made of and what it needs, as labels and values, without starting it.

    Args:
        recipe: of a transformer.
        parts: as for `workload`.
        processes: GPUs to reckon with; several share the weights out (FSDP2).
    """
    work = workload(recipe, parts, processes)
    predicted = predict(work, DGX_H100)
    step, rate = f"{predicted.seconds:.3g} s", f"{predicted.samples_per_second:,.0f} samples per second"
    masks, pictures = work.segmentation_samples, work.generation_samples
    repeats = work.processes * work.accumulation
    return [
        ("steps", f"{recipe.loop.steps:,}"),
        ("samples per step", f"{repeats * masks} masks, {repeats * pictures} pictures"),
        ("processes x micro-batches", f"{processes} x {work.accumulation}"),
        *estimate(work).table(),
        ("a step on H100, predicted, not measured", f"{step}, {rate}"),
    ]


def workload(recipe: Recipe, parts: Parts, processes: int = 1) -> Workload:
    """A step of a run, in one of its processes.

    Args:
        recipe: of a transformer.
        parts: a model to start from says how large its parts are; without one they are Wan-2.1-T2V-1.3B's and
            Qwen2.5-VL-7B's.
        processes: several share the weights out (FSDP2).

    Raises:
        ValueError: a recipe of another part; samples that cannot be shared out evenly.
    """
    config, loop = recipe.model, recipe.loop
    if not isinstance(config, MaskConfig):
        raise ValueError(
            "Got a recipe of a small part, expected one of a transformer, such as 'tiny' or 'paper'."
        )
    start = parts.start or recipe.start
    vlm_parameters, vae, transformer, token_side = QWEN_PARAMETERS, {}, dict(PAPER_CONFIG), QWEN_TOKEN_SIDE
    if start is not None:
        folder = resolve_model(start)
        vlm = read_json(folder / "vlm" / "config.json")
        vlm_parameters = count_parameters(folder / "vlm")
        vae, transformer = (_arguments(folder / part) for part in ("vae", "transformer"))
        token_side = vlm["vision_config"]["patch_size"] * vlm["vision_config"]["spatial_merge_size"]
    if config.shape is not None:
        transformer |= asdict(config.shape)
    height, width = max(config.sizes, key=lambda size: size[0] * size[1])
    share = Share(world_size=processes, accumulation=loop.accumulation)
    share.require(masks=config.segmentation_batch, pictures=config.generation_batch or None)
    trainable = None
    if config.lora_rank:
        with torch.device("meta"):
            adapted = GenMaskTransformer(**transformer)
            add_lora(adapted, config.lora_rank)
        trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Workload(
        transformer=transformer,
        size=(height, width),
        segmentation_samples=len(share.samples(0, config.segmentation_batch, 0)),
        generation_samples=len(share.samples(0, config.generation_batch, 0)),
        segmentation_frames=config.segmentation_frames,
        prompt_tokens=segmentation_prompt_tokens(height, width, token_side, config.vlm_max_pixels),
        caption_tokens=CAPTION_TOKENS,
        accumulation=loop.accumulation,
        processes=processes,
        sharded=processes > 1,
        gradient_checkpointing=config.gradient_checkpointing,
        compute_bytes=2 if loop.mixed_precision == "bf16" else 4,
        trainable=trainable,
        ema=loop.ema_decay is not None,
        optimizer_bytes=2 if loop.optimizer == "adamw-8bit" else 8,
        vae=vae,
        vlm_parameters=vlm_parameters,
        vlm_bytes={"float32": 4, "bf16": 2, "int8": 1}[config.vlm_precision],
        cached=parts.cache is not None,
        offloaded=config.offload,
        pixel_supervision=config.supervision == "bce-pixels",
    )


def _arguments(folder: Path) -> dict[str, Any]:
    """Of a diffusers class, as its folder's configuration gives them."""
    return {
        name: value for name, value in read_json(folder / "config.json").items() if not name.startswith("_")
    }
