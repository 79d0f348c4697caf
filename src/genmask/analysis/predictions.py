"""What a model makes of examples in one step: x0_hat, before any decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from genmask.data.example import Example
from genmask.images import resize_to_area
from genmask.pipeline import GenMaskPipeline
from genmask.sampling import seeded_noise


@torch.no_grad()
def predict_latents(
    pipeline: GenMaskPipeline, examples: Sequence[Example], *, batch_size: int, seed: int
) -> list[Tensor]:
    """x0_hat of each example, (C, h, w) float32 on the CPU: what `segment` decodes, with the same seed."""
    area = pipeline.config.resolution**2
    pictures = [resize_to_area(Image.fromarray(example.image), area, pipeline.cell) for example in examples]
    texts = [example.text for example in examples]
    found: dict[int, Tensor] = {}
    for indices, latents, condition in pipeline.batches(pictures, texts, batch_size):
        noises = seeded_noise(seed, latents.shape[1:]).to(latents.device)
        x0_hats = pipeline.predict_mask(latents, condition, noises, 1).float().cpu()
        found |= dict(zip(indices, x0_hats, strict=True))
    return [found[i] for i in range(len(examples))]
