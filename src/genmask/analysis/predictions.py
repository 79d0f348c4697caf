"""What a model makes of examples in one step, before any decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from genmask.data.example import Example
from genmask.images import resize_to_area
from genmask.pipeline import GenMaskPipeline, Prediction
from genmask.sampling import seeded_noise


@torch.no_grad()
def predict(
    pipeline: GenMaskPipeline, examples: Sequence[Example], *, batch_size: int, seed: int
) -> list[Prediction]:
    """x0_hat (C, h, w) and features (D,) of each example, float32 on the CPU: as in `segment` with the same seed."""
    area = pipeline.config.resolution**2
    pictures = [resize_to_area(Image.fromarray(example.image), area, pipeline.cell) for example in examples]
    texts = [example.text for example in examples]
    found: dict[int, Prediction] = {}
    for indices, latents, condition in pipeline.batches(pictures, texts, batch_size):
        noises = seeded_noise(seed, latents.shape[1:]).to(latents.device)
        predicted = pipeline.predict_mask(latents, condition, noises, 1)
        rows = zip(*(part.float().cpu() for part in predicted), strict=True)
        found |= {index: Prediction(*row) for index, row in zip(indices, rows, strict=True)}
    return [found[i] for i in range(len(examples))]
